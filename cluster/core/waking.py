"""Who is woken when there is work: idle workers that can take it, and no more of them than there is work for.

A worker *waits* from a poll that brought less than it asked for until it is woken, or polls again. It may wait while jobs
are queued, but only while each lane that it fits is covered: for every job there somebody is *woken*, has not polled since,
and has room. That is the invariant; whatever could break it is looked at once, at the end of the decision that did it:

- a job came into a lane, a queue was resumed, or a woken worker polled without taking what it was woken for, or is gone:
  the lane is looked at (`Placement.fresh`), and whoever has waited longest and fits is woken, until it is covered;
- a worker has more room than at its last poll (resources or memory came back): that worker is looked at (`recheck`).

So a decision costs what it brings, and not what there are workers. That the poll itself is a decision closes the usual
race: it comes before another one, and finds no job but is seen to wait, or it comes after, and finds the job.

A woken worker may be dead, and not known to be lost yet. The jobs that it was to take are then had by the next one that
polls for whatever reason; at the latest every heartbeat has its worker looked at, whether others are woken or not.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from cluster.core.effects import Effect, Wake
from cluster.core.job import WorkerHeld
from cluster.core.placement import Lane, Placement
from cluster.core.records import WorkerId


class Waking:
    """The workers that wait, and those that were woken and have not polled since."""

    def __init__(self, placement: Placement, workers: Mapping[WorkerId, WorkerHeld]) -> None:
        self.waiting: dict[WorkerId, int] = {}  # how many jobs more they want; who waits longest comes first
        self.woken: dict[WorkerId, Woken] = {}
        self.eased: dict[WorkerId, None] = {}  # to be looked at when this decision is made
        self._placement = placement
        self._workers = workers

    def on_polled(self, worker: WorkerId, wanted: int) -> None:
        """A worker's poll is answered, and left it with so many jobs less than it asked for."""
        if self.woken:
            self._end(worker)
        if wanted > 0:
            self.waiting[worker] = wanted
        elif self.waiting:
            self.waiting.pop(worker, None)

    def forget(self, worker: WorkerId) -> None:
        """A worker is gone, or takes nothing for the time being, or will poll by itself."""
        self.on_polled(worker, 0)

    def recheck(self, worker: WorkerId) -> None:
        """A worker may be able to take what it could not when it polled."""
        self.eased[worker] = None

    def resume(self, queue: str) -> None:
        """A queue's jobs may be leased again."""
        for lane in self._placement.lanes_of(queue):
            lane.is_unwanted = False
            self._placement.fresh[lane] = None

    def decide(self, effects: list[Effect]) -> None:
        """Wake whom this decision has work for; called once, at its end."""
        if self.waiting:
            for lane in self._placement.fresh:
                self._cover(lane, effects)
        self._placement.fresh.clear()
        if self.eased:
            for worker in self.eased:
                self._look_at(worker, effects)
            self.eased.clear()

    def _cover(self, lane: Lane, effects: list[Effect]) -> None:
        if lane.is_unwanted:
            return
        if lane.latest is not None:
            self._expect(lane.latest)
        chosen: list[WorkerId] = []
        left = lane.live - lane.expected
        for worker, wanted in self.waiting.items():
            if left <= 0:
                break
            if self._placement.fits(lane, self._workers[worker]):
                chosen.append(worker)
                left -= wanted
        for worker in chosen:
            self._wake(worker, lane, effects)
        # Nobody needs to be asked again for each job that comes: whoever begins to wait has just been offered these, and
        # if they may not be leased now, `resume` has them offered anew.
        lane.is_unwanted = left > 0

    def _look_at(self, worker: WorkerId, effects: list[Effect]) -> None:
        if worker in self.woken:
            effects.append(Wake(worker))
        elif worker in self.waiting:
            lane = self._placement.any_fitting(self._workers[worker])
            if lane is not None:
                self._wake(worker, lane, effects)

    def _wake(self, worker: WorkerId, lane: Lane, effects: list[Effect]) -> None:
        woken = self.woken[worker] = lane.latest = Woken(lane, self.waiting.pop(worker))
        effects.append(Wake(worker))
        self._expect(woken)

    def _expect(self, woken: Woken) -> None:
        """Count on a woken worker for what nobody else is on to, as far as it has room: perhaps for nothing."""
        lane = woken.lane
        count = min(woken.rest, max(0, lane.live - lane.expected))
        woken.rest -= count
        woken.count += count
        lane.expected += count

    def _end(self, worker: WorkerId) -> None:
        woken = self.woken.pop(worker, None)
        if woken is not None:
            lane = woken.lane
            lane.expected -= woken.count
            if lane.latest is woken:
                lane.latest = None
            if lane.live:
                self._placement.fresh[lane] = None


class Woken(Struct, eq=False):
    """What a worker was woken for."""

    lane: Lane
    rest: int  # jobs that it has room for, beside those
    count: int = 0  # jobs of that lane that it is expected to take
