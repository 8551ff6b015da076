"""What jobs print, caught at descriptor level.

Each child's descriptors 1 and 2 are one anonymous file in memory, opened for appending: nothing can block on it, C code
and subprocesses write into it too, and what a child wrote before it died can still be read. It is emptied at each job's
end, by the child, which sends the text along with the result; so what is in it belongs to the job in hand. While a job
runs long the supervisor empties it now and then too (`Flood`), so that a flood fills no memory; truncating a file that
others append to is safe.
"""

from __future__ import annotations

import os

from msgspec import Struct

from cluster.core.printed import join, runs_of, shares

# The supervisor steps in above this; below, a job's own end takes care.
MAX_FILE_BYTES = 8 << 20
TAIL_LINES = 20
TAIL_BYTES = 4096


def take(descriptor: int, size: int, max_bytes: int) -> bytes:
    """Empty the file of `size` bytes; its text, with the middle cut out where it is longer than `max_bytes`."""
    if size <= max_bytes:
        text = os.pread(descriptor, size, 0)
    else:
        head, tail = shares(max_bytes)
        beginning = os.pread(descriptor, head, 0)
        text = join(beginning, size - max_bytes, os.pread(descriptor, tail, size - tail))
    os.ftruncate(descriptor, 0)
    return text


def size_of(descriptor: int) -> int:
    """Bytes in the file."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def tail_text(output: bytes) -> str:
    """The last lines, for a death certificate."""
    text = output[-TAIL_BYTES:].decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])


class Flood(Struct, gc=False):
    """What was taken away from a long-running job's file so far: its first bytes, and how many in all."""

    beginning: bytes = b""
    taken: int = 0
    end: bytes = b""

    def relieve(self, descriptor: int, max_bytes: int) -> None:
        """Empty the file if it has grown too large."""
        size = size_of(descriptor)
        if size <= MAX_FILE_BYTES:
            return
        head, tail = shares(max_bytes)
        if not self.taken:
            self.beginning = os.pread(descriptor, head, 0)
        self.end = os.pread(descriptor, tail, max(0, size - tail))
        self.taken += size
        os.ftruncate(descriptor, 0)

    def complete(self, rest: bytes, max_bytes: int) -> bytes:
        """The job's output, from what was taken and what was in the file at its end."""
        if not self.taken:
            return rest
        _, tail = shares(max_bytes)
        end = (self.end + rest)[-tail:]
        start, last = runs_of(rest)[-1]  # it may have lost its own middle
        return join(self.beginning, self.taken + start + len(last) - len(self.beginning) - len(end), end)
