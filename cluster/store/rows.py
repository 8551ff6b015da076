"""Rows of the store back to records of the board, each checked against its seal; `scribe.py` is the other direction.

What SQL must search or order by is a column of its own; the rest is one msgpack body, defined here for both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import MsgspecError, Raw, Struct

from cluster.core.effects import LeasedJob, StoredJob
from cluster.core.records import Certificate, Fence, FunctionBlob, JobId, JobSpec, Options, Outcome
from cluster.core.states import JobState
from cluster.store.leases import Batch
from cluster.store.seal import Seal, is_payload_of

# Distinct options and function digests that are kept to be shared by the jobs read from a store.
MAX_SHARED = 10_000

# Where payloads are in a row of `stories`.
ARGS_DIGEST, ARGS = 5, 6
PAYLOAD_DIGEST, PAYLOAD = 15, 16
# In a row of `live_jobs`, behind the columns that it shares with a story: requeues or failed attempts are stored too.
HAS_PAST = 8


class JobBody(Struct, frozen=True, array_like=True, gc=False):
    """What `Admitted` says besides columns. New fields go last, with a default: older rows lack them."""

    submitted: float
    due: float
    expires: float
    options: Raw
    after: tuple[JobId, ...]
    inputs: tuple[JobId, ...]
    delay: float
    at: float | None
    expires_in: float | None
    items: int
    batch: str
    first: int


class OutcomeBody(Struct, frozen=True, array_like=True, gc=False):
    """What `Outcome` says besides columns and payload."""

    ended: float
    certificate: Certificate | None
    attempts: int
    worker: str
    items: int


class AttemptBody(Struct, frozen=True, array_like=True, gc=False):
    """What `AttemptFailed` says besides columns and output."""

    certificate: Certificate
    failures: int
    crashes: int
    due: float
    progress: bytes
    outgrown: int = 0


class FunctionBody(Struct, frozen=True, array_like=True, gc=False):
    """What `FunctionBlob` says besides digest and code."""

    python: str
    pickler: str
    name: str
    reusable: bool


class Marks(Struct, frozen=True, array_like=True):
    """The highest numbers that were ever given out, deleted and undone jobs included."""

    next_seq: int
    max_fence: Fence
    filed: int = 0  # the last commit whose records are in the tables, by its number in the journal


# What reading a body raises that was sealed by us, and not written by this version: another type, another state, text that
# is none, nested without end.
UNREADABLE = (MsgspecError, ValueError, RecursionError)


class BadSealError(Exception):
    """A row is not what was written."""

    def __init__(self, what: str, table: str, job: str = "") -> None:
        super().__init__(what, table, job)
        self.what = what
        self.table = table
        self.job = job  # whose it is, or says that it is; empty: no job's

    def __str__(self) -> str:
        return f"{self.what} is not what this cluster wrote"


_decode_job = msgspec.msgpack.Decoder(JobBody).decode
_decode_options = msgspec.msgpack.Decoder(Options).decode
_decode_outcome = msgspec.msgpack.Decoder(OutcomeBody).decode
_decode_attempt = msgspec.msgpack.Decoder(AttemptBody).decode
_decode_function = msgspec.msgpack.Decoder(FunctionBody).decode
_decode_leases = msgspec.msgpack.Decoder(tuple[tuple[int, int, int, int], ...]).decode
_decode_marks = msgspec.msgpack.Decoder(Marks).decode


class Reader:
    """Turns rows back into records; each method raises `BadSealError` at a row that is not what was written.

    May be used from any thread: what it keeps is only a cache, and losing a race there costs a second equal object.
    """

    def __init__(self, seal: Seal) -> None:
        self._fits = seal.fits
        self._digests: dict[bytes, bytes] = {}
        self._options: dict[bytes, Options] = {}

    def story(self, row: Sequence[Any], holder: tuple[Fence, str] = (0, "")) -> StoredJob:
        """A row of `stories`, its payloads as they are there: the caller compares long ones with their digests."""
        seq, job = row[:2]
        spec, said_of_job = self._spec(row)
        run, requeued_at, requeue_mac, *past = row[8:]
        if run is None:
            run = 1
        else:
            self._check(requeue_mac, f"requeue {run} of job {job!r}", ("requeues", seq, job, run, requeued_at), job)
        outcome = None if past[0] is None else self.outcome(seq, job, past[:7])
        failed_attempts, fence, attempt_body, attempt_mac = past[7:]
        lease, worker = (0, "") if outcome else holder
        if not failed_attempts:
            return StoredJob(
                seq=seq, spec=spec, submitted=said_of_job.submitted, run=run, due=said_of_job.due,
                expires=said_of_job.expires, attempts=_attempts(0, lease, outcome), fence=lease, worker=worker,
                outcome=outcome,
            )  # fmt: skip
        last = self._attempt(seq, job, (run, fence, attempt_body, attempt_mac))
        return StoredJob(
            seq=seq, spec=spec, submitted=said_of_job.submitted, run=run, due=last.due, expires=said_of_job.expires,
            attempts=_attempts(failed_attempts, lease, outcome), failures=last.failures, crashes=last.crashes,
            outgrown=last.outgrown, progress=last.progress, fence=lease, worker=worker, outcome=outcome,
        )  # fmt: skip

    def whole_story(self, row: Sequence[Any], holder: tuple[Fence, str] = (0, "")) -> StoredJob:
        """The same, its payloads compared with their digests."""
        stored = self.story(row, holder)
        if not is_payload_of(row[ARGS_DIGEST], row[ARGS]):
            raise BadSealError(f"the arguments of job {stored.spec.id!r}", "jobs", stored.spec.id)
        if not is_payload_of(row[PAYLOAD_DIGEST], row[PAYLOAD]):
            raise BadSealError(f"the result of job {stored.spec.id!r}", "outcomes", stored.spec.id)
        return stored

    def whole_admission(self, row: Sequence[Any], holder: tuple[Fence, str]) -> StoredJob:
        """A row of `jobs`, its arguments compared with their digest, of a job that was leased at most."""
        spec, said = self._spec(row)
        if row[ARGS_DIGEST] is not None and not is_payload_of(row[ARGS_DIGEST], row[ARGS]):
            raise BadSealError(f"the arguments of job {spec.id!r}", "jobs", spec.id)
        fence, worker = holder
        return StoredJob(
            seq=row[0], spec=spec, submitted=said.submitted, due=said.due, expires=said.expires,
            attempts=_attempts(0, fence, None), fence=fence, worker=worker,
        )  # fmt: skip

    def _spec(self, row: Sequence[Any]) -> tuple[JobSpec, JobBody]:
        """What the columns of `jobs` say, with which a story begins too."""
        seq, job, key, function, body, digest, args, mac = row[:8]
        if not self._fits(mac, "jobs", seq, job, key, function, body, digest, b"" if digest is not None else args):
            raise BadSealError(f"job {job!r}", "jobs", str(job))
        said = _decode_job(body)
        spec = JobSpec(
            job, self._shared_digest(function), args or b"", self._shared_options(said.options),
            said.after, said.inputs, said.delay, said.at, said.expires_in,
            key or "", said.items, said.batch, said.first,
        )  # fmt: skip
        return spec, said

    def outcome(self, seq: int, job: JobId, row: Sequence[Any]) -> Outcome:
        """The columns of an outcome from `run` to `mac`."""
        run, state, keep_until, body, digest, payload, mac = row
        said = (seq, job, run, state, keep_until, body, digest, b"" if digest is not None else payload)
        self._check(mac, f"the outcome of run {run} of job {job!r}", ("outcomes", *said), job)
        said_of_outcome = _decode_outcome(body)
        return Outcome(
            job, run, JobState(state), said_of_outcome.ended, payload or b"", said_of_outcome.certificate,
            said_of_outcome.attempts, said_of_outcome.worker, said_of_outcome.items,
        )  # fmt: skip

    def certificate(self, seq: int, job: JobId, row: Sequence[Any]) -> Certificate:
        """The death certificate in a row of `attempts`."""
        return self._attempt(seq, job, row).certificate

    def output(self, seq: int, job: JobId, row: Sequence[Any]) -> bytes:
        """What a row of `outputs` holds."""
        run, fence, output, mac = row
        self._check(mac, f"the output of run {run} of job {job!r}", ("outputs", seq, run, fence, output), job)
        return bytes(output)

    def function(self, row: Sequence[Any]) -> FunctionBlob:
        """A row of `functions`; the caller compares long code with its digest."""
        digest, body, code_digest, code, mac = row
        said = (digest, body, code_digest, b"" if code_digest is not None else code)
        self._check(mac, function_name(digest), ("functions", *said))
        about = _decode_function(body)
        return FunctionBlob(digest, code, about.python, about.pickler, about.name, about.reusable)

    def whole_function(self, row: Sequence[Any]) -> FunctionBlob:
        """The same, its code compared with its digest."""
        blob = self.function(row)
        if not is_payload_of(row[2], blob.body):
            raise BadSealError(function_name(blob.digest), "functions")
        return blob

    def batch(self, row: Sequence[Any]) -> Batch:
        """A row of `leases`."""
        first, worker, body, mac = row
        self._check(mac, f"the lease batch {first} of worker {worker!r}", ("leases", first, worker, body))
        return Batch(worker, [LeasedJob(*job) for job in _decode_leases(body)])

    def paused(self, row: Sequence[Any]) -> str:
        """A row of `queues`."""
        name, mac = row
        self._check(mac, f"the paused queue {name!r}", ("queues", name))
        return str(name)

    def answer(self, row: Sequence[Any]) -> bytes:
        """A row of `requests`."""
        request, keep_until, answer, mac = row
        self._check(mac, f"the answer to request {request!r}", ("requests", request, keep_until, answer))
        return bytes(answer)

    def journaled(self, row: Sequence[Any]) -> tuple[int, bytes]:
        """A row of `journal`: its number, and the group."""
        entry, body, mac = row
        self._check(mac, f"entry {entry} of the journal", ("journal", entry, body))
        return int(entry), bytes(body)

    def meta(self, row: Sequence[Any]) -> tuple[str, bytes]:
        """A row of `meta`."""
        name, body, mac = row
        self._check(mac, f"the store's own row {name!r}", ("meta", name, body))
        return name, body

    def _attempt(self, seq: int, job: JobId, row: Sequence[Any]) -> AttemptBody:
        run, fence, body, mac = row
        self._check(mac, f"a failed attempt of job {job!r}", ("attempts", seq, job, run, fence, body), job)
        return _decode_attempt(body)

    def _check(self, mac: object, what: str, said: tuple[Any, ...], job: object = "") -> None:
        if not self._fits(mac, *said):
            raise BadSealError(what, str(said[0]), str(job))

    def _shared_digest(self, digest: bytes) -> bytes:
        found = self._digests.get(digest)
        if found is None:
            if len(self._digests) > MAX_SHARED:
                self._digests.clear()
            found = self._digests[digest] = digest
        return found

    def _shared_options(self, packed: Raw) -> Options:
        found = self._options.get(raw := bytes(packed))
        if found is None:
            if len(self._options) > MAX_SHARED:
                self._options.clear()
            found = self._options[raw] = _decode_options(raw)
        return found


def ended_at(body: bytes) -> float:
    """When a run ended, by the body of its outcome; never, of one that can't be read and is named elsewhere."""
    try:
        return _decode_outcome(body).ended
    except (*UNREADABLE, TypeError):  # TypeError: its seal was not looked at, so it may be a number, or nothing
        return float("inf")


def function_name(digest: object) -> str:
    """How messages call a function that may not be read: by its digest, or by what someone has put in its place."""
    return f"function {digest.hex()[:16] if isinstance(digest, bytes) else repr(digest)[:40]}"


def marks_from(body: bytes | None) -> Marks:
    """The marks of an opening."""
    return Marks(1, 0) if body is None else _decode_marks(body)


def _attempts(failed: int, lease: Fence, outcome: Outcome | None) -> int:
    """Leases of a run that were not given back: those that failed, and one that is out; or as its outcome says."""
    return outcome.attempts if outcome else failed + bool(lease)
