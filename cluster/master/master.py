"""The master: one lock, one board, one store, and the desks that stand around them.

    desks (any thread) ──► decide(event): lock { board.handle ; log.append } ──► committer ──► store
          ▲                                                                          │
          └──────────── sinks of clients, mailboxes of workers ◄──── tell ───────────┘

Authority: the board is right about everything that is decided, the store about everything that is told. The lock is
held for a decision only, never while something is written, sent or called back. Sinks and wakes are called from
whichever thread commits or decides; they must not block, and an exception in one harms nobody else.

When the master dies the store has a prefix of its decisions, and everything told is in it; `open` goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from cluster.core import events
from cluster.core.effects import (
    Admitted,
    Announced,
    AttemptFailed,
    Effect,
    Ended,
    FencedOff,
    StoredJob,
    TellAccepted,
    TellAdmitted,
    TellGranted,
    TellRefused,
    TellStop,
    Wake,
)
from cluster.core.handlers import Board, Settings, restore
from cluster.core.records import DEFAULT_OPTIONS, JobId, Now, Options, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreTampered
from cluster.master.committer import Committer, Then
from cluster.master.live_output import LiveOutput
from cluster.master.mailboxes import Mailboxes
from cluster.master.obituaries import Obituaries
from cluster.master.requests import Requests
from cluster.master.retention import Retention
from cluster.master.sessions import Sessions
from cluster.master.timekeeper import Timekeeper
from cluster.store.port import Store
from cluster.wire.messages import Refusal

LOG = logging.getLogger("cluster.master")

EVERY_RUN = 1 << 62


class Clock(Struct, frozen=True):
    """Where the time comes from."""

    mono: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def now(self) -> Now:
        """Both clocks, read together."""
        return Now(self.mono(), self.wall())


class Master:
    """The shell around a board. `open`, then `start`; `stop` may be called at any moment, and twice."""

    def __init__(
        self,
        store: Store,
        settings: Settings | None = None,
        clock: Clock | None = None,
        *,
        defaults: Options = DEFAULT_OPTIONS,
        retention: Retention | None = None,
    ) -> None:
        self.store = store
        store.on_tampered = _audit
        self.settings = settings or Settings()
        self.defaults = defaults  # told to clients, which write them into their jobs; the board goes by the jobs
        self.retention = retention or Retention()
        self.clock = clock or Clock()
        self.lock = threading.Lock()  # guards `board` and the commit log
        self.committer = Committer(store, self.lock, self, self.retention)
        self.requests = Requests(store)
        self.sessions = Sessions()
        self.live_output = LiveOutput()
        self.mailboxes = Mailboxes()
        self.obituaries = Obituaries(self.clock.mono)
        self.timekeeper = Timekeeper(self)
        self.board: Board
        self.epoch = 0
        self._opened = self.clock.now()
        self.is_draining = False  # lease nothing any more; written once, by whoever stops the master
        self._is_stopped = False

    def open(self, *, grace_seconds: float) -> None:
        """Take the store and put its live jobs on the board.

        Args:
            grace_seconds: how long workers of an earlier master may take to come back; 0 where none can have survived.

        Raises:
            StoreError: it can't be opened as it is.
        """
        opening = self.store.open()
        self.epoch = opening.epoch
        self.board = Board(self.settings, epoch=opening.epoch, next_seq=opening.next_seq)
        self.board.last_tick = self.clock.mono()  # it may be stopped before its first tick, and must notice that too
        self.board.placement.paused.update(opening.paused)
        live = list(self.store.live_jobs())
        if live:
            self._restore(live, grace_seconds)

    def start(self) -> None:
        """Begin to commit and to keep time."""
        self.committer.start()
        self.timekeeper.start()

    def stop(self) -> None:
        """Commit what is decided, and give up the store. Nothing is told after this returns."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self.timekeeper.stop()
        self.committer.stop()
        self.store.close()

    def decide(self, event: events.Event, then: Then | None = None) -> list[Effect]:
        """Have the board decide, and see to it that everyone concerned hears of it; the effects, for the caller's use.

        Args:
            event: what happened.
            then: called once the decision is durable, from the thread that made it so; must not block.
        """
        with self.lock:
            effects = self.board.handle(event, self.clock.now())
            # Most word of what has become durable has no effects: nobody is to hear of it.
            early = self.committer.append(effects, then) if effects or then is not None else effects
        self.after_decision(early)
        return effects

    def after_decision(self, early: Sequence[Effect]) -> None:
        """Send out what needs no commit and have the rest committed. The lock is not held."""
        if early:
            self.tell_early(early)
        self.committer.kick()
        self.timekeeper.look_again()

    # --- the committer's audience ----------------------------------------------------------------------------------

    def tell_early(self, effects: Sequence[Effect]) -> None:
        """Stop orders, refusals, wake-ups, and what the log should say."""
        for effect in effects:
            match effect:
                case Wake():  # nearly always
                    self.mailboxes.wake(effect.worker)
                case TellStop():
                    self.mailboxes.post_stop(effect.worker, effect.stop)
                case TellRefused():
                    self._refuse(effect)
                case Announced():
                    LOG.warning("%s", effect.sentence)
                case FencedOff():
                    self.obituaries.write_late(effect)

    def tell_durable(self, effects: Sequence[Effect]) -> None:  # noqa: C901 - one branch for each kind
        """Acknowledgements, outcomes, grants, and refusals of what had to be struck out, after the commit that made it so."""
        accepted: dict[int, list[JobId]] = defaultdict(list)
        ended: dict[int, list[Outcome]] = defaultdict(list)
        settled: list[tuple[JobId, int]] = []
        admitted: list[JobId] = []
        failed: list[AttemptFailed | Ended] = []
        for effect in effects:
            if type(effect) is Admitted:
                accepted[effect.owner].append(effect.spec.id)
            elif type(effect) is Ended:
                outcome = effect.outcome
                settled.append((outcome.job, outcome.run))
                if outcome.certificate is not None:
                    failed.append(effect)
                if not self.sessions.is_watched(outcome.job):
                    ended[effect.owner].append(outcome)
                    continue
                for session in self.sessions.interested(effect.owner, outcome.job, outcome.run):
                    ended[session].append(outcome)
            elif isinstance(effect, TellAccepted):
                accepted[effect.owner].append(effect.job)
            elif isinstance(effect, TellAdmitted):
                admitted.append(effect.job)
            elif isinstance(effect, TellGranted):
                self._grant(effect)
            elif isinstance(effect, AttemptFailed):
                failed.append(effect)
            elif isinstance(effect, TellRefused):
                self._refuse(effect)
        if failed:
            self.obituaries.write(failed, self.clock.wall())
        for session, jobs in accepted.items():
            self.sessions.accepted(session, jobs)
        for session, outcomes in ended.items():
            self.sessions.ended(session, outcomes)
        if settled:
            self.decide(events.OutcomesDurable(tuple(settled)))
        if admitted:
            self.decide(events.AdmissionsDurable(tuple(admitted)))

    def _grant(self, granted: TellGranted) -> None:
        self.decide(events.LeaseDurable(granted.worker, granted.fence))
        self.mailboxes.post_granted(granted.worker, granted.fence)

    def _refuse(self, refused: TellRefused) -> None:
        refusal = Refusal(refused.job, refused.kind, refused.reason, refused.other)
        for session in self._concerned(refused):
            self.sessions.refused(session, [refusal])

    def _concerned(self, refused: TellRefused) -> tuple[int, ...]:
        """Whom to tell of a refusal: of a job that is undone, those who watch it too, for no outcome will follow."""
        if refused.kind != "store":
            return (refused.owner,)
        return self.sessions.interested(refused.owner, refused.job, EVERY_RUN)

    def undo_admissions(self, jobs: Sequence[JobId], reason: str) -> list[Effect]:
        """A commit failed. The lock is held."""
        now = self.clock.now()
        effects = self.board.handle(events.StoreFailed(reason), now)
        sentence = f"its admission could not be stored ({reason}); nothing of it was kept, submit it again later"
        return effects + self.board.handle(events.AdmissionsFailed(tuple(jobs), sentence), now)

    def store_healed(self) -> None:
        """Commits succeed again."""
        self.decide(events.StoreHealed())

    def is_needed(self, job: JobId) -> bool:
        """Live jobs may still want this one's result."""
        return self.board.needs_result(job)

    def wall(self) -> float:
        """The time of day, for whoever drops what is past its retention.

        A clock that was set forward since the opening is not believed: what is dropped is gone.
        """
        now = self.clock.now()
        return min(now.wall, self._opened.wall + now.mono - self._opened.mono)

    # --- what the board has forgotten, the store knows ---------------------------------------------------------------

    def find(self, job: JobId) -> StoredJob | None:
        """A job as the store has it. Raises `StoreTampered`."""
        return None if self.committer.is_condemned(job) else self.store.find(job)

    def find_all(self, jobs: Sequence[JobId]) -> Iterator[tuple[JobId, StoredJob | StoreTampered]]:
        """Those of these jobs that the store has, in this order, or why one of them is not believed."""
        is_condemned = self.committer.is_condemned
        return self.store.find_all([job for job in jobs if not is_condemned(job)])

    def find_settled(self, jobs: Sequence[JobId]) -> dict[JobId, JobState]:
        """The final states of ended jobs that only the store has. The lock is not held."""
        found: dict[JobId, JobState] = {}
        for job, stored in self.find_all(jobs):
            if isinstance(stored, StoreTampered):
                LOG.warning("%s; what depends on job %s fails", stored, job)
                found[job] = JobState.DEAD_LETTER
            elif stored.outcome is not None:
                found[job] = stored.outcome.state
        return found

    def _find_met(self, jobs: Sequence[JobId]) -> dict[JobId, JobState]:
        """As `find_settled`, for jobs that live ones depend on: one with a result has completed, whatever became of it since.

        Had it failed before it had one, its dependants would have ended in the same commit.
        """
        found = self.find_settled(jobs)
        ended_badly = [job for job, state in found.items() if state is not JobState.COMPLETED]
        for job, stored in self.find_all(ended_badly):
            with contextlib.suppress(StoreTampered):
                if not isinstance(stored, StoreTampered) and self.store.result(job) is not None:
                    found[job] = JobState.COMPLETED
        return found

    def _restore(self, live: list[StoredJob], grace_seconds: float) -> None:
        gone = {name for job in live for name in job.spec.after}
        if gone:
            gone.difference_update([job.spec.id for job in live])
        functions = list(self.store.functions(sorted({job.spec.function for job in live})))
        settled = self._find_met(sorted(gone))
        with self.lock:
            effects = restore.restore(
                self.board, live, functions, settled, self.clock.now(), grace_seconds=grace_seconds
            )
            self.committer.append(effects)
        if grace_seconds <= 0:
            self.decide(events.Tick())
        self.committer.kick()


def _audit(sentence: str) -> None:
    """The store has come across a record that is not what was written; its own line in the log names table and job."""
    from cluster.wire.audit import AUDIT, Kind  # as in `listing`

    AUDIT.record(Kind.RECORD_TAMPERED, origin="store", reason=sentence)
