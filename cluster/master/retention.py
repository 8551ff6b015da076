"""How long ended jobs stay in the store, and how much of it they may take up.

Three bounds, each drops the oldest first: an outcome stays until its own time is over (`result_ttl`, longer for a dead
letter), what a job printed stays for `output_seconds` after its end, and all together may take `max_bytes`. Live jobs,
and ended ones that live jobs still need, stay in any case.

The thread that commits does the work, between two commits, a bounded piece at a time: `prune` says whether there is more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec import Struct

from cluster.core.records import JobId
from cluster.store.port import Store

LOG = logging.getLogger("cluster.master")

# Of one piece, of each kind. On a disk that takes some 50 ms (measured, two busy cores), and a commit may wait so long.
MAX_PRUNED = 1000
# In memory it costs microseconds, and is asked for each time that so many jobs have ended.
MAX_PRUNED_INSTANTLY = 10_000


# Well above what the tables of an empty store take, and so small that only a test can mean it.
MIN_BYTES = 1_000_000


def check_max_bytes(max_bytes: int) -> int:
    """The bound, or `ValueError` if no store could keep to it."""
    if max_bytes < MIN_BYTES:
        raise ValueError(f"{max_bytes} bytes are less than a store takes without any job; write 1MB or more")
    return max_bytes


class Retention(Struct, frozen=True, kw_only=True):
    """What an operator may say about it; `result_ttl` is each job's, and the time of dead letters the board's."""

    output_seconds: float = 7 * 86400.0
    max_bytes: int = 10 * 10**9


class Pruner:
    """Prunes one store. Used by the thread that commits, only."""

    def __init__(self, store: Store, retention: Retention) -> None:
        self._store = store
        self._retention = retention
        self._limit = MAX_PRUNED_INSTANTLY if store.is_instant else MAX_PRUNED
        self._dropped_for_room = 0  # since it was last told
        self._is_full = False

    def prune(self, wall: float, is_needed: Callable[[JobId], bool]) -> bool:
        """Drop a piece of what is over; True if there is more. See `Store.prune` for `is_needed`. Raises `StoreError`."""
        limit = self._limit
        dropped = self._store.prune(wall, is_needed, limit)
        outputs = self._store.drop_outputs(wall - self._retention.output_seconds, limit)
        is_squeezing = self._make_room(is_needed)
        return limit in {dropped, outputs} or is_squeezing

    def _make_room(self, is_needed: Callable[[JobId], bool]) -> bool:
        room = self._store.make_room(self._retention.max_bytes, is_needed, self._limit)
        self._dropped_for_room += room.dropped
        if room.excess > 0 and not room.is_exhausted:
            return True
        if self._dropped_for_room:
            LOG.warning(
                "store %s: it took more than max_size; ended jobs were dropped before their time: max_size=%d dropped=%d",
                self._store.url,
                self._retention.max_bytes,
                self._dropped_for_room,
            )
            self._dropped_for_room = 0
        is_full = room.excess > 0
        if is_full and not self._is_full:
            LOG.warning(
                "store %s: it takes more than max_size, and nothing is left to drop but what live jobs need; "
                "it grows on until they end: max_size=%d excess=%d",
                self._store.url,
                self._retention.max_bytes,
                room.excess,
            )
        self._is_full = is_full
        return False
