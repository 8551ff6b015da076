"""A board with a story: what the tests of `cluster.core` say in one line each.

`Scene` is no double. It holds a real board, hands it real events, and after each one has it checked by the same
invariants that the simulator and the Hypothesis machine use.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec import structs

from cluster.core import events, leases
from cluster.core.digests import name_function
from cluster.core.effects import Effect, Ended, Leased
from cluster.core.handlers import Board, Settings
from cluster.core.job import Job, WorkerHeld
from cluster.core.records import (
    Certificate,
    Ending,
    Fence,
    FunctionBlob,
    JobId,
    JobSpec,
    Lease,
    Now,
    Options,
    Report,
    RetryRule,
    Segment,
    Stop,
)
from cluster.core.states import JobState
from tests.sim.invariants import check_board

T = TypeVar("T")

MONO, WALL = 1000.0, 1_700_000_000.0
WORKER = "w#1"
# With no backoff a retry is queued again in the same decision.
AT_ONCE = RetryRule(max_retries=2, backoff=0.0)
AT_MOST_ONCE = Options(crash_limit=0)

_names = itertools.count(1)


def moment(seconds: float = 0.0) -> Now:
    """So many seconds after the scene began, on both clocks."""
    return Now(MONO + seconds, WALL + seconds)


def function(name: str = "task") -> FunctionBlob:
    return name_function(b"pickled " + name.encode(), "3.11", "3.0", f"tests.{name}", reusable=False)


TASK = function()


def spec(name: str = "", options: Options | None = None, **fields: Any) -> JobSpec:
    """A job; `fields` are those of `JobSpec`. Its inputs are dependencies too, as the client has it."""
    inputs = fields.get("inputs", ())
    fields["after"] = (*inputs, *(one for one in fields.get("after", ()) if one not in inputs))
    fields.setdefault("function", TASK.digest)
    fields.setdefault("args", b"args")
    return JobSpec(id=name or f"job-{next(_names)}", options=options or Options(), **fields)


def job(name: str = "", options: Options | None = None, *, seq: int = 1) -> Job:
    """A job that no board has."""
    return Job(seq, spec(name, options), WALL)


def worker(resources: dict[str, int] | None = None, labels: Sequence[tuple[str, str]] = ()) -> WorkerHeld:
    return WorkerHeld(WORKER, MONO + 10.0, dict(resources or {}), frozenset(labels), {})


def success(fence: Fence, payload: bytes = b"result") -> Report:
    return Report(fence, Ending.SUCCEEDED, payload)


def failure(fence: Fence, ending: Ending = Ending.RAISED, **certificate: Any) -> Report:
    certificate.setdefault("reason", f"it {ending.name.lower()}")
    return Report(fence, ending, b"exception", Certificate(ending=ending, **certificate))


def chunk_report(fence: Fence, *segments: Segment) -> Report:
    """A chunk that ended as its first bad item did."""
    certificate = next((segment.certificate for segment in segments if segment.certificate), None)
    ending = certificate.ending if certificate else Ending.SUCCEEDED
    return Report(fence, ending, b"", certificate, segments=segments)


def done(first: int, count: int = 1) -> Segment:
    """Items of a chunk that succeeded."""
    return Segment(first, count, f"results {first}+{count}".encode())


def bad(item: int, ending: Ending = Ending.RAISED) -> Segment:
    """An item of a chunk that did not."""
    return Segment(item, 1, b"exception", Certificate(ending=ending, reason=f"item {item}", item=item))


def only(kind: type[T], effects: Sequence[Effect]) -> T:
    """The one effect of its kind."""
    (found,) = every(kind, effects)
    return found


def every(kind: type[T], effects: Sequence[Effect]) -> list[T]:
    return [effect for effect in effects if isinstance(effect, kind)]


class Scene:
    """A board, and what may happen to it."""

    def __init__(self, *, epoch: int = 1, **settings: Any) -> None:
        self.board = Board(Settings(**settings), epoch=epoch)
        self.owner = 7

    def tell(self, event: events.Event, at: float = 0.0) -> list[Effect]:
        """Have the board decide, so many seconds after the beginning."""
        effects = self.board.handle(event, moment(at))
        check_board(self.board)
        return effects

    def submit(self, *jobs: JobSpec, at: float = 0.0, settled: dict[JobId, JobState] | None = None) -> list[Effect]:
        """Submit jobs together with the one task that they share."""
        return self.tell(events.Submit(self.owner, jobs, (TASK,), settled or {}), at)

    def durable(self, *names: JobId) -> list[Effect]:
        """The admissions of jobs that had to wait for this are committed."""
        return self.tell(events.AdmissionsDurable(names))

    def register(self, name: str = WORKER, at: float = 0.0, **fields: Any) -> list[Effect]:
        return self.tell(events.Register(name, **fields), at)

    def poll(self, capacity: int = 1, name: str = WORKER, at: float = 0.0) -> list[Fence]:
        """What a worker (registered if need be) is given."""
        if name not in self.board.workers:
            self.register(name, at)
        effects = self.tell(events.Poll(name, capacity), at)
        return [leased.fence for batch in every(Leased, effects) for leased in batch.jobs]

    def lease(self, one: JobSpec, at: float = 0.0, settled: dict[JobId, JobState] | None = None) -> Fence:
        """Submit a job and give it to the worker."""
        self.submit(one, at=at, settled=settled)
        if self.state(one.id) is JobState.SUBMITTED:
            self.durable(one.id)
        (fence,) = self.poll(at=at)
        if not self.board.leases[fence].is_granted:
            self.tell(events.LeaseDurable(WORKER, fence))
        return fence

    def report(self, *reports: Report, at: float = 0.0, name: str = WORKER) -> list[Effect]:
        return self.tell(events.Reported(name, reports), at)

    def tick(self, at: float) -> list[Effect]:
        return self.tell(events.Tick(), at)

    def beat(self, at: float, *names: str) -> list[Effect]:
        """Time passes, second by second, while these workers send their heartbeats."""
        effects: list[Effect] = []
        now = self.board.last_tick
        second = 0.0 if now is None else now - MONO
        while second < at:
            second = min(second + 1.0, at)
            for name in names:
                self.tell(events.Heartbeat(name), second)
            effects += self.tick(second)
        return effects

    def cancel(self, *names: JobId, at: float = 0.0) -> list[Effect]:
        return self.tell(events.Cancel(names), at)

    def settle(self, effects: Sequence[Effect]) -> None:
        """What has just ended is committed."""
        self.tell(events.OutcomesDurable(tuple((one.outcome.job, one.outcome.run) for one in every(Ended, effects))))

    def requeue(self, *names: JobId, **fields: Any) -> list[Effect]:
        return self.tell(events.Requeue(names, functions=(TASK,), **fields))

    def finish(self, one: JobSpec) -> list[Effect]:
        """Submit a job, run it, and have its outcome committed."""
        effects = self.report(success(self.lease(one)))
        self.settle(effects)
        return effects

    def describe(self, fence: Fence) -> Lease:
        return leases.describe(self.board.leases[fence])

    def state(self, name: JobId) -> JobState:
        return self.board.jobs[name].state

    def job(self, name: JobId) -> Job:
        return self.board.jobs[name]


def stop(fence: Fence, ending: Ending = Ending.CANCELLED) -> Stop:
    return Stop(fence, ending)


def with_options(options: Options, **changes: Any) -> Options:
    return structs.replace(options, **changes)
