"""How this room talks to SQLite: what a connection is set to, which file it accepts, and what its complaints mean."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from cluster.errors import StoreError, StoreFull, StoreTampered, StoreUnwritten
from cluster.store import sql

# The log is written back every 16 MB of it: often enough to keep it small, seldom enough not to be felt.
CHECKPOINT_PAGES = 4000
CACHE_KIB = 8000

# What SQLite's complaints are raised as; the second where one quotes a damaged schema, which is no text.
COMPLAINTS = (sqlite3.Error, UnicodeDecodeError)

_TABLES = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY type, name"


def open_writer(store: str, uri: str, busy_timeout_seconds: float) -> sqlite3.Connection:
    """The one connection that writes and checkpoints, with its inbox."""
    writer = connect(uri, busy_timeout_seconds)
    try:
        _require_schema(store, writer)
        (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(store, f"its folder can't keep a write-ahead log (SQLite says {mode}); use a local one")
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        writer.executescript(sql.script("inbox.sql"))
    except BaseException:
        writer.close()
        raise
    return writer


def open_reader(uri: str, busy_timeout_seconds: float, queries: dict[str, str]) -> sqlite3.Connection:
    """The connection that reads; open it after the writer, which makes the log's index that it needs."""
    reader = connect(uri, busy_timeout_seconds)
    try:
        reader.execute(queries["make_stories"])
    except BaseException:
        reader.close()
        raise
    return reader


def reason(error: Exception, path: Path, busy_timeout_seconds: float) -> str:
    """What to tell of a complaint of SQLite's."""
    name = _name_of(error)
    if is_disk_full(error):
        return "the disk is full; free some space and it goes on by itself"
    if name.startswith("SQLITE_BUSY"):
        return (
            f"another program has held its write lock for {busy_timeout_seconds:g} s; end that one (`fuser {path}` "
            "names it)"
        )
    if name.startswith("SQLITE_IOERR"):
        return f"the disk does not read or write ({name}: {error})"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or isinstance(error, UnicodeDecodeError):
        return f"the file is damaged ({error}); it was left as it is, restore it from a backup"
    return f"{error} ({name or type(error).__name__})"


def error_of(url: str, error: Exception, path: Path, busy_timeout_seconds: float) -> StoreError:
    """A complaint of SQLite's as the kit's error."""
    said = reason(error, path, busy_timeout_seconds)
    if is_disk_full(error):
        return StoreFull(url, said)
    # A write that failed comes before the frame that makes a commit, or is that frame, cut off, which its checksum tells. A
    # sync that failed comes after it.
    is_unwritten = _name_of(error).startswith(("SQLITE_BUSY", "SQLITE_IOERR_WRITE"))
    return (StoreUnwritten if is_unwritten else StoreError)(url, said)


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room for a write."""
    # The log's index can't grow: SQLite tells that from other faults by this name alone.
    return _name_of(error).startswith(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"))


def _name_of(error: BaseException) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def connect(uri: str, busy_timeout_seconds: float) -> sqlite3.Connection:
    """A connection as this room wants each of its connections."""
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_timeout_seconds, cached_statements=64
    )
    # Text that someone has made invalid must fail its seal, not the whole read.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    try:
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def has_tables_of_today(connection: sqlite3.Connection) -> bool:
    """Whether a database has our tables and nothing else, above all no trigger."""
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(sql.script("schema.sql"))
        expected = model.execute(_TABLES).fetchall()
    return connection.execute(_TABLES).fetchall() == expected


def _require_schema(store: str, connection: sqlite3.Connection) -> None:
    if not has_tables_of_today(connection):
        raise StoreTampered(store, "its tables are not those of a cluster store; restore it from a backup")
