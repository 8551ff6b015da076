"""The board's own mutable records: a job, a lease, a worker. Only the board's handlers write them.

They are kept small (a million queued jobs must fit) and out of the garbage collector (`gc=False`): a lease refers to
its job and a job never refers back except by number, so no cycle can form.
"""

from __future__ import annotations

from msgspec import Struct

from cluster.core.chunks import Progress
from cluster.core.effects import Admitted
from cluster.core.policy import is_at_most_once
from cluster.core.records import Fence, JobSpec, WorkerId
from cluster.core.states import IS_TERMINAL, JobState

_QUEUED = JobState.QUEUED  # a look at an enum's class costs as much as making a record, on Python 3.11


class Job(Struct, gc=False, eq=False):
    """One job as the board has it."""

    admitted: Admitted
    spec: JobSpec  # what was submitted: `admitted.spec`, at hand because everyone asks for it
    state: JobState = JobState.SUBMITTED  # written by `Board.move` only
    run: int = 1
    attempts: int = 0  # leases of this run that were not given back
    failures: int = 0
    crashes: int = 0
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
    def seq(self) -> int:
        """Order of admission."""
        return self.admitted.seq

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


class WorkerHeld(Struct, eq=False):
    """A registered worker."""

    id: WorkerId
    deadline: float  # mono; past it all its leases are void
    free: dict[str, int]  # resources besides slots
    labels: frozenset[tuple[str, str]]
    leases: dict[Fence, LeaseHeld]
    is_draining: bool = False  # an operator wants it empty: it is leased nothing more
