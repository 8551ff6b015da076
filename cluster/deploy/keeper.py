"""The keeper: one process per host that holds a cluster's master and workers up. `python -m cluster.deploy.keeper FOLDER`.

    up ──starts──► keeper ──starts, watches──► master, worker-1, worker-2 ...      down ──SIGTERM──► keeper
                     │                             │
                     └── run/NAME/*.json           └── logs/*.log

It has one thread, which sleeps on a pidfd of each process (so that a death is noticed at once, adopted processes
included), on the pipe of each that is not ready yet, and on signals. Whatever wakes it, it looks at every part. With TLS it
has certificates looked at once a day (renewal.py).

    SIGTERM, SIGINT   workers drain, then the master, then it ends; the second time everything is killed
    SIGQUIT           everything is killed at once
    SIGHUP            what was given up is tried again

When the keeper dies, nothing else does: the parts are in sessions of their own, write their logs themselves, and are
adopted by the next keeper, by their records, or by their mark and command if the record was not written any more. Until
then nobody restarts them or moves full logs away. When a part dies, it is started again on the same store and address.
Only one keeper runs for a folder: it holds `keeper.lock`, which the kernel drops with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cluster.deploy.commands import Part, log_of, parts_of, running_parts
from cluster.deploy.kept_part import KeptPart
from cluster.deploy.processes import name_process
from cluster.deploy.renewal import Renewal
from cluster.deploy.runtime import Runtime
from cluster.deploy.schema import Config
from cluster.log_lines import set_up_log

LOG = logging.getLogger("cluster.keeper")

# Starts, deaths and stops are few, and whatever level the parts log at, they are what one looks for.
LOG_LEVEL = "info"
# How long an idle keeper sleeps: it then looks whether a log is full, and at processes without a pidfd.
TURN_SECONDS = 1.0
# Above the drain timeout, within which a process should have ended by itself.
GRACE_SECONDS = 5.0
NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Keeper:
    """Holds parts up until it is told to stop."""

    def __init__(self, runtime: Runtime, parts: list[Part], config: Config) -> None:
        self._runtime = runtime
        self._parts = [KeptPart(part, runtime) for part in parts]
        self._drain_seconds = config.drain.timeout
        self._logs = [log_of(config, "keeper"), *(Path(part.log) for part in parts)]
        self._max_log_bytes = config.log.max_size
        self._stops = 0
        self._is_hopeful = False  # SIGHUP came
        self._renewal = Renewal(runtime.folder, time.monotonic()) if config.master.tls != "off" else None

    def run(self) -> None:
        """Keep, until stopped; returns when no part runs any more."""
        self._adopt()
        with self._signals() as alarm:
            while True:
                self._look()
                self._obey()
                if self._stops and all(part.is_over for part in self._parts):
                    return
                self._rotate_logs()
                if self._renewal is not None:
                    self._renewal.look(time.monotonic())
                self._sleep(alarm)

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        master, *workers = self._parts
        master.look(now)
        for part in workers:
            # A worker's first start waits for the master's, so that a mistake is told once. Later it is on its own.
            if part.pid or master.state == "ready":
                part.look(now)

    def _obey(self) -> None:
        """Do what signals asked for; after the look, so that a death is followed up in the same turn."""
        master, *workers = self._parts
        if self._is_hopeful:
            self._is_hopeful = False
            for part in self._parts:
                part.try_again()
        if self._stops > 1:
            for part in self._parts:
                part.kill()
        elif self._stops:
            for part in workers:
                part.stop(self._drain_seconds + GRACE_SECONDS)
            if all(part.is_over for part in workers):  # the master stays to hear what they have to say
                master.stop(self._drain_seconds + GRACE_SECONDS)

    def _sleep(self, alarm: socket.socket) -> None:
        """Until something happens, or is due."""
        now = time.monotonic()
        due = [part.not_before for part in self._parts if part.state == "waiting" and part.not_before > now]
        due += [part.kill_at for part in self._parts if part.state == "stopping" and part.kill_at > now]
        seconds = min([TURN_SECONDS, *(moment - now for moment in due)])
        # Made anew each time: descriptors come and go with the processes, and a turn is rare.
        poll = select.poll()
        poll.register(alarm, select.POLLIN)
        for descriptor in (descriptor for part in self._parts for descriptor in part.descriptors):
            poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            alarm.recv(64)

    def _rotate_logs(self) -> None:
        """Move what a full log says to NAME.log.1. What is written between the copy and the cut is lost."""
        for log in self._logs:
            with contextlib.suppress(OSError):
                if log.stat().st_size > self._max_log_bytes:
                    _copy(log, log.with_name(log.name + ".1"))
                    os.truncate(log, 0)  # whoever writes appends, and goes on at the new end

    # --- signals and adoption -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.settimeout(0.0)
            signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_stop)
            signal.signal(signal.SIGQUIT, self._on_quit)
            signal.signal(signal.SIGHUP, self._on_hope)
            try:
                yield ours
            finally:
                signal.set_wakeup_fd(-1)

    def _on_stop(self, *_: object) -> None:
        self._stops += 1

    def _on_quit(self, *_: object) -> None:
        self._stops += 2

    def _on_hope(self, *_: object) -> None:
        self._is_hopeful = True

    def _adopt(self) -> None:
        """Take over what an earlier keeper started and still runs."""
        running = running_parts([kept.part for kept in self._parts], self._runtime)
        records = self._runtime.recorded()
        for kept in self._parts:
            if kept.part.name in running:
                record = records.get(kept.part.name)
                kept.adopt(running[kept.part.name], record.restarts if record is not None else 0)


def keep(folder: Path, environment: Mapping[str, str], on_kept: Callable[[], None]) -> int:
    """Keep the cluster whose runtime folder this is, until stopped; the exit status of the process.

    `on_kept` is called once the keeper's own record can be read.
    """
    runtime = Runtime(folder)
    with _sole_keeper(folder) as is_sole:
        snapshot = runtime.snapshot()
        if not is_sole or snapshot is None:
            LOG.error("there is %s for %s", "nothing to keep" if is_sole else "another keeper", folder)
            return 1
        config = snapshot.parse()
        set_up_log(LOG_LEVEL, config.log.format)
        parts = parts_of(snapshot, runtime, environment)
        keeper = Keeper(runtime, parts, config)
        runtime.write_keeper(name_process(os.getpid()))
        on_kept()
        LOG.info("keeping cluster=%s pid=%d parts=%d", config.name, os.getpid(), len(parts))
        keeper.run()
        LOG.info("ended cluster=%s", config.name)
    return 0


def _copy(log: Path, full: Path) -> None:
    """Over the one before, with the mode of the log and not of the umask, and behind nobody's link."""
    full.unlink(missing_ok=True)
    with log.open("rb") as source, open(os.open(full, NEW_FLAGS, 0o600), "wb") as target:  # noqa: PTH123 - a descriptor
        shutil.copyfileobj(source, target)


@contextlib.contextmanager
def _sole_keeper(folder: Path) -> Iterator[bool]:
    descriptor = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def main() -> int:
    """Go on in a process of its own, whose parent is nobody's business; return once that one keeps, or can't."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return 0 if os.read(reading, 1) else 1
    os.close(reading)
    os.setsid()
    set_up_log(LOG_LEVEL)  # until the configuration is read

    def on_kept() -> None:
        os.write(writing, b"k")
        os.close(writing)

    return keep(Path(sys.argv[2]), os.environ, on_kept)  # behind `--run`


if __name__ == "__main__":
    sys.exit(main())
