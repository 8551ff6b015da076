"""The supervisor's side of the nursery: starts the process, asks it for children, hears what becomes of them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import MsgspecError

from cluster.worker import output
from cluster.worker.config import WorkerConfig
from cluster.worker.nursery_protocol import FromNursery, Setup, Spawn, decode_from_nursery, receive, send

# Longer than the nursery's own bound on its farewell.
MAX_EXIT_SECONDS = 6.0
# Orders for hundreds of slots may wait while the nursery's interpreter starts.
SEND_BUFFER_BYTES = 1 << 20

_SCRIPT = str(Path(__file__).with_name("nursery_boot.py"))
# Libraries that start a thread per cpu in every process would make slots fight each other.
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class NurseryLink:
    """A running nursery. Used by the supervisor's thread; `start` alone may be called by another before it runs."""

    def __init__(self, config: WorkerConfig, worker: str, host: str) -> None:
        self._config = config
        self._setup = Setup(
            worker,
            host,
            config.directory,
            config.max_output_bytes,
            config.max_result_bytes,
            config.scratch,
            config.threads,
        )
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = -1

    @property
    def pid(self) -> int:
        """The nursery's process id; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    def fileno(self) -> int:
        """The control socket's descriptor."""
        assert self._control is not None  # noqa: S101 - asked only while it runs
        return self._control.fileno()

    def start(self) -> None:
        """Start the process; returns before it is ready. Raises `OSError` where the system won't have it."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            self._stderr = output.make_file()
            self._process = subprocess.Popen(
                # The interpreter's own flags (-W, -X, -O, ...) hold for jobs too.
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    _SCRIPT,
                    str(theirs.fileno()),
                    str(os.getpid()),
                    *self._config.sys_path,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Not the user's: a reader of it would wait for our end to close.
                stderr=self._stderr,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C at the terminal goes to the user's process group; it is not for us to hear.
                start_new_session=True,
                env=_environment(self._config),
            )
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        self._control = mine
        send(mine, self._setup)
        mine.settimeout(0)

    def spawn(self, slot: int, generation: int, descriptors: tuple[int, int]) -> None:
        """Ask for a child. Raises `OSError` if the nursery is gone, which `news` tells too."""
        assert self._control is not None  # noqa: S101 - asked only while it runs
        send(self._control, Spawn(slot, generation), descriptors)

    def news(self) -> Iterator[tuple[FromNursery, int]]:
        """What it has said, each with the descriptor that came along (or -1). Raises `EOFError` when it is gone."""
        assert self._control is not None  # noqa: S101 - asked only while it runs
        while True:
            received = receive(self._control)
            if received is None:
                return
            data, descriptors = received
            try:
                message = decode_from_nursery(data)
            except MsgspecError as error:  # only a foreign hand on its socket can do that
                raise EOFError from error
            yield message, descriptors[0] if descriptors else -1

    def close(self) -> str:
        """End the nursery and all children; returns when it is gone. The last it had to say, where it failed."""
        if self._control is not None:
            self._control.close()  # the end of this socket is its order to clean up
            self._control = None
        if self._process is not None:
            self._wait_for_exit(self._process)
            self._process = None
        if self._stderr < 0:
            return ""
        size = output.size_of(self._stderr)
        words = output.tail_text(output.take(self._stderr, size, self._config.max_output_bytes))
        os.close(self._stderr)
        self._stderr = -1
        return words

    def _wait_for_exit(self, process: subprocess.Popen[bytes]) -> None:
        # A pidfd and not Popen.wait(timeout), which sleeps between looks. The process can't have been reaped yet,
        # unless by the user's own code, and then it is gone.
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(process.pid)
            try:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                if not poll.poll(MAX_EXIT_SECONDS * 1000):
                    process.kill()
            finally:
                os.close(pidfd)
        process.wait()


def _environment(config: WorkerConfig) -> dict[str, str]:
    # A job is handed no secret and no address of the cluster.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTER_")}
    share = str(max(1, len(os.sched_getaffinity(0)) // config.slots))
    for name in _THREAD_COUNTS:
        environment.setdefault(name, share)
    environment.update(config.env)
    return environment
