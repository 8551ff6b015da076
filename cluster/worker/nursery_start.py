"""Starts the interpreter of a nursery, and loads next to nothing for it.

A program's first result waits for this interpreter longer than for anything else. So it is started before the program has
loaded whatever else it needs, and this module is all that must be there by then. It imports what the interpreter itself has
in place (`_socket` is the C half of `socket`), and uses `posix_spawn`: `subprocess` and what that needs would take longer to
load than all that is done here.
"""

from __future__ import annotations

import _socket
import os
import sys

from cluster.worker import memory_file

TYPE_CHECKING = False  # as in `cluster`: a checker knows the name, and `typing` is slow to load

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Longer than the nursery's own bound on its farewell.
MAX_EXIT_SECONDS = 6.0
# Orders for hundreds of slots may wait while the nursery's interpreter starts.
SEND_BUFFER_BYTES = 1 << 20
# Where the nursery finds its end of the control socket.
CONTROL = 3

_SCRIPT = os.path.join(os.path.dirname(__file__), "nursery_boot.py")  # noqa: PTH118, PTH120 - see above
# Libraries that start a thread per cpu in every process would make slots fight each other.
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# All that comes of a nursery has it in its environment. Not CLUSTER_...: those are taken out of it.
MARK_VARIABLE = "NURSERY_MARK"


class Interpreter:
    """A process that will be a nursery once it has been told what for; its end of the control socket is ours."""

    __slots__ = ("_is_reaped", "control", "mark", "pid", "stderr")

    def __init__(self, control: _socket.socket, pid: int, stderr: int, mark: str) -> None:
        self.control = control
        self.mark = mark  # in its environment, and in that of all that comes of it (see `orphans`)
        self.pid = pid
        self.stderr = stderr  # the file in memory that it prints into
        self._is_reaped = False

    def wait_for_exit(self) -> None:
        """Return once it is gone: by itself, for the end of the socket is its order, or killed after a while."""
        import select

        # It can't have been reaped yet, unless by the user's own code, and then it is gone.
        if self._is_gone(os.WNOHANG):
            return
        pidfd = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            is_late = not poll.poll(MAX_EXIT_SECONDS * 1000)
        finally:
            os.close(pidfd)
        if is_late:
            self._kill()
        self._is_gone(0)

    def discard(self) -> None:
        """Let go of all of it; returns when the process is gone, killed if it lives still. May be called twice."""
        self.control.close()
        self._kill()
        self._is_gone(0)
        if self.stderr >= 0:
            os.close(self.stderr)
            self.stderr = -1

    def _kill(self) -> None:
        import signal

        # Only while its number is its own: as long as nobody has reaped it.
        if not self._is_gone(os.WNOHANG):
            os.kill(self.pid, signal.SIGKILL)

    def _is_gone(self, how: int) -> bool:
        """Whether it has ended and was reaped, now if `os.waitpid` can do it with these flags."""
        if not self._is_reaped:
            try:
                self._is_reaped = os.waitpid(self.pid, how)[0] == self.pid
            except ChildProcessError:  # the user's own code was faster
                self._is_reaped = True
        return self._is_reaped


def start_interpreter(sys_path: Iterable[str], slots: int, env: Mapping[str, str] | None = None) -> Interpreter:
    """Start the process; returns before it is ready. Raises `OSError` where the system won't have it.

    Args:
        sys_path: the module path of its jobs.
        slots: how many children it will have, which share the cpus.
        env: what jobs find in their environment besides ours.
    """
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    mine.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    mark = os.urandom(8).hex()
    opened: list[int] = []
    try:
        opened.append(memory_file.make_file())
        # Above those that they will be there, so that none takes another's place.
        opened.append(memory_file.duplicate(opened[0], CONTROL + 1))
        opened.append(memory_file.duplicate(theirs.fileno(), CONTROL + 1))
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *_interpreter_flags(), _SCRIPT, str(CONTROL), str(os.getpid()), *sys_path],
            {**_environment(slots, env or {}), MARK_VARIABLE: mark},
            file_actions=(
                *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                # Not the user's: a reader of it would wait for our end to close.
                (os.POSIX_SPAWN_DUP2, opened[1], 2),
                (os.POSIX_SPAWN_DUP2, opened[2], CONTROL),
            ),
            # Ctrl-C at the terminal goes to the user's process group; it is not for us to hear.
            setsid=True,
        )
    except BaseException:
        mine.close()
        if opened:
            os.close(opened[0])
        raise
    finally:
        theirs.close()
        for descriptor in opened[1:]:
            os.close(descriptor)
    return Interpreter(mine, pid, opened[0], mark)


def _inheritable() -> list[int]:
    """The program's own descriptors that it hands to whatever it starts; the standard ones apart."""
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - see above
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):  # noqa: PLR2004 - a standard one
                found.append(int(name))
        except OSError:  # closed by now
            continue
    return found


def _interpreter_flags() -> list[str]:
    """The interpreter's own flags (-W, -X, -O, ...), which hold for jobs too."""
    if sys.orig_argv and not any(word.startswith("-") for word in sys.orig_argv[1:2]):
        return []  # `python program.py`, the usual case; what its environment says, the nursery's says too
    import subprocess

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _environment(slots: int, env: Mapping[str, str]) -> dict[str, str]:
    # A job is handed no secret and no address of the cluster.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTER_")}
    share = str(max(1, len(os.sched_getaffinity(0)) // slots))
    for name in _THREAD_COUNTS:
        environment.setdefault(name, share)
    environment.update(env)
    return environment
