"""How other threads wake the supervisor's."""

from __future__ import annotations

import os


class Bell:
    """An eventfd for a selector: rings until it is answered, or, watched for edges, once for each ring.

    It closes with its last reference, never under a thread that rings it.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """For the selector."""
        return self._descriptor

    def ring(self) -> None:
        """Wake the listener. From any thread; never blocks."""
        os.eventfd_write(self._descriptor, 1)

    def answer(self) -> None:
        """Fall silent again; only when it has been rung."""
        os.eventfd_read(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)
