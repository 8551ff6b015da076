"""What jobs had started, when the nursery that would have killed it is dead itself.

As long as the nursery lives, every orphan falls to it (see there). Killed with SIGKILL it can clean up nothing; its
children die with it, by the kernel's hand, and what they had started falls to the next process above that takes orphans:

- A worker process (`cluster worker`) has asked for that at its start (`adopt`), and has no other children than its
  nursery. So whatever is its child once the nursery is gone is such an orphan, daemonised or not.
- Embedded, the process above is the user's program, whose children are its own affair, and orphans go to init. There
  two things tell them: the session of the child that ran their job, and a mark of their nursery's own in the environment
  that they were started with, which whoever is forked or started inherits. Only what has left the session *and* was
  started with another environment lives on; it takes a program that kills the nursery, and nothing else, to get there.

Called by the supervisor's thread between a lost nursery and the next one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator

from cluster.worker.nursery_start import MARK_VARIABLE

# As long as the nursery's own sweep may take: a process in an uninterruptible wait must not hold up the others.
MAX_SWEEP_SECONDS = 2.0
SWEEP_SECONDS = 0.002


class Orphans:
    """Finds and kills them. One for the process: whether it takes orphans is a property of the process."""

    def __init__(self) -> None:
        self._is_adopting = False

    def adopt(self) -> None:
        """From here on orphans come to this process, which has no children but its nursery."""
        # Not at the top: it needs ctypes, which `import cluster` does without.
        from cluster.worker import isolation

        isolation.become_subreaper()
        self._is_adopting = True

    def sweep(self, sessions: Collection[int], mark: str) -> None:
        """Kill all that is left of these sessions and of this mark and, where orphans come to us, all of those.

        Returns when it is gone.

        Args:
            sessions: of the dead children, which led them: each is known by its child's pid.
            mark: of the dead nursery.
        """
        deadline = time.monotonic() + MAX_SWEEP_SECONDS
        ours = _Ours(sessions, mark)
        while self._kill(ours) and time.monotonic() < deadline:
            time.sleep(SWEEP_SECONDS)

    def _kill(self, ours: _Ours) -> bool:
        """One round; True if there was anything to kill."""
        adopted = list(_children()) if self._is_adopting else []
        for pid in adopted:
            # An unreaped child of ours: its number can't have been given to anyone else.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        members = [pid for pid in _processes() if ours.has(pid)]
        for pid in members:
            _kill_member(pid, ours)
        ours.dying.update(members)
        # One that is on its way out has no environment any more, a moment before it is gone.
        return bool(adopted or members or any(_session_of(pid) for pid in ours.dying))


class _Ours:
    """Tells what a nursery's jobs have started."""

    def __init__(self, sessions: Collection[int], mark: str) -> None:
        self._sessions = sessions
        self.dying: set[int] = set()  # killed
        self._variable = f"{MARK_VARIABLE}={mark}".encode() if mark else b""

    def has(self, pid: int) -> bool:
        """Whether it runs, and is of theirs."""
        session = _session_of(pid)
        return session in self._sessions or (session > 0 and self._is_marked(pid))

    def _is_marked(self, pid: int) -> bool:
        if not self._variable:
            return False
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - of all processes
                return self._variable in file.read().split(b"\0")
        except OSError:  # gone, or another user's
            return False


ORPHANS = Orphans()


def _kill_member(pid: int, ours: _Ours) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # Asked again now that the number can't come to mean another process.
        if ours.has(pid):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _children() -> Iterator[int]:
    """Of all threads of this process."""
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - a cold start is quicker without pathlib
        try:
            with open(f"/proc/self/task/{thread}/children", "rb") as file:  # noqa: PTH123 - as above
                words = file.read().split()
        except OSError:  # it has ended
            continue
        yield from map(int, words)


def _processes() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def _session_of(pid: int) -> int:
    """The session of a process that runs; 0 if it doesn't."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - of all processes
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if words[0] in (b"Z", b"X") else int(words[3])
