"""How many items of a map travel in one job: pure arithmetic, the time is handed in.

A chunk should take `TARGET_SECONDS`: long enough for its journey not to matter, short enough for balance, for progress
and for little to be lost with a child. What an item takes is measured. Chunks wait for each other, so a chunk's time
begins when a slot became free for it: with S slots, about when the S-th last chunk ended before it.

The first round sends one item to each slot. Their times include the whole journey, so the estimate is too high and the
next size too small, never the other way round; so a lower measurement is believed at once and a higher one by and by.
If they took so little that it may all have been the journey, a second round of one chunk for each slot tells more: what
it took longer than the probe is its items' time. (Not less than a part of all, for the probe's journey may have been the
slower one: so a chunk may take `1 / LEAST_PART` of what it should.)
No-ops are at full size after these two rounds, slow items never travel in company.
"""

from __future__ import annotations

from collections import deque

TARGET_SECONDS = 0.05
# Near the end chunks get smaller, so that all slots end together: each is this part of what is left, for each slot. But
# not so small that the journeys cost more.
END_SHARE = 0.5
LEAST_SECONDS = 0.002
MAX_ITEMS = 30_000
MAX_BYTES = 1 << 20  # of pickled arguments
# Chunks on their way, per slot: one runs, one waits in the worker, and two cover the way there.
WINDOW_PER_SLOT = 4
# Where chunks must be tiny there may be more of them, up to this much work for each slot.
WINDOW_SECONDS = 0.02
MAX_WINDOW = 512
MAX_GROWTH = 32  # from one measurement to the next: two outcomes that arrive together look like no time at all
# A probe that took less may tell of its journey alone: through a disk and a network, that takes some milliseconds.
ROUGH_SECONDS = 0.01
LEAST_PART = 0.25  # of a second round's time, that is taken for its items' own
_NEVER = float("inf")
_SMOOTHING = 0.5  # weight of a measurement that is higher than what is known


class ChunkSizer:
    """Sizes the chunks of one map. Not thread-safe; its batch's lock guards it."""

    def __init__(self, slots: int, fixed: int | None) -> None:
        self._slots = max(1, slots)
        self._fixed = fixed
        self._item_seconds: float | None = None  # what an item takes on a slot; None until the first chunk ended
        self._item_bytes = 0.0
        self._ends: deque[float] = deque(maxlen=self._slots)
        # When the first probe ended, and what it took, if it may have told of little but the journey; and when the first
        # chunk of the second round did. What left before says less than what leaves after.
        self._probed_at, self._probe_seconds = _NEVER, 0.0
        self._settled_at = _NEVER

    def size(self, remaining: int | None) -> int:
        """Items for the next chunk.

        Args:
            remaining: items not sent yet, where that is known.
        """
        if self._fixed is not None:
            return self._fixed
        if self._item_seconds is None:
            return 1
        wanted = TARGET_SECONDS / self._item_seconds
        if remaining is not None:
            least = LEAST_SECONDS / self._item_seconds
            wanted = min(wanted, max(least, remaining * END_SHARE / self._slots))
        if self._item_bytes > 0:
            wanted = min(wanted, MAX_BYTES / self._item_bytes)
        return max(1, min(int(wanted), MAX_ITEMS))

    def can_send(self, chunks: int, items: int) -> bool:
        """Whether another chunk may leave while so many are on their way.

        In each of the first two rounds one chunk per slot is out: what they tell, everything follows from.
        """
        if chunks < self._slots:
            return True
        if self._item_seconds is None or (self._settled_at == _NEVER and self._fixed is None):
            return False
        if chunks < self._slots * WINDOW_PER_SLOT:
            return True
        return chunks < MAX_WINDOW and items * self._item_seconds < WINDOW_SECONDS * self._slots

    def on_sent(self, items: int, size_bytes: int) -> None:
        """A chunk was pickled to so many bytes."""
        self._item_bytes = size_bytes / items

    def on_ended(self, items: int, sent: float, ended: float) -> None:
        """A chunk came back.

        Args:
            items: in the chunk.
            sent: when it left, on the monotonic clock.
            ended: when its outcome was here.
        """
        begun = max(sent, self._ends[0]) if len(self._ends) == self._slots else sent
        self._ends.append(ended)
        seconds = max(ended - begun, 1e-6)
        measured = seconds / items
        known = self._item_seconds
        if sent >= self._probed_at:
            self._settled_at = min(self._settled_at, ended)
        if known is None:
            self._item_seconds = measured
            if seconds < ROUGH_SECONDS:
                self._probed_at, self._probe_seconds = ended, seconds
            else:
                self._settled_at = ended
        elif sent < self._settled_at and seconds < ROUGH_SECONDS:
            if sent >= self._probed_at:  # else a probe that ended later than another, and tells nothing new
                own = max(seconds - self._probe_seconds, seconds * LEAST_PART) / items
                self._item_seconds = min(known, own)
        elif measured < known:
            self._item_seconds = max(measured, known / MAX_GROWTH)
        else:
            self._item_seconds = known + _SMOOTHING * (measured - known)
