from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.core.board import FENCE_BITS
from cluster.core.effects import Undone
from cluster.errors import StoreError
from cluster.store.backup import back_up
from cluster.store.epochs import FILE_BYTES, JUMP, MAX_EPOCH, EpochFile, Witness
from cluster.store.files import StoreFiles
from cluster.store.inspection import check
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

KEY = b"k" * 32
ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> EpochFile:
    return EpochFile("sqlite:///runs.db", tmp_path / "runs.db.epoch")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store that was opened twice."""
    path = tmp_path / "runs.db"
    for _ in range(2):
        open_once(path)
    return path


def open_once(path: Path) -> int:
    store = SqliteStore(path)
    epoch = store.open().epoch
    store.commit([admitted(epoch)])
    store.close()
    return epoch


def test_the_next_epoch_is_beyond_the_database_and_the_witness(file: EpochFile) -> None:
    assert file.next_epoch(KEY, 0) == 1
    file.write(KEY, 7, is_log_needed=False)

    assert file.next_epoch(KEY, 7) == 8
    assert file.next_epoch(KEY, 3) == 8


@pytest.mark.parametrize("trouble", ["missing", "garbage", "no text", "another store's", "older than the database"])
def test_without_a_witness_the_epoch_jumps(file: EpochFile, tmp_path: Path, trouble: str) -> None:
    if trouble == "garbage":
        (tmp_path / "runs.db.epoch").write_bytes(b"\xff" * FILE_BYTES)
    elif trouble == "no text":
        file.write(KEY, 7, is_log_needed=False)
        said = (tmp_path / "runs.db.epoch").read_bytes()
        (tmp_path / "runs.db.epoch").write_bytes(said.replace(b'store":"', b'store":"\xff'))
    elif trouble != "missing":
        file.write(b"x" * 32 if trouble == "another store's" else KEY, 4, is_log_needed=False)

    assert file.next_epoch(KEY, 5) == 5 + JUMP


def test_epochs_end_before_fences_would_no_longer_fit_into_the_database(file: EpochFile) -> None:
    file.write(KEY, MAX_EPOCH, is_log_needed=False)

    with pytest.raises(StoreError, match="no epochs left"):
        file.next_epoch(KEY, 1)
    assert ((MAX_EPOCH + 1) << FENCE_BITS) - 1 == 2**63 - 1


def test_the_witness_is_overwritten_in_place_so_a_full_disk_can_not_keep_a_store_from_closing(
    file: EpochFile, tmp_path: Path
) -> None:
    file.write(KEY, 1, is_log_needed=True)
    before = (tmp_path / "runs.db.epoch").stat()

    file.write(KEY, MAX_EPOCH, is_log_needed=False)

    after = (tmp_path / "runs.db.epoch").stat()
    assert (after.st_ino, after.st_size, after.st_mode & 0o777) == (before.st_ino, FILE_BYTES, 0o600)


def test_a_database_that_is_put_back_by_hand_goes_on_beyond_its_later_life(path: Path) -> None:
    old = path.read_bytes()
    epochs = [open_once(path) for _ in range(3)]
    path.write_bytes(old)

    assert epochs == [3, 4, 5]
    assert open_once(path) == 6


def test_a_database_that_is_moved_to_another_place_jumps(path: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    for name in ("runs.db", "runs.db.key"):
        path.with_name(name).rename(elsewhere / name)

    assert open_once(elsewhere / "runs.db") == 2 + JUMP
    assert open_once(elsewhere / "runs.db") == 3 + JUMP


# --- the log ---------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

store = SqliteStore(Path(sys.argv[1]))
store.open()
store.commit([admitted(10)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_one(path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert ran.returncode == -signal.SIGKILL


def test_a_store_whose_log_is_gone_after_a_crash_is_refused_and_told_what_to_do(path: Path) -> None:
    kill_one(path)
    log = path.with_name("runs.db-wal")
    kept = log.read_bytes()
    log.unlink()
    before = path.read_bytes()

    for _ in range(2):
        with pytest.raises(StoreError, match=r"its log .*runs.db-wal is gone.* put the log back"):
            SqliteStore(path).open()

    assert path.read_bytes() == before
    log.write_bytes(kept)
    log.chmod(0o600)
    store = SqliteStore(path)
    store.open()
    assert store.find("job10") is not None
    store.close()


def test_the_command_that_is_told_accepts_a_log_that_another_program_has_merged(path: Path) -> None:
    kill_one(path)
    subprocess.run(
        [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT 1 FROM jobs')", path],
        check=True,
    )
    assert not path.with_name("runs.db-wal").exists()
    with pytest.raises(StoreError, match=rf"`rm {path}.epoch`"):
        SqliteStore(path).open()

    path.with_name("runs.db.epoch").unlink()

    assert open_once(path) == 3 + JUMP


HEADER_BYTES, FRAME_BYTES = 32, 24 + 4096  # https://www.sqlite.org/fileformat.html#the_write_ahead_log


def cut(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: -FRAME_BYTES // 2])


def cut_to_nothing(log: Path) -> None:
    log.write_bytes(b"")


def cut_by_a_whole_commit(log: Path) -> None:
    """The last one is a frame of the journal's page."""
    log.write_bytes(log.read_bytes()[:-FRAME_BYTES])


def flip_a_bit(log: Path) -> None:
    said = bytearray(log.read_bytes())
    said[HEADER_BYTES + 24 + 2000] ^= 1
    log.write_bytes(said)


