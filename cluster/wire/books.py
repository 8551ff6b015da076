"""What a conversation must be able to say again, should the master forget it: jobs, their functions, awaited outcomes.

A job is in here whole from its submission until it is acknowledged (or refused, or ended), and from then on by its id
until its outcome has come. Whoever calls holds the conversation's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cluster.core.records import Digest, FunctionBlob, JobId, JobInfo, JobSpec
from cluster.core.states import TERMINAL
from cluster.wire.calls import Told


class Books:
    """One conversation's."""

    def __init__(self) -> None:
        self.unacknowledged: dict[JobId, JobSpec] = {}  # in order of submission
        self.awaited: dict[JobId, int] = {}  # the run from which on an outcome is the awaited one
        self._functions: dict[Digest, FunctionBlob] = {}  # those that unacknowledged jobs refer to,
        self._uses: dict[Digest, int] = {}  # and how many do

    def enter(self, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        """These are about to be submitted."""
        blobs = {blob.digest: blob for blob in functions}
        for spec in jobs:
            if spec.id not in self.unacknowledged:
                self._uses[spec.function] = self._uses.get(spec.function, 0) + 1
            self.unacknowledged[spec.id] = spec
            self._functions[spec.function] = blobs[spec.function]

    def functions_of(self, jobs: Sequence[JobSpec]) -> tuple[FunctionBlob, ...]:
        """The functions of those among these jobs that are still unacknowledged."""
        digests = dict.fromkeys(spec.function for spec in jobs)
        return tuple(self._functions[digest] for digest in digests if digest in self._functions)

    def rest(self, sent: Collection[JobId]) -> list[JobSpec]:
        """What is unacknowledged, but for these, in order."""
        return [spec for job, spec in self.unacknowledged.items() if job not in sent]

    def expect(self, job: JobId, info: JobInfo | None = None) -> None:
        """An outcome of this job is awaited: of the run that `info` tells of, if it is known and not over."""
        if info is None:
            self.awaited.setdefault(job, 0)
        elif info.state not in TERMINAL:
            self.awaited[job] = info.run

    def strike(self, jobs: Iterable[JobId]) -> None:
        """Nothing will be heard of these."""
        for job in jobs:
            self._acknowledge(job)
            self.awaited.pop(job, None)

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

    def _acknowledge(self, job: JobId) -> bool:
        spec = self.unacknowledged.pop(job, None)
        if spec is None:
            return False
        self._uses[spec.function] -= 1
        if not self._uses[spec.function]:
            del self._uses[spec.function], self._functions[spec.function]
        return True
