"""The board's own mutable records: a job, a lease, a worker. Only the board's handlers write them.

They are kept small (a million queued jobs must fit) and out of the garbage collector (`gc=False`): a lease refers to
its job and a job never refers back except by number, so no cycle can form.
"""

from __future__ import annotations

from msgspec import Struct

from cluster.core.chunks import Progress
from cluster.core.policy import is_at_most_once
from cluster.core.records import Digest, Fence, JobId, JobSpec, WorkerId
from cluster.core.states import IS_TERMINAL, JobState

_QUEUED = JobState.QUEUED  # a look at an enum's class costs as much as making a record, on Python 3.11


class Job(Struct, gc=False, eq=False):
    """One job as the board has it."""

    seq: int  # order of admission
    spec: JobSpec
    submitted: float  # wall time
    owner: int = 0  # session of the submitting client; 0 after a restart
    state: JobState = JobState.SUBMITTED  # written by `Board.move` only
    run: int = 1
    attempts: int = 0  # leases of this run that were not given back
    failures: int = 0
    crashes: int = 0
    outgrown: int = 0  # attempts of this run that ran out of memory: how far up `Options.memory` it is
    unmet: int = 0  # dependencies that have not completed yet; > 0 exactly while WAITING (or SUBMITTED)
    fence: Fence = 0  # the lease that may report; 0: none
    # A lease whose attempt was ordered to stop and is not known to be gone. While set the job may be queued (a new
    # run) but never leased: two attempts of one job must not overlap.
    stopping: Fence = 0
    due_mono: float = 0.0
    expires_mono: float = 0.0  # 0: never
    is_settled: bool = False  # ended, and that is durable: may be forgotten
    started: float = 0.0  # wall time of the last lease
    worker: WorkerId = ""  # holder of the last lease
    chunk: Progress | None = None

    @property
    def is_terminal(self) -> bool:
        """The run has its outcome."""
        return IS_TERMINAL[self.state]

    @property
    def is_in_lane(self) -> bool:
        """It waits in a lane of `placement`, and nowhere else."""
        return self.state is _QUEUED and not self.stopping

    @property
    def must_be_durable(self) -> bool:
        """It may not start before its admission, nor (at most once) before its lease, is durable."""
        spec = self.spec
        return spec.key != "" or (not spec.options.crash_limit and is_at_most_once(spec.options))


class LeaseHeld(Struct, gc=False, eq=False):
    """A worker's claim on an attempt of a job."""

    fence: Fence
    job: Job
    worker: WorkerId
    run: int
    attempt: int
    is_granted: bool = True  # False: it must be durable first, and the worker has not heard of it
    is_revoked: bool = False  # nothing that is reported on it counts any more; only its end is awaited
    memory: int = 0  # promised to it, bytes; kept here because the job's own limit may grow before this ends
    pid: int = 0  # of the process that a heartbeat has named; 0: none has yet


class Suspicion(Struct, eq=False):
    """What speaks against a worker since it last did well; written by `quarantine` only."""

    completed: int  # on the whole board, when it began
    jobs: dict[JobId, Digest]  # with their tasks: those whose first attempt failed here at once
    reason: str = ""  # of the latest failure
    first_probe: Fence = 0  # > 0: it is quarantined, and what it is leased from this fence on are probes
    probes: int = 0  # that failed, one after the other
    probe_at: float = 0.0  # mono: it is tried with one job then

    @property
    def is_quarantined(self) -> bool:
        """It is leased one job at a time, and that not often."""
        return self.first_probe > 0


class WorkerHeld(Struct, eq=False):
    """A registered worker."""

    id: WorkerId
    deadline: float  # mono; past it all its leases are void
    free: dict[str, int]  # resources besides slots
    labels: frozenset[tuple[str, str]]
    leases: dict[Fence, LeaseHeld]
    host: str = ""  # where it runs; empty: an earlier master's, of which only its leases are known
    is_draining: bool = False  # an operator wants it empty: it is leased nothing more
    # Of memory, what jobs with a limit may have in all, and could have on an idle host; 0: it can hold none to a limit.
    memory_room: int = 0
    memory_most: int = 0
    promised: int = 0  # of `memory_room`, to the leases that it holds
    is_short: bool = False  # its host has so little memory left that it asks for less work
    last_good: Digest = b""  # the task of its latest success
    suspicion: Suspicion | None = None  # its latest attempts came to nothing, and that may be its own fault
