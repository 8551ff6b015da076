"""How many bytes may be on their way at once: long frames that are being received or carried out, and long answers.

One frame may have 256 MiB, and there may be thousands of connections. So whoever is about to receive a frame of more than
a read's length, or has made such an answer, first takes room for it here, and gives it back when the frame is gone.
Where there is no room he waits, as long as a frame may take; meanwhile the kernel holds the sender back. One identity
gets no more than its share, so that one with a thousand connections leaves room for the others.

What is taken is what a header promises: a frame that has begun can then always be finished, and frames that wait hold
nothing. Nobody takes twice before giving back, so nobody waits for himself. A peer that promises much and sends little
is cut off by the connection (see `connection.py`: every byte buys time, and little of it).

The calls whose answers may be long (`Call.is_heavy`) are also let through a few at a time for each identity, since an
answer takes memory before its length is known.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from weakref import WeakValueDictionary

from cluster.errors import MasterUnavailable
from cluster.wire.connection import FRAME_SECONDS, LONG_FRAME_BYTES


class NoRoomError(TimeoutError):
    """As many bytes are on their way as may be, and that did not change in time."""


class Intake:
    """The bytes in flight of one server."""

    def __init__(self, max_bytes: int, max_bytes_per_identity: int, max_heavy_calls: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_identity = max_bytes_per_identity
        self._max_heavy_calls = max_heavy_calls
        self._changed = threading.Condition()
        self._bytes = 0
        self._by_identity: Counter[str] = Counter()
        self._gates: WeakValueDictionary[str, threading.Semaphore] = WeakValueDictionary()  # while a share holds it

    def share(self, identity: str) -> Share:
        """What one connection of this identity takes its room from."""
        with self._changed:
            gate = self._gates.get(identity)
            if gate is None:
                gate = self._gates[identity] = threading.Semaphore(self._max_heavy_calls)
        return Share(self, identity, gate)

    def bytes_in_flight(self) -> int:
        """How much room is taken now."""
        return self._bytes

    def take(self, identity: str, size: int, deadline: float) -> None:
        """Wait for room, until the deadline (monotonic); then raise `NoRoomError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(identity, size), deadline - time.monotonic()):
                raise NoRoomError(f"no room for {size} bytes: {self._bytes} are on their way already")
            self._bytes += size
            self._by_identity[identity] += size

    def give_back(self, identity: str, size: int) -> None:
        """Make room again."""
        with self._changed:
            self._bytes -= size
            self._by_identity[identity] -= size
            if not self._by_identity[identity]:
                del self._by_identity[identity]
            self._changed.notify_all()

    def _has_room(self, identity: str, size: int) -> bool:
        return (
            self._bytes + size <= self._max_bytes and self._by_identity[identity] + size <= self._max_bytes_per_identity
        )


class Share:
    """One connection's room; used by its thread only."""

    def __init__(self, intake: Intake, identity: str, gate: threading.Semaphore) -> None:
        self._intake = intake
        self._identity = identity
        self._gate = gate
        self._taken = 0

    def take(self, size: int, deadline: float) -> None:
        """Room for a frame that is to arrive by the deadline. Raises `NoRoomError`."""
        self._intake.take(self._identity, size, deadline)
        self._taken = size

    def take_for_answer(self, size: int) -> None:
        """Room for an answer that was made, if it is a long one, instead of its request's. Raises `NoRoomError`."""
        if size > LONG_FRAME_BYTES:
            self.give_back()
            self.take(size, time.monotonic() + FRAME_SECONDS)

    def give_back(self) -> None:
        """What was taken, if anything, is free again."""
        if self._taken:
            self._intake.give_back(self._identity, self._taken)
            self._taken = 0

    @contextlib.contextmanager
    def heavy(self) -> Iterator[None]:
        """Be one of the few calls of this identity whose answer may be long."""
        if not self._gate.acquire(timeout=FRAME_SECONDS):
            raise MasterUnavailable("as many long answers as one peer may have are under way; ask again later")
        try:
            yield
        finally:
            self._gate.release()
