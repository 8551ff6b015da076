"""What the tests of `cluster.master` stand on: a real master, a clock that they move, and parties that take notes.

The parties are doubles at the boundary only: a client's `Sink`, a worker's `wake`, and a store that fails or waits when
told to and otherwise is the memory store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from cluster.core import events
from cluster.core.effects import Record
from cluster.core.handlers import Settings
from cluster.core.records import DEFAULT_OPTIONS, FunctionBlob, JobId, JobSpec, Lease, Options, Outcome, Report, Stop
from cluster.master.jobs_desk import JobsDesk
from cluster.master.master import Clock, Master
from cluster.master.retention import Retention
from cluster.master.work_desk import WorkDesk
from cluster.store.memory import MemoryStore
from cluster.store.port import Store
from cluster.wire.messages import Hello, Progress, Refusal
from tests.core.builders import MONO, TASK, WALL, WORKER

# How long a test waits for another thread before it calls that a failure.
DEADLINE_SECONDS = 10.0


class HandClock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.set_forward = 0.0  # by whoever sets the time of day

    def clock(self) -> Clock:
        return Clock(mono=lambda: MONO + self.seconds, wall=lambda: WALL + self.seconds + self.set_forward)


class Notes:
    """A client's sink: what it was told, in order. `wait` for the rest of a story that other threads tell."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self._changed = threading.Condition()
        self.defaults = DEFAULT_OPTIONS

    def opened(self, defaults: Options) -> None:
        self.defaults = defaults

    def accepted(self, jobs: Sequence[JobId]) -> None:
        self._note("accepted", *jobs)

    def refused(self, refusals: Sequence[Refusal]) -> None:
        self._note("refused", *refusals)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        self._note("ended", *outcomes)

    def progressed(self, job: JobId, progress: Progress) -> None:
        self._note("progressed", (job, progress))

    def printed(self, job: JobId) -> None:
        self._note("printed", job)

    def of(self, kind: str) -> list[Any]:
        return [what for said, what in self.told if said == kind]

    def wait(self, kind: str, count: int = 1) -> list[Any]:
        """The first `count` things of this kind, once they have been told."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(kind)) >= count, DEADLINE_SECONDS), self.told
            return self.of(kind)

    def _note(self, kind: str, *things: object) -> None:
        with self._changed:
            self.told += [(kind, thing) for thing in things]
            self._changed.notify_all()


class HandStore(MemoryStore):
    """The memory store, which fails when told to, and waits at its gate while that is closed."""

    def __init__(self, *, is_instant: bool = False) -> None:
        super().__init__()
        self.is_instant = is_instant
        self.groups: list[list[Record]] = []  # each commit that succeeded
        self.failures: list[Exception] = []  # raised by the next commits
        self.is_ambiguous = False  # a failing commit happens all the same
        self.gate = threading.Event()
        self.gate.set()
        self.is_reached = threading.Event()  # a commit stands at the gate, or has passed it
        self.is_committing = False
        self.on_commit: Callable[[list[Record]], None] = lambda records: None
        self.pruned: list[float] = []
        self.prune_failure: Exception | None = None

    def commit(self, records: Sequence[Record]) -> None:
        assert not self.is_committing, "two threads commit at once"
        self.is_committing = True
        try:
            self.is_reached.set()
            assert self.gate.wait(DEADLINE_SECONDS)
            self.on_commit(list(records))
            failure = self.failures.pop(0) if self.failures else None
            if failure is None or self.is_ambiguous:
                super().commit(records)
            if failure is not None:
                raise failure
            self.groups.append(list(records))
        finally:
            self.is_committing = False

    def prune(self, wall: float, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> int:
        self.pruned.append(wall)
        if self.prune_failure is not None:
            raise self.prune_failure
        return super().prune(wall, is_needed, limit)

    @property
    def records(self) -> list[Record]:
        """Everything written, in order."""
        return [record for group in self.groups for record in group]


class Rig:
    """A master with a client and a worker at its desks. Its threads run only if it is told to start."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        defaults: Options = DEFAULT_OPTIONS,
        retention: Retention | None = None,
        **settings: Any,
    ) -> None:
        self.time = HandClock()
        self.store = store or MemoryStore()
        self.master = Master(
            self.store, Settings(**settings), self.time.clock(), defaults=defaults, retention=retention
        )
        self.master.open(grace_seconds=0.0)
        self.jobs = JobsDesk(self.master)
        self.work = WorkDesk(self.master)
        self.notes = Notes()
        self.session = self.jobs.open(self.notes)
        self.wakes = threading.Semaphore(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.master.stop()

    def submit(self, *jobs: JobSpec, functions: Sequence[FunctionBlob] = (TASK,)) -> None:
        self.jobs.submit(self.session, jobs, functions)

    def register(self, name: str = WORKER, **fields: Any) -> None:
        short = name.partition("#")[0]
        fields.setdefault("slots", 2)
        self.work.register(Hello(worker=name, name=short, host="here", pid=1, **fields), self.wakes.release)

    def poll(self, capacity: int = 1, name: str = WORKER) -> list[Lease]:
        """What the worker (registered if need be) gets."""
        if name not in self.master.board.workers:
            self.register(name)
        # Twice, as a worker does that is woken: a lease that had to be durable first comes by the second one.
        return [*self.work.poll(name, capacity).leases, *self.work.poll(name, 0).leases]

    def stops(self, name: str = WORKER) -> list[Stop]:
        return list(self.work.poll(name, 0).stops)

    def report(self, *reports: Report, name: str = WORKER) -> None:
        self.work.report(name, reports)

    def tick(self, seconds: float) -> None:
        """So much time passes, in steps that the board takes for an ordinary beat."""
        end = self.time.seconds + seconds
        while self.time.seconds < end:
            self.time.seconds = min(self.time.seconds + 2.0, end)
            self.master.decide(events.Tick())
