"""Which job goes next: queued jobs in lanes, and the lanes that a worker can serve.

A *lane* holds the jobs that ask for the same (queue, resources, labels, memory), so whether a worker fits is asked once a lane
and never once a job: ten thousand jobs that wait for a GPU don't delay the one that needs none. Within a lane: highest
priority first, then first come, first served. Among lanes: the better head, by the same order.

A job that leaves QUEUED other than through `pop` (cancelled, expired, undone) stays in its line as a stale entry; `pop`
recognises it by its state and, where it was requeued since, by `stopping` (it has still to stop) and by its limit of
memory (it is in another lane now). `Lane.live` counts the
real ones, and a lane is rebuilt once most of it is stale.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from cluster.core.job import Job, WorkerHeld
from cluster.core.line import Line
from cluster.core.memory import limit_of, room_of
from cluster.core.records import Options
from cluster.core.states import JobState

if TYPE_CHECKING:
    from cluster.core.waking import Woken

LaneKey: TypeAlias = tuple[str, tuple[tuple[str, int], ...], tuple[tuple[str, str], ...], int]

# Rebuilding costs time in proportion to the lane; small lanes are left alone.
MAX_STALE_ENTRIES = 1024

_QUEUED = JobState.QUEUED  # a look at an enum's class costs as much as making a record, on Python 3.11


class Lane:
    """Queued jobs of one kind of demand."""

    __slots__ = ("_by_priority", "_entries", "_priorities", "expected", "is_unwanted", "key", "latest", "live")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.live = 0  # jobs here that are QUEUED; the rest of `_entries` are stale
        self._entries = 0
        self._by_priority: dict[int, Line] = {}
        self._priorities: list[int] = []  # heap of negated priorities, each that has a line
        # The rest is written by `waking` only.
        self.expected = 0  # jobs here that workers have been woken for, and have not polled since
        self.latest: Woken | None = None  # what the last of those workers was woken for; None once it has polled
        self.is_unwanted = False  # no worker that waits fits, or the queue is paused

    def push(self, job: Job, *, first: bool = False) -> None:
        """Queue a job, behind its equals or (given back) before them."""
        priority = job.spec.options.priority
        jobs = self._by_priority.get(priority)
        if jobs is None:
            jobs = self._by_priority[priority] = Line()
            heapq.heappush(self._priorities, -priority)
        if first:
            jobs.prepend(job)
        else:
            jobs.append(job)
        self.live += 1
        self._entries += 1

    def forget(self) -> None:
        """One job of this lane has left QUEUED by another way than `pop`."""
        self.live -= 1
        if self._entries - self.live > max(self.live, MAX_STALE_ENTRIES):
            self._rebuild()

    def head(self) -> Job | None:
        """The job that `pop` would return."""
        while self._priorities:
            line = self._by_priority[-self._priorities[0]]
            while jobs := line.next_ones():
                job = jobs[-1]
                if self._has(job):
                    return job
                jobs.pop()
                self._entries -= 1
            del self._by_priority[-heapq.heappop(self._priorities)]
        return None

    def take(self, most: int) -> Iterator[Job]:
        """Take the next jobs out, at most so many; each must have left QUEUED before the next one is asked for."""
        memory = self.key[3]
        while most > 0 and self.head() is not None:
            jobs = self._by_priority[-self._priorities[0]].next_ones()
            while jobs and most > 0:
                job = jobs.pop()
                self._entries -= 1
                # A job that was cancelled and requeued is here twice.
                if job.state is _QUEUED and not job.stopping and (not memory or limit_of(job) == memory):
                    self.live -= 1
                    most -= 1
                    yield job

    def _has(self, job: Job) -> bool:
        """Whether an entry is real: the job may have left, and may since be queued in another lane."""
        memory = self.key[3]
        return job.state is _QUEUED and not job.stopping and (not memory or limit_of(job) == memory)

    def _rebuild(self) -> None:
        fresh: dict[int, Line] = {}
        for priority, jobs in self._by_priority.items():
            # A dict keeps order and drops the second entry of a job that was cancelled and requeued.
            queued = {id(job): job for job in jobs if self._has(job)}
            if queued:
                line = fresh[priority] = Line()
                for job in queued.values():
                    line.append(job)
        self._by_priority = fresh
        self._priorities = sorted(-priority for priority in fresh)  # a sorted list is a heap
        self._entries = sum(len(jobs) for jobs in fresh.values())


class Placement:
    """All lanes, and the queues that are paused."""

    def __init__(self) -> None:
        self.paused: set[str] = set()
        # Lanes to which jobs have come in this decision; ordered, so that equal boards decide alike.
        self.fresh: dict[Lane, None] = {}
        self._lanes: dict[LaneKey, Lane] = {}
        # The lane of the last job that came, and its options: jobs of one kind share that record.
        self._latest: Lane | None = None
        self._latest_options: Options | None = None

    def push(self, job: Job, *, first: bool = False) -> None:
        """Queue a job that has become QUEUED."""
        options = job.spec.options
        lane = self._latest
        if lane is None or options is not self._latest_options:
            lane = self._lane_of(job)
            if not options.memory:  # a limit may grow from one attempt to the next
                self._latest, self._latest_options = lane, options
        lane.push(job, first=first)
        self.fresh[lane] = None

    def forget(self, job: Job) -> None:
        """A job has left QUEUED without being popped."""
        lane = self._lanes[_key_of(job)]
        lane.forget()
        self._drop_if_empty(lane)

    def pop(self, worker: WorkerHeld, capacity: int) -> Iterator[Job]:
        """The next jobs for this worker, at most `capacity`; their resources are taken from its free ones.

        Each must have left QUEUED before the next one is asked for.
        """
        while capacity > 0:
            lanes = [lane for lane in self._lanes.values() if self.fits(lane, worker)]
            if not lanes:
                return
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_rank)
            _, resources, _, memory = lane.key
            # With one lane nothing is compared, and nothing asked again unless resources may run out on the way.
            for job in lane.take(1 if resources or memory or len(lanes) > 1 else capacity):
                for name, amount in resources:
                    worker.free[name] -= amount
                capacity -= 1
                yield job
            self._drop_if_empty(lane)

    def fits(self, lane: Lane, worker: WorkerHeld) -> bool:
        """Whether the worker could be leased a job of the lane now."""
        queue, resources, labels, memory = lane.key
        if not lane.live or queue in self.paused:
            return False
        if labels and not worker.labels.issuperset(labels):
            return False
        if memory and memory > room_of(worker):
            return False
        return all(worker.free.get(name, 0) >= amount for name, amount in resources)

    def any_fitting(self, worker: WorkerHeld) -> Lane | None:
        """A lane of which the worker could be leased a job now."""
        return next((lane for lane in self._lanes.values() if self.fits(lane, worker)), None)

    def lanes_of(self, queue: str) -> list[Lane]:
        """All lanes of a queue."""
        return [lane for lane in self._lanes.values() if lane.key[0] == queue]

    def depth(self) -> dict[str, int]:
        """Queued jobs by queue."""
        depths: dict[str, int] = {}
        for lane in self._lanes.values():
            depths[lane.key[0]] = depths.get(lane.key[0], 0) + lane.live
        return depths

    def _lane_of(self, job: Job) -> Lane:
        key = _key_of(job)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        return lane

    def _drop_if_empty(self, lane: Lane) -> None:
        if not lane.live:
            del self._lanes[lane.key]
            if lane is self._latest:
                self._latest = None


def is_satisfiable(job: Job, capacity: dict[str, int], labels: frozenset[tuple[str, str]]) -> bool:
    """Whether a worker of this whole capacity could ever run the job (for `explain`)."""
    options = job.spec.options
    return labels.issuperset(options.labels) and all(capacity.get(name, 0) >= n for name, n in options.resources)


def _key_of(job: Job) -> LaneKey:
    options = job.spec.options
    return options.queue, options.resources, options.labels, limit_of(job) if options.memory else 0


def _rank(lane: Lane) -> tuple[int, int]:
    head = lane.head()
    assert head is not None  # noqa: S101 - a live lane has one, told to the type checker
    return -head.spec.options.priority, head.seq  # lanes of equal priority by age
