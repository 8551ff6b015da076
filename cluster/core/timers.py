"""When something must happen by itself: a job falls due, a job expires.

One heap of (time, number, kind, job). Entries are never removed when they lose their meaning; they are recognised when
they come up, by comparing with what the job says now, and the heap is rebuilt once most of it is stale.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import IntEnum

from cluster.core.job import Job
from cluster.core.states import JobState

MIN_REBUILD_ENTRIES = 4096


class Timer(IntEnum):
    """What falls due."""

    DUE = 1
    EXPIRE = 2


class Timers:
    """Deadlines of jobs, on the monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer, Job]] = []
        self._number = 0  # breaks ties, so that jobs are never compared; also first come, first served
        self._rebuild_at = MIN_REBUILD_ENTRIES

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, kind: Timer, job: Job) -> None:
        """Have `pop_due` return the job once `when` has come, if it still means that then."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, kind, job))
        if len(self._heap) >= self._rebuild_at:
            self._heap = [entry for entry in self._heap if _is_meant(*entry)]
            heapq.heapify(self._heap)
            self._rebuild_at = max(MIN_REBUILD_ENTRIES, 2 * len(self._heap))

    def next_due(self) -> float | None:
        """When `pop_due` may have something; perhaps only a stale entry. May be asked from any thread."""
        first = self._heap[:1]  # in one step: another thread may pop the last entry between a question and a look
        return first[0][0] if first else None

    def pop_due(self, mono: float) -> Iterator[tuple[Timer, Job]]:
        """Everything that has come due, oldest first."""
        while self._heap and self._heap[0][0] <= mono:
            when, number, kind, job = heapq.heappop(self._heap)
            if _is_meant(when, number, kind, job):
                yield kind, job


def _is_meant(when: float, _number: int, kind: Timer, job: Job) -> bool:
    if kind is Timer.DUE:
        return job.due_mono == when and job.state in (JobState.SCHEDULED, JobState.RETRY_QUEUED)
    return job.expires_mono == when and not job.is_terminal
