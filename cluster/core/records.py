"""The nouns of the kit as frozen records: time, options, specifications, leases, reports, certificates, outcomes.

They are `msgspec` structs: as cheap to make as tuples, typed, immutable, and data only, so that the same records serve
the board, the store and the wire. `gc=False` keeps a million of them out of the garbage collector's rounds; it is safe
because none of them can be part of a cycle (they hold strings, numbers, bytes and tuples of such).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from cluster.core.bounds import (
    MAX_LIMITS,
    Amount,
    Count,
    Factor,
    Few,
    Figure,
    Fraction,
    LongText,
    Name,
    Natural,
    Orders,
    Priority,
    Seconds,
    Size,
    Text,
    Wall,
    Whole,
)
from cluster.core.states import JobState

JobId: TypeAlias = Text
WorkerId: TypeAlias = Text  # name + "#" + a random incarnation: a name that comes back is another worker
Fence: TypeAlias = Natural  # names one lease; grows, and never repeats, across restarts and restores
Digest: TypeAlias = Annotated[bytes, Meta(max_length=64)]
# Opaque to everyone but the child that runs the job and the client that submitted it. Bytes in hand today; a
# reference to a shared segment joins this union with the issue on big payloads.
Payload: TypeAlias = bytes


class Now(Struct, frozen=True, gc=False):
    """The time as the shells hand it in. `mono` rules every deadline; `wall` is only displayed and stored."""

    mono: float
    wall: float


class RetryRule(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """How often, and how soon, a job runs again after its own failure (exception, timeout, unpicklable result).

    The delay before re-run n (1, 2, ...) is `backoff * factor ** (n - 1)` seconds, at most `max_delay`, shortened by
    up to `jitter` (a fraction) so that jobs that failed together don't come back together.
    """

    max_retries: Count = 0
    backoff: Seconds = 1.0
    factor: Factor = 2.0
    max_delay: Seconds = 300.0
    jitter: Fraction = 0.1
    # Qualified names of exception classes ("builtins.OSError"); a failure is retried only if its class or one of its
    # bases is among them. Empty: every failure is. The client turns classes into names, for the master imports none.
    retry_on: Annotated[tuple[LongText, ...], Few] = ()


NO_RETRIES = RetryRule()


class Options(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What a caller may say about a job besides function and arguments. Jobs of one kind share one record."""

    name: LongText = ""
    queue: Name = "default"
    priority: Priority = 0
    retry: RetryRule = NO_RETRIES
    crash_limit: Count = 5
    timeout: Seconds | None = None  # seconds for one attempt (of one item, in a map)
    resources: Annotated[tuple[tuple[Text, Amount], ...], Few] = ()  # besides one slot
    # Bytes that an attempt may take, its process and all that it starts; empty: no limit. The first holds until an
    # attempt ran out of memory, the next one from then on, and so on; the last one for the rest.
    memory: Annotated[tuple[Size, ...], Meta(max_length=MAX_LIMITS)] = ()
    labels: Annotated[tuple[tuple[Text, Text], ...], Few] = ()  # the worker must carry all of them
    tags: Annotated[tuple[Text, ...], Few] = ()
    result_ttl: Seconds = 7 * 86400.0  # seconds the outcome is kept
    echo: bool = False  # its client wants to hear at once of what it prints


DEFAULT_OPTIONS = Options()


