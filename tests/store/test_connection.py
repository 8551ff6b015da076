from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from cluster.errors import StoreError
from cluster.store import connection
from cluster.store.sqlite import SqliteStore


def fault(name: str, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (fault("SQLITE_FULL", "database or disk is full"), "free some space"),
        (
            fault("SQLITE_BUSY_SNAPSHOT", "database is locked"),
            "held its write lock for 5 s; end that one (`fuser /r.db`",
        ),
        (fault("SQLITE_IOERR_FSYNC", "disk I/O error"), "does not read or write (SQLITE_IOERR_FSYNC: disk I/O error)"),
        (fault("SQLITE_CORRUPT_INDEX", "malformed"), "damaged (malformed)"),
        (fault("SQLITE_NOTADB", "file is not a database"), "restore it from a backup"),
        (fault("SQLITE_CONSTRAINT_UNIQUE", "UNIQUE constraint failed"), "UNIQUE constraint failed (SQLITE_CONSTRAINT"),
        (OverflowError("BLOB longer than INT_MAX bytes"), "BLOB longer than INT_MAX bytes (OverflowError)"),
    ],
)
def test_a_complaint_of_sqlite_is_told_in_a_sentence(error: Exception, says: str) -> None:
    assert says in connection.reason(error, Path("/r.db"), 5.0)


def test_the_writer_is_as_durable_as_sqlite_can_be(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()

    set_to = {
        name: store._writer.execute(f"PRAGMA {name}").fetchone()[0]  # type: ignore[union-attr]
        for name in ("journal_mode", "synchronous", "mmap_size", "trusted_schema")
    }

    assert set_to == {"journal_mode": "wal", "synchronous": 2, "mmap_size": 0, "trusted_schema": 0}
    store.close()


def test_the_reader_can_not_write(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._reader.execute("DELETE FROM jobs")  # type: ignore[union-attr]

    store.close()


def test_a_folder_without_room_for_a_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLog(sqlite3.Connection):
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            if statement.startswith("PRAGMA journal_mode"):
                statement = "SELECT 'delete'"
            return super().execute(statement, *values)  # type: ignore[arg-type]

    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    store.close()
    real_connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real_connect(*args, **kwargs, factory=NoLog))

    with pytest.raises(StoreError, match=r"write-ahead log .SQLite says delete."):
        connection.open_writer("s", (tmp_path / "runs.db").as_uri(), 1.0)


def test_no_connection_is_left_open_by_a_reader_that_can_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plain.db"
    made: list[sqlite3.Connection] = []
    real_connect = sqlite3.connect

    def connect(*args: object, **kwargs: object) -> sqlite3.Connection:
        made.append(real_connect(*args, **kwargs))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)

    with pytest.raises(sqlite3.OperationalError):
        connection.open_reader(path.as_uri(), 1.0, {"make_stories": "CREATE TEMP VIEW nonsense"})

    for each in made:
        with contextlib.suppress(sqlite3.ProgrammingError):
            each.execute("SELECT 1")
            pytest.fail("a connection was left open")
