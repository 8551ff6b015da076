"""The desk for clients: submit, cancel, requeue, and every question about jobs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.core import control, events
from cluster.core.effects import Effect, StoredJob
from cluster.core.explain import explain
from cluster.core.printed import Piece, Place
from cluster.core.records import SAME_BUDGET, Budget, FunctionBlob, JobId, JobInfo, JobSpec, Outcome
from cluster.core.states import TERMINAL, JobState
from cluster.errors import Refused, StoreTampered, UnknownJob
from cluster.master import listing, reading
from cluster.master.durable import wait_durable
from cluster.master.purge import purge
from cluster.wire.desks import Sink
from cluster.wire.messages import JobHistory, JobParts, Refusal, Stats, WorkerInfo

if TYPE_CHECKING:
    from cluster.master.master import Master

# Paused queues are kept, in memory and in the store, whether there is a job in them or not.
MAX_PAUSED_QUEUES = 1000
# Of results in one answer to `watch_all`: with them a client that listens after each answer hears all of it at once
# (`told.MAX_ANSWER_BYTES`).
MAX_TOLD_BYTES = 2 << 20


class JobsDesk:
    """`cluster.wire.desks.JobsDesk`, the real one."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def open(self, sink: Sink) -> int:
        """A session number for further calls."""
        sink.opened(self._master.defaults)
        return self._master.sessions.open(sink)

    def close(self, session: int) -> None:
        """Forget the session; its jobs go on."""
        self._master.sessions.close(session)

    # --- submit ------------------------------------------------------------------------------------------------------

    def submit(
        self, session: int, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob], *, again: bool = False
    ) -> None:
        """Admit jobs in this order. Every one is answered by `accepted`, `refused` or `ended`.

        Args:
            session: who is told.
            jobs: in order of submission.
            functions: the tasks that the jobs refer to.
            again: some of them may have been submitted before, and have ended: look for each, as for one with a key.
        """
        master = self._master
        fresh = list(jobs)
        settled: dict[JobId, JobState] = {}
        asked: set[JobId] = set()
        while True:
            with master.lock:
                # What is on the board now may be settled and forgotten by the time we have asked the store, so look
                # and decide under one lock, and ask again where something is in neither.
                unknown = self._unknown(fresh, is_again=again) - asked
                if not unknown:
                    known = [spec.id for spec in fresh if (again or spec.key) and self._is_same_on_board(spec)]
                    event = events.Submit(session, tuple(fresh), tuple(functions), settled)
                    early = master.committer.append(master.board.handle(event, master.clock.now()))
                    break
            settled.update(master.find_settled(sorted(unknown)))
            ended = {spec.id: spec for spec in fresh if (again or spec.key) and spec.id in settled}
            answered = self._answer(session, ended)
            fresh = [spec for spec in fresh if spec.id not in answered]
            asked |= unknown
        master.after_decision(early)
        self._watch_for(session, known)  # another session may have submitted them

    def _unknown(self, jobs: Sequence[JobSpec], *, is_again: bool) -> set[JobId]:
        """What only the store can tell: dependencies, and jobs submitted before, that the board has let go of."""
        board = self._master.board
        batch: set[JobId] = set()
        unknown: set[JobId] = set()
        if not is_again and not any([spec.after or spec.key for spec in jobs]):  # noqa: C419 - as a generator it is slow
            return unknown
        for spec in jobs:
            if spec.after:
                unknown.update(name for name in spec.after if name not in board.jobs and name not in batch)
            if (is_again or spec.key) and (spec.id not in board.jobs or board.jobs[spec.id].is_settled):
                unknown.add(spec.id)
            batch.add(spec.id)
        return unknown

    def _is_same_on_board(self, spec: JobSpec) -> bool:
        job = self._master.board.jobs.get(spec.id)
        return job is not None and job.spec.function == spec.function

    def _answer(self, session: int, jobs: Mapping[JobId, JobSpec]) -> set[JobId]:
        """Answer for jobs that were submitted before, and have ended: all but those that are gone by now."""
        same: list[JobId] = []
        refused: list[Refusal] = []
        for job, stored in self._master.find_all(list(jobs)):
            if isinstance(stored, StoreTampered):
                refused.append(Refusal(job, "refused", str(stored)))
            elif stored.spec.function == jobs[job].function:
                same.append(job)
            else:
                kind = "key" if jobs[job].key else "refused"
                refused.append(Refusal(job, kind, f"job {job} is another job already", job))
        if refused:
            self._master.sessions.refused(session, refused)
        self._watch_for(session, same)
        return {*same, *(refusal.job for refusal in refused)}

    def _watch_for(self, session: int, jobs: Sequence[JobId]) -> None:
        while jobs:
            watched = self.watch_all(session, jobs)
            gone = [job for job, info in zip(jobs, watched, strict=False) if info is None]
            if gone:
                refusals = [Refusal(job, "refused", str(UnknownJob(job))) for job in gone]
                self._master.sessions.refused(session, refusals)
            jobs = jobs[len(watched) :]

    # --- orders ------------------------------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[JobId], timeout: float) -> list[bool]:
        """For each job: True once CANCELLED is committed, False if it had ended otherwise (or is unknown)."""
        master = self._master
        durable = threading.Event()
        with master.lock:
            effects = master.board.handle(events.Cancel(tuple(jobs)), master.clock.now())
            states = {name: master.board.jobs[name].state for name in jobs if name in master.board.jobs}
            early = master.committer.append(effects, durable.set)
        master.after_decision(early)
        states.update(master.find_settled([name for name in jobs if name not in states]))
        is_durable = durable.wait(timeout)
        return [is_durable and states.get(name) is JobState.CANCELLED for name in jobs]

    def requeue(self, jobs: Sequence[JobId], budget: Budget = SAME_BUDGET, *, request: str = "") -> list[JobInfo]:
        """Start a new run of each ended job; durable on return. Raises `UnknownJob` or `Refused`, and then none is.

        Args:
            jobs: which.
            budget: what they may spend from here on.
            request: an id under which the same request may come again, to be answered and not carried out.
        """
        master = self._master
        wanted = events.Requeue(tuple(dict.fromkeys(jobs)), budget=budget)
        durable = threading.Event()
        # What is found in the store must still be there when the decision falls.
        with master.committer.pruning:
            if master.requests.answer(request) is None:
                early = self._decide_requeue(wanted, durable, request)
            else:
                with master.lock:  # its effect is in the log at least: wait for that
                    early = master.committer.append([], durable.set)
        master.after_decision(early)
        wait_durable(master, durable, "the requeue")
        return [self.info(name) for name in wanted.jobs]

    def _decide_requeue(self, wanted: events.Requeue, durable: threading.Event, request: str) -> list[Effect]:
        """The effects that need no commit."""
        master = self._master
        names = wanted.jobs
        stored: dict[JobId, StoredJob] = {}
        while True:
            settled, functions = self._needs_of_requeue(names, stored)
            with master.lock:
                missing = [name for name in names if name not in master.board.jobs and name not in stored]
                if not missing:
                    event = events.Requeue(names, tuple(stored.values()), functions, settled, wanted.budget)
                    objection = control.objection_to_requeue(master.board, event)
                    if objection:
                        raise Refused(objection)
                    effects = master.board.handle(event, master.clock.now())
                    effects += master.requests.remember(request, b"", master.clock.wall())
                    return master.committer.append(effects, durable.set)
            for name in missing:
                stored[name] = self._stored(name)

    def purge(self, jobs: Sequence[JobId]) -> int:
        """Drop these dead letters, history and all; durable on return. Raises `Refused`, and then none is dropped."""
        return purge(self._master, jobs)

    def _needs_of_requeue(
        self, names: Sequence[JobId], stored: dict[JobId, StoredJob]
    ) -> tuple[dict[JobId, JobState], tuple[FunctionBlob, ...]]:
        """What the board has let go of when these jobs ended: the states of what they depend on, and their tasks."""
        master = self._master
        with master.lock:
            specs = [master.board.jobs[name].spec for name in names if name in master.board.jobs]
        specs += [job.spec for job in stored.values()]
        settled = master.find_settled(sorted({name for spec in specs for name in spec.after}))
        return settled, tuple(master.store.functions(sorted({spec.function for spec in specs})))

    def pause(self, queue: str) -> None:
        """Lease no more jobs of this queue; durable on return. Running ones go on. Raises `Refused` if too many are."""
        paused = self._master.board.placement.paused
        if queue not in paused and len(paused) >= MAX_PAUSED_QUEUES:
            raise Refused(f"{MAX_PAUSED_QUEUES:,} queues are paused, which is the limit; resume some first")
        self._decide_durably(events.PauseQueue(queue, paused=True))

    def resume(self, queue: str) -> None:
        """Undo `pause`."""
        self._decide_durably(events.PauseQueue(queue, paused=False))

    # --- questions ---------------------------------------------------------------------------------------------------

    def watch(self, session: int, job: JobId) -> JobInfo:
        """Have the job's outcome told to this session, at once if it has one. Raises `UnknownJob`.

        One whose record was altered has none: it is refused.
        """
        (info,) = self.watch_all(session, (job,))
        if info is None:
            raise UnknownJob(job)
        return info

    def watch_all(self, session: int, jobs: Sequence[JobId]) -> list[JobInfo | None]:
        """As `watch`, of many; None for an unknown one.

        Those on the board under one lock, the others with one look into the store: after a restart a client asks for all of
        its jobs, while workers come back and report, and to be in their way once for each job made it wait for seconds.

        Returns:
            An entry for each of the first jobs, one at least: fewer than were asked for where their outcomes are long, so
            that whoever is told can take them in before it asks for the rest.
        """
        found: dict[JobId, JobInfo] = {}
        self._watch_on_board(session, jobs, found)
        over = [job for job in jobs if job not in found or found[job].state in TERMINAL]
        last = self._tell_ended(session, over, found)
        if last is not None:
            jobs = jobs[: jobs.index(last) + 1]
        # Neither on the board, when we looked, nor ended in the store, when we looked there: it was requeued in between.
        self._watch_on_board(session, [job for job in over if job in found and found[job].state not in TERMINAL], found)
        return [found.get(job) for job in jobs]

    def _watch_on_board(self, session: int, jobs: Sequence[JobId], found: dict[JobId, JobInfo]) -> None:
        """Have the outcomes of those jobs told that the store does not have for sure."""
        if not jobs:
            return
        master = self._master
        with master.lock:
            for job in jobs:
                on_board = master.board.jobs.get(job)
                if on_board is not None and not on_board.is_settled:
                    master.sessions.watch(session, job, on_board.run)
                    found[job] = listing.info_of(on_board)

    def _tell_ended(self, session: int, jobs: Sequence[JobId], found: dict[JobId, JobInfo]) -> JobId | None:
        """Tell the outcomes that the store has; the last one's job, if there was no room for all of them.

        Of a job that has ended, but that the board had not let go of, the watchers may have been told just before we were
        one of them, so look for it too; being told twice does no harm.
        """
        sessions = self._master.sessions
        outcomes: list[Outcome] = []
        size = 0
        try:
            for job, stored in self._master.find_all(jobs):
                if isinstance(stored, StoreTampered):
                    found.setdefault(job, listing.info_of_tampered(job, stored))
                    sessions.refused(session, [Refusal(job, "refused", str(stored))])
                    continue
                info = found.setdefault(job, listing.info_of_stored(stored))
                outcome = stored.outcome
                if outcome is not None and outcome.run == info.run:
                    sessions.unwatch(session, job, outcome.run)
                    outcomes.append(outcome)
                    size += len(outcome.payload)
                    if size > MAX_TOLD_BYTES:
                        return job
        finally:
            if outcomes:
                sessions.ended(session, outcomes)
        return None

    def info(self, job: JobId) -> JobInfo:
        """The job now. Raises `UnknownJob`."""
        with self._master.lock:
            on_board = self._master.board.jobs.get(job)
            if on_board is not None and not on_board.is_settled:
                return listing.info_of(on_board)
        return listing.info_of_stored(self._stored(job))

    def page(
        self,
        *,
        state: str | None = None,
        tag: str | None = None,
        batch: str | None = None,
        queue: str | None = None,
        limit: int = 1000,
        after: int = 0,
    ) -> tuple[list[JobInfo], int]:
        """One page of jobs, in order of admission, and the mark from which the next page goes on (0: no more)."""
        wanted = listing.Filter(listing.parse_state(state), tag, batch, queue)
        return listing.page(self._master, wanted, limit, after)

    def history(self, job: JobId) -> JobHistory:
        """Its unsuccessful attempts. Raises `UnknownJob`."""
        info = self.info(job)
        return JobHistory(job, info.state, tuple(self._master.store.history(job)))

    def output(self, job: JobId) -> bytes:
        """What its attempts printed, oldest first, capped. Raises `UnknownJob`."""
        return reading.whole(self._master, job)

    def read_output(self, job: JobId, place: Place, timeout: float) -> Piece:
        """What its attempts printed after `place`, waited for no longer than that. Raises `UnknownJob`."""
        return reading.read(self._master, job, place, timeout)

    def parts(self, job: JobId) -> JobParts:
        """What the job was submitted with, for whoever wants to run it by hand. Raises `UnknownJob` or `Refused`."""
        master = self._master
        with master.lock:
            on_board = master.board.jobs.get(job)
        spec = self._stored(job).spec if on_board is None else on_board.spec
        with master.lock:
            blob = master.board.shelf.get(spec.function)
        if blob is None:
            blob = next(iter(master.store.functions([spec.function])), None)
        if blob is None:
            raise Refused(f"the function of job {job} is no longer in the store; submit the job anew")
        return JobParts(spec, blob)

    def result(self, job: JobId) -> Outcome | None:
        """The durable outcome of its latest run that completed; None if none has. Raises `UnknownJob`."""
        self.info(job)
        return self._master.store.result(job)

    def explain(self, job: JobId) -> str:
        """Why the job is where it is, in a sentence or a few. Raises `UnknownJob`."""
        master = self._master
        with master.lock:
            if job in master.board.jobs:
                return explain(master.board, job, master.clock.now())
        info = listing.info_of_stored(self._stored(job))
        how = f": {info.certificate.reason}" if info.certificate else ""
        return f"job {job} is {info.state.name.lower()}{how} (run {info.run}, {info.attempts} attempt(s))"

    def stats(self) -> Stats:
        """Counters and states."""
        return listing.statistics(self._master)

    def workers(self) -> list[WorkerInfo]:
        """Every registered worker."""
        return listing.workers(self._master)

    def _stored(self, job: JobId) -> StoredJob:
        stored = self._master.find(job)
        if stored is None:
            raise UnknownJob(job)
        return stored

    def _decide_durably(self, event: events.Event) -> None:
        durable = threading.Event()
        self._master.decide(event, durable.set)
        wait_durable(self._master, durable, "the change")
