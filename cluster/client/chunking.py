"""How many items of a map travel in one job: pure arithmetic, what is measured is handed in.

A chunk should run for `TARGET_SECONDS`: long enough for its journey not to matter, short enough for balance, for progress
and for little to be lost with a child. What its items took is told by the process that ran them, so the journey is not in
it, and one item tells what thousands will take, as far as they are alike.

    first round    one item to each slot: slow items never travel in company
    second         what the first answer asks for, but at most `MAX_GROWTH` times as many items as it speaks of
    from there on  what is asked for; near the end less, so that all slots end together

A lower measurement is believed at once, for the first call of a function is slower than the others. A higher one is
believed by and by, and the less, the shorter the chunk ran: a lone item's microsecond is no news of a million others.
"""

from __future__ import annotations

TARGET_SECONDS = 0.05
# Near the end chunks get smaller, so that all slots end together: each is this part of what is left, for each slot. But
# not so small that the journeys cost more.
END_SHARE = 0.5
LEAST_SECONDS = 0.001
MAX_ITEMS = 30_000
MAX_BYTES = 1 << 20  # of pickled arguments, and of results
# Chunks on their way, per slot: one runs, one waits in the worker, and two cover the way there.
WINDOW_PER_SLOT = 4
# Where chunks must be tiny there may be more of them, up to this much work for each slot, and so many bytes in all.
WINDOW_SECONDS = 0.02
MAX_WINDOW = 512
MAX_WINDOW_BYTES = 16 << 20
# From a chunk that was measured to the next, in items: the first items of many inputs are the quickest ones.
MAX_GROWTH = 1000
MAX_SECONDS = 1e9  # the figure is a worker's, and may be any
_SMOOTHING = 0.5  # weight of a measurement that is higher than what is known, of a chunk of full length


class ChunkSizer:
    """Sizes the chunks of one map. Not thread-safe; its batch's lock guards it.

    Attributes:
        slots: of the cluster; 1 until that is known.
    """

    def __init__(self, fixed: int | None, slots: int = 1) -> None:
        self.slots = max(1, slots)
        self._fixed = fixed
        self._item_seconds: float | None = None  # what an item takes on a slot; None until the first chunk ended
        self._is_rough = False  # it may be far less
        self._answers = 0  # chunks that came back; as many of them as there are slots are the first round's
        self._argument_bytes = 0.0  # of an item
        self._result_bytes = 0.0

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
            wanted = min(wanted, max(least, remaining * END_SHARE / self.slots))
        item_bytes = max(self._argument_bytes, self._result_bytes)
        if item_bytes > 0:
            wanted = min(wanted, MAX_BYTES / item_bytes)
        return max(1, min(int(wanted), MAX_ITEMS))

    def can_send(self, chunks: int, items: int) -> bool:
        """Whether another chunk may leave while so many are on their way.

        In the first round one per slot, and in the second if the first told little: what they tell, everything follows
        from.
        """
        if chunks < self.slots:
            return True
        if self._fixed is None and (self._item_seconds is None or (self._is_rough and self._answers <= self.slots)):
            return False
        if chunks < self.slots * WINDOW_PER_SLOT:
            return True
        if self._item_seconds is None:
            return False
        item_bytes = max(self._argument_bytes, self._result_bytes)
        return (
            chunks < MAX_WINDOW
            and items * self._item_seconds < WINDOW_SECONDS * self.slots
            and items * item_bytes < MAX_WINDOW_BYTES
        )

    def on_sent(self, items: int, size_bytes: int) -> None:
        """A chunk was pickled to so many bytes."""
        self._argument_bytes = size_bytes / items

    def on_ended(self, items: int, seconds: float, size_bytes: int) -> None:
        """A chunk came back.

        Args:
            items: in the chunk.
            seconds: that running them took, by the clock of the process that did.
            size_bytes: of what came back.
        """
        self._answers += 1
        self._result_bytes = size_bytes / items
        seconds = min(max(seconds, 0.0), MAX_SECONDS)
        # So that the next chunk is `MAX_GROWTH` times as large as this one at most.
        least = TARGET_SECONDS / MAX_GROWTH
        measured = max(seconds, least) / items
        known = self._item_seconds
        if known is None or measured < known:
            self._item_seconds = measured
            self._is_rough = seconds < least
        else:
            self._item_seconds = known + _SMOOTHING * min(1.0, seconds / TARGET_SECONDS) * (measured - known)
