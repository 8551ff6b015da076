"""A board against a model of a hundred lines: whatever Hypothesis can think of, both must say the same.

The model knows what a user knows: which jobs live, how often they failed, what they wait for, how they ended. The
machine keeps the commit log itself, so that commits may lag, fail (undoing admissions) and be lost with their master.
`tests/store/test_machine.py` plays it on each adapter of the store.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.core import control, events
from cluster.core.effects import (
    Admitted,
    Announced,
    AttemptFailed,
    Effect,
    Ended,
    FencedOff,
    Leased,
    Requeued,
    Tell,
    TellAdmitted,
    TellGranted,
    TellRefused,
    TellStop,
    Wake,
)
from cluster.core.handlers import Board, Settings, restore
from cluster.core.records import Ending, Fence, FunctionBlob, JobId, JobSpec, Now, Options, Report, RetryRule, Segment
from cluster.core.states import TERMINAL, JobState
from cluster.store.memory import MemoryStore
from cluster.store.port import Store
from tests.sim import invariants

TASK = FunctionBlob(b"t" * 16, b"code", "3.11", "3.0", "task")
TIMEOUT_SECONDS = 10.0
WORKERS = ("w0", "w1")
PICK = st.integers(0, 1 << 16)
ENDINGS = st.sampled_from([Ending.SUCCEEDED, Ending.RAISED, Ending.TIMED_OUT, Ending.CRASHED, Ending.ENVIRONMENT])


@dataclass
class Known:
    """What the model knows of one job."""

    spec: JobSpec
    state: JobState | None = None  # None: it lives
    run: int = 1
    failures: int = 0
    crashes: int = 0
    pending: set[int] = field(default_factory=set)  # of a chunk: items without a result
    failed: dict[int, int] = field(default_factory=dict)  # of a chunk: how often each item did
    waits: dict[JobId, None] = field(default_factory=dict)
    lease: tuple[str, Fence] | None = None
    expires: float | None = None


class Model:
    """The jobs as a user sees them."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, Known] = {}

    def admit(self, spec: JobSpec, mono: float) -> None:
        job = self.jobs[spec.id] = Known(spec, pending=set(range(spec.items)))
        job.expires = None if spec.expires is None else mono + spec.expires
        self._await(job)

    def finish(self, job: Known, state: JobState) -> None:
        job.state, job.lease = state, None
        for other in list(self.jobs.values()):
            if other.state is None and job.spec.id in other.waits:
                del other.waits[job.spec.id]
                if state is not JobState.COMPLETED:
                    self.finish(other, JobState.DEAD_LETTER)

    def settle(self, job: Known, ending: Ending, done: frozenset[int] = frozenset()) -> None:
        """An attempt ended; `done` are the items of a chunk that went well in it, and nobody is blamed for the others."""
        job.lease = None
        job.pending -= done
        if not job.pending if job.spec.items else ending is Ending.SUCCEEDED:
            self.finish(job, JobState.COMPLETED)
            return
        if ending in (Ending.RAISED, Ending.TIMED_OUT):
            for item in job.pending:
                job.failed[item] = job.failed.get(item, 0) + 1
            job.failures = sum(job.failed.values()) if job.spec.items else job.failures + 1
            failures = max(job.failed[item] for item in job.pending) if job.spec.items else job.failures
            is_over = failures > job.spec.options.retry.max_retries
        elif ending in (Ending.CRASHED, Ending.WORKER_LOST):
            job.crashes += 1
            is_over = job.crashes > job.spec.options.crash_limit
        else:
            is_over = True
        if is_over:
            self.finish(job, JobState.DEAD_LETTER)

    def requeue(self, job: Known) -> None:
        job.state, job.expires = None, None
        job.run, job.failures, job.crashes = job.run + 1, 0, 0
        job.pending, job.failed = set(range(job.spec.items)), {}
        self._await(job)

    def expire(self, mono: float) -> None:
        due = [job for job in self.jobs.values() if job.state is None and job.expires is not None]
        for job in sorted(due, key=lambda job: job.expires or 0.0):
            if job.state is None and (job.expires or 0.0) <= mono:
                self.finish(job, JobState.EXPIRED)

    def lose(self, worker: str) -> None:
        held = [job for job in self.jobs.values() if job.lease is not None and job.lease[0] == worker]
        for job in sorted(held, key=lambda job: job.lease or ("", 0)):
            self.settle(job, Ending.WORKER_LOST)

    def restart(self, mono: float) -> None:
        """A new master knows what was committed: each job waits anew, and each lease is lost with its worker."""
        for job in self.jobs.values():
            if job.state is not None:
                continue
            self._await(job)
            failed = [name for name in job.waits if self.jobs[name].state is not None]
            if failed and job.state is None:
                self.finish(job, JobState.DEAD_LETTER)
            elif job.lease is not None:
                job.waits.clear()
            if job.expires is not None:
                job.expires = max(job.expires, mono)  # what was over meanwhile is over now, in order of admission
        self.expire(mono)
        for worker in dict.fromkeys(job.lease[0] for job in self.jobs.values() if job.lease is not None):
            self.lose(worker)

    def _await(self, job: Known) -> None:
        # What is no longer kept has completed, else this job had ended with it.
        known = [name for name in job.spec.after if name in self.jobs]
        job.waits = {name: None for name in known if self.jobs[name].state is not JobState.COMPLETED}
        failed = [name for name in job.waits if self.jobs[name].state is not None]
        if failed:
            self.finish(job, JobState.DEAD_LETTER)


