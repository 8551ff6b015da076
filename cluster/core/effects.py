"""What the board wants done: records to persist, in the order of decision, and things to tell once they are durable.

The board returns effects and does nothing itself. The shell appends them to the commit log before it lets go of the
board's lock, the committer writes every `Record` of a group in one transaction, and only then are the `Tell`s carried
out (see `cluster.master.committer`). `Wake` and `Announced` need no commit: the one only says that a poll would
bring something, the other is for the log.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from cluster.core.records import (
    Certificate,
    Ending,
    Fence,
    FunctionBlob,
    JobId,
    JobSpec,
    Outcome,
    Stop,
    WorkerId,
)
from cluster.core.states import JobState

# --- records: what recovery needs, and nothing else ---------------------------------------------------------------


class FunctionAdded(Struct, frozen=True, gc=False):
    """A task that the store may not have yet."""

    blob: FunctionBlob


class Admitted(Struct, frozen=True, array_like=True, gc=False):
    """A job was taken. Once committed, its owner is told that it is accepted."""

    seq: int  # the board's number of the job: order of admission, never reused
    spec: JobSpec
    submitted: float  # wall time
    due: float = 0.0  # wall time; 0: at once
    expires: float = 0.0  # wall time; 0: never
    owner: int = 0  # session of the submitting client; not stored


class Undone(Struct, frozen=True, gc=False):
    """An admission that a failed commit may or may not have written: make sure that it is not there."""

    seq: int


class LeasedJob(Struct, frozen=True, array_like=True, gc=False):
    """One job of a lease batch."""

    fence: Fence
    seq: int
    run: int
    attempt: int


class Leased(Struct, frozen=True, array_like=True, gc=False):
    """A batch of leases was handed out."""

    worker: WorkerId
    jobs: tuple[LeasedJob, ...]


class GivenBack(Struct, frozen=True, array_like=True, gc=False):
    """These leases ended without an attempt spent."""

    fences: tuple[Fence, ...]


class AttemptFailed(Struct, frozen=True, array_like=True, gc=False):
    """An attempt ended badly and the job will run again. Ends the lease."""

    seq: int
    job: JobId
    run: int
    fence: Fence
    certificate: Certificate
    failures: int  # counted so far in this run, by the budget they spend
    crashes: int
    due: float  # wall time of the next attempt
    progress: bytes = b""  # of a chunk: `chunks.Progress` encoded
    output: bytes = b""
    outgrown: int = 0  # attempts of this run that ran out of memory


class Ended(Struct, frozen=True, array_like=True, gc=False):
    """The run has its outcome. Ends the lease, if there was one. Told to the owner and to whoever watches."""

    seq: int
    fence: Fence  # 0: ended without one (cancelled while it waited, a dependency failed)
    outcome: Outcome
    keep_until: float  # wall time until which the outcome is retained
    owner: int = 0  # not stored
    output: bytes = b""


class Requeued(Struct, frozen=True, gc=False):
    """An operator started a new run of an ended job."""

    seq: int
    job: JobId
    run: int
    at: float  # wall time


class Rebudgeted(Struct, frozen=True, gc=False):
    """Together with a new run an ended job was given another budget: it is, from here on, as if admitted with it."""

    seq: int
    admitted: Admitted


class QueuePaused(Struct, frozen=True, gc=False):
    """A queue hands out no jobs until resumed."""

    queue: str
    paused: bool


class Answered(Struct, frozen=True, gc=False):
    """A request that must not be carried out twice was; committed together with its effect."""

    request: str
    answer: bytes
    keep_until: float  # wall time; nobody repeats a request after that


class Purged(Struct, frozen=True, gc=False):
    """An operator dropped an ended job, history and all."""

    seq: int
    job: JobId


Record: TypeAlias = (
    FunctionAdded | Admitted | Undone | Leased | GivenBack | AttemptFailed | Ended | Requeued | QueuePaused
    | Answered | Purged | Rebudgeted
)  # fmt: skip

# --- tells --------------------------------------------------------------------------------------------------------


class TellRefused(Struct, frozen=True, gc=False):
    """A submitted job was not taken, or its admission was undone."""

    owner: int
    job: JobId
    kind: str  # as in `wire.messages.Refusal`
    reason: str
    other: JobId = ""


class TellAccepted(Struct, frozen=True, gc=False):
    """A job that was admitted before is submitted again: the same answer once more."""

    owner: int
    job: JobId


class TellStop(Struct, frozen=True, gc=False):
    """A worker must stop an attempt."""

    worker: WorkerId
    stop: Stop


class TellGranted(Struct, frozen=True, gc=False):
    """A lease that had to be durable before the job may start now is: the worker may have it."""

    worker: WorkerId
    fence: Fence


class TellAdmitted(Struct, frozen=True, gc=False):
    """A job that had to be durable before it may start is: the board must hear of it."""

    job: JobId


class Wake(Struct, frozen=True, gc=False):
    """A poll of this worker would bring something. Needs no commit."""

    worker: WorkerId


class Announced(Struct, frozen=True, gc=False):
    """Something that operators should read in the log. Needs no commit."""

    sentence: str


class FencedOff(Struct, frozen=True, gc=False):
    """A report came too late, or twice, and changed nothing; for the log. Needs no commit."""

    worker: WorkerId
    fence: Fence
    ending: Ending  # as reported
    job: JobId  # empty: the board has forgotten whose lease it was
    attempt: int  # 0: likewise


Tell: TypeAlias = TellRefused | TellAccepted | TellStop | TellGranted | TellAdmitted | Announced | FencedOff
Effect: TypeAlias = Record | Tell | Wake


# --- what the store gives back ------------------------------------------------------------------------------------


class StoredJob(Struct, frozen=True, gc=False, kw_only=True):
    """A job as the store has it, with what its current run has been through."""

    seq: int
    spec: JobSpec
    submitted: float
    run: int = 1
    due: float = 0.0  # wall time; of the next attempt, where one failed
    expires: float = 0.0
    attempts: int = 0  # leases of the current run that were not given back
    failures: int = 0
    crashes: int = 0
    outgrown: int = 0
    progress: bytes = b""
    fence: Fence = 0  # of a lease that neither ended nor was given back; 0: none
    worker: WorkerId = ""  # that lease's holder
    outcome: Outcome | None = None  # of the current run

    @property
    def state(self) -> JobState | None:
        """The terminal state, or None while the job lives."""
        return self.outcome.state if self.outcome else None
