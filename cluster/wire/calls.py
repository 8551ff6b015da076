"""Every call that may cross the network: one closed table of desk, method, arguments, answer and roles.

What is not in `CALLS` does not exist for a peer. Arguments and answers are typed records, decoded by type at the
boundary; a call whose arguments don't fit their type, or are beyond its bounds (core/bounds.py), is refused before any
desk sees it, and nothing of it is done. A served desk has one method
for each entry, `method(peer, said) -> answer`.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Struct

from cluster.core.bounds import Batch, Figure, Natural, Orders, Text, Whole
from cluster.core.printed import Piece, Place
from cluster.core.records import (
    SAME_BUDGET,
    Budget,
    Fence,
    FunctionBlob,
    JobId,
    JobInfo,
    JobSpec,
    Lease,
    Options,
    Outcome,
    Report,
    Stop,
    WorkerId,
)
from cluster.wire.keys import Role
from cluster.wire.messages import Health, Hello, JobHistory, JobParts, Progress, Refusal, Stats, WorkerInfo

PROTOCOL_VERSION = 2

# --- the jobs desk --------------------------------------------------------------------------------------------------


class Nothing(Struct, frozen=True):
    """No arguments, or no answer."""


class Opened(Struct, frozen=True):
    """A new session, and the options that its jobs get where they say nothing themselves."""

    session: str
    defaults: Options


class Submit(Struct, frozen=True):
    """Jobs in order. Answered once they are decided; what becomes of them is told by `listen`.

    `again` says that some may have been submitted before (an answer was lost, or the master restarted): then each id
    is looked up in the store too, and a job that is there is answered for, not admitted anew.

    The answer is False if the master has no such session (any more): open another one.
    """

    session: Text
    jobs: Annotated[tuple[JobSpec, ...], Batch]
    functions: Annotated[tuple[FunctionBlob, ...], Batch]
    # Grows from batch to batch of a session: a batch that comes twice, because its answer was lost, or late, is passed
    # over. Without that a copy that comes after the job has ended and was forgotten would admit it anew.
    number: Natural = 0
    again: bool = False


class Listen(Struct, frozen=True):
    """Wait, at most `timeout` seconds, for something to tell. `seen` acknowledges every mark up to it."""

    session: Text
    seen: Whole
    timeout: Figure


class Said(Struct, frozen=True):
    """A running job of this session's said how far it is."""

    job: JobId
    progress: Progress


class Told(Struct, frozen=True):
    """What a session is told; the same again until a later `listen` acknowledges its mark."""

    mark: int
    accepted: tuple[JobId, ...] = ()
    refused: tuple[Refusal, ...] = ()
    ended: tuple[Outcome, ...] = ()
    progress: tuple[Said, ...] = ()
    printed: tuple[JobId, ...] = ()  # of jobs that are to be echoed: there is something to read
    is_gone: bool = False  # the master has no such session (any more): open another one


class Session(Struct, frozen=True):
    """One session."""

    session: Text


class Watch(Struct, frozen=True):
    """Have the outcomes of these jobs told to the session."""

    session: Text
    jobs: Annotated[tuple[JobId, ...], Batch]


class Cancel(Struct, frozen=True):
    """Stop these; answered with one verdict each, after at most `timeout` seconds."""

    jobs: Annotated[tuple[JobId, ...], Orders]
    timeout: Figure


class JobArgs(Struct, frozen=True):
    """One job."""

    job: JobId


class ReadOutput(Struct, frozen=True):
    """What a job printed after a place; an answer without text after at most `timeout` seconds."""

    job: JobId
    place: Place = Place()
    timeout: Figure = 0.0


class Page(Struct, frozen=True):
    """A page of a listing."""

    state: Text | None = None
    tag: Text | None = None
    batch: Text | None = None
    queue: Text | None = None
    limit: Whole = 1000
    after: Whole = 0


class PageOfJobs(Struct, frozen=True):
    """Some jobs, and the mark to go on from (0: no more)."""

    jobs: tuple[JobInfo, ...]
    mark: int


class Requeue(Struct, frozen=True):
    """New runs of ended jobs; all or none."""

    jobs: Annotated[tuple[JobId, ...], Orders]
    budget: Budget = SAME_BUDGET


class Purge(Struct, frozen=True):
    """Drop these dead letters, history and all."""

    jobs: Annotated[tuple[JobId, ...], Orders]


class QueueArgs(Struct, frozen=True):
    """One queue."""

    queue: Text


# --- the work desk --------------------------------------------------------------------------------------------------


class Register(Struct, frozen=True):
    """A worker joins, or comes back to a restarted master with the leases that it holds."""

    hello: Hello
    held: Annotated[tuple[Fence, ...], Orders] = ()
    number: Natural = 1  # of this worker's registrations: a call that comes late must not undo a later one


class Welcome(Struct, frozen=True):
    """What a worker must know. It kills the attempts of the leases in `drop`: nobody will take their outcome."""

    drop: tuple[Fence, ...] = ()
    heartbeat_interval_seconds: float = 2.0
    heartbeat_timeout_seconds: float = 10.0


class WorkListen(Struct, frozen=True):
    """Wait, at most `timeout` seconds, for leases (up to the worker's credit) or orders.

    `credit`: how many leases in all, since registration `number`, the worker is willing to have been sent. A sum and
    not a difference, so that it says the same however often it is said, and whatever is under way meanwhile. `turn` grows
    with each change of it: a worker speaks over two connections, and of two words that cross the later one counts.
    """

    worker: WorkerId
    seen: Whole
    timeout: Figure
    number: Natural = 1
    credit: Natural = 0
    turn: Natural = 0


