"""Keeps what the C library's allocator holds for later small, and gives it back to the system.

Frames, payloads and pages of the database come and go in the threads of connections. What they leave free lies between
what is still used, in one of sixteen arenas on two processors, and glibc gives back only what is at an arena's end. So a
master in which nothing grows did: from 60 to 130 MB in an hour of broken connections, 40 of 64 MB of its arenas free. With
two arenas, of which Python's threads need no more, and a trim now and then, it stays level (62 to 68 MB in four minutes).
"""

from __future__ import annotations

import contextlib

MAX_ARENAS = 2
_M_ARENA_MAX = -8
EVERY_SECONDS = 10.0  # each takes a millisecond or two


def limit_arenas() -> None:
    """Have few arenas; before there are threads. Nothing where there is no glibc."""
    import ctypes  # not at the top: `import cluster` does without it

    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MAX_ARENAS)


def trim() -> None:
    """Give back what is free; milliseconds, in which other threads go on. Nothing where there is no glibc."""
    import ctypes

    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
