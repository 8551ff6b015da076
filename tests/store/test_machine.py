"""The board, each adapter of the store, and two models: what was said to be durable is what the store tells.

`tests.core.machine` plays a master's life on it: jobs, workers, commits that lag, fail or are lost. Here what the store
keeps is asked for after each commit, and what operators do with it comes in: purges, prunes, answers to repeated requests.
For SQLite a crash is the files as they lie there while the store is open, under a store that never closed it.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
from hypothesis.stateful import precondition, rule

from cluster.core import events
from cluster.core.effects import (
    Admitted,
    Answered,
    AttemptFailed,
    Effect,
    Ended,
    Leased,
    Purged,
    QueuePaused,
    Requeued,
    Undone,
)
from cluster.core.records import Certificate, Fence, JobId, Outcome
from cluster.core.states import TERMINAL, JobState
from cluster.store.port import Store
from cluster.store.sqlite import SqliteStore
from tests.core.machine import PICK, BoardMachine
from tests.machines import size

ANSWER_SECONDS = 5.0


@dataclass
class Kept:
    """One job as whoever reads the store must find it."""

    admitted: Admitted
    run: int = 1
    ended: Ended | None = None  # of the current run
    result: Outcome | None = None  # of the latest run that completed
    certificates: dict[tuple[int, Fence], Certificate] = field(default_factory=dict)
    outputs: dict[tuple[int, Fence], bytes] = field(default_factory=dict)


class Book:
    """Records in dictionaries, each written as often as it likes."""

    def __init__(self) -> None:
        self.jobs: dict[int, Kept] = {}
        self.answers: dict[str, Answered] = {}
        self.paused: set[str] = set()

    def write(self, effect: Effect) -> None:
        match effect:
            case Admitted():
                self.jobs.setdefault(effect.seq, Kept(effect))
            case Undone() | Purged():
                self.jobs.pop(effect.seq, None)
            case AttemptFailed():
                job = self.jobs[effect.seq]
                job.certificates[effect.run, effect.fence] = effect.certificate
                self._print(job, effect.run, effect.fence, effect.output)
            case Ended():
                job, outcome = self.jobs[effect.seq], effect.outcome
                job.ended = effect
                if outcome.state is JobState.COMPLETED:
                    job.result = outcome
                if outcome.certificate is not None:
                    job.certificates[outcome.run, effect.fence] = outcome.certificate
                self._print(job, outcome.run, effect.fence, effect.output)
            case Requeued():
                job = self.jobs[effect.seq]
                job.run, job.ended = effect.run, None
            case QueuePaused():
                (self.paused.add if effect.paused else self.paused.discard)(effect.queue)
            case Answered():
                self.answers[effect.request] = effect
            case _:
                pass

    def _print(self, job: Kept, run: int, fence: Fence, output: bytes) -> None:
        if output:
            job.outputs[run, fence] = output


class StoreMachine(BoardMachine):
    """The same life, and a reader that asks the store for everything, again and again."""

    def __init__(self) -> None:
        self.book = Book()
        self.requests = itertools.count(1)
        super().__init__()

    def open(self) -> None:
        super().open()
        assert self.board.placement.paused == self.book.paused
        self.check_store()

    def write(self, group: list[Effect]) -> None:
        super().write(group)
        for effect in group:
            self.book.write(effect)
        self.check_store()

    @rule(is_new=st.booleans())
    def request(self, *, is_new: bool) -> None:
        """Something was decided for a caller that may ask again; the answer goes with the next commit."""
        number = next(self.requests) if is_new or not self.book.answers else 0
        name = f"r{number}" if number else next(reversed(self.book.answers))
        if self.store.answer(name) is None:
            self.log.append(Answered(name, b"answer to " + name.encode(), self.now.wall + ANSWER_SECONDS))

    @precondition(lambda self: any(job.state is JobState.DEAD_LETTER for job in self.model.jobs.values()))
    @rule(pick=PICK)
    def purge(self, pick: int) -> None:
        """As the master does it: only of what is durable and not in use."""
        dead = [job.spec.id for job in self.model.jobs.values() if job.state is JobState.DEAD_LETTER]
        job = dead[pick % len(dead)]
        stored = self.store.find(job)
        if stored is None or stored.state is not JobState.DEAD_LETTER or self.board.needs_result(job):
            return

        self.log.append(Purged(stored.seq, job))
        self.commit()

        self.forget(job)
        self.check_store()

    @rule()
    def prune(self) -> None:
        wall = self.now.wall
        over = [
            job.admitted
            for job in self.book.jobs.values()
            if job.ended and job.ended.keep_until < wall and not self.board.needs_result(job.admitted.spec.id)
        ]

        dropped = self.store.prune(wall, self.board.needs_result)

        assert dropped == len(over)
        for admitted in over:
            del self.book.jobs[admitted.seq]
            self.forget(admitted.spec.id)
        self.book.answers = {name: one for name, one in self.book.answers.items() if one.keep_until >= wall}
        self.check_store()

    @rule()
    def tidy(self) -> None:
        while self.store.tidy():
            pass

        self.check_store()

    def forget(self, job: JobId) -> None:
        self.model.jobs.pop(job, None)
        self.durable.jobs.pop(job, None)

    # --- what must hold ------------------------------------------------------------------------------------------

    def check_store(self) -> None:
        """Each question that the port has an answer for."""
        store, jobs = self.store, self.book.jobs
        for job in jobs.values():
            self._check_job(job)
        for name in set(self.model.jobs) - {job.admitted.spec.id for job in jobs.values()}:
            assert store.find(name) is None, f"{name} was never durable"
        listed = [(one.seq, one.spec.id, one.run, one.state) for one in store.page(0, 1000)]
        told = [
            (seq, job.admitted.spec.id, job.run, job.ended.outcome.state if job.ended else None)
            for seq, job in sorted(jobs.items())
        ]
        assert listed == told
        assert [one.spec.id for one in store.live_jobs()] == [name for _, name, _, state in told if state is None]
        for state in TERMINAL:
            assert [one.seq for one in store.page(0, 1000, state)] == [row[0] for row in told if row[3] is state]
        if told:
            middle = told[len(told) // 2][0]
            assert [one.seq for one in store.page(middle, 2)] == [row[0] for row in told if row[0] > middle][:2]
        for name, answered in self.book.answers.items():
            assert store.answer(name) == answered.answer

    def _check_job(self, job: Kept) -> None:
        store, spec = self.store, job.admitted.spec
        found = store.find(spec.id)
        assert found is not None, f"{spec.id} is lost"
        outcome = job.ended.outcome if job.ended else None
        assert (found.seq, found.spec, found.run, found.outcome) == (job.admitted.seq, spec, job.run, outcome)
        assert found.submitted == job.admitted.submitted
        assert store.outcome(spec.id) == outcome
        assert store.result(spec.id) == job.result
        assert store.history(spec.id) == [(run, certificate) for (run, _), certificate in job.certificates.items()]
        assert store.outputs(spec.id) == [(fence, output) for (_, fence), output in job.outputs.items()]
        if spec.key:
            by_key = store.find_key(spec.key)
            assert by_key is not None
            assert by_key.spec.id == spec.id

    def handle(self, event: events.Event) -> list[Effect]:
        effects = super().handle(event)
        for effect in effects:
            if isinstance(effect, Leased):
                self._check_inputs(effect)
        return effects

    def _check_inputs(self, leased: Leased) -> None:
        """Each argument is in the store, or about to be."""
        coming = {one.outcome.job for one in self.log if isinstance(one, Ended)}
        for one in leased.jobs:
            for name in self.board.leases[one.fence].job.spec.inputs:
                assert name in coming or self.store.result(name) is not None, f"the result of {name} is gone"


class SqliteMachine(StoreMachine):
    """On files; a restart is a crash as often as not."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="machine-")
        self.incarnations = itertools.count(1)
        self.is_crash = False
        super().__init__()

    def make_store(self) -> Store:
        home = Path(self.folder.name) / "0"
        home.mkdir()
        return SqliteStore(home / "runs.db")

    @rule()
    def crash(self) -> None:
        """The master is killed: what it had committed lies in the files, whatever it had put off."""
        self.is_crash = True
        self.restart()

    def leave_store(self) -> None:
        if not self.is_crash:
            self.store.close()
            return
        self.is_crash = False
        assert isinstance(self.store, SqliteStore)
        home = Path(self.folder.name) / str(next(self.incarnations))
        shutil.copytree(Path(self.store.url.removeprefix("sqlite:///")).parent, home)
        self.store.close()
        self.store = SqliteStore(home / "runs.db")

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestMemoryMachine = StoreMachine.TestCase
TestMemoryMachine.settings = size(500)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = size(60)