class Work(Struct, frozen=True):
    """Leases and orders; the same again until a later `listen` acknowledges its mark."""

    mark: int
    leases: tuple[Lease, ...] = ()
    stops: tuple[Stop, ...] = ()


class Tell(Struct, frozen=True):
    """All that a turn of a worker has to say. Answered once its reports are committed; idempotent by fence.

    `credit`, `number` and `turn` as in `WorkListen`; None leaves the credit as it is.
    """

    worker: WorkerId
    reports: Annotated[tuple[Report, ...], Batch] = ()
    stopped: Annotated[tuple[Fence, ...], Orders] = ()
    given_back: Annotated[tuple[Fence, ...], Orders] = ()
    progress: Annotated[tuple[Progress, ...], Batch] = ()
    begun: Annotated[tuple[Fence, ...], Orders] = ()  # attempts that have been running for a while
    credit: Natural | None = None
    number: Natural = 1
    turn: Natural = 0


class Heartbeat(Struct, frozen=True):
    """A worker lives."""

    worker: WorkerId
    health: Health


class FetchFunction(Struct, frozen=True):
    """The pickled task of a lease."""

    digest: bytes  # a digest, or nonsense of any length


class WorkerArgs(Struct, frozen=True):
    """One worker, by id or (for operators) by name."""

    worker: WorkerId


# --- the admin desk -------------------------------------------------------------------------------------------------


class Shutdown(Struct, frozen=True):
    """Stop the master: after a drain, or at once."""

    drain: bool = True


class MasterInfo(Struct, frozen=True):
    """Who answers at an address."""

    pid: int
    address: str
    store: str
    epoch: int
    version: str
    python: str
    started: float  # wall time
    is_draining: bool = False
    store_trouble: str = ""  # why the store takes no jobs now; empty: it does


# --- the table ------------------------------------------------------------------------------------------------------


class Call(Struct, frozen=True):
    """One entry: its arguments' record, its answer's type, who may call it."""

    args: type[Struct]
    answer: Any
    roles: frozenset[Role]
    # Not idempotent by itself: the request's id and answer are committed together with its effect, so that a repeated
    # request, after a restart too, is answered and not carried out again.
    is_once: bool = False
    # A long poll. Its method is handed a `Reply` too: another thread may give the answer through it, and then that counts.
    is_long: bool = False
    # Its answer may be as long as a frame, so a server makes only a few of them at a time for one peer.
    is_heavy: bool = False


_EVERYONE = frozenset(Role)
_CLIENTS = frozenset({Role.CLIENT, Role.ADMIN})
_WORKERS = frozenset({Role.WORKER})
_ADMINS = frozenset({Role.ADMIN})

CALLS: dict[tuple[str, str], Call] = {
    ("jobs", "open"): Call(Nothing, Opened, _CLIENTS),
    ("jobs", "close"): Call(Session, None, _CLIENTS),
    ("jobs", "submit"): Call(Submit, bool, _CLIENTS),
    ("jobs", "listen"): Call(Listen, Told, _CLIENTS, is_long=True),
    ("jobs", "watch"): Call(Watch, tuple[JobInfo | None, ...], _CLIENTS),
    ("jobs", "cancel"): Call(Cancel, tuple[bool, ...], _CLIENTS),
    ("jobs", "info"): Call(JobArgs, JobInfo, _CLIENTS),
    ("jobs", "outcome"): Call(JobArgs, Outcome | None, _CLIENTS, is_heavy=True),
    ("jobs", "page"): Call(Page, PageOfJobs, _CLIENTS),
    ("jobs", "history"): Call(JobArgs, JobHistory, _CLIENTS),
    ("jobs", "output"): Call(JobArgs, bytes, _CLIENTS, is_heavy=True),
    ("jobs", "parts"): Call(JobArgs, JobParts, _CLIENTS, is_heavy=True),
    ("jobs", "result"): Call(JobArgs, Outcome | None, _CLIENTS, is_heavy=True),
    ("jobs", "read_output"): Call(ReadOutput, Piece, _CLIENTS),
    ("jobs", "explain"): Call(JobArgs, str, _CLIENTS),
    ("jobs", "requeue"): Call(Requeue, tuple[JobInfo, ...], _CLIENTS, is_once=True),
    ("jobs", "purge"): Call(Purge, int, _CLIENTS),
    ("jobs", "stats"): Call(Nothing, Stats, _CLIENTS),
    ("jobs", "workers"): Call(Nothing, tuple[WorkerInfo, ...], _CLIENTS),
    ("jobs", "pause"): Call(QueueArgs, None, _CLIENTS),
    ("jobs", "resume"): Call(QueueArgs, None, _CLIENTS),
    ("work", "register"): Call(Register, Welcome, _WORKERS),
    ("work", "listen"): Call(WorkListen, Work, _WORKERS, is_long=True),
    ("work", "tell"): Call(Tell, None, _WORKERS),
    ("work", "heartbeat"): Call(Heartbeat, None, _WORKERS),
    ("work", "fetch_function"): Call(FetchFunction, FunctionBlob, _WORKERS, is_heavy=True),
    ("work", "leave"): Call(WorkerArgs, None, _WORKERS),
    ("admin", "ping"): Call(Nothing, MasterInfo, _EVERYONE),
    ("admin", "drain"): Call(WorkerArgs, None, _ADMINS),
    ("admin", "undrain"): Call(WorkerArgs, None, _ADMINS),
    ("admin", "shutdown"): Call(Shutdown, None, _ADMINS),
}
