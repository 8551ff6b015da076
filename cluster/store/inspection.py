"""A check of a whole store: is the file sound, and is every row in it what this cluster wrote?

It reads within one read transaction, beside a cluster that has the store open or alone, and changes nothing. It tells
everything that it finds, one sentence each, and not only the first.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from cluster.core.effects import FunctionAdded
from cluster.errors import StoreError, StoreInUse
from cluster.store import journal, rows, sql
from cluster.store.connection import COMPLAINTS, connect, has_tables_of_today, reason
from cluster.store.epochs import EpochFile
from cluster.store.files import SCHEMA_VERSION, StoreFiles
from cluster.store.lock import Possession
from cluster.store.migrations import require_known, version_of
from cluster.store.pruning import LAST
from cluster.store.rows import BadSealError
from cluster.store.seal import Seal, is_payload_of

# A store whose key is another one's is wrong in every row.
MAX_FINDINGS = 1000
BUSY_SECONDS = 5.0


class Inspection(Struct, frozen=True):
    """What a check found. Without `findings` all is well."""

    findings: tuple[str, ...]
    counts: dict[str, int]  # empty if the file can't be read that far
    is_usable: bool  # whether a cluster can open it: single records that were altered are left out, and do no harm


def check(store: str, files: StoreFiles) -> Inspection:
    """Look at all of a store. Raises `StoreInUse` only if this very process has it open."""
    try:
        with reading(store, files) as (connection, key):
            return inspect(connection, key, files)
    except StoreError as error:
        Possession(store, files.lock_file).refuse_own()
        return Inspection((error.reason,), {}, is_usable=False)


@contextlib.contextmanager
def reading(store: str, files: StoreFiles) -> Iterator[tuple[sqlite3.Connection, bytes]]:
    """A connection that only reads, whether a cluster has the store open or not, and the key.

    Alone, the store is held meanwhile, so that nobody begins to write to what is read. Beside a cluster it is one more
    reader: it can neither write nor checkpoint, and the log grows until it is done.
    """
    files.require_folder()
    possession = Possession(store, files.lock_file)
    possession.refuse_own()
    is_alone = _try_to_hold(possession, files)
    try:
        key = files.identify()
        if is_alone:
            if files.restoring.exists():
                raise StoreError(store, "a restore was interrupted; run the same `cluster store restore` again")
            require_whole_log(store, files, key)
        try:
            with contextlib.closing(open_to_read(files, is_alone=is_alone)) as connection:
                yield connection, key
        except COMPLAINTS as error:
            raise StoreError(store, reason(error, files.database, BUSY_SECONDS)) from error
    finally:
        possession.release()


def require_whole_log(store: str, files: StoreFiles, key: bytes) -> None:
    """Refuse a store that a cluster left without closing it, and whose log has not all that was acknowledged.

    To be called alone, and before anything is opened to be written: who closes the last such connection merges the log.
    """
    epochs = EpochFile(store, files.epoch_file)
    epochs.require_log(key, files.wal)
    witness = epochs.read(key)
    if witness is not None and witness.is_log_needed:
        with contextlib.suppress(*COMPLAINTS), contextlib.closing(open_to_read(files, is_alone=True)) as connection:
            epochs.require_entry(key, _last_entry(connection, key), files.wal)


def _last_entry(connection: sqlite3.Connection, key: bytes) -> int:
    """The number of the last commit; the highest that there can be, of a database that can't tell: others say why."""
    reader, queries = rows.Reader(Seal(key)), sql.statements("queries.sql")
    try:
        ((entry,),) = connection.execute(queries["last_entry"])
        meta = dict(reader.meta(row) for row in connection.execute(queries["meta"]))
        return max(int(entry), rows.marks_from(meta.get("marks")).filed)
    except (*COMPLAINTS, BadSealError, *rows.UNREADABLE):
        return LAST


def open_to_read(files: StoreFiles, *, is_alone: bool) -> sqlite3.Connection:
    """A connection that only reads. Alone, and where there is no log to be read with it, it makes no file either."""
    has_log = files.wal.exists() and files.wal.stat().st_size > 0
    uri = files.uri("ro") if has_log or not is_alone else f"{files.uri('ro')}&immutable=1"
    return connect(uri, BUSY_SECONDS)


def inspect(connection: sqlite3.Connection, key: bytes, files: StoreFiles) -> Inspection:
    """Look at all of a database."""
    damage = _damage(connection)
    if damage:
        return Inspection(tuple(damage), {}, is_usable=False)
    inspector = _Inspector(connection, Seal(key))
    try:
        connection.execute("BEGIN")
        counts = inspector.run()
        connection.execute("COMMIT")
    except COMPLAINTS as error:
        inspector.told.append(reason(error, files.database, BUSY_SECONDS))
        return Inspection(tuple(inspector.told), {}, is_usable=False)
    counts["bytes"] = files.size()
    return Inspection(tuple(inspector.told), counts, is_usable=inspector.has_marks)


