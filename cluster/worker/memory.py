"""Holding a job to its memory limit: its process and all that it starts are weighed, and killed if they are too heavy.

Only jobs with a limit are weighed, the more often the less is left to the limit: even the fastest program can't fill
the rest in the time until the next look, but for `LEAST_SECONDS`. So the kernel never has to choose whom to kill.

A first, cheap sum over the processes counts pages that they share once for each; only when that is above the limit, the
exact one is taken, which shares them out: a forked pool on one large array is no crime.

`RLIMIT_AS` and `RLIMIT_DATA` would stop a job at the allocation itself, but they count what is reserved and never touched,
which for numerical libraries, thread stacks and garbage-collected runtimes is many times what is used.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster.worker import stopping
from cluster.worker.slot import Slot
from cluster.worker.weighing import weigh, weigh_exactly

if TYPE_CHECKING:
    from cluster.worker.slots import Slots

# Bytes that a program can take per second at most. One core fills fresh pages at about 1 GB/s.
FASTEST = 4e9
LEAST_SECONDS = 0.005
MOST_SECONDS = 0.25
# The exact sum takes milliseconds for each gigabyte; it may take this part of the supervisor's time.
EXACT_PART = 0.05


def check(slots: Slots, slot: Slot, now: float) -> float:
    """Weigh the job in hand, if it is time; the time when it is to be weighed next."""
    if now < slot.weigh_at:
        return slot.weigh_at
    least = LEAST_SECONDS
    used = weigh(slot.pid)
    if used > slot.limit:
        used = weigh_exactly(slot.pid)
        least = max(least, (time.monotonic() - now) / EXACT_PART)
    slot.used = used
    slot.peak = max(slot.peak, used)
    if used > slot.limit:
        stopping.outgrow(slots, slot, now)
        return now  # look again at once: the slot is another now
    slot.weigh_at = now + pause(slot.limit - used, least)
    return slot.weigh_at


def pause(left: int, least: float = LEAST_SECONDS) -> float:
    """Seconds until a job that may take so many bytes more is weighed again."""
    return max(least, min(left / FASTEST, MOST_SECONDS))
