"""Starts the interpreter of a nursery, and loads next to nothing for it.

A program's first result waits for this interpreter longer than for anything else. So it is started before the program has
loaded whatever else it needs, and this module is all that must be there by then.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping

from cluster.worker import output

# Longer than the nursery's own bound on its farewell.
MAX_EXIT_SECONDS = 6.0
# Orders for hundreds of slots may wait while the nursery's interpreter starts.
SEND_BUFFER_BYTES = 1 << 20

_SCRIPT = os.path.join(os.path.dirname(__file__), "nursery_boot.py")  # noqa: PTH118, PTH120 - see above
# Libraries that start a thread per cpu in every process would make slots fight each other.
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# All that comes of a nursery has it in its environment. Not CLUSTER_...: those are taken out of it.
MARK_VARIABLE = "NURSERY_MARK"


class Interpreter:
    """A process that will be a nursery once it has been told what for; its end of the control socket is ours."""

    __slots__ = ("control", "mark", "process", "stderr")

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes], stderr: int, mark: str) -> None:
        self.control = control
        self.mark = mark  # in its environment, and in that of all that comes of it (see `orphans`)
        self.process = process
        self.stderr = stderr  # the file in memory that it prints into

    def wait_for_exit(self) -> None:
        """Return once it is gone: by itself, for the end of the socket is its order, or killed after a while."""
        # A pidfd and not Popen.wait(timeout), which sleeps between looks. The process can't have been reaped yet,
        # unless by the user's own code, and then it is gone.
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.process.pid)
            try:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                if not poll.poll(MAX_EXIT_SECONDS * 1000):
                    self.process.kill()
            finally:
                os.close(pidfd)
        self.process.wait()

    def discard(self) -> None:
        """Let go of all of it; returns when the process is gone, killed if it lives still. May be called twice."""
        self.control.close()
        self.process.kill()
        self.process.wait()
        if self.stderr >= 0:
            os.close(self.stderr)
            self.stderr = -1


def start_interpreter(sys_path: Iterable[str], slots: int, env: Mapping[str, str] | None = None) -> Interpreter:
    """Start the process; returns before it is ready. Raises `OSError` where the system won't have it.

    Args:
        sys_path: the module path of its jobs.
        slots: how many children it will have, which share the cpus.
        env: what jobs find in their environment besides ours.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    stderr = -1
    mark = os.urandom(8).hex()
    try:
        stderr = output.make_file()
        process = subprocess.Popen(
            # The interpreter's own flags (-W, -X, -O, ...) hold for jobs too.
            [
                sys.executable,
                *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                _SCRIPT,
                str(theirs.fileno()),
                str(os.getpid()),
                *sys_path,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Not the user's: a reader of it would wait for our end to close.
            stderr=stderr,
            pass_fds=(theirs.fileno(),),
            # Ctrl-C at the terminal goes to the user's process group; it is not for us to hear.
            start_new_session=True,
            env={**_environment(slots, env or {}), MARK_VARIABLE: mark},
        )
    except BaseException:
        mine.close()
        if stderr >= 0:
            os.close(stderr)
        raise
    finally:
        theirs.close()
    return Interpreter(mine, process, stderr, mark)


def _environment(slots: int, env: Mapping[str, str]) -> dict[str, str]:
    # A job is handed no secret and no address of the cluster.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTER_")}
    share = str(max(1, len(os.sched_getaffinity(0)) // slots))
    for name in _THREAD_COUNTS:
        environment.setdefault(name, share)
    environment.update(env)
    return environment
