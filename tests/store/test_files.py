from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from cluster.errors import StoreError, StoreTampered, StoreUnsafe
from cluster.store.files import SCHEMA_VERSION
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

FILES = ("runs.db", "runs.db.key", "runs.db.epoch", "runs.db-wal", "runs.db-shm", "runs.db.lock")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store that exists, with one job."""
    path = tmp_path / "runs.db"
    store = SqliteStore(path)
    store.open()
    store.commit([admitted(1)])
    store.close()
    return path


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        each.name: (each.stat().st_mode, hashlib.sha256(each.read_bytes()).hexdigest())
        for each in folder.iterdir()
        if each.is_file()
    }


def refusal(path: Path, kind: type[StoreError]) -> str:
    """What the store says when it refuses to open; and it must leave everything as it was."""
    before = state_of(path.parent)
    with pytest.raises(StoreError) as told:
        SqliteStore(path).open()
    assert type(told.value) is kind
    assert state_of(path.parent) == before
    return str(told.value)


def test_every_file_of_an_open_store_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    store = SqliteStore(tmp_path / "runs.db")
    try:
        store.open()
        store.commit([admitted(1)])
    finally:
        os.umask(old)

    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}

    assert modes == dict.fromkeys(FILES, 0o600)
    store.close()


def test_a_closed_store_is_three_files(path: Path) -> None:
    assert {each.name for each in path.parent.iterdir()} == {"runs.db", "runs.db.key", "runs.db.epoch"}


@pytest.mark.parametrize("name", ["runs.db", "runs.db.key", "runs.db-wal"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_can_use_is_refused_with_the_command_that_mends_it(path: Path, name: str, mode: int) -> None:
    bad = path.with_name(name)
    bad.touch()
    bad.chmod(mode)

    said = refusal(path, StoreUnsafe)

    assert f"`chmod 600 {bad}`" in said


def test_the_command_mends_it(path: Path) -> None:
    path.chmod(0o644)
    refusal(path, StoreUnsafe)

    path.chmod(0o600)

    store = SqliteStore(path)
    assert store.open().next_seq == 2
    store.close()


@pytest.mark.parametrize("name", ["runs.db", "runs.db.key"])
def test_a_link_is_refused(path: Path, name: str) -> None:
    real = path.with_name(name).rename(path.with_name("elsewhere"))
    path.with_name(name).symlink_to(real)

    assert "symbolic link" in refusal(path, StoreUnsafe)


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    said = refusal(path, StoreUnsafe)

    assert f"belongs to user {owner}; `sudo chown {owner + 1} {path}`" in said


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no folder .*; make it first"):
        SqliteStore(tmp_path / "typo" / "runs.db").open()

    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch(mode=0o600)

    store = SqliteStore(path)
    store.open()
    store.commit([admitted(1)])
    store.close()

    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    "content", [b"garbage", b"x" * 8192, b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 60]
)
def test_garbage_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "runs.db"
    path.touch(mode=0o600)
    path.write_bytes(content)

    assert "not a cluster store" in refusal(path, StoreError)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    path.chmod(0o600)

    assert "another program's SQLite file" in refusal(path, StoreError)


def alter(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_newer_schema_is_refused_with_what_to_do(path: Path) -> None:
    alter(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    assert "newer version of cluster" in refusal(path, StoreError)


def test_a_schema_that_never_was_is_refused(path: Path) -> None:
    alter(path, "PRAGMA user_version = 0")

    assert "never was" in refusal(path, StoreError)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE attempts",
        "DROP INDEX jobs_by_key",
        "CREATE TRIGGER t AFTER INSERT ON jobs BEGIN UPDATE jobs SET args = x''; END",
    ],
)
def test_altered_tables_are_refused(path: Path, statement: str) -> None:
    alter(path, statement)

    assert "its tables are not those of a cluster store" in refusal(path, StoreTampered)


def test_a_truncated_database_is_refused(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    assert "damaged" in refusal(path, StoreError)


def test_a_missing_key_is_refused_with_what_to_do(path: Path) -> None:
    path.with_name("runs.db.key").unlink()

    assert "restore the key from a backup" in refusal(path, StoreError)


def test_a_short_key_is_refused(path: Path) -> None:
    path.with_name("runs.db.key").write_bytes(b"short")

    assert "damaged" in refusal(path, StoreError)


def test_another_stores_key_is_refused(path: Path) -> None:
    path.with_name("runs.db.key").write_bytes(b"k" * 32)

    assert "is not what this cluster wrote" in refusal(path, StoreTampered)


def test_a_log_without_its_database_is_refused(path: Path) -> None:
    store = SqliteStore(path)
    store.open()
    store.commit([admitted(2)])
    log = path.with_name("runs.db-wal").read_bytes()
    store.close()
    path.unlink()
    path.with_name("runs.db-wal").touch(mode=0o600)
    path.with_name("runs.db-wal").write_bytes(log)

    assert "runs.db-wal is there, but its database is not" in refusal(path, StoreError)


def test_what_a_crash_left_of_a_store_being_made_is_cleared_away(tmp_path: Path) -> None:
    for name in ("runs.db.new", "runs.db.new-journal", "runs.db.key.new", "runs.db.lock"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "runs.db").touch(mode=0o600)

    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    store.close()

    assert {each.name for each in tmp_path.iterdir()} == {"runs.db", "runs.db.key", "runs.db.epoch"}


def test_a_key_made_before_a_crash_is_kept(tmp_path: Path) -> None:
    key = tmp_path / "runs.db.key"
    key.touch(mode=0o600)
    key.write_bytes(b"k" * 32)

    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    store.close()

    assert key.read_bytes() == b"k" * 32


def test_a_read_only_folder_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cluster.store.files._touch", refuse)

    with pytest.raises(StoreError, match=r"its files can't be read or made: .*Permission denied"):
        SqliteStore(tmp_path / "runs.db").open()
