"""What everyone was told and what workers really did: the record that the promises are checked against.

Nothing here asks the board what it thinks, except where it decides (`decided`, for fences and losses). A check that
fails inside a callback of the master would be logged and swallowed there, so failures are also kept in `broken`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.core import policy
from cluster.core.effects import Announced, AttemptFailed, Effect, Ended, Leased
from cluster.core.policy import is_at_most_once
from cluster.core.records import (
    Budget,
    Certificate,
    Ending,
    Fence,
    JobId,
    JobSpec,
    Lease,
    Options,
    Outcome,
    Report,
    WorkerId,
)
from cluster.core.states import JobState
from cluster.wire.calls import Tell
from cluster.wire.messages import Poll, Refusal
from tests.sim.image import Image
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.worker import Worker

SLACK_SECONDS = 1e-6


class Attempt(Struct, eq=False):
    """One lease in a worker's hands."""

    lease: Lease
    worker: Worker
    is_taken: bool = False
    is_begun: bool = False
    is_orphan: bool = False  # its lease died with a master, before it was durable


class History:
    """The checker."""

    def __init__(self, world: World, image: Image) -> None:
        self._world = world
        self._image = image
        self.broken: list[str] = []
        self.submitted: dict[JobId, JobSpec] = {}
        # Options that a requeue asked for: each may hold, confirmed or not, beside those of the submission.
        self.changed: dict[JobId, list[Options]] = {}
        self.accepted: dict[JobId, None] = {}
        self.refused: dict[JobId, int] = {}  # and when (see `mark`)
        self._refusals: list[JobId] = []
        self._told_at: dict[tuple[JobId, int], int] = {}
        self.told: dict[tuple[JobId, int], Outcome] = {}
        self.running: dict[JobId, dict[Fence, Attempt]] = {}
        self._starts: dict[tuple[JobId, int], list[Fence]] = {}
        self._tries: Counter[JobId] = Counter()
        self._completed: dict[JobId, None] = {}  # as decided; a dependant may start early
        self._highest_fence = 0
        self._handed: dict[Fence, Attempt] = {}
        self._alive: dict[Fence, Attempt] = {}  # those of them that are not known to be over
        self.workers: dict[str, Worker] = {}  # by name

    def fail(self, invariant: str, sentence: str) -> None:
        """A promise is broken."""
        self.broken.append(f"{invariant}: {sentence}")
        raise Violation(self.broken[-1])

    # --- what the master decides -------------------------------------------------------------------------------

    def decided(self, effects: Sequence[Effect], host: Host) -> None:
        """Fences grow for ever; a worker is not lost because its master slept."""
        for effect in effects:
            match effect:
                case Leased():
                    for job in effect.jobs:
                        if job.fence <= self._highest_fence:
                            self.fail("fence", f"{job.fence} is issued after {self._highest_fence}")
                        self._highest_fence = job.fence
                    self._world.note("leased", effect.worker, *(job.fence & 0xFFFF for job in effect.jobs))
                case Ended():
                    outcome = effect.outcome
                    self._world.note("ended", outcome.job, outcome.run, outcome.state.name)
                    if outcome.state is JobState.COMPLETED:
                        self._completed[outcome.job] = None
                    if outcome.certificate is not None:
                        self._lost_fairly(host, outcome.certificate, outcome.worker)
                case AttemptFailed():
                    self._world.note("failed", effect.job, effect.run, effect.certificate.ending.name)
                    self._lost_fairly(host, effect.certificate, effect.certificate.worker)
                case Announced():
                    self._world.note("announced", effect.sentence)
                    self._world.counts["announced"] += 1
                case _:
                    pass

    def _lost_fairly(self, host: Host, certificate: Certificate, worker: WorkerId) -> None:
        """A worker that was there before the master slept has a whole timeout from its waking on."""
        if certificate.ending is not Ending.WORKER_LOST or "no heartbeat" not in certificate.reason:
            return
        awake = self._world.now - host.awake_since
        if awake < host.timeout_seconds - SLACK_SECONDS:
            self.fail("sleep", f"{worker} is found lost {awake:.2f} s after the master woke")

    def master_died(self, image: Image) -> None:
        """Note what can't be held against the next master, and what it must not find.

        A lease that was handed out early and is not durable is unknown to it; its attempt, if the worker survived,
        runs on and is fenced off. A job that a client knows to be refused must not come back with it.
        """
        for fence, attempt in self._alive.items():
            stored = image.find(attempt.lease.job)
            attempt.is_orphan = stored is None or stored.fence != fence
        for job in self.refused:
            if image.has(job):
                self.fail("refused", f"{job} was refused, and the next master will find it in the store")

    def submits(self, specs: Sequence[JobSpec]) -> None:
        """A client tries (again, or another does, if the job has a key)."""
        for spec in specs:
            self._tries[spec.id] += 1
            self.refused.pop(spec.id, None)

    # --- what clients are told -----------------------------------------------------------------------------------

    def tell_accepted(self, jobs: Sequence[JobId]) -> None:
        """Acknowledged: it must be on disk, now and until it has ended."""
        self._world.note("told accepted", *jobs)
        for job in jobs:
            if not self._image.has(job):
                self.fail("tell", f"{job} is acknowledged and is not durable")
            if job in self.refused:
                self.fail("tell", f"{job} is acknowledged after it was refused")
            self.accepted[job] = None

    def tell_refused(self, refusals: Sequence[Refusal]) -> None:
        """Nothing may have been promised about it before."""
        for refusal in refusals:
            self._world.note("told refused", refusal.job, refusal.kind)
            if refusal.kind == "key" or refusal.job in self._image.pruned:
                continue  # it is another one's, or it had ended, and its retention is over
            if self._tries[refusal.job] > 1:
                continue  # of a key that several use it may be refused to one and taken from another
            if refusal.job in self.accepted:
                self.fail("lost", f"{refusal.job} was acknowledged and is refused: {refusal.reason}")
            if self._image.has(refusal.job):
                self.fail("refused", f"{refusal.job} is refused and is in the store, for the next master to find")
            self.refused[refusal.job] = self.mark()
            self._refusals.append(refusal.job)

    def tell_ended(self, outcomes: Sequence[Outcome]) -> None:
        """The same in every telling, and durable at that moment."""
        for outcome in outcomes:
            self._world.note("told ended", outcome.job, outcome.run, outcome.state.name)
            name = (outcome.job, outcome.run)
            if self._image.outcomes.get(name) != outcome:
                self.fail("tell", f"the outcome of {outcome.job} run {outcome.run} is told and is not durable")
            self._told_at.setdefault(name, self.mark())
            if self.told.setdefault(name, outcome) != outcome:
                self.fail("once", f"run {outcome.run} of {outcome.job} is told to have ended in two ways")
            if outcome.job in self.refused:
                self.fail("tell", f"{outcome.job} was refused and has an outcome")
            self.accepted[outcome.job] = None

    # --- what workers do -------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """How much has been told so far."""
        return len(self.told) + len(self._refusals)

    def handed(self, worker: WorkerId, poll: Poll, asked: int) -> None:
        """Leases leave the master, for a poll that was made when `asked` things had been told."""
        for lease in poll.leases:
            attempt = self._check_handed(self.workers[worker.partition("#")[0]], lease, asked)
            self._handed[lease.fence] = self._alive[lease.fence] = attempt

    def taken(self, worker: Worker, lease: Lease) -> Attempt:
        """A lease is in its worker's hands."""
        attempt = self._handed[lease.fence]
        if attempt.worker is not worker or attempt.is_taken:
            self.fail("fence", f"lease {lease.fence} of {lease.job} is in two hands, of {worker.id} too")
        attempt.is_taken = True
        return attempt

    def asks_for(self, job: JobId, budget: Budget) -> None:
        """A requeue, perhaps with another budget, is under way."""
        self._image.requested[job] += 1
        known = self.changed.setdefault(job, [])
        found = [policy.with_budget(options, budget) for options in (self.submitted[job].options, *known)]
        known += [options for options in dict.fromkeys(found) if options not in known]

    def _check_handed(self, worker: Worker, lease: Lease, asked: int) -> Attempt:
        job, spec = lease.job, self.submitted[lease.job]
        if lease.fence in self._handed:
            self.fail("fence", f"lease {lease.fence} of {job} is handed out twice")
        # What another thread tells while the poll is being answered could not be known to it.
        if self._told_at.get((job, lease.run), asked) < asked:
            self.fail("overlap", f"{job} run {lease.run} is leased after its outcome was told")
        if job in self.refused and self.refused[job] < asked:
            self.fail("refused", f"{job} is leased after it was refused")
        if lease.args != spec.args or lease.options not in (spec.options, *self.changed.get(job, ())):
            self.fail("payload", f"{job} is leased with other arguments or options than it was submitted with")
        for dependency in spec.after:
            if dependency not in self._completed:
                self.fail("order", f"{job} is leased before {dependency} has completed")
        for dependency, payload in lease.inputs:
            if f"{dependency}/".encode() not in payload:
                self.fail("payload", f"{job} gets {payload!r} as the result of {dependency}")
        if is_at_most_once(lease.options) and lease.fence not in self._image.leased:
            self.fail("once", f"{job} may run at most once, and its lease is not durable")
        if spec.key and not self._image.has(job):
            self.fail("once", f"{job} has a key, and its admission is not durable")
        return Attempt(lease, worker)

    def begun(self, attempt: Attempt) -> None:
        """An attempt starts to run."""
        lease, world = attempt.lease, self._world
        attempt.is_begun = True
        world.note("begun", lease.job, lease.run, lease.fence & 0xFFFF, attempt.worker.id)
        others = self.running.setdefault(lease.job, {})
        for fence, other in others.items():
            # A supervisor that is awake has killed what it may not run any more.
            is_alive = other.worker.valid_until > world.now or other.worker.is_awake
            if not attempt.is_orphan and not other.is_orphan and is_alive:
                self.fail(
                    "overlap",
                    f"{lease.job} begins under lease {lease.fence} on {attempt.worker.id}"
                    f" while lease {fence} on {other.worker.id} is valid, or goes on",
                )
        others[lease.fence] = attempt
        earlier = self._starts.setdefault((lease.job, lease.run), [])
        # One that never was durable belonged to a requeue that was lost with its master, unconfirmed, and that allowed
        # more than one start: this run has its number, and is another requeue's.
        if is_at_most_once(lease.options) and any(fence in self._image.leased for fence in earlier):
            self.fail("once", f"{lease.job} run {lease.run} may run at most once and has begun again")
        earlier.append(lease.fence)

    def reported(self, report: Report) -> None:
        """A worker is going to say this, for the audit of budgets."""
        self._world.note("reports", report.fence & 0xFFFF, report.ending.name)
        self._image.reports[report.fence] = report

    def takes(self, said: Tell) -> None:
        """A worker hears that the master has what it said: the store must not hold those leases any more."""
        for fence in (*(report.fence for report in said.reports), *said.given_back):
            job = self._handed[fence].lease.job
            stored = self._image.find(job)
            if stored is not None and stored.fence == fence:
                self.fail("tell", f"the end of lease {fence} of {job} is taken and is not durable")

    def over(self, attempt: Attempt) -> None:
        """An attempt runs no more."""
        self._alive.pop(attempt.lease.fence, None)
        others = self.running.get(attempt.lease.job)
        if others is not None:
            others.pop(attempt.lease.fence, None)

    # --- at the end ------------------------------------------------------------------------------------------------

    def check_end(self) -> None:
        """Every acknowledged job has its outcome; nothing refused was kept."""
        image = self._image
        for job in self.accepted:
            if job in image.pruned:
                continue
            stored = image.find(job)
            if stored is None:
                self.fail("lost", f"{job} was acknowledged and is not in the store")
            elif stored.outcome is None:
                self.fail("lost", f"{job} run {stored.run} was acknowledged and has no outcome")
        for job in self.refused:
            if image.has(job):
                self.fail("refused", f"{job} was refused and is in the store")
        for (job, run), outcome in self.told.items():
            if job not in image.pruned and image.outcomes.get((job, run)) != outcome:
                self.fail("lost", f"the outcome of {job} run {run} was told and is not in the store")
