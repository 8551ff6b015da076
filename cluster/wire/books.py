"""What a conversation must be able to say again, should the master forget it: jobs, their functions, awaited outcomes.

A job is in here whole from its submission until it is acknowledged (or refused, or ended), and from then on by its id
until its outcome has come. Whoever calls holds the conversation's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from cluster.core.records import Digest, FunctionBlob, JobId, JobInfo, JobSpec
from cluster.core.states import TERMINAL
from cluster.wire.calls import Told

EVERY_RUN = 1 << 62


class Question(Struct):
    """The master is being asked about a job, perhaps several times at once."""

    was_awaited: bool  # without it
    count: int = 0
    heard: int = 0  # the latest run whose outcome was told meanwhile; all of them, if none will be
    is_answered: bool = False


class Books:
    """One conversation's."""

    def __init__(self) -> None:
        self.unacknowledged: dict[JobId, JobSpec] = {}  # in order of submission
        self.passed: set[JobId] = set()  # those of them that the session's master has
        self.awaited: dict[JobId, int] = {}  # the run from which on an outcome is the awaited one
        self._asked: dict[JobId, Question] = {}
        self._functions: dict[Digest, FunctionBlob] = {}  # those that unacknowledged jobs refer to,
        self._uses: dict[Digest, int] = {}  # and how many do

    def enter(self, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        """These are about to be submitted."""
        blobs = {blob.digest: blob for blob in functions}
        for spec in jobs:
            if spec.id not in self.unacknowledged:
                self._uses[spec.function] = self._uses.get(spec.function, 0) + 1
            self.unacknowledged[spec.id] = spec
            self.passed.discard(spec.id)  # what the master may have is an earlier submission under this id
            self._functions[spec.function] = blobs[spec.function]

    def functions_of(self, jobs: Sequence[JobSpec]) -> tuple[FunctionBlob, ...]:
        """The functions of those among these jobs that are still unacknowledged."""
        digests = dict.fromkeys(spec.function for spec in jobs)
        return tuple(self._functions[digest] for digest in digests if digest in self._functions)

    def rest(self) -> list[JobSpec]:
        """What has still to be passed on, in order."""
        return [spec for job, spec in self.unacknowledged.items() if job not in self.passed]

    def note_passed(self, jobs: Iterable[JobSpec]) -> None:
        """The master has these; it will say what becomes of them, in this session.

        Of a job that was refused meanwhile, and submitted again under its id, it may have the earlier submission only: each
        submission is a record of its own.
        """
        self.passed.update(spec.id for spec in jobs if self.unacknowledged.get(spec.id) is spec)

    def expect(self, job: JobId) -> None:
        """An outcome of this job is awaited, of whichever run."""
        self.awaited.setdefault(job, 0)

    def ask(self, job: JobId) -> None:
        """The master is asked to tell the job's outcome; what it tells may overtake its answer."""
        question = self._asked.setdefault(job, Question(job in self.awaited or job in self.unacknowledged))
        question.count += 1
        self.expect(job)

    def answered(self, job: JobId, info: JobInfo | None) -> None:
        """It says: this is the job. None: it was not reached."""
        question = self._asked[job]
        question.count -= 1
        question.is_answered |= info is not None
        if not question.count:
            del self._asked[job]
            if not question.is_answered and not question.was_awaited:
                self.awaited.pop(job, None)  # whoever asked knows that the question failed
        if info is not None and info.state not in TERMINAL and info.run > question.heard:
            self.awaited[job] = info.run

    def expect_at_most(self, job: JobId, run: int) -> None:
        """So far the next master knows it: a later run that was awaited died with an earlier one, undurable."""
        if self.awaited.get(job, 0) > run:
            self.awaited[job] = run

    def outdate(self) -> None:
        """Another session begins, in which all that is awaited is asked for: answers under way are an earlier master's."""
        for question in self._asked.values():
            question.heard = EVERY_RUN

    def strike(self, jobs: Iterable[JobId]) -> None:
        """Nothing will be heard of these."""
        for job in jobs:
            self._acknowledge(job)
            self.awaited.pop(job, None)
            if job in self._asked:  # an answer that is on its way is older than this
                self._asked[job].heard = EVERY_RUN

    def take(self, told: Told) -> None:
        """The master has told this."""
        for job in told.accepted:
            if self._acknowledge(job):
                self.expect(job)
        self.strike(refusal.job for refusal in told.refused)
        for outcome in told.ended:
            self._acknowledge(outcome.job)
            if outcome.run >= self.awaited.get(outcome.job, 0):
                self.awaited.pop(outcome.job, None)
            if outcome.job in self._asked:
                self._asked[outcome.job].heard = max(self._asked[outcome.job].heard, outcome.run)

    def _acknowledge(self, job: JobId) -> bool:
        self.passed.discard(job)
        spec = self.unacknowledged.pop(job, None)
        if spec is None:
            return False
        self._uses[spec.function] -= 1
        if not self._uses[spec.function]:
            del self._uses[spec.function], self._functions[spec.function]
        return True
