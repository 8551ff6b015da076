"""How many jobs may wait in a child's socket: enough that it never runs dry, so few that none waits long. Pure.

A child's next job should be there when it is done with the last one; for jobs of 10 µs that takes many at a time, and
for jobs of a second any second one is one too many. So durations are measured, by function, and the queue is bounded
in time, not in number. What has never been measured counts as long.
"""

from __future__ import annotations

from cluster.core.records import Digest, Lease

QUEUED_SECONDS = 0.005
# What fits into that. A worker that is a network away from its master hears of its reports 2 ms later; with 64 jobs its
# children ran dry in the meantime (see decision 0034).
MAX_QUEUED = 240
# Even the shortest job costs its two datagrams.
MIN_JOB_SECONDS = 20e-6
LONG = 1e6
MAX_FUNCTIONS = 1024
# Newer measurements count this much: the first call of a function imports things and misleads for a few jobs only.
NEWEST_WEIGHT = 0.5


class Durations:
    """Measured durations: of each function (of each item, in a chunk), and of the typical job lately."""

    def __init__(self) -> None:
        self._calls: dict[Digest, float] = {}
        self._items: dict[Digest, float] = {}
        self.typical = LONG

    def note(self, lease: Lease, seconds: float) -> None:
        """A job has taken so long."""
        if seconds < MIN_JOB_SECONDS:  # noqa: PLR1730 - `max` costs three times as much, for every job
            seconds = MIN_JOB_SECONDS
        typical = self.typical
        self.typical = seconds if typical >= LONG else typical + NEWEST_WEIGHT * (seconds - typical)
        table = self._calls
        if lease.ranges:
            table = self._items
            seconds /= count_items(lease)
        function = lease.function
        known = table.get(function)
        if known is not None:
            seconds = known + NEWEST_WEIGHT * (seconds - known)
        elif len(table) >= MAX_FUNCTIONS:
            del table[next(iter(table))]
        table[function] = seconds

    def estimate(self, lease: Lease) -> float:
        """Seconds that the job will take; `LONG` if nobody knows."""
        if lease.ranges:
            return min(LONG, self._items.get(lease.function, LONG) * count_items(lease))
        return self._calls.get(lease.function, LONG)


def count_items(lease: Lease) -> int:
    """Items of a chunk that are still to run."""
    return sum(end - first for first, end in lease.ranges)


def room(queued: int, queued_seconds: float, typical_seconds: float) -> int:
    """How many more jobs of the usual length a slot may take on."""
    if queued == 0:
        return 1 if typical_seconds >= QUEUED_SECONDS else min(MAX_QUEUED, int(QUEUED_SECONDS / typical_seconds))
    free_seconds = QUEUED_SECONDS - queued_seconds
    if free_seconds < typical_seconds:
        return 0
    return min(MAX_QUEUED - queued, int(free_seconds / typical_seconds))