class BoardMachine(RuleBasedStateMachine):
    """Random events to a board, a store behind it, and the model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.mono = 100.0
        self.store = self.make_store()
        self.model = Model()
        self.durable = Model()  # the model as of the last commit
        self.log: list[Effect] = []
        self.stops: dict[Fence, str] = {}
        self.issued: list[tuple[str, Fence]] = []
        self.seen: set[Fence] = set()
        self.number = 0
        self.board: Board
        self.open()

    def make_store(self) -> Store:
        return MemoryStore()

    def open(self) -> None:
        opening = self.store.open()
        assert opening.tampered == ()
        self.board = Board(Settings(heartbeat_timeout_seconds=TIMEOUT_SECONDS), epoch=opening.epoch)
        self.board.next_seq = opening.next_seq
        self.board.last_tick = self.mono
        self.board.placement.paused.update(opening.paused)
        live = list(self.store.live_jobs())
        names = {job.spec.id for job in live}
        settled = {}
        for name in {name for job in live for name in job.spec.after} - names:
            stored = self.store.find(name)
            if stored is not None and stored.outcome is not None:
                settled[name] = stored.outcome.state
        self.log += restore.restore(self.board, live, [TASK], settled, self.now, grace_seconds=0.0)
        self.handle(events.Tick())

    @property
    def now(self) -> Now:
        return Now(self.mono, self.mono + 1e9)

    def handle(self, event: events.Event) -> list[Effect]:
        effects = self.board.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, TellStop):
                self.stops[effect.stop.fence] = effect.worker
            elif isinstance(effect, Leased):
                for job in effect.jobs:
                    assert job.fence not in self.seen, "a fence was issued twice"
                    self.seen.add(job.fence)
                    self.issued.append((effect.worker, job.fence))
        self.log += [
            effect
            for effect in effects
            if not isinstance(effect, TellRefused | TellStop | Announced | FencedOff | Wake)
        ]
        return effects

    # --- jobs ----------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for worker in WORKERS:
            self.handle(events.Register(worker, (("gpu", 1),), memory_room=2, memory_most=2))

    @precondition(lambda self: not self.board.refusing)
    @rule(
        after=st.lists(PICK, max_size=2), retries=st.integers(0, 2), crash_limit=st.integers(0, 2),
        priority=st.integers(0, 1), gpu=st.booleans(), memory=st.sampled_from([(), (), (1,), (1, 2)]),
        delay=st.sampled_from([0.0, 0.0, 3.0]), expires=st.sampled_from([None, None, 0.0, 5.0]),
        items=st.sampled_from([0, 0, 2]), has_key=st.booleans(), result_ttl=st.sampled_from([1.0, 1e6]),
    )  # fmt: skip
    def submit(
        self, *, after: list[int], retries: int, crash_limit: int, priority: int, gpu: bool, memory: tuple[int, ...],
        delay: float, expires: float | None, items: int, has_key: bool, result_ttl: float,
    ) -> None:  # fmt: skip
        self.number += 1
        known = list(self.model.jobs)
        options = Options(
            retry=RetryRule(max_retries=retries, backoff=1.0), crash_limit=crash_limit, priority=priority,
            resources=(("gpu", 1),) if gpu else (), memory=memory, result_ttl=result_ttl,
        )  # fmt: skip
        names = tuple(dict.fromkeys(known[pick % len(known)] for pick in after)) if known else ()
        key = f"key of j{self.number}" if has_key else ""
        spec = JobSpec(
            f"j{self.number}",
            TASK.digest,
            b"args",
            options,
            names,
            names,
            delay=delay,
            expires=expires,
            items=items,
            key=key,
        )
        settled = {name: job.state for name, job in self.model.jobs.items() if job.state is not None}

        self.handle(events.Submit(1, (spec,), (TASK,), settled))

        self.model.admit(spec, self.mono)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job = list(self.model.jobs.values())[pick % len(self.model.jobs)]

        self.handle(events.Cancel((job.spec.id,)))

        if job.state is None:
            self.model.finish(job, JobState.CANCELLED)

    @precondition(lambda self: self.ended())
    @rule(pick=PICK)
    def requeue(self, pick: int) -> None:
        job = self.ended()[pick % len(self.ended())]
        stored = () if job.spec.id in self.board.jobs else (self.store.find(job.spec.id),)
        settled = {name: other.state for name, other in self.model.jobs.items() if other.state is not None}
        event = events.Requeue((job.spec.id,), tuple(one for one in stored if one), (TASK,), settled)
        others = [self.model.jobs.get(name) for name in job.spec.after]
        objects = any(one is None or one.state in TERMINAL - {JobState.COMPLETED} for one in others)

        objection = control.objection_to_requeue(self.board, event)

        assert bool(objection) == objects
        if not objection:
            self.handle(event)
            self.model.requeue(job)

    def ended(self) -> list[Known]:
        return [job for job in self.model.jobs.values() if job.state is not None]

    @rule(paused=st.booleans())
    def pause(self, *, paused: bool) -> None:
        self.handle(events.PauseQueue("default", paused))

    # --- workers -------------------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), capacity=st.integers(1, 3))
    def poll(self, worker: str, capacity: int) -> None:
        effects = self.handle(events.Poll(worker, capacity))

        leased = [job for effect in effects if isinstance(effect, Leased) for job in effect.jobs]
        assert len(leased) <= capacity
        for one in leased:
            held = self.board.leases[one.fence]
            job = self.model.jobs[held.job.spec.id]
            assert job.state is None, f"{job.spec.id} was leased after its end"
            assert job.lease is None, f"{job.spec.id} was leased twice"
            assert not job.waits, f"{job.spec.id} was leased before {list(job.waits)} completed"
            assert all(
                self.board.leases[fence].job is not held.job for fence in self.stops if fence in self.board.leases
            )
            job.lease = (worker, one.fence)

    @precondition(lambda self: self.issued)
    @rule(pick=PICK, ending=ENDINGS, prints=st.booleans())
    def report(self, pick: int, ending: Ending, *, prints: bool) -> None:
        """Of any lease that ever was: most are over, and those reports must change nothing."""
        worker, fence = self.issued[-1 - pick % min(len(self.issued), 6)]
        held = self.board.leases.get(fence)
        if held is not None and not held.is_granted:
            return  # its worker has not heard of it
        job = next((job for job in self.model.jobs.values() if job.lease == (worker, fence)), None)
        pending = sorted(job.pending) if job is not None else []
        # A chunk that dies on its way has its first item done by then.
        done = pending if ending is Ending.SUCCEEDED else pending[:1] if ending is Ending.CRASHED else []
        segments = tuple(Segment(item, 1, b"result") for item in done)
        output = b"printed" if prints else b""

        self.handle(
            events.Reported(worker, (Report(fence, ending, b"of %d" % fence, output=output, segments=segments),))
        )

        self.stops.pop(fence, None)
        if job is not None:
            self.model.settle(job, ending, frozenset(done))

    @precondition(lambda self: self.issued)
    @rule(pick=PICK)
    def report_by_another(self, pick: int) -> None:
        worker, fence = self.issued[pick % len(self.issued)]

        self.handle(events.Reported(f"not {worker}", (Report(fence, Ending.SUCCEEDED),)))

    @precondition(lambda self: self.issued)
    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        worker, fence = self.issued[-1 - pick % min(len(self.issued), 6)]

        self.handle(events.GiveBack(worker, (fence,)))

        self.stops.pop(fence, None)
        for job in self.model.jobs.values():
            if job.lease == (worker, fence):
                job.lease = None

    @precondition(lambda self: self.issued)
    @rule(pick=PICK)
    def begun(self, pick: int) -> None:
        """Of any lease that ever was; it moves nothing that a report or an end would find otherwise."""
        worker, fence = self.issued[-1 - pick % min(len(self.issued), 6)]

        self.handle(events.Begun(worker, (fence,)))

    @precondition(lambda self: self.stops)
    @rule(pick=PICK)
    def stopped(self, pick: int) -> None:
        fence = list(self.stops)[pick % len(self.stops)]

        self.handle(events.Stopped(self.stops.pop(fence), (fence,)))

    @rule(worker=st.sampled_from(WORKERS))
    def leave_and_return(self, worker: str) -> None:
        self.handle(events.Leave(worker))
        self.handle(events.Register(worker, (("gpu", 1),), memory_room=2, memory_most=2))

        self.forget_worker(worker)
        for job in self.model.jobs.values():
            if job.lease is not None and job.lease[0] == worker:
                job.lease = None

    @rule(worker=st.sampled_from(WORKERS))
    def be_lost(self, worker: str) -> None:
        """The other one goes on; time stands still for the jobs' own deadlines, which `wait` tests."""
        held = self.board.workers[worker]
        held.deadline = self.mono
        unheard = [fence for fence, lease in held.leases.items() if not lease.is_granted]

        self.handle(events.Tick())
        self.handle(events.Register(worker, (("gpu", 1),), memory_room=2, memory_most=2))

        self.model.expire(self.mono)
        for job in self.model.jobs.values():
            if job.lease is not None and job.lease[1] in unheard:
                job.lease = None  # nothing was begun, so nothing is spent
        self.model.lose(worker)
        self.forget_worker(worker)

    def forget_worker(self, worker: str) -> None:
        self.stops = {fence: holder for fence, holder in self.stops.items() if holder != worker}

    @rule(seconds=st.sampled_from([0.5, 3.0, 4.9]))
    def wait(self, seconds: float) -> None:
        self.mono += seconds
        for worker in WORKERS:
            self.handle(events.Heartbeat(worker))

        self.handle(events.Tick())

        self.model.expire(self.mono)
        invariants.check_timers(self.board, self.mono)

    # --- the store -----------------------------------------------------------------------------------------------

    @rule()
    def commit(self) -> None:
        group, self.log = self.log, []
        self.write(group)

        if self.board.refusing:
            self.handle(events.StoreHealed())
        self.handle(
            events.OutcomesDurable(tuple((e.outcome.job, e.outcome.run) for e in group if isinstance(e, Ended)))
        )
        self.handle(events.AdmissionsDurable(tuple(e.job for e in group if isinstance(e, TellAdmitted))))
        for effect in group:
            if isinstance(effect, TellGranted):
                self.handle(events.LeaseDurable(effect.worker, effect.fence))

        if not self.log:
            invariants.check_agreement(self.board, self.store)

    def write(self, group: list[Effect]) -> None:
        self.store.commit([effect for effect in group if not isinstance(effect, Tell | Wake)])
        self.durable = copy.deepcopy(self.model)

    @rule(happens=st.booleans())
    def commit_fails(self, *, happens: bool) -> None:
        """It raises, and may have happened all the same."""
        if happens:
            self.write(self.log)
        undone = [effect for effect in self.log if isinstance(effect, Admitted)]
        gone = {effect.seq: effect.spec.id for effect in undone}
        self.log = [kept for effect in self.log if (kept := _without(effect, gone)) is not None]

        self.handle(events.StoreFailed("disk full"))
        self.handle(events.AdmissionsFailed(tuple(effect.spec.id for effect in undone), "disk full"))

        for effect in undone:
            del self.model.jobs[effect.spec.id]

    @rule()
    def restart(self) -> None:
        self.log.clear()
        self.leave_store()
        self.stops.clear()
        self.model = copy.deepcopy(self.durable)

        self.open()
        self.begin()

        self.model.restart(self.mono)

    def leave_store(self) -> None:
        self.store.close()

    # --- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def board_agrees_with_itself(self) -> None:
        invariants.check_board(self.board)

    @invariant()
    def board_and_model_say_the_same(self) -> None:
        for name, known in self.model.jobs.items():
            job = self.board.jobs.get(name)
            if job is None:
                stored = self.store.find(name)
                assert stored is not None, f"{name} is lost"
                assert stored.outcome is not None, f"{name} was forgotten before its outcome was durable"
                assert (stored.run, stored.outcome.state) == (known.run, known.state)
                continue
            assert (job.state if job.is_terminal else None) is known.state, f"{name} is {job.state.name}"
            assert job.run == known.run
            assert bool(job.fence) == (known.lease is not None)
            if known.state is None:
                assert (job.failures, job.crashes, job.unmet) == (known.failures, known.crashes, len(known.waits))
        assert not [name for name in self.board.jobs if name not in self.model.jobs]


def _without(effect: Effect, gone: dict[int, JobId]) -> Effect | None:
    """What is left of an effect once these jobs are undone."""
    match effect:
        case Admitted() | AttemptFailed() | Ended() | Requeued():
            return None if effect.seq in gone else effect
        case TellAdmitted():
            return None if effect.job in gone.values() else effect
        case Leased():
            jobs = tuple(job for job in effect.jobs if job.seq not in gone)
            return Leased(effect.worker, jobs) if jobs else None
        case _:
            return effect
