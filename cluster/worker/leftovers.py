"""What a job left behind in its process and still prints: it must not pass for the next job's words.

Threads can't be killed, and some are meant to stay (a library's pool), so what a thread of an earlier job prints is kept
in the output of whichever job is in hand, each line marked. What was printed while no job was in hand is dropped. Python
code is told apart by the thread that calls a stream's `write`; what such a thread has C code or `os.write` print is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TextIO

MARK = "[a thread of an earlier job] "


class Leftovers:
    """The threads that jobs have left in this process. Used by the thread that runs jobs, between jobs."""

    def __init__(self) -> None:
        self._threads: frozenset[int] = frozenset()  # by the kernel's number: Python's is soon another thread's
        self._is_mid_line: set[int] = set()

    @property
    def is_any(self) -> bool:
        """Something may print that is not the job in hand."""
        return bool(self._threads)

    def look(self, streams: tuple[TextIO, TextIO]) -> None:
        """A job is over: whatever runs now besides this thread is no part of the next one."""
        if threading.active_count() == 1 and not self._threads:  # nearly always
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
