"""A worker in figures, as dashboards print them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec import Struct

from cluster.core.records import WorkerId
from cluster.worker.slot import NEVER, Slot


class SlotStatistics(Struct, frozen=True):
    """One slot now, and since the start."""

    pid: int
    job: str  # in hand, or next
    queued: int  # jobs in its socket, that one included
    seconds: float  # how long the one in hand has run
    jobs_done: int
    spawned: int
    crashes: int


class Statistics(Struct, frozen=True):
    """A worker now, and since its start. Read without a lock: each figure is true, their sum may be a moment apart."""

    worker: WorkerId
    nursery_pid: int
    nurseries: int  # started so far
    backlog: int
    is_draining: bool
    slots: tuple[SlotStatistics, ...]


def look_at(slots: Sequence[Slot]) -> tuple[SlotStatistics, ...]:
    """Each slot's figures, from any thread."""
    now = time.monotonic()
    found = []
    for slot in slots:
        # Copied in one step of the interpreter, since the supervisor's thread goes on meanwhile.
        outstanding, started = list(slot.outstanding.values()), slot.started
        found.append(
            SlotStatistics(
                pid=slot.pid,
                job=outstanding[0].lease.job if outstanding else "",
                queued=len(outstanding),
                seconds=now - started if started != NEVER else 0.0,
                jobs_done=slot.jobs_done,
                spawned=slot.spawned,
                crashes=slot.crashes,
            )
        )
    return tuple(found)
