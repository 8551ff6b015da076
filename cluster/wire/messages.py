"""What workers and clients say to the master besides the core's own records, and what it says back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from cluster.core.bounds import Amount, Count, Few, Figure, LongText, Natural, Text, Whole
from cluster.core.records import Certificate, Fence, FunctionBlob, JobId, JobSpec, Lease, Stop, WorkerId
from cluster.core.states import JobState


class SlotHealth(Struct, frozen=True, gc=False, kw_only=True):
    """One slot's child process at the last heartbeat."""

    slot: Natural
    pid: Natural = 0
    job: JobId = ""
    seconds: Figure = 0.0  # how long it has been at that job
    memory: Natural = 0  # resident bytes
    cpu_percent: Figure = 0.0  # of one core, since the last heartbeat


class Health(Struct, frozen=True, gc=False, kw_only=True):
    """A host as its worker sees it (psutil)."""

    cpu_percent: Figure = 0.0  # of all cores, since the last heartbeat
    load: tuple[Figure, Figure, Figure] = (0.0, 0.0, 0.0)
    memory_total: Natural = 0
    memory_available: Natural = 0
    # What jobs with a memory limit may have in all now, and could have at most; 0: none can be held to one here.
    memory_room: Whole = 0
    memory_most: Whole = 0
    is_short_of_memory: bool = False  # so little is left that it asks for less work
    disk_free: Natural = 0  # where the worker keeps its scratch folders
    network_sent: Natural = 0  # bytes since boot
    network_received: Natural = 0
    slots: Annotated[tuple[SlotHealth, ...], Few] = ()


class Hello(Struct, frozen=True, gc=False, kw_only=True):
    """A worker's registration."""

    worker: WorkerId
    name: Text
    host: Text
    pid: Natural
    slots: Count
    resources: Annotated[tuple[tuple[Text, Amount], ...], Few] = ()
    labels: Annotated[tuple[tuple[Text, Text], ...], Few] = ()
    memory_room: Whole = 0  # as in `Health`, when it registers
    memory_most: Whole = 0


class Poll(Struct, frozen=True, gc=False):
    """The master's answer to a worker that asks for work."""

    leases: tuple[Lease, ...] = ()
    stops: tuple[Stop, ...] = ()


class Progress(Struct, frozen=True, gc=False):
    """What a running job says of itself: by `current_job().progress(done, total, note)`, or by printing."""

    fence: Fence
    done: Figure
    total: Figure
    note: LongText = ""
    output: bytes = b""  # of what it has printed, from byte `offset` on; then the rest says nothing
    offset: Natural = 0


class Refusal(Struct, frozen=True, gc=False, omit_defaults=True):
    """Why a job was not admitted, or was undone because its admission could not be made durable."""

    job: JobId
    kind: str  # "refused", "key", "store"
    reason: str
    other: JobId = ""  # the job that holds the key


class WorkerInfo(Struct, frozen=True, gc=False, kw_only=True):
    """A worker as listings show it."""

    id: WorkerId
    name: str
    host: str
    pid: int
    state: str  # "ready", "draining", "quarantined", "lost"
    slots: int
    running: int
    resources: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    health: Health = Health()
    trouble: str = ""  # why it takes less work than it could


class Stats(Struct, frozen=True, gc=False, kw_only=True):
    """The master's counters since it started, and how many jobs are in each state now."""

    states: dict[str, int]
    queues: dict[str, int]  # jobs that may be leased now, by queue
    paused: tuple[str, ...]
    submitted: int
    completed: int
    failed_attempts: int
    retried: int
    dead: int
    fenced: int  # late or repeated reports that were refused
    workers: int
    slots: int
    store: str
    security: dict[str, int] = {}  # security events of the master's process, by kind: docs/reference/audit.md


class JobHistory(Struct, frozen=True, gc=False):
    """Each unsuccessful attempt of a job, oldest first, over all its runs."""

    job: JobId
    state: JobState
    attempts: tuple[tuple[int, Certificate], ...]  # (run, certificate)


class JobParts(Struct, frozen=True, gc=False):
    """What a job was submitted with. Its arguments and task are as opaque to the master as ever."""

    spec: JobSpec
    function: FunctionBlob
