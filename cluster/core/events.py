"""What happens to the board: frozen records, one for each thing that the outside may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from cluster.core.effects import StoredJob
from cluster.core.records import SAME_BUDGET, Budget, Fence, FunctionBlob, JobId, JobSpec, Report, WorkerId
from cluster.core.states import JobState


class Submit(Struct, frozen=True):
    """A client submits jobs.

    `settled` has the final states of those jobs named in `after` that the board may have forgotten: the shell looks
    them up in the store beforehand.
    """

    owner: int
    jobs: tuple[JobSpec, ...]
    functions: tuple[FunctionBlob, ...] = ()
    settled: Mapping[JobId, JobState] = {}


class AdmissionsDurable(Struct, frozen=True):
    """These admissions are committed, and their jobs may start."""

    jobs: tuple[JobId, ...]


class AdmissionsFailed(Struct, frozen=True):
    """These admissions could not be committed: undo them.

    The shell names every admission that is not durable, so a job that depends on one of them is among them too.
    """

    jobs: tuple[JobId, ...]
    reason: str


class LeaseDurable(Struct, frozen=True):
    """A lease that had to be durable before its job may start is."""

    worker: WorkerId
    fence: Fence


class OutcomesDurable(Struct, frozen=True):
    """These runs' outcomes are committed; the board may forget the jobs."""

    jobs: tuple[tuple[JobId, int], ...]  # (id, run)


class StoreFailed(Struct, frozen=True):
    """The store takes no commits now: admit nothing."""

    reason: str


class StoreHealed(Struct, frozen=True):
    """It does again."""


class Register(Struct, frozen=True):
    """A worker joins, or comes back.

    `held` are all leases that it has and whose end is not known to be taken; what the board has for it besides those,
    it never heard of. None: it says nothing of its leases.
    """

    worker: WorkerId
    resources: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    held: tuple[Fence, ...] | None = None
    memory_room: int = 0  # as in `WorkerHeld`
    memory_most: int = 0
    host: str = ""


class Heartbeat(Struct, frozen=True):
    """A worker lives: its leases hold for another timeout. `running` are the jobs that its children are at.

    `pids` names the process of each, in the same order; empty: it is not known.
    """

    worker: WorkerId
    running: tuple[JobId, ...] = ()
    memory_room: int = 0  # as in `WorkerHeld`; both 0: nothing new is said
    memory_most: int = 0
    is_short: bool = False
    pids: tuple[int, ...] = ()


class Begun(Struct, frozen=True):
    """A worker's children have been at these attempts for longer than most jobs take."""

    worker: WorkerId
    fences: tuple[Fence, ...]


class Poll(Struct, frozen=True):
    """A worker wants at most `capacity` jobs."""

    worker: WorkerId
    capacity: int


class Reported(Struct, frozen=True):
    """A worker tells how attempts ended."""

    worker: WorkerId
    reports: tuple[Report, ...]


class GiveBack(Struct, frozen=True):
    """A worker hands leases back unspent."""

    worker: WorkerId
    fences: tuple[Fence, ...]


class Stopped(Struct, frozen=True):
    """Attempts that were ordered to stop are gone."""

    worker: WorkerId
    fences: tuple[Fence, ...]


class Leave(Struct, frozen=True):
    """A worker deregisters in good order; what it held is given back."""

    worker: WorkerId


class Drain(Struct, frozen=True):
    """Lease no more jobs to a worker, or do so again. What it has goes on."""

    worker: WorkerId
    draining: bool


class InputsMissing(Struct, frozen=True):
    """A leased job's dependency has no result any more (its retention was over): the job can't run."""

    worker: WorkerId
    fence: Fence
    missing: JobId


class Cancel(Struct, frozen=True):
    """Someone wants these jobs stopped."""

    jobs: tuple[JobId, ...]


class Requeue(Struct, frozen=True):
    """An operator wants new runs of ended jobs.

    `stored` are those that the board has forgotten; `settled` as in `Submit`, for their dependencies.
    """

    jobs: tuple[JobId, ...]
    stored: tuple[StoredJob, ...] = ()
    functions: tuple[FunctionBlob, ...] = ()
    settled: Mapping[JobId, JobState] = {}
    budget: Budget = SAME_BUDGET


class PauseQueue(Struct, frozen=True):
    """Lease no jobs of a queue, or do so again."""

    queue: str
    paused: bool


class Tick(Struct, frozen=True):
    """Time has passed."""


Event: TypeAlias = (
    Submit | AdmissionsDurable | AdmissionsFailed | LeaseDurable | OutcomesDurable | StoreFailed | StoreHealed
    | Register | Heartbeat | Begun | Poll | Reported | GiveBack | Stopped | Leave | Drain | InputsMissing | Cancel | Requeue
    | PauseQueue | Tick
)  # fmt: skip
