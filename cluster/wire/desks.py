"""The master's desks as interfaces: what a client and a worker may ask, and how they are answered.

In embedded mode the caller holds the real desk; connected, a proxy of the same interface. A desk never calls back into
its caller's locks: answers that come later go to a `Sink` or wake a worker through its `wake`, from any thread, and
neither may block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.core.printed import Piece, Place
from cluster.core.records import (
    SAME_BUDGET,
    Budget,
    Digest,
    Fence,
    FunctionBlob,
    JobId,
    JobInfo,
    JobSpec,
    Options,
    Outcome,
    Report,
    WorkerId,
)
from cluster.wire.messages import Health, Hello, JobHistory, JobParts, Poll, Progress, Refusal, Stats, WorkerInfo


class Sink(Protocol):
    """How the jobs desk talks back to one client, after the commit that makes it true."""

    def opened(self, defaults: Options) -> None:
        """The session is open, at a restarted master perhaps; jobs that say nothing themselves get these options."""

    def accepted(self, jobs: Sequence[JobId]) -> None:
        """These jobs are durable."""

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """These jobs were not admitted, or their admission was undone; no outcome will follow."""

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """These jobs of this client's, or watched by it, have their committed outcome. Implies `accepted`."""

    def progressed(self, job: JobId, progress: Progress) -> None:
        """A running job said how far it is."""

    def printed(self, job: JobId) -> None:
        """A running job that is to be echoed has printed something; read it. This word may get lost."""


class JobsDesk(Protocol):
    """What clients may ask."""

    def open(self, sink: Sink) -> int:
        """A session number for further calls."""

    def close(self, session: int) -> None:
        """Forget the session; its jobs go on."""

    def submit(self, session: int, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        """Admit jobs in this order. Every one is answered by `accepted`, `refused` or `ended`."""

    def cancel(self, jobs: Sequence[JobId], timeout: float) -> list[bool]:
        """For each job: True once CANCELLED is committed, False if it had ended otherwise (or is unknown)."""

    def watch(self, session: int, job: JobId) -> JobInfo:
        """Have the job's outcome told to this session, at once if it has one. Raises `UnknownJob`."""

    def info(self, job: JobId) -> JobInfo:
        """The job now. Raises `UnknownJob`."""

    def page(
        self,
        *,
        state: str | None = None,
        tag: str | None = None,
        batch: str | None = None,
        queue: str | None = None,
        limit: int = 1000,
        after: int = 0,
    ) -> tuple[list[JobInfo], int]:
        """One page of jobs, in order of admission, and the mark from which the next page goes on (0: no more)."""

    def history(self, job: JobId) -> JobHistory:
        """Its unsuccessful attempts. Raises `UnknownJob`."""

    def output(self, job: JobId) -> bytes:
        """What its attempts printed, oldest first, capped. Raises `UnknownJob`."""

    def parts(self, job: JobId) -> JobParts:
        """What the job was submitted with, for whoever wants to run it by hand. Raises `UnknownJob` or `Refused`."""

    def result(self, job: JobId) -> Outcome | None:
        """The durable outcome of its latest run that completed; None if none has. Raises `UnknownJob`."""

    def read_output(self, job: JobId, place: Place, timeout: float) -> Piece:
        """What its attempts printed after `place`, waited for no longer than that. Raises `UnknownJob`."""

    def explain(self, job: JobId) -> str:
        """Why the job is where it is, in a sentence or a few. Raises `UnknownJob`."""

    def requeue(self, jobs: Sequence[JobId], budget: Budget = SAME_BUDGET) -> list[JobInfo]:
        """Start a new run of each ended job; durable on return. Raises `UnknownJob` or `Refused`, and then none is.

        A budget that is new stays the job's for later runs too.
        """

    def purge(self, jobs: Sequence[JobId]) -> int:
        """Drop these dead letters, history and all; how many there were. Raises `Refused`, and then none is."""

    def stats(self) -> Stats:
        """Counters and states."""

    def workers(self) -> list[WorkerInfo]:
        """Every registered worker."""

    def pause(self, queue: str) -> None:
        """Lease no more jobs of this queue; durable on return. Running ones go on."""

    def resume(self, queue: str) -> None:
        """Undo `pause`."""


class Line(Protocol):
    """How a desk's calls are carried on by its supervisor's thread, which watches it for input and never waits for it."""

    def fileno(self) -> int:
        """Readable when there is something to `hear`. Called by that thread, once."""

    def hear(self) -> None:
        """Take in what has arrived."""

    def speak(self) -> None:
        """Say what there is to say."""


class WorkDesk(Protocol):
    """What workers may ask. Only leases of the calling worker can be touched."""

    def register(self, hello: Hello, wake: Callable[[], None]) -> None:
        """Join; `wake` is called, from any thread, when a poll would bring something."""

    def poll(self, worker: WorkerId, capacity: int) -> Poll:
        """At most `capacity` new leases, and the orders that wait. Does not block. Raises `Refused` if unknown."""

    def fetch_function(self, digest: Digest) -> FunctionBlob:
        """The pickled task of a lease."""

    def report(self, worker: WorkerId, reports: Sequence[Report]) -> None:
        """Ended attempts. Late and repeated ones are fenced off and counted."""

    def give_back(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """Leases that were not begun; no attempt is spent."""

    def stopped(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """Attempts that were ordered to stop, and are gone (or had ended before)."""

    def progress(self, worker: WorkerId, progress: Sequence[Progress]) -> None:
        """What running jobs said of themselves."""

    def begun(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """Attempts that have been running for a while. Not said of short ones; need not arrive."""

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        """Renew all of the worker's leases."""

    def leave(self, worker: WorkerId) -> None:
        """Deregister; what it still held is given back without an attempt spent."""
