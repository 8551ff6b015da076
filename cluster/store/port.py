"""The Store port: what the master asks of a durable record, and what every adapter must hold.

One thread at a time calls `commit` (the committer); the reading methods may be called from any thread at any moment and
see committed records only. A `commit` is atomic and, when it returns, durable as far as the adapter promises. A commit
that raised may have happened or not; the caller then sends the same records again, with `Undone` for the admissions it
gave up, so every record must be written idempotently.

Recovery is derived: no row holds a job's state. A job lives while its current run has no outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from cluster.core.effects import Record, StoredJob
from cluster.core.records import Certificate, Digest, Fence, FunctionBlob, JobId, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreTampered


class Opening(Struct, frozen=True):
    """What a master needs to know before it goes on with a store."""

    epoch: int  # already raised and durable: greater than any earlier opening's, so that fences never repeat
    next_seq: int
    max_fence: int  # the highest fence that any record names
    paused: tuple[str, ...]  # queues
    tampered: tuple[str, ...]  # one sentence for each record whose seal does not fit; left out of everything else


class Room(Struct, frozen=True):
    """What `make_room` has come to."""

    dropped: int  # jobs
    excess: int  # bytes that are still too many
    is_exhausted: bool  # nothing is left to drop, as far as one call can tell


class Store(Protocol):
    """A durable record of jobs. See the module's docstring for the rules of threads and failures."""

    url: str
    # True: a commit is a few dictionary writes, so whoever appended to the log may carry it out itself.
    is_instant: bool
    # One sentence for each tampered record that was come across, also in the log as `tampered: table=... job=...`; it grows
    # with reading, so `Opening.tampered` holds only what `open` itself came to.
    tampered: list[str]
    on_tampered: Callable[[str], None]  # called with each of those, from whichever thread reads; must not block

    def open(self) -> Opening:
        """Take sole possession, check the format, raise the epoch. Raises `StoreError` and its kinds."""

    def live_jobs(self) -> Iterator[StoredJob]:
        """Every job whose current run has no outcome, in order of admission."""

    def functions(self, digests: Sequence[Digest]) -> Iterator[FunctionBlob]:
        """The stored tasks of these digests; an unknown or tampered one is left out."""

    def commit(self, records: Sequence[Record]) -> None:
        """Write all records, in order, or none."""

    def tidy(self) -> bool:
        """Do a bounded piece of what a commit has put off; True if there is more. For the committing thread's idle time.

        Raises `StoreError`, and then nothing is lost: what is put off is durable.
        """

    def find(self, job: JobId) -> StoredJob | None:
        """A job with the outcome of its current run. Raises `StoreTampered`."""

    def find_all(self, jobs: Sequence[JobId]) -> Iterator[tuple[JobId, StoredJob | StoreTampered]]:
        """Those of these jobs that are there, in this order, each as `find` has it, or what `find` raises of it.

        They are looked up many at a time, and handed out while no more than some MB of them are held.
        """

    def find_key(self, key: str) -> StoredJob | None:
        """The job that was admitted with this `key`."""

    def outcome(self, job: JobId) -> Outcome | None:
        """The outcome of the job's current run, payload and all. Raises `StoreTampered`."""

    def result(self, job: JobId) -> Outcome | None:
        """The outcome of the job's latest run that completed, payload and all: a requeue does not take a result away
        from those who were promised it. Raises `StoreTampered`.
        """

    def history(self, job: JobId) -> list[tuple[int, Certificate]]:
        """(run, certificate) of each unsuccessful attempt, oldest first, the last one of a dead run included."""

    def outputs(self, job: JobId) -> list[tuple[Fence, bytes]]:
        """What each attempt that printed anything printed, by its fence, oldest first."""

    def output(self, job: JobId) -> bytes:
        """The same as one text."""

    def answer(self, request: str) -> bytes | None:
        """What an earlier request of this id was answered; None if there was none, or it is forgotten."""

    def page(self, after: int, limit: int, state: JobState | None = None) -> list[StoredJob]:
        """Jobs with `seq > after`, ascending, without payloads (`spec.args` and `outcome.payload` empty).

        With a terminal `state` only those in it. A tampered job is a dead letter whose certificate says so, and all that
        is told of it is its name.
        """

    def prune(self, wall: float, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> int:
        """Drop ended jobs whose retention is over, and answers that nobody asks for any more; how many jobs.

        The caller sees to it that nobody decides on an ended job between `is_needed` and the deletion.
        """

    def drop_outputs(self, before: float, limit: int = 10_000) -> int:
        """Drop what was printed in runs that ended before that wall time; how many runs. All else of them stays.

        One call may look at a part of the store only; call it regularly, it goes round.
        """

    def make_room(self, max_bytes: int, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> Room:
        """If more than that is in use, drop ended jobs: the oldest first, and dead letters after all others.

        As for `prune`, nobody may decide on an ended job between `is_needed` and the deletion. One call may look at a
        part of the store only: call it again until the room is there, or it is exhausted.
        """

    def size(self) -> int:
        """Bytes on disk (or an estimate in memory)."""

    def close(self) -> None:
        """Give up possession. May be called twice."""


def without_payloads(stored: StoredJob) -> StoredJob:
    """A job as `page` gives it."""
    outcome = stored.outcome
    return replace(
        stored,
        spec=replace(stored.spec, args=b""),
        outcome=replace(outcome, payload=b"") if outcome else None,
    )
