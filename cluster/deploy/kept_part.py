"""One process that is held up: started, watched, started again after it died.

    waiting ──► starting ──► ready ──► (died) waiting ──► ...
                   └── died before it was ready, too often in a row, or by a user's mistake ──► failed
    any ──► stopping ──► stopped

A part says `ready` through a pipe whose number it was given (`--ready-fd`). Its output goes straight into its log, so it
needs its keeper for nothing: a new keeper adopts it. Of an adopted process the exit status can't be known.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from cluster.deploy.commands import Part
from cluster.deploy.processes import NOBODY, ProcessName, name_process
from cluster.deploy.runtime import PartRecord, Runtime
from cluster.log_lines import message_of
from cluster.wire.folders import make_private

LOG = logging.getLogger("cluster.keeper")

# Only deaths before readiness count: a part that has worked is started for as long as the keeper lives.
MAX_UNREADY_DEATHS = 5
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 10.0
# A part that dies sooner after a start than this is not started at once.
SETTLED_SECONDS = 10.0
MISTAKE_STATUS = 2  # the exit status of a user's mistake: the same again would end the same
PASSING_STATUS = 75  # a master whose disk is full, or does not answer: once it has worked, it will again
LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_TAIL_BYTES = 4096
_WHO_SAYS_IT = re.compile(r"^cluster(?: \w+)?: ")


class KeptPart:
    """A part and its process. Used by the keeper's one thread."""

    def __init__(self, part: Part, runtime: Runtime) -> None:
        self.part = part
        self.state = "waiting"
        self.not_before = 0.0  # monotonic: when to start it
        self.kill_at = float("inf")  # monotonic: when patience with a stopping one ends
        self._ready_pipe = -1
        self._pidfd = -1
        self._runtime = runtime
        self._process: ProcessName | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._is_proven = False  # it was ready once
        self._unready_deaths = 0
        self._quick_deaths = 0
        self._restarts = -1  # the first start is none
        self._started = 0.0
        self._log_offset = 0
        self._trouble = ""

    @property
    def pid(self) -> int:
        """The running process; 0: none."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing will be started."""
        return self._process is None and self.state in {"stopped", "failed"}

    @property
    def descriptors(self) -> list[int]:
        """What becomes readable when there is something to look at: its pipe, and its death where pidfds exist."""
        return [descriptor for descriptor in (self._ready_pipe, self._pidfd) if descriptor >= 0]

    # --- coming up --------------------------------------------------------------------------------------------------

    def adopt(self, process: ProcessName, restarts: int = 0) -> None:
        """Take over a process that an earlier keeper started. Its pipe is gone: it counts as ready."""
        self._take(process)
        self._restarts = restarts
        self._started = time.monotonic()
        self._is_proven = True
        self._enter("ready")
        LOG.info("adopted part=%s pid=%d", self.part.name, process.pid)

    def start(self) -> None:
        """Start it."""
        self._restarts += 1
        self._started = time.monotonic()
        try:
            self._spawn()
        except OSError as error:
            self._died(f"it can't be started: {error}", is_hopeless=not self._is_proven)
            return
        self._enter("starting")
        LOG.info("started part=%s pid=%d restarts=%d", self.part.name, self.pid, self._restarts)

    def _spawn(self) -> None:
        log_path = Path(self.part.log)
        make_private(log_path.parent)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        log = os.open(log_path, LOG_FLAGS, 0o600)
        try:
            self._log_offset = os.fstat(log).st_size
            self._child = subprocess.Popen(
                [*self.part.command, "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.part.folder,
                env=self.part.environment,
                start_new_session=True,
                pass_fds=(writing,),
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            os.close(log)
        os.set_blocking(reading, False)
        self._ready_pipe = reading
        self._take(name_process(self._child.pid))

    def _take(self, process: ProcessName) -> None:
        self._process = process
        with contextlib.suppress(OSError, AttributeError):  # gone already, or no pidfds here: the next turn sees it
            self._pidfd = os.pidfd_open(process.pid)

    # --- watching -----------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Notice what has happened, and do what is due."""
        self._read_ready_pipe()
        if self._process is not None:
            status = self._child.poll() if self._child is not None else None
            is_gone = status is not None if self._child is not None else not self._process.is_alive()
            if is_gone:
                self._ended(status)
            elif now >= self.kill_at:
                LOG.warning("killed part=%s pid=%d: it did not stop in time", self.part.name, self.pid)
                self._process.signal(signal.SIGKILL)
        elif self.state == "waiting" and now >= self.not_before:
            self.start()

    def _read_ready_pipe(self) -> None:
        if self._ready_pipe < 0:
            return
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._ready_pipe, 512)
            self._ready_pipe = _close(self._ready_pipe)
            if said.startswith(b"ready") and self.state == "starting":
                self._is_proven = True
                self._unready_deaths = 0
                self._enter("ready")
                LOG.info("ready part=%s pid=%d", self.part.name, self.pid)

    def _ended(self, status: int | None) -> None:
        """Its process is gone: settle what that means."""
        was_ready = self.state == "ready"
        self._ready_pipe = _close(self._ready_pipe)
        self._pidfd = _close(self._pidfd)
        self._process = self._child = None
        if self.state == "stopping":
            self._enter("stopped")
            LOG.info("stopped part=%s status=%s", self.part.name, status)
            return
        reason = self._reason(status)
        if not was_ready and status != PASSING_STATUS:
            self._unready_deaths += 1
        if self._unready_deaths >= MAX_UNREADY_DEATHS:
            again = f"it died {self._unready_deaths} times before it was ready; see {self.part.log}"
            self._died(f"{reason}; {again}", is_hopeless=True)
        else:
            self._died(reason, is_hopeless=status in {MISTAKE_STATUS, PASSING_STATUS} and not self._is_proven)

    def _died(self, trouble: str, *, is_hopeless: bool) -> None:
        self._trouble = trouble
        if is_hopeless:
            self._enter("failed")
            LOG.error("gave up part=%s: %s", self.part.name, trouble)
            return
        now = time.monotonic()
        is_quick = now - self._started < SETTLED_SECONDS
        self._quick_deaths = self._quick_deaths + 1 if is_quick else 0
        delay = min(FIRST_DELAY_SECONDS * 2 ** min(self._quick_deaths, 20), MAX_DELAY_SECONDS)
        self.not_before = now + delay
        self._enter("waiting")
        LOG.warning("died part=%s, again in %.1f s: %s", self.part.name, delay, trouble)

    def _reason(self, status: int | None) -> str:
        if status is None:
            return "it died, of what is not known: another keeper had started it"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-status).name}"
            return f"killed by signal {-status}"
        return self._last_line() or f"it ended with exit status {status} and said nothing"

    def _last_line(self) -> str:
        """The last thing that it said, which is the one sentence if it was a mistake."""
        with contextlib.suppress(OSError), Path(self.part.log).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(self._log_offset, size - _TAIL_BYTES) if size >= self._log_offset else 0)
            lines = file.read(_TAIL_BYTES).decode(errors="replace").split("\n")
            said = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return _WHO_SAYS_IT.sub("", message_of(said))
        return ""

    # --- going down ---------------------------------------------------------------------------------------------------

    def stop(self, patience_seconds: float) -> None:
        """Have it drain; killed when patience is over. Once said, it need not be said again."""
        if self.state not in {"stopping", "stopped"}:
            self._end(signal.SIGTERM)
            self.kill_at = time.monotonic() + patience_seconds

    def kill(self) -> None:
        """End it at once."""
        if self.state != "stopped":
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is None:
            self._enter("stopped")
        else:
            self._enter("stopping")
            self._process.signal(number)

    def try_again(self) -> None:
        """Start it anew if it was given up."""
        if self.state == "failed":
            self._unready_deaths = self._quick_deaths = 0
            self.not_before = 0.0
            self._enter("waiting")

    def _enter(self, state: str) -> None:
        self.state = state
        record = PartRecord(self._process or NOBODY, state, max(self._restarts, 0), time.time(), self._trouble)
        self._runtime.write_part(self.part.name, record)


def _close(descriptor: int) -> int:
    if descriptor >= 0:
        os.close(descriptor)
    return -1
