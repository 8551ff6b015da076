"""The durable store: one SQLite file, one connection that writes, one that reads.

                      commit, prune                          find, outcome, page, live_jobs, ...
    committer thread ──────────────► writer ─► runs.db-wal ◄── reader ◄────────────────────────── any thread
                     one row a group   │            │          (mode=ro, own lock, snapshots)
                     into the journal  └─ checkpoint┴─► runs.db
                           │ filed later, many at once
                           └──► jobs, outcomes, ...

Who is authoritative: the file. In memory there are only counters, the book of outstanding leases (`leases.py`) and the
journal's records that are still to be filed (`_unfiled`), all made again from the file at each opening, and changed
under `_writing` alone. Whoever reads files them first, so the tables tell all that was committed.

Durability: WAL with `synchronous=FULL`: a commit that returned has been fsynced. `mmap_size=0`, one writer, and a reader
that can neither write nor checkpoint, keep clear of the WAL-reset fault of SQLite before 3.51.3, which needs two
connections that do. A commit is one row of the journal (`journal.py`). Filing is one INSERT into the view of `inbox.sql`,
atomic by itself, which also deletes the journal's rows; one of more rows than a statement takes is several between
BEGIN IMMEDIATE and COMMIT. What is dropped, and when, is said in `pruning.py`.

When a party dies:
- this process, at any instant: the WAL holds a prefix of the commits; the next opening goes on from there.
- the disk fills up, or fails: the group is rolled back and `StoreError` says why; the same call works again once it can.
- someone deletes the log while we use it: the next commit writes it back into the database and begins a new one. The
  database itself: commits fail until it is put back.
- another program holds the file's write lock: a commit waits `busy_timeout_seconds`, then raises `StoreError`.
- a reader: readers take no lock that a writer waits for; the log only grows while one reads.
- this process forks: the child's `close` touches nothing (`_forget_after_fork`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.core.effects import Admitted, FunctionAdded, Record, StoredJob
from cluster.core.records import Certificate, Digest, Fence, FunctionBlob, JobId, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreTampered
from cluster.store import journal, migrations, rows, scribe, sql
from cluster.store.aside import Aside
from cluster.store.connection import COMPLAINTS, error_of, is_disk_full, open_reader, open_writer
from cluster.store.epochs import EpochFile
from cluster.store.files import StoreFiles
from cluster.store.inspection import require_whole_log
from cluster.store.leases import LeaseBook
from cluster.store.lock import Possession
from cluster.store.port import Opening, Room
from cluster.store.pruning import Pruning
from cluster.store.rows import BadSealError
from cluster.store.scribe import Row
from cluster.store.seal import Seal, is_payload_of
from cluster.store.stories import Stories, Values
from cluster.store.turns import Turns

# Above this, a group is several statements. Bounded by SQLite's limit on parameters (32,766 since 3.32), and by memory:
# a prepared statement of 2,048 rows takes about 2 MB.
MAX_ROWS_PER_STATEMENT = 2048
# A prepared statement keeps the values it was last given until it is used again. Beyond this they are taken from it.
MAX_KEPT_BYTES = 1 << 20
# A group of more bytes is filed at once: written twice, it would cost more than it saves. Several times what the largest
# group of small jobs takes, which is 1 MB.
MAX_JOURNALED_BYTES = 8 << 20
# So much may wait to be filed; beyond it each commit files as much as it adds. A crash costs the next opening the filing.
MAX_UNFILED_RECORDS = 100_000
MAX_UNFILED_BYTES = 64 << 20
# Between two such pieces the committer gets its turn: some 20 ms.
FILED_PER_PIECE = 2000
EPOCH_BITS = 32

# Kept from being closed, in forked children.
_connections_of_parents: list[sqlite3.Connection] = []


class SqliteStore:
    """A store in a file. `url` names it; see the module's essay for threads and failures."""

    is_instant = False

    def __init__(self, path: Path, *, busy_timeout_seconds: float = 5.0) -> None:
        self.url = f"sqlite:///{os.fsencode(path).decode(errors='backslashreplace')}"  # need not be text
        self.on_tampered: Callable[[str], None] = lambda _: None
        self._aside = Aside(self.url, lambda said: self.on_tampered(said))  # noqa: PLW0108 - whoever hears comes later
        self.tampered = self._aside.sentences
        self._files = StoreFiles(self.url, path.absolute())
        self._possession = Possession(self.url, self._files.lock_file)
        self._epochs = EpochFile(self.url, self._files.epoch_file)
        self._key = b""
        self._busy_timeout_seconds = busy_timeout_seconds
        self._queries = sql.statements("queries.sql")
        self._max_rows = MAX_ROWS_PER_STATEMENT
        self._inserts: dict[int, str] = {}
        self._pid = 0
        self._writing = threading.Lock()
        self._turns = Turns(self._writing)  # for commits, and for whoever files for a reader
        self._reading = threading.Lock()
        self._is_cut_off = False  # the connections were closed to begin a new log, and could not be opened again
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._book = LeaseBook()
        self._records: rows.Reader
        self._stories: Stories
        self._scribe: scribe.Scribe
        # What the journal has and the tables have not: its number, records and bytes, the oldest first.
        self._unfiled: deque[tuple[int, Sequence[Record], int]] = deque()
        self._unfiled_records = 0
        self._unfiled_bytes = 0
        self._next_entry = 0
        # Functions written but not yet referred to by a stored job; a sweep must not take them. By the committer.
        self._fresh: set[Digest] = set()
        self._pruning = Pruning(self._read, self._write_made, self._fresh)

    # --- opening and closing ------------------------------------------------------------------------------------

    def open(self) -> Opening:
        """See `Store.open`. `Opening.tampered` covers what an opening reads; live jobs are checked as they stream by."""
        if self._writer is not None:
            raise StoreError(self.url, "it is open already")
        self._files.require_folder()
        self._possession.acquire()
        try:
            self._key = self._files.prepare()
            require_whole_log(self.url, self._files, self._key)
            self._pid = os.getpid()
            with self._told():
                migrations.bring_up_to_date(self.url, self._files)
                self._connect()
                return self._begin(Seal(self._key))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Store.close`. The last commit has long been on the disk; this only tidies up."""
        if self._pid and self._pid != os.getpid():
            self._forget_after_fork()
        with contextlib.suppress(StoreError):  # then the next opening does it
            self._file_all()
        with self._reading:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
        with self._writing:
            writer, self._writer = self._writer, None
            if writer is not None:
                self._close_writer(writer)
            self._is_cut_off = False
            self._epochs.close()
        self._possession.release()

    def _close_writer(self, writer: sqlite3.Connection) -> None:
        """Last, and after the reader: the last connection that may write merges the log and deletes it."""
        with contextlib.suppress(sqlite3.Error, StoreError):
            (is_busy, _, _) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy:
                self._epochs.log_merged(self._key)  # while the log is still there: a kill at any moment tells the truth
        writer.close()
        with contextlib.suppress(StoreError):
            if not self._files.wal.exists():
                self._epochs.log_merged(self._key)

    def _forget_after_fork(self) -> None:
        """In a child, a connection of the parent's must not be used, not even to close it."""
        inherited = [each for each in (self._reader, self._writer) if each is not None]
        _connections_of_parents.extend(inherited)
        self._reader = self._writer = None
        self._unfiled.clear()
        self._reading, self._writing = threading.Lock(), threading.Lock()  # a parent's thread may have held them
        self._turns = Turns(self._writing)

    def _connect(self) -> None:
        wait = self._busy_timeout_seconds
        self._writer = open_writer(self.url, self._files.uri("rw"), wait)
        self._reader = open_reader(self._files.uri("ro"), wait, self._queries)
        most = self._writer.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // scribe.COLUMNS
        self._max_rows = min(self._max_rows, most)

    def _begin(self, seal: Seal) -> Opening:
        """Read what recovery needs at once, raise the epoch, and make that durable."""
        self._records = rows.Reader(seal)
        self._stories = Stories(self._read_statement, self._queries, self._records, self._aside)
        self._aside.clear()
        try:
            meta = dict(self._records.meta(row) for row in self._read("meta"))
        except BadSealError as error:
            raise StoreTampered(self.url, f"{error}; fences could repeat: restore it") from error
        if meta.keys() != {"epoch", "marks"} and (meta or self._read("spread") != [(0,)]):
            raise StoreTampered(self.url, "its epoch or its marks are missing; fences could repeat: restore it")
        marks = rows.marks_from(meta.get("marks"))
        epoch = self._epochs.next_epoch(self._key, int.from_bytes(meta.get("epoch", b""), "big"))
        self._epochs.write(self._key, epoch, is_log_needed=True)
        self._book = LeaseBook()
        self._stories.follow(self._book)
        self._read_leases()
        self._scribe = scribe.Scribe(seal, self._book, marks)
        self._unfiled.clear()
        self._next_entry = (epoch << EPOCH_BITS) + 1  # never one that an earlier opening gave out
        self._file_journal()
        paused = tuple(self._sound(self._records.paused, self._read("queues")))
        raised = scribe.meta_row(seal, "epoch", epoch.to_bytes(8, "big"))
        self._write([raised, self._scribe.marks_row(), *self._scribe.rows(())])
        self._scribe.written()
        self._files.remember()
        marks = self._scribe.marks()
        return Opening(epoch, marks.next_seq, marks.max_fence, paused, tuple(self.tampered))

    def _file_journal(self) -> None:
        """File what an earlier opening committed and did not come to file."""
        for piece, last in journal.pieces(self._sound(self._records.journaled, self._read("journal")), FILED_PER_PIECE):
            self._write(self._scribe.rows(piece, last))
            self._scribe.written()

    def _read_leases(self) -> None:
        for batch in self._sound(self._records.batch, self._read("leases")):
            self._book.add(batch, is_stored=True)
            for job in list(batch.left.values()):
                said = {"seq": job.seq, "run": job.run, "fence": job.fence}
                if self._read("is_lease_over", **said):
                    self._book.end(job.seq)

    # --- writing ------------------------------------------------------------------------------------------------

    def commit(self, records: Sequence[Record]) -> None:
        """See `Store.commit`. Durable on return."""
        if not records:
            return
        with self._turns:
            with self._told():
                self._come_back()
                writer = self._require_open(self._writer)
                entry, body = self._next_entry, journal.encode(records)
                if len(body) > MAX_JOURNALED_BYTES:
                    self._file_pieces(to_the_end=True)
                    self._write(self._scribe.rows(records, entry))
                    self._require_files()
                    self._scribe.written()
                    self._follow_functions(records)
                    self._next_entry += 1
                    self._epochs.note(entry)
                    return
                self._execute(
                    writer, "INSERT OR REPLACE INTO journal VALUES (?, ?, ?)", self._scribe.journal_row(entry, body)
                )
                self._require_files()
                self._next_entry += 1
                self._epochs.note(entry)
            self._unfiled.append((entry, records, len(body)))
            self._unfiled_records += len(records)
            self._unfiled_bytes += len(body)
            with contextlib.suppress(StoreError), self._told():  # what is in the journal is durable all the same
                while self._unfiled_records > MAX_UNFILED_RECORDS or self._unfiled_bytes > MAX_UNFILED_BYTES:
                    self._file_pieces(to_the_end=False)

    def tidy(self) -> bool:
        """See `Store.tidy`: file a piece of the journal."""
        if self._unfiled:
            with self._told(), self._writing:
                self._come_back()
                self._file_pieces(to_the_end=False)
                self._require_files()
        return bool(self._unfiled)

    def _file_all(self) -> None:
        """Have the tables say all that was committed up to now. Whoever reads them calls this first.

        Piece by piece, so that commits wait for one piece at most; what they add meanwhile is left to others.
        """
        end = self._next_entry
        while self._unfiled:
            with self._told(), self._turns:
                if not self._unfiled or self._unfiled[0][0] >= end:
                    return
                self._file_pieces(to_the_end=False)

    def _file_pieces(self, *, to_the_end: bool) -> None:
        """File the oldest entries of the journal, a bounded piece or all of them. The caller holds `_writing`."""
        while self._unfiled:
            piece: list[Record] = []
            count = 0
            while count < len(self._unfiled) and len(piece) < FILED_PER_PIECE:
                piece += self._unfiled[count][1]
                count += 1
            last = self._unfiled[count - 1][0]
            self._write(self._scribe.rows(piece, last))
            self._scribe.written()
            self._follow_functions(piece)
            for _ in range(count):
                _, records, size = self._unfiled.popleft()
                self._unfiled_records -= len(records)
                self._unfiled_bytes -= size
            if not to_the_end:
                return

    def _require_files(self) -> None:
        """Make sure that what was just written can be found again. The caller holds `_writing`."""
        moved = self._files.moved()
        if not moved:
            return
        if self._files.database in moved:
            raise StoreError(
                self.url, f"{self._files.database} was moved, deleted or replaced while in use; put the file back"
            )
        # The log or its index was deleted. Our connections still have it; what it holds must get into the database.
        with self._reading:
            (is_busy, _, _) = self._require_open(self._writer).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise StoreError(self.url, "its log was deleted, and another program keeps it from being written back")
            self._epochs.log_merged(self._key)
            self._cut_off()
        self._come_back()

    def _cut_off(self) -> None:
        self._is_cut_off = True
        for each in (self._reader, self._writer):
            if each is not None:
                each.close()
        self._reader = self._writer = None

    def _come_back(self) -> None:
        """Open what `_require_files` had to close."""
        if self._is_cut_off:
            with self._reading:
                try:
                    self._connect()
                    self._files.remember()
                    self._epochs.log_begun(self._key)
                except BaseException:
                    self._cut_off()
                    raise
            self._is_cut_off = False

    def _execute(self, writer: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
        """One statement that is a transaction of its own."""
        try:
            writer.execute(statement, values)
        except BaseException as error:
            self._make_room_after(writer, error)
            raise

    def _make_room_after(self, writer: sqlite3.Connection, error: BaseException) -> None:
        with contextlib.suppress(sqlite3.Error):
            if writer.in_transaction:  # some faults roll back by themselves
                writer.execute("ROLLBACK")
            if is_disk_full(error):
                # What is written back into the database is room for the log's next turn.
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _write(self, group: list[Row]) -> None:
        """All rows in one transaction."""
        writer = self._require_open(self._writer)
        parts = [group[at : at + self._max_rows] for at in range(0, len(group), self._max_rows)]
        try:
            if len(parts) > 1:
                writer.execute("BEGIN IMMEDIATE")
            for part in parts:
                self._insert(writer, part)
            if len(parts) > 1:
                writer.execute("COMMIT")
        except BaseException as error:
            self._make_room_after(writer, error)
            raise

    def _insert(self, writer: sqlite3.Connection, group: list[Row]) -> None:
        size = scribe.statement_size(len(group))
        text = self._inserts.get(size)
        if text is None:
            text = self._inserts[size] = scribe.insert_statement(size)
        padded = group + [scribe.PADDING] * (size - len(group))
        try:
            writer.execute(text, tuple(chain.from_iterable(padded)))
        finally:
            if sum(len(row[scribe.PAYLOAD] or b"") for row in group) > MAX_KEPT_BYTES:
                with contextlib.suppress(sqlite3.Error):
                    writer.execute(text, scribe.PADDING * size)

    def _follow_functions(self, records: Sequence[Record]) -> None:
        for record in records:
            if type(record) is FunctionAdded:
                self._fresh.add(record.blob.digest)
            elif self._fresh and type(record) is Admitted:
                self._fresh.discard(record.spec.function)

    def prune(self, wall: float, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> int:
        """See `Store.prune`. One call looks at a part of the store; call it regularly, it goes round.

        A job that is requeued between the question and the deletion stays. Leases are dropped by `commit` as they end.
        """
        self._file_all()
        with self._told():
            return self._pruning.prune(wall, is_needed, limit)

    def drop_outputs(self, before: float, limit: int = 10_000) -> int:
        """See `Store.drop_outputs`."""
        self._file_all()
        with self._told():
            return self._pruning.drop_outputs(before, limit)

    def make_room(self, max_bytes: int, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> Room:
        """See `Store.make_room`. In use is what the tables take of the file, whose other pages wait to be used again."""
        self._file_all()
        with self._told():
            return self._pruning.make_room(max_bytes, is_needed, limit)

    def _write_made(self, make_rows: Callable[[], list[Row]]) -> None:
        """Write what is made while nothing else is written, and all that was committed before is filed."""
        with self._writing:
            self._file_pieces(to_the_end=True)
            self._write(make_rows())

    # --- reading ------------------------------------------------------------------------------------------------

    def live_jobs(self) -> Iterator[StoredJob]:
        """See `Store.live_jobs`. For the time before the first commit: it reads in several snapshots."""
        self._file_all()
        after: int | None = -1
        while after is not None:
            with self._told():
                found, after = self._stories.live(after)
            yield from found

    def functions(self, digests: Sequence[Digest]) -> Iterator[FunctionBlob]:
        """See `Store.functions`."""
        self._file_all()
        for digest in digests:
            with self._told():
                found = self._read("function", digest=digest)
            yield from self._sound(self._records.whole_function, found)

    def find(self, job: JobId) -> StoredJob | None:
        """See `Store.find`."""
        self._file_all()
        with self._told():
            return self._stories.one("find", id=job)

    def find_all(self, jobs: Sequence[JobId]) -> Iterator[tuple[JobId, StoredJob | StoreTampered]]:
        """See `Store.find_all`. Jobs of one read are of one state of the store."""
        rest = jobs
        while rest:
            self._file_all()
            with self._told():
                found, rest = self._stories.some(rest)
            yield from found

    def find_key(self, key: str) -> StoredJob | None:
        """See `Store.find_key`."""
        self._file_all()
        with self._told():
            return self._stories.one("find_key", key=key)

    def outcome(self, job: JobId) -> Outcome | None:
        """See `Store.outcome`."""
        stored = self.find(job)
        return stored.outcome if stored else None

    def result(self, job: JobId) -> Outcome | None:
        """See `Store.result`."""
        self._file_all()
        with self._told(), self._snapshot() as read:
            for (seq,) in read("seq_of", id=job):
                for row in read("result_of", seq=seq, state=int(JobState.COMPLETED)):
                    outcome = self._records.outcome(seq, job, row)
                    if not is_payload_of(row[4], outcome.payload):
                        raise BadSealError(f"the result of job {job!r}", "outcomes", job)
                    return outcome
        return None

    def answer(self, request: str) -> bytes | None:
        """See `Store.answer`."""
        self._file_all()
        with self._told():
            return next((self._records.answer(row) for row in self._read("answer", id=request)), None)

    def history(self, job: JobId) -> list[tuple[int, Certificate]]:
        """See `Store.history`."""
        self._file_all()
        with self._told(), self._snapshot() as read:
            found: list[tuple[int, bool, Certificate]] = []
            for (seq,) in read("seq_of", id=job):
                found += [
                    (row[0], False, self._records.certificate(seq, job, row)) for row in read("attempts_of", seq=seq)
                ]
                for row in read("outcomes_of", seq=seq):
                    certificate = self._records.outcome(seq, job, row).certificate
                    if certificate is not None:
                        found.append((row[0], True, certificate))
        # A run's outcome comes after its attempts; those are in order already, and the sort keeps it.
        found.sort(key=lambda each: each[:2])
        return [(run, certificate) for run, _, certificate in found]

    def outputs(self, job: JobId) -> list[tuple[Fence, bytes]]:
        """See `Store.outputs`."""
        self._file_all()
        with self._told(), self._snapshot() as read:
            return [
                (row[1], self._records.output(seq, job, row))
                for (seq,) in read("seq_of", id=job)
                for row in read("outputs_of", seq=seq)
            ]

    def output(self, job: JobId) -> bytes:
        """See `Store.output`."""
        return b"".join(output for _, output in self.outputs(job))

    def page(self, after: int, limit: int, state: JobState | None = None) -> list[StoredJob]:
        """See `Store.page`."""
        self._file_all()
        with self._told():
            return self._stories.page(after, limit, state)

    def size(self) -> int:
        """See `Store.size`."""
        return self._files.size()

    def _sound(self, read: Callable[[Any], Any], found: Iterable[Any]) -> Iterator[Any]:
        """What is as it was written; the rest is named and left out."""
        for row in found:
            try:
                yield read(row)
            except BadSealError as error:
                self._aside.tell(error)

    def _read(self, query: str, **values: object) -> list[Any]:
        return self._read_statement(self._queries[query], values, (), 0)[0]

    def _read_statement(
        self, statement: str, values: Values, counted: Sequence[int], max_bytes: int
    ) -> tuple[list[Any], bool]:
        """The rows of an answer, and whether there are more than `max_bytes` of what these columns hold let through."""
        with self._reading:
            reader = self._require_open(self._reader)
            if not counted:
                return _fetch(reader, statement, values), False
            found: list[Any] = []
            size = 0
            cursor = reader.execute(statement, values)
            for row in cursor:
                found.append(row)
                for column in counted:
                    cell = row[column]
                    size += len(cell) if isinstance(cell, bytes) else 0  # whatever someone has put there
                if size > max_bytes:
                    cursor.close()
                    return found, True
            return found, False

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[Callable[..., list[Any]]]:
        """Several reads of one state of the store."""
        with self._reading:
            reader = self._require_open(self._reader)

            def read(query: str, **values: object) -> list[Any]:
                return _fetch(reader, self._queries[query], values)

            reader.execute("BEGIN")
            try:
                yield read
            finally:
                reader.execute("COMMIT")

    # --- faults -------------------------------------------------------------------------------------------------

    def _require_open(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        if connection is None:
            raise StoreError(self.url, "it is not open")
        if self._pid != os.getpid():
            raise StoreError(self.url, "it belongs to the parent process; open a cluster of this process's own")
        return connection

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's complaints, and a bad seal, into the kit's errors."""
        try:
            yield
        except BadSealError as error:
            raise self._aside.refusal(error) from error
        except (*COMPLAINTS, OverflowError) as error:
            raise error_of(self.url, error, self._files.database, self._busy_timeout_seconds) from error
        except rows.UNREADABLE as error:
            raise StoreError(self.url, f"a record can't be read by this version ({error}); use the newer") from error


def _fetch(reader: sqlite3.Connection, statement: str, values: Values) -> list[Any]:
    try:
        return reader.execute(statement, values).fetchall()
    except UnicodeEncodeError:  # half a surrogate pair: no text like that is ever stored
        return []
