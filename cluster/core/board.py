"""The board: the master's pure state machine of jobs, workers and leases.

Rules of this room. An event and a `Now` go in, effects come out, and nothing else happens: no clock is read, no file
written, nobody told. Whoever drives the board holds one lock while `handle` runs and appends the effects to the commit
log before letting go of it, so the store sees decisions in the order in which they were made.

    admission.py   jobs come in, and admissions that could not be made durable go out again
    leases.py      workers take jobs, give them back, confirm that stopped ones are gone
    settlement.py  attempts end: outcome, retry or dead letter; dependants are released or fail
    control.py     operators: cancel, requeue, pause
    workers.py     workers come, stay alive, leave, get lost
    waking.py      who is woken when there is work; `handle` asks it after each decision
    timers.py, placement.py, shelf.py, chunks.py, policy.py   what the handlers are built from

Every job is in exactly one place: its record in `jobs`; additionally in a lane while QUEUED (`placement`), in `leases`
while a worker may report on it or has still to stop it, in `dependants` once for each unmet dependency. An ended job is
forgotten once its outcome is durable and its last attempt is known to be gone: the store has it from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from cluster.core.effects import Effect, Ended, TellStop
from cluster.core.job import Job, LeaseHeld, WorkerHeld
from cluster.core.placement import Placement
from cluster.core.records import Certificate, Ending, Fence, JobId, Now, Outcome, Payload, Report, Stop, WorkerId
from cluster.core.shelf import Shelf
from cluster.core.states import IS_TERMINAL, ROWS, Cause, JobState, illegal_move
from cluster.core.timers import Timer, Timers
from cluster.core.waking import Waking

if TYPE_CHECKING:
    from cluster.core.events import Event

# Leases of lost workers that are remembered for the log's sake, should a report come after all.
MAX_LAPSED = 10_000

Handler = Callable[["Board", Any, Now, list[Effect]], None]

# A fence is (epoch << FENCE_BITS) + n: a later opening of the store issues only higher ones, whatever the earlier
# opening had issued and not written. 2 ** 40 leases are more than one opening lives to see.
FENCE_BITS = 40

# Asked for with every job; on Python 3.11 a look at an enum's class costs as much as making a record.
_QUEUED, _WAITING, _DEAD_LETTER, _LEASE = JobState.QUEUED, JobState.WAITING, JobState.DEAD_LETTER, Cause.LEASE


class Settings(Struct, frozen=True):
    """What an operator may say about the board."""

    heartbeat_timeout_seconds: float = 10.0
    # Past this the client is told to wait; a bound for memory, 600 bytes a job and its payload.
    max_live_jobs: int = 5_000_000
    # Kept so long at least, whatever a job's own `result_ttl` says: its operator may be on holiday.
    dead_retention_seconds: float = 30 * 86400.0


class Counters(Struct):
    """What has happened since the board was made."""

    submitted: int = 0
    completed: int = 0
    failed_attempts: int = 0
    retried: int = 0
    dead: int = 0
    fenced: int = 0  # late or repeated reports, refused


class Board:
    """Jobs, workers and leases. See the module's docstring for its rules."""

    def __init__(self, settings: Settings, *, epoch: int, next_seq: int = 1) -> None:
        self.settings = settings
        self.jobs: dict[JobId, Job] = {}
        self.leases: dict[Fence, LeaseHeld] = {}
        self.workers: dict[WorkerId, WorkerHeld] = {}
        self.lapsed: dict[
            Fence, tuple[JobId, int]
        ] = {}  # job and attempt, the oldest first; says nothing to any decision
        # WAITING (or SUBMITTED) jobs by what they wait for, then by their own id; `Job.unmet` counts a job's entries.
        self.dependants: dict[JobId, dict[JobId, Job]] = {}
        self.inputs_needed: dict[JobId, int] = {}  # how many jobs may yet want this job's result as an argument
        self.placement = Placement()
        self.waking = Waking(self.placement, self.workers)
        self.timers = Timers()
        self.shelf = Shelf()
        self.counters = Counters()
        self.counts = [0] * (max(JobState) + 1)  # jobs on the board by state
        self.refusing = ""  # why nothing is admitted now; empty: all is well
        self.next_seq = next_seq
        self.last_tick: float | None = None
        self._next_fence = (epoch << FENCE_BITS) + 1

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Decide what the event means; the one way in."""
        effects: list[Effect] = []
        HANDLERS[type(event)](self, event, now, effects)
        if self.placement.fresh or self.waking.eased:
            self.waking.decide(effects)
        return effects

    # --- what the handlers share: each changes the board and nothing but the board ---------------------------------

    def move(self, job: Job, cause: Cause) -> None:
        """Change a job's state by the table; the only writer of `Job.state`."""
        state = job.state
        target = ROWS[state][cause]
        if target is None:
            raise illegal_move(state, cause)
        job.state = target
        if state is _QUEUED and cause is not _LEASE and not job.stopping:
            self.placement.forget(job)
        counts = self.counts
        counts[state] -= 1
        counts[target] += 1
        if job.unmet and target is not _WAITING:
            self.stop_waiting(job)

    def enqueue(self, job: Job, cause: Cause, *, first: bool = False) -> None:
        """Make a job leasable, unless an earlier attempt of it has still to be seen dead."""
        self.move(job, cause)
        if not job.stopping:
            self.placement.push(job, first=first)

    def wait_for(self, job: Job, dependency: JobId) -> None:
        """Note that the job waits for another one."""
        waiting = self.dependants.setdefault(dependency, {})
        if job.spec.id not in waiting:  # `after` may name it twice
            waiting[job.spec.id] = job
            job.unmet += 1

    def stop_waiting(self, job: Job) -> None:
        """Forget what the job waited for."""
        for dependency in job.spec.after:
            waiting = self.dependants.get(dependency)
            if waiting and waiting.pop(job.spec.id, None) is not None and not waiting:
                del self.dependants[dependency]
        job.unmet = 0

    def issue_fence(self) -> Fence:
        """A number that no lease ever had."""
        fence = self._next_fence
        self._next_fence += 1
        return fence

    def current_lease(self, worker: WorkerId, fence: Fence) -> LeaseHeld | None:
        """The lease, if this worker may still report on it. The one place where a fence is checked."""
        lease = self.leases.get(fence)
        if lease is None or lease.is_revoked or lease.worker != worker or lease.job.fence != fence:
            return None
        return lease

    def release(self, lease: LeaseHeld) -> None:
        """End a claim: nothing more is expected from its worker. Its job may be leased again."""
        del self.leases[lease.fence]
        holder = self.workers.get(lease.worker)
        job, fence = lease.job, lease.fence
        if holder is not None and holder.leases.pop(fence, None) is not None:
            resources = job.spec.options.resources
            for name, amount in resources:
                holder.free[name] = holder.free.get(name, 0) + amount
            if lease.memory:
                holder.promised -= lease.memory
            if resources or lease.memory:
                self.waking.recheck(holder.id)
        if job.fence == fence:
            job.fence = 0
        if job.stopping == fence:
            job.stopping = 0
            if job.is_in_lane:
                self.placement.push(job)
            else:
                self.forget_if_settled(job)

    def lapse(self, lease: LeaseHeld) -> None:
        """Remember whose it was, for the log: its worker is lost, and may not know that yet."""
        self.lapsed[lease.fence] = lease.job.spec.id, lease.attempt
        if len(self.lapsed) > MAX_LAPSED:
            del self.lapsed[next(iter(self.lapsed))]

    def revoke(self, job: Job, ending: Ending, effects: list[Effect]) -> None:
        """Void the job's lease and order its worker to stop the attempt; the job may not be leased until it has."""
        lease = self.leases[job.fence]
        job.fence = 0
        if not lease.is_granted:
            self.release(lease)  # its worker never heard of it
            return
        lease.is_revoked = True
        job.stopping = lease.fence
        effects.append(TellStop(lease.worker, Stop(lease.fence, ending)))

    def end(self, job: Job, ended: EndOfRun | Report, now: Now, effects: list[Effect]) -> None:
        """Record the outcome of a job that has just moved to a terminal state."""
        spec = job.spec
        state, wall = job.state, now.wall
        outcome = Outcome(
            spec.id, job.run, state, wall, ended.payload, ended.certificate, job.attempts, job.worker, spec.items
        )
        keep_seconds = spec.options.result_ttl
        if state is _DEAD_LETTER:
            keep_seconds = max(keep_seconds, self.settings.dead_retention_seconds)
        effects.append(Ended(job.seq, ended.fence, outcome, wall + keep_seconds, job.owner, ended.output))
        self.retire(job)

    def retire(self, job: Job) -> None:
        """Let go of what only a live job needs."""
        job.chunk = None
        self.shelf.release(job.spec.function)

    def release_inputs(self, job: Job) -> None:
        """Let go of the results that are its arguments; not before its end is durable, else it may have to run again."""
        for dependency in job.spec.inputs:
            needed = self.inputs_needed.get(dependency, 0) - 1
            if needed > 0:
                self.inputs_needed[dependency] = needed
            else:
                self.inputs_needed.pop(dependency, None)

    def adopt(self, job: Job) -> bool:
        """Count what a live job needs; True if the store must be told of its function."""
        for dependency in job.spec.inputs:
            self.inputs_needed[dependency] = self.inputs_needed.get(dependency, 0) + 1
        return self.shelf.acquire(job.spec.function)

    def forget_if_settled(self, job: Job) -> None:
        """Drop an ended job that the store has, once no attempt of it can be alive."""
        if job.is_settled and not job.stopping and IS_TERMINAL[job.state] and self.jobs.get(job.spec.id) is job:
            self.counts[job.state] -= 1
            del self.jobs[job.spec.id]

    def schedule(self, job: Job, now: Now) -> bool:
        """Set a timer if the job is not due yet."""
        if job.due_mono <= now.mono:
            return False
        self.timers.add(job.due_mono, Timer.DUE, job)
        return True

    def needs_result(self, job: JobId) -> bool:
        """Whether a stored job must not be pruned yet."""
        return job in self.jobs or job in self.inputs_needed or job in self.dependants

    def next_due(self) -> float | None:
        """The monotonic time before which a `Tick` would change nothing, as far as is known now."""
        times = [worker.deadline for worker in self.workers.values()]
        last = self.last_tick  # it has woken those whose time for a probe had come by then
        suspicions = [worker.suspicion for worker in self.workers.values() if worker.suspicion is not None]
        times += [one.probe_at for one in suspicions if last is None or one.probe_at > last]
        timer = self.timers.next_due()
        if timer is not None:
            times.append(timer)
        return min(times, default=None)


class EndOfRun(Struct, frozen=True, gc=False):
    """What `Board.end` has to record besides what the job's record says. Of a success, the report has all of it."""

    fence: Fence = 0
    payload: Payload = b""
    certificate: Certificate | None = None
    output: bytes = b""


# Filled by the handler modules at import (see `cluster.core.handlers`), which import this one for `Board`.
HANDLERS: dict[type, Handler] = {}
