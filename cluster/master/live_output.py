"""What running attempts have printed so far: kept in memory until their report brings all of it.

Nothing here is durable, and nothing relies on it: it is for people who watch. An attempt that never reports (its worker
was lost) leaves what it had said here until the room is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from msgspec import Struct

from cluster.core.records import Fence, JobId

MAX_ATTEMPT_BYTES = 64 * 1024
MAX_BYTES = 16 << 20  # of all attempts; beyond, the oldest go


class _Attempt(Struct, gc=False):
    job: JobId
    text: bytes


class LiveOutput:
    """Text by attempt. Thread-safe; its lock is never held while another one is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[Fence, _Attempt] = {}  # in the order of their first words
        self._size = 0

    def add(self, fence: Fence, job: JobId, text: bytes) -> None:
        """An attempt has printed more."""
        with self._lock:
            attempt = self._attempts.setdefault(fence, _Attempt(job, b""))
            taken = text[: MAX_ATTEMPT_BYTES - len(attempt.text)]
            attempt.text += taken
            self._size += len(taken)
            while self._size > MAX_BYTES:
                self._forget(next(iter(self._attempts)))

    def drop(self, fences: Iterable[Fence]) -> None:
        """These attempts have reported: the store has, or will have, all that they printed."""
        if not self._attempts:  # most jobs are over before anything is told of them
            return
        with self._lock:
            for fence in fences:
                if fence in self._attempts:
                    self._forget(fence)

    def of(self, job: JobId) -> bytes:
        """What attempts of this job have printed and not reported yet."""
        with self._lock:
            return b"".join(attempt.text for attempt in self._attempts.values() if attempt.job == job)

    def _forget(self, fence: Fence) -> None:
        self._size -= len(self._attempts.pop(fence).text)
