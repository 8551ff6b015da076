"""What a job left behind in its process and still prints: it must not pass for the next job's words.

Threads can't be killed, and some are meant to stay (a library's pool), so what a thread of an earlier job prints is kept
in the output of whichever job is in hand, each line marked. What was printed while no job was in hand is dropped. Python
code is told apart by the thread that calls a stream's `write`; what such a thread has C code or `os.write` print is not.

Processes go on writing into the file that they were given; so the jobs after them are given another one.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TextIO

MARK = "[a thread of an earlier job] "


class Leftovers:
    """The threads that jobs have left in this process. Used by the thread that runs jobs, between jobs."""

    def __init__(self) -> None:
        self._threads: frozenset[int] = frozenset()  # by the kernel's number: Python's is soon another thread's
        self._is_mid_line: set[int] = set()
        self._processes: frozenset[str] = frozenset()  # children that don't write into the present output file

    @property
    def is_any(self) -> bool:
        """Something may print that is not the job in hand."""
        return bool(self._threads)

    def look(self, streams: tuple[TextIO, TextIO]) -> None:
        """A job is over: whatever runs now besides this thread is no part of the next one."""
        if not _thread._count() and not self._threads:  # nearly always; `threading`'s own count takes a lock
            return
        own = threading.get_native_id()
        alive = (thread.native_id for thread in threading.enumerate())
        self._threads = frozenset(number for number in alive if number is not None and number != own)
        self._is_mid_line &= self._threads
        for stream in streams:
            stream.__dict__.pop("write", None)
            if self._threads:
                # On the object, for a logger or a thread may hold it; and only now, for it costs each print.
                stream.write = self._marking(stream.write)  # type: ignore[method-assign]

    def hold(self, output: int) -> bool:
        """Whether a process that was started here, or its orphan, still has the output file as its own."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # there is none, the usual case
            return False
        children = _children()
        held = os.fstat(output)
        is_held = any(_writes_into(child, held) for child in children - self._processes)
        self._processes = children  # if it is held, these don't write into the next file
        return is_held

    def _marking(self, write: Callable[[str], int]) -> Callable[[str], int]:
        def marked(text: str) -> int:
            number = threading.get_native_id()
            if number not in self._threads or not isinstance(text, str) or not text:
                return write(text)
            lines = text.splitlines(keepends=True)
            is_mid_line = number in self._is_mid_line
            if lines[-1].endswith("\n"):
                self._is_mid_line.discard(number)
            else:
                self._is_mid_line.add(number)
            first = lines[0] if is_mid_line else MARK + lines[0]
            write(first + "".join(MARK + line for line in lines[1:]))
            return len(text)

        return marked


def _children() -> frozenset[str]:
    """The pids of this process's children, the orphans among its descendants too."""
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - a nursery is up sooner without pathlib
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:  # noqa: PTH123 - as above
                found.update(file.read().split())
        except OSError:  # a thread that has just ended, or a kernel that does not tell
            continue
    return frozenset(found)


def _writes_into(pid: str, held: os.stat_result) -> bool:
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it has ended, or has closed that
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), held):  # noqa: PTH116 - as above
                return True
    return False