class Budget(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What a requeued job may spend from its new run on, where that differs from before."""

    retries: Count | RetryRule | None = None  # a number keeps the delays and `retry_on`; None keeps everything
    crash_limit: Count | None = None


SAME_BUDGET = Budget()


class FunctionBlob(Struct, frozen=True, gc=False):
    """A pickled task, sent once per content and named by its digest."""

    digest: Digest
    body: bytes
    python: Text  # "3.11": the minor version that pickled it; another one refuses it unread
    pickler: Text  # cloudpickle's version, likewise
    name: LongText  # qualified name, for people
    reusable: bool = False  # the child may keep it loaded: nothing mutable was captured


class JobSpec(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """One request to run a task with arguments, as the client made it. The id is the client's."""

    id: Name
    function: Digest
    args: Payload  # pickled (args, kwargs); for a chunk see `items`
    options: Options = DEFAULT_OPTIONS
    after: Annotated[tuple[JobId, ...], Orders] = ()  # every one must complete first; holds `inputs` too
    inputs: Annotated[tuple[JobId, ...], Orders] = ()  # those whose results replace a Job among the arguments
    delay: Seconds = 0.0  # seconds from admission until due
    at: Wall | None = None  # or due at this wall time
    expires: Seconds | None = None  # seconds from admission
    key: Text = ""  # same key, same function: the same job
    items: Count = 0  # > 0: a chunk of a map; `args` is then a pickled list of so many argument tuples
    batch: Text = ""  # the map's id
    first: Natural = 0  # index of the chunk's first item in its map


class Ending(IntEnum):
    """How one attempt ended, or why a job ended without one."""

    SUCCEEDED = 1
    RAISED = 2  # the task's own exception
    UNPICKLABLE = 3  # its arguments, result or exception can't be pickled or unpickled
    TIMED_OUT = 4
    CRASHED = 5  # signal, exit, abort
    OUT_OF_MEMORY = 6
    WORKER_LOST = 7
    ENVIRONMENT = 8  # pickled by another Python or cloudpickle
    CANCELLED = 9
    EXPIRED = 10
    DEPENDENCY = 11
    ADMISSION = 12  # its admission could not be made durable
    TAMPERED = 13  # its record in the store is not what the cluster wrote: kept aside, neither run nor answered


class Certificate(Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Why an attempt, or a whole job, did not succeed, and what was known at that moment."""

    ending: Ending
    reason: LongText  # one sentence
    attempt: Natural = 0
    worker: Text = ""
    host: Text = ""
    pid: Natural = 0
    error_types: Annotated[
        tuple[LongText, ...], Few
    ] = ()  # qualified names along the exception's MRO, most special first
    message: LongText = ""
    traceback: LongText = ""
    signal: Whole = 0
    exit_code: Whole | None = None
    started: Wall = 0.0  # wall time
    seconds: Figure = 0.0  # from start to end
    peak_memory: Natural = 0  # bytes, highest resident size of the process that ran it
    cpu_seconds: Figure = 0.0
    output_tail: LongText = ""  # the last lines that the job printed
    item: Whole = -1  # of a chunk: the item it is about, counted within the chunk

    @property
    def place(self) -> str:
        """Where it ended, as far as that is known; empty if no worker had it."""
        if not self.worker:
            return ""
        host = f" on {self.host}" if self.host else ""
        return f"{self.worker}{host}, pid {self.pid}" if self.pid else f"{self.worker}{host}"


class Segment(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """Outcome of `count` neighbouring items of a chunk, from item `first` on.

    Without a certificate `data` is a pickled list of `count` results. With one it is a single item's pickled
    exception, or empty where there is none to rebuild.
    """

    first: Natural
    count: Count
    data: Payload
    certificate: Certificate | None = None
    # What running its items took, without the way there and back; 0 if nobody knows. Items before a failed one are in its.
    seconds: Figure = 0.0


class Report(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """What a worker says of one lease when its attempt has ended."""

    fence: Fence
    ending: Ending
    payload: Payload = b""  # pickled result, or pickled exception
    certificate: Certificate | None = None  # unless it succeeded
    output: bytes = b""  # what the job printed, capped
    segments: tuple[Segment, ...] = ()  # of a chunk: the items that ended in this attempt, failed ones too
    seconds: Figure = 0.0


class Lease(Struct, frozen=True, array_like=True, gc=False):
    """One attempt handed to a worker: all that it needs to run it."""

    fence: Fence
    job: JobId
    run: int
    attempt: int  # 1, 2, ... within the run
    function: Digest
    args: Payload
    options: Options
    inputs: tuple[tuple[JobId, Payload], ...] = ()
    # Of a chunk: the items still to run, as half-open ranges. `careful` runs them one at a time and tells of each, so
    # that a crash or a timeout is blamed on one item.
    ranges: tuple[tuple[int, int], ...] = ()
    careful: bool = False
    memory: int = 0  # bytes that this attempt may take; 0: no limit


class Stop(Struct, frozen=True, array_like=True, gc=False):
    """An order to a worker: kill this lease's attempt, if it still has it, and say when it is gone."""

    fence: Fence
    ending: Ending  # CANCELLED, EXPIRED or ADMISSION


class Outcome(Struct, frozen=True, array_like=True, gc=False, omit_defaults=True):
    """How a run of a job ended. Committed once."""

    job: JobId
    run: int
    state: JobState
    ended: float  # wall time
    payload: Payload = b""  # pickled result, pickled exception, or a chunk's encoded segments
    certificate: Certificate | None = None
    attempts: int = 0
    worker: str = ""
    items: int = 0  # > 0: `payload` is `cluster.core.chunks.encode`d


class JobInfo(Struct, frozen=True, gc=False, kw_only=True):
    """A job as listings show it."""

    id: JobId
    name: str
    state: JobState
    queue: str = "default"
    priority: int = 0
    run: int = 1
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    worker: str = ""
    submitted: float = 0.0  # wall times; 0 where it has not happened
    started: float = 0.0
    ended: float = 0.0
    tags: tuple[str, ...] = ()
    batch: str = ""
    items: int = 0
    certificate: Certificate | None = None