def _try_to_hold(possession: Possession, files: StoreFiles) -> bool:
    if not files.database.exists():
        return False  # and nothing is made beside a typing error; `identify` tells
    try:
        possession.acquire()
    except StoreInUse:
        return False
    return True


def _damage(connection: sqlite3.Connection) -> list[str]:
    """What keeps a cluster from opening it at all."""
    try:
        version = version_of(connection)
        require_known("", version)
        told = [line for (line,) in connection.execute(f"PRAGMA integrity_check({MAX_FINDINGS})")]
        if told != ["ok"]:
            return [f"the file is damaged: {line}; restore it from a backup" for line in told]
        if version == SCHEMA_VERSION and not has_tables_of_today(connection):
            return ["its tables are not those of a cluster store; restore it from a backup"]
    except StoreError as error:
        return [error.reason]
    except COMPLAINTS as error:
        return [f"the file is damaged ({error}); restore it from a backup"]
    return []


class _Inspector:
    """Compares every row with its seal."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._connection = connection
        self._seal = seal
        self._reader = rows.Reader(seal)
        self._queries = sql.statements("queries.sql") | sql.statements("inspect.sql")
        self.told: list[str] = []
        self.has_marks = False

    def run(self) -> dict[str, int]:
        """Look at everything; how much there is."""
        self._connection.execute(self._queries["make_stories"])
        unfiled = self._journal()
        self._marks()
        self._each("jobs", self._reader.whole_story)
        self._each("outcomes", self._outcome)
        self._each("attempts", lambda row: self._reader.certificate(row[0], row[1], row[2:]))
        self._each("outputs", lambda row: self._reader.output(row[0], row[1], row[2:]))
        self._each("requeues", self._requeue)
        self._each("functions", self._reader.whole_function)
        self._each("leases", self._reader.batch)
        self._each("queues", self._reader.paused)
        self._each("requests", self._reader.answer)
        for table, count in self._read("strays"):
            if count:
                self._tell(f"{count} row(s) of the table {table} belong to no job; they are not read")
        for digest, job in self._read("homeless"):
            if digest not in unfiled:
                self._tell(f"job {job!r} waits to be run, but its function is not here; it is left out")
        cursor = self._connection.execute(self._queries["counts"])
        return dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))

    def _journal(self) -> set[bytes]:
        """Compare the journal's entries; the functions that are still in there."""
        unfiled: set[bytes] = set()
        for row in self._read("journal"):
            with self._telling():
                _, body = self._reader.journaled(row)
                unfiled.update(
                    record.blob.digest for record in journal.decode(body) if isinstance(record, FunctionAdded)
                )
        return unfiled

    def _marks(self) -> None:
        meta: dict[str, bytes] = {}
        for row in self._read("meta"):
            with self._telling():
                name, body = self._reader.meta(row)
                meta[name] = body
        ((highest,),) = self._read("highest")
        if meta.keys() >= {"epoch", "marks"}:
            self.has_marks = True
            next_seq = rows.marks_from(meta["marks"]).next_seq
            if next_seq <= highest:
                self._tell(
                    f"its marks say that the next job is number {next_seq}, but there is one of number {highest}"
                )
        elif highest or meta:
            self._tell("its epoch or its marks are missing or altered; fences could repeat: restore it from a backup")
        else:
            self.has_marks = True  # made, and never opened

    def _outcome(self, row: Sequence[Any]) -> None:
        self._reader.outcome(row[0], row[1], row[2:])
        digest, payload = row[6:8]
        if not is_payload_of(digest, payload):
            raise BadSealError(f"the result of run {row[2]} of job {row[1]!r}", "outcomes", str(row[1]))

    def _requeue(self, row: Sequence[Any]) -> None:
        seq, job, run, at, mac = row
        if not self._seal.fits(mac, "requeues", seq, job, run, at):
            raise BadSealError(f"requeue {run} of job {job!r}", "requeues", str(job))

    def _each(self, query: str, compare: Callable[[Any], object]) -> None:
        for row in self._read(query):
            with self._telling():
                compare(row)

    def _read(self, query: str) -> Iterator[Any]:
        yield from self._connection.execute(self._queries[query])

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except BadSealError as error:
            self._tell(f"{error} (table {error.table}); it is left out of everything")
        except rows.UNREADABLE as error:
            self._tell(f"a record can't be read by this version ({error}); use the newer one")

    def _tell(self, sentence: str) -> None:
        if len(self.told) < MAX_FINDINGS and sentence not in self.told[-3:]:
            self.told.append(sentence)