@pytest.mark.parametrize("harm", [cut, cut_to_nothing, cut_by_a_whole_commit, flip_a_bit])
def test_a_log_that_was_cut_or_altered_after_a_crash_is_refused_by_all(
    path: Path, harm: Callable[[Path], None]
) -> None:
    kill_one(path)
    log = path.with_name("runs.db-wal")
    whole = log.read_bytes()
    harm(log)
    files = StoreFiles("runs.db", path)

    found = check("runs.db", files)
    with pytest.raises(StoreError, match="commits that were acknowledged are gone"):
        SqliteStore(path).open()
    with pytest.raises(StoreError, match="commits that were acknowledged are gone"):
        back_up("runs.db", files, path.with_name("backup.db"), may_replace=False)

    assert not found.is_usable
    assert "put the log back" in found.findings[0]
    log.write_bytes(whole)
    path.with_name("runs.db-shm").unlink(missing_ok=True)
    store = SqliteStore(path)
    store.open()
    assert store.find("job10") is not None
    store.close()


def test_the_command_that_is_told_goes_on_without_what_the_log_has_lost(path: Path) -> None:
    kill_one(path)
    cut(path.with_name("runs.db-wal"))
    with pytest.raises(StoreError, match=rf"`rm {path}.epoch`"):
        SqliteStore(path).open()

    path.with_name("runs.db.epoch").unlink()

    assert open_once(path) > JUMP


def test_what_a_crash_left_is_whole_whether_it_was_filed_or_not(path: Path) -> None:
    for source in (
        KILLED,
        KILLED.replace("os.kill", "store.tidy(); os.kill"),
        KILLED.replace("(10)", "(10, args=b'x' * (9 << 20))"),
    ):
        ran = subprocess.run([sys.executable, "-c", source, str(path)], cwd=ROOT, check=False)
        assert ran.returncode == -signal.SIGKILL

        assert check("runs.db", StoreFiles("runs.db", path)).is_usable
        store = SqliteStore(path)
        store.open()
        assert store.find("job10") is not None
        store.commit([Undone(10)])
        store.close()


def test_a_commit_s_number_is_noted_without_a_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    store.open()
    witness = EpochFile("runs.db", path.with_name("runs.db.epoch"))
    key = path.with_name("runs.db.key").read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr("cluster.store.epochs.os.fsync", pytest.fail)
        store.commit([admitted(10)])
        first = witness.read(key)
        store.commit([admitted(11)])
        second = witness.read(key)

    assert first is not None
    assert second is not None
    assert 0 < first.entry < second.entry
    assert second.is_log_needed
    store.close()
    assert witness.read(key) == Witness(second.epoch, second.store, is_log_needed=False)


def test_a_deleted_index_of_the_log_is_made_again(path: Path) -> None:
    kill_one(path)
    path.with_name("runs.db-shm").unlink()

    store = SqliteStore(path)
    store.open()

    assert store.find("job10") is not None
    store.close()


def test_a_closed_store_needs_no_log(path: Path) -> None:
    assert not path.with_name("runs.db-wal").exists()

    assert open_once(path) == 3


# --- deleted while in use ----------------------------------------------------------------------------------------------


@pytest.fixture
def store(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    store.open()
    return store


@pytest.mark.parametrize("names", [["runs.db-wal"], ["runs.db-shm"], ["runs.db-wal", "runs.db-shm"]])
def test_a_log_that_is_deleted_while_in_use_costs_nothing(store: SqliteStore, path: Path, names: list[str]) -> None:
    store.commit([admitted(10)])
    for name in names:
        path.with_name(name).unlink()

    store.commit([admitted(11)])
    store.commit([admitted(12)])

    # Every byte that a kill would leave is where the next opening looks for it.
    copy = path.with_name("copy.db")
    for end in ("", "-wal"):
        copy.with_name(f"copy.db{end}").write_bytes(path.with_name(f"runs.db{end}").read_bytes())
    count = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM journal').fetchone())"
    )
    seen = subprocess.run([sys.executable, "-c", count, copy], capture_output=True, text=True, check=True)
    assert int(seen.stdout) == 3
    store.close()
    assert [path.with_name(f"runs.db{end}").exists() for end in ("-wal", "-shm")] == [False, False]
    store.open()
    assert all(store.find(f"job{seq}") for seq in (10, 11, 12))
    store.close()


def test_a_log_that_can_not_be_begun_anew_is_tried_again_and_not_asked_for_meanwhile(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.with_name("runs.db-wal").unlink()

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patch:
        patch.setattr("cluster.store.sqlite.open_reader", fail)
        for _ in range(2):
            with pytest.raises(StoreError, match="unable to open"):
                store.commit([admitted(10)])
        witness = EpochFile("s", path.with_name("runs.db.epoch")).read(path.with_name("runs.db.key").read_bytes())
        assert witness is not None
        assert not witness.is_log_needed  # killed here, it opens again with all that was acknowledged

    store.commit([admitted(10)])
    assert store.find("job10") is not None
    store.close()
    store.open()
    assert store.find("job10") is not None
    store.close()


def test_nothing_is_acknowledged_into_a_database_that_was_moved_until_it_is_back(
    store: SqliteStore, path: Path
) -> None:
    away = path.rename(path.with_name("away.db"))

    for _ in range(2):
        with pytest.raises(StoreError, match="was moved, deleted or replaced while in use; put the file back"):
            store.commit([admitted(10)])

    away.rename(path)
    store.commit([admitted(10)])
    store.close()
    store.open()
    assert store.find("job10") is not None
    store.close()
