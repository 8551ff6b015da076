"""Files in memory that many may append to; apart, because a program's first moments are not for more than this."""

from __future__ import annotations

import fcntl
import os


def make_file() -> int:
    """A new, empty file's descriptor, opened for appending."""
    descriptor = os.memfd_create("cluster-output", os.MFD_CLOEXEC)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
    return descriptor


def duplicate(descriptor: int, lowest: int) -> int:
    """Another descriptor of the same, numbered `lowest` at least; a started program does not get it."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
