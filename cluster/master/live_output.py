"""What running attempts have printed so far: kept in memory until their report brings all of it.

Nothing here is durable, and nothing relies on it: it is for people who watch. An attempt that never reports (its worker
was lost) leaves what it had said here until the room is needed.

Of each attempt its first bytes are kept and its last, as its report will have it. A worker may tell the same bytes twice
(its answer was lost, or the master is a new one), or leave some out (a flood): it says of each piece where it belongs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from msgspec import Struct

from cluster.core.printed import Runs, shares
from cluster.core.records import Fence, JobId

MAX_ATTEMPT_BYTES = 64 * 1024
MAX_BYTES = 16 << 20  # of all attempts; beyond, the oldest go

_HEAD_BYTES, _TAIL_BYTES = shares(MAX_ATTEMPT_BYTES)


class _Attempt(Struct, gc=False):
    job: JobId
    head: bytes = b""  # from byte 0 on
    tail: bytes = b""  # from byte `start` on
    start: int = 0

    @property
    def size(self) -> int:
        return len(self.head) + len(self.tail)

    @property
    def end(self) -> int:
        return self.start + len(self.tail) if self.tail else len(self.head)

    @property
    def runs(self) -> Runs:
        return tuple((start, run) for start, run in ((0, self.head), (self.start, self.tail)) if run)

    def add(self, text: bytes, offset: int) -> None:
        if offset < self.end:
            text, offset = text[self.end - offset :], self.end
        if offset == len(self.head) and not self.tail:
            room = _HEAD_BYTES - len(self.head)
            self.head += text[:room]
            text, offset = text[room:], offset + room
        if not text:
            return
        if not self.tail or offset > self.end:
            self.tail, self.start = b"", offset
        self.tail += text
        excess = len(self.tail) - _TAIL_BYTES
        if excess > 0:
            self.tail = self.tail[excess:]
            self.start += excess


class LiveOutput:
    """Text by attempt. Thread-safe; its lock is never held while another one is taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._attempts: dict[Fence, _Attempt] = {}  # in the order of their first words
        self._size = 0
        self._waiting = 0  # threads; nobody is notified where nobody waits

    def add(self, fence: Fence, job: JobId, text: bytes, offset: int) -> None:
        """An attempt has printed this, from its byte `offset` on."""
        with self._changed:
            attempt = self._attempts.setdefault(fence, _Attempt(job))
            self._size -= attempt.size
            attempt.add(text, offset)
            self._size += attempt.size
            while self._size > MAX_BYTES:
                self._forget(next(iter(self._attempts)))
            if self._waiting:
                self._changed.notify_all()

    def drop(self, fences: Iterable[Fence]) -> None:
        """These attempts have reported: the store has, or will have, all that they printed."""
        if not self._attempts:  # most jobs are over before anything is told of them
            return
        with self._changed:
            for fence in fences:
                if fence in self._attempts:
                    self._forget(fence)
            if self._waiting:
                self._changed.notify_all()

    def of(self, job: JobId) -> dict[Fence, Runs]:
        """What attempts of this job have printed and not reported yet, by fence."""
        if not self._attempts:
            return {}
        with self._changed:
            return {fence: attempt.runs for fence, attempt in self._attempts.items() if attempt.job == job}

    def wait(self, fence: Fence, seen: int, timeout: float) -> None:
        """Wait, no longer than that, until an attempt has printed more than `seen` bytes, or has reported.

        Of one that has printed nothing yet, or of none (fence 0), any word of another may end the waiting.
        """
        with self._changed:
            attempt = self._attempts.get(fence)
            self._waiting += 1
            try:
                if attempt is None:
                    self._changed.wait(timeout)
                else:
                    self._changed.wait_for(
                        lambda: self._attempts.get(fence) is not attempt or attempt.end > seen, timeout
                    )
            finally:
                self._waiting -= 1

    def _forget(self, fence: Fence) -> None:
        self._size -= self._attempts.pop(fence).size
