"""Older stores are migrated after a copy; newer ones, and those of other tables, are left as they are."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.core.states import JobState
from cluster.errors import StoreError, StoreTampered
from cluster.store import sql
from cluster.store.files import APPLICATION_ID, SCHEMA_VERSION, StoreFiles
from cluster.store.inspection import check
from cluster.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of version 1, with what its cluster left when it was killed."""
    path = tmp_path / "runs.db"
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(Path(__file__).with_name("version_1.sql").read_text())
    connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    key = path.with_name("runs.db.key")
    key.touch(mode=0o600)
    key.write_bytes(KEY)
    return path


def copies(path: Path) -> list[Path]:
    return sorted(each for each in path.parent.glob("runs.db.schema-1-*") if each.suffix != ".key")


def version_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(version)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_store_of_version_1_is_migrated_and_all_that_it_held_is_there(path: Path) -> None:
    store = SqliteStore(path)

    opening = store.open()

    assert opening.paused == ("gpu",)
    assert opening.tampered == ()
    assert [(job.seq, job.run, job.fence, job.attempts) for job in store.live_jobs()] == [
        (2, 1, 0, 1),
        (3, 1, 1099511627779, 1),
        (4, 2, 0, 0),
        (5, 1, 0, 0),
    ]
    assert store.output("job1") == b"said\n"
    assert store.answer("r1") == b"yes"
    assert [job.seq for job in store.page(0, 10, JobState.COMPLETED)] == [1]
    store.close()
    assert version_in(path) == SCHEMA_VERSION
    assert check("s", StoreFiles("s", path)).findings == ()


def test_the_old_store_is_kept_whole_beside_the_new_one(path: Path) -> None:
    store = SqliteStore(path)
    store.open()
    store.close()

    (copy,) = copies(path)
    assert version_in(copy) == 1
    assert copy.with_name(copy.name + ".key").read_bytes() == KEY
    assert [each.stat().st_mode & 0o777 for each in (copy, copy.with_name(copy.name + ".key"))] == [0o600, 0o600]
    assert check("s", StoreFiles("s", copy)).findings == ()
    store.open()  # and a store of today is copied no more
    store.close()
    assert copies(path) == [copy]


def test_a_store_of_other_tables_is_refused_and_left_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE earlier (x)")
    connection.commit()
    connection.close()
    before = digest(path)

    with pytest.raises(StoreError, match="not those of schema 1, as those of a development version"):
        SqliteStore(path).open()

    assert digest(path) == before
    assert copies(path) == []


def test_a_migration_that_fails_in_its_middle_leaves_the_old_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(path)
    monkeypatch.setattr(sql, "script", lambda name: "ALTER TABLE jobs ADD COLUMN x; SELECT nothing;")

    with pytest.raises(StoreError):
        SqliteStore(path).open()

    monkeypatch.undo()
    assert digest(path) == before
    assert copies(path) == []
    store = SqliteStore(path)
    store.open()
    assert len(list(store.live_jobs())) == 4
    store.close()


def test_a_step_changes_tables_and_data_in_one_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seam itself, with a step that does something: from a version 1 that lacked an index."""
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX jobs_by_id")
    connection.commit()
    connection.close()
    real = sql.script
    step = "CREATE UNIQUE INDEX jobs_by_id ON jobs (id); DELETE FROM queues;"
    monkeypatch.setattr(sql, "script", lambda name: step if name == "migrate_from_1.sql" else real(name))
    store = SqliteStore(path)

    opening = store.open()

    assert opening.paused == ()
    assert len(list(store.live_jobs())) == 4
    store.close()


KILLED_AT = """
import os, signal, sqlite3, sys
from pathlib import Path
from cluster.store import connection, migrations
from cluster.store.sqlite import SqliteStore

left = int(sys.argv[2])

def count(_statement):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

real = migrations.connect

def connect(*arguments):
    made = real(*arguments)
    made.set_trace_callback(count)
    return made

migrations.connect = connect
store = SqliteStore(Path(sys.argv[1]))
store.open()
store.close()
"""


def test_a_migration_killed_at_any_statement_leaves_a_store_that_opens_whole(path: Path, tmp_path: Path) -> None:
    left = 0
    for count in range(40):
        (folder := tmp_path / str(count)).mkdir()
        for name in ("runs.db", "runs.db.key"):
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(path.with_name(name).read_bytes())
        ran = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(folder / "runs.db"), str(count)], cwd=ROOT, check=False
        )
        store = SqliteStore(folder / "runs.db")
        store.open()
        assert [job.seq for job in store.live_jobs()] == [2, 3, 4, 5]
        store.close()
        left += len(copies(folder / "runs.db"))
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL

    assert count >= 6  # BEGIN, PRAGMA, the copy, BEGIN, PRAGMA, COMMIT at least
    assert left >= count


def test_a_newer_version_that_only_the_log_tells_is_refused(path: Path) -> None:
    store = SqliteStore(path)
    store.open()
    store.close()
    writer = sqlite3.connect(path)
    writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    writer.commit()
    files = {end: path.with_name(f"runs.db{end}").read_bytes() for end in ("", "-wal")}
    writer.close()
    for end, content in files.items():  # as a process leaves them that is killed here
        path.with_name(f"runs.db{end}").touch(mode=0o600)
        path.with_name(f"runs.db{end}").write_bytes(content)

    with pytest.raises(StoreError, match="newer version of cluster"):
        SqliteStore(path).open()

    assert version_in(path) == SCHEMA_VERSION + 1


def test_a_trigger_in_an_old_store_is_not_migrated(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TRIGGER t AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END")
    connection.commit()
    connection.close()

    with pytest.raises((StoreError, StoreTampered)):
        SqliteStore(path).open()

    assert version_in(path) == 1
    assert copies(path) == []
