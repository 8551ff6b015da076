"""Records of the board to rows of the store, each with its seal; `rows.py` is the other direction.

A row for the inbox (`inbox.sql`) is a tuple of its twelve columns. Numbers that are columns of their own are coerced to
the column's type here, since SQLite would do so anyway and the seal must cover what is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from cluster.core.effects import (
    Admitted,
    Answered,
    AttemptFailed,
    Ended,
    FunctionAdded,
    GivenBack,
    Leased,
    Purged,
    QueuePaused,
    Rebudgeted,
    Record,
    Requeued,
    Undone,
)
from cluster.core.records import Digest, Fence
from cluster.store.leases import Batch, LeaseBook
from cluster.store.rows import AttemptBody, FunctionBody, JobBody, Marks, OutcomeBody
from cluster.store.seal import Seal, digest_of

# kind, seq, run, name, key, number, until, digest, body, payload_digest, payload, mac
Row: TypeAlias = tuple[Any, ...]
COLUMNS = 12
PAYLOAD = 10
PADDING: Row = (None,) * COLUMNS

_encode = msgspec.msgpack.Encoder().encode


class Scribe:
    """Turns commit groups into rows. Used by the thread that commits, only."""

    def __init__(self, seal: Seal, book: LeaseBook, marks: Marks) -> None:
        self._seal = seal
        self._book = book
        self._next_seq = marks.next_seq
        self._max_fence = marks.max_fence
        self._filed = marks.filed
        self._stored_marks = marks
        self._writers: dict[type, Callable[[Any, list[Row]], None]] = {
            Admitted: self._admitted,
            Ended: self._ended,
            Leased: self._leased,
            GivenBack: self._given_back,
            AttemptFailed: self._attempt_failed,
            FunctionAdded: self._function_added,
            Requeued: self._requeued,
            QueuePaused: self._queue_paused,
            Undone: self._undone,
            Answered: self._answered,
            Purged: self._purged,
            Rebudgeted: self._rebudgeted,
        }

    def rows(self, records: Iterable[Record], filed: int = 0) -> list[Row]:
        """The rows of one commit group. Call `written` once they are durable, or `rows` again with the next group.

        Args:
            records: in their order.
            filed: the number of the last commit among them; up to there the journal is over.
        """
        rows: list[Row] = []
        if filed:
            self._filed = max(self._filed, filed)
            rows.append(journal_over_row(filed))
        writers = self._writers
        for record in records:
            writers[type(record)](record, rows)
        rows += [self._lease_row(batch) for batch in self._book.to_write()]
        if self.marks() != self._stored_marks:
            rows.append(self.marks_row())
        return rows

    def marks(self) -> Marks:
        """The highest numbers given out so far."""
        return Marks(self._next_seq, self._max_fence, self._filed)

    def marks_row(self) -> Row:
        """The row that says so."""
        return meta_row(self._seal, "marks", _encode(self.marks()))

    def journal_row(self, entry: int, body: bytes) -> tuple[int, bytes, bytes]:
        """A row of the journal itself, which takes its groups as they are."""
        return (entry, body, self._seal.over("journal", entry, body))

    def written(self) -> None:
        """The rows made last are durable."""
        self._book.written()
        self._stored_marks = self.marks()

    def _admitted(self, record: Admitted, rows: list[Row]) -> None:
        seq, spec = record.seq, record.spec
        if seq >= self._next_seq:
            self._next_seq = seq + 1
        said = JobBody(
            record.submitted, record.due, record.expires, Raw(_encode(spec.options)), spec.after, spec.inputs,
            spec.delay, spec.at, spec.expires, spec.items, spec.batch, spec.first,
        )  # fmt: skip
        body = _encode(said)
        args = spec.args
        digest = digest_of(args)
        key = spec.key or None
        mac = self._seal.over("jobs", seq, spec.id, key, spec.function, body, digest, b"" if digest else args)
        rows.append(("job", seq, None, spec.id, key, None, None, spec.function, body, digest, args, mac))

    def _ended(self, record: Ended, rows: list[Row]) -> None:
        seq, outcome = record.seq, record.outcome
        self._book.end(seq)
        self._saw(record.fence)
        body = _encode(OutcomeBody(outcome.ended, outcome.certificate, outcome.attempts, outcome.worker, outcome.items))
        run, state, keep_until, payload = outcome.run, int(outcome.state), float(record.keep_until), outcome.payload
        digest = digest_of(payload)
        said = ("outcomes", seq, outcome.job, run, state, keep_until, body, digest, b"" if digest else payload)
        mac = self._seal.over(*said)
        rows.append(("outcome", seq, run, None, None, state, keep_until, None, body, digest, payload, mac))
        if record.output:
            rows.append(self._output_row(seq, run, record.fence, record.output))

    def _attempt_failed(self, record: AttemptFailed, rows: list[Row]) -> None:
        seq, run, fence = record.seq, record.run, record.fence
        self._book.end(seq)
        self._saw(fence)
        body = _encode(
            AttemptBody(
                record.certificate, record.failures, record.crashes, record.due, record.progress, record.outgrown
            )
        )
        mac = self._seal.over("attempts", seq, record.job, run, fence, body)
        rows.append(("attempt", seq, run, None, None, fence, None, None, body, None, None, mac))
        if record.output:
            rows.append(self._output_row(seq, run, fence, record.output))

    def _output_row(self, seq: int, run: int, fence: Fence, output: bytes) -> Row:
        mac = self._seal.over("outputs", seq, run, fence, output)
        return ("output", seq, run, None, None, fence, None, None, output, None, None, mac)

    def _leased(self, record: Leased, _rows: list[Row]) -> None:
        self._book.lease(record)
        for job in record.jobs:
            self._saw(job.fence)

    def _given_back(self, record: GivenBack, _rows: list[Row]) -> None:
        for fence in record.fences:
            self._book.give_back(fence)
            self._saw(fence)

    def _saw(self, fence: Fence) -> None:
        self._max_fence = max(self._max_fence, fence)

    def _lease_row(self, batch: Batch) -> Row:
        if not batch.left:
            return ("lease over", None, None, None, None, batch.first, None, None, None, None, None, None)
        body = _encode([(job.fence, job.seq, job.run, job.attempt) for job in batch.left.values()])
        mac = self._seal.over("leases", batch.first, batch.worker, body)
        return ("lease", None, None, batch.worker, None, batch.first, None, None, body, None, None, mac)

    def _function_added(self, record: FunctionAdded, rows: list[Row]) -> None:
        blob = record.blob
        body = _encode(FunctionBody(blob.python, blob.pickler, blob.name, blob.reusable))
        digest = digest_of(blob.body)
        mac = self._seal.over("functions", blob.digest, body, digest, b"" if digest else blob.body)
        rows.append(("function", None, None, None, None, None, None, blob.digest, body, digest, blob.body, mac))

    def _requeued(self, record: Requeued, rows: list[Row]) -> None:
        at = float(record.at)
        mac = self._seal.over("requeues", record.seq, record.job, record.run, at)
        rows.append(("requeue", record.seq, record.run, None, None, None, at, None, None, None, None, mac))

    def _rebudgeted(self, record: Rebudgeted, rows: list[Row]) -> None:
        written: list[Row] = []
        self._admitted(record.admitted, written)
        # Arguments are not written again, and a job that is gone stays gone.
        rows.extend(("budget", *row[1:PAYLOAD], None, row[-1]) for row in written)

    def _queue_paused(self, record: QueuePaused, rows: list[Row]) -> None:
        kind = "pause" if record.paused else "pause over"
        mac = self._seal.over("queues", record.queue)
        rows.append((kind, None, None, record.queue, None, None, None, None, None, None, None, mac))

    def _answered(self, record: Answered, rows: list[Row]) -> None:
        request, until, answer = record.request, float(record.keep_until), record.answer
        mac = self._seal.over("requests", request, until, answer)
        rows.append(("request", None, None, request, None, None, until, None, answer, None, None, mac))

    def _purged(self, record: Purged, rows: list[Row]) -> None:
        rows.append(job_row("forget", record.seq))

    def _undone(self, record: Undone, rows: list[Row]) -> None:
        # Even if it was never written: its number must not be given out again.
        self._next_seq = max(self._next_seq, record.seq + 1)
        rows.append(job_row("undo", record.seq))


def meta_row(seal: Seal, name: str, body: bytes) -> Row:
    """A row of what an opening must know."""
    mac = seal.over("meta", name, body)
    return ("meta", None, None, name, None, None, None, None, body, None, None, mac)


def job_row(kind: str, seq: int) -> Row:
    """A row that deletes a job: "undo" or "forget"."""
    return (kind, seq, None, None, None, None, None, None, None, None, None, None)


def output_over_row(seq: int, run: int) -> Row:
    """A row that deletes what a run printed."""
    return ("output over", seq, run, None, None, None, None, None, None, None, None, None)


def answers_over_row(wall: float) -> Row:
    """A row that deletes answers nobody asks for any more."""
    return ("requests over", None, None, None, None, None, float(wall), None, None, None, None, None)


def journal_over_row(last: int) -> Row:
    """A row that deletes the journal up to an entry."""
    return ("journal over", None, None, None, None, last, None, None, None, None, None, None)


def function_over_row(digest: Digest) -> Row:
    """A row that deletes a function."""
    return ("function over", None, None, None, None, None, None, digest, None, None, None, None)


def statement_size(count: int) -> int:
    """The next size for which a statement is kept: 1, 2, 3, 4, 6, 8, 12, 16, ... so that little is padding."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= count else power  # noqa: PLR2004


def insert_statement(size: int) -> str:
    """The statement that files so many rows."""
    row = f"({','.join('?' * COLUMNS)})"
    return f"INSERT INTO inbox VALUES {','.join([row] * size)}"
