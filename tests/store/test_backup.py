from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import Refused, StoreError
from cluster.store import backup as module
from cluster.store.backup import back_up
from cluster.store.epochs import JUMP
from cluster.store.files import StoreFiles
from cluster.store.inspection import check
from cluster.store.sqlite import SqliteStore
from tests.store.build import FUNCTION, admitted, ended

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (folder := tmp_path / "cluster").mkdir()
    path = folder / "runs.db"
    store = SqliteStore(path)
    store.open()
    store.commit([FUNCTION, admitted(1), admitted(2), ended(1, payload=b"y" * 5000)])
    store.close()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (folder := tmp_path / "backups").mkdir()
    return folder / "monday.db"


def make(path: Path, target: Path, *, may_replace: bool = False) -> module.Backup:
    return back_up(f"sqlite:///{path}", StoreFiles(f"sqlite:///{path}", path), target, may_replace=may_replace)


def jobs_in(path: Path) -> list[int]:
    store = SqliteStore(path)
    store.open()
    found = [job.seq for job in store.page(0, 1_000_000)]
    store.close()
    return found


def content(folder: Path) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir()}


def test_a_backup_is_two_private_files_that_make_a_store(path: Path, target: Path) -> None:
    before = content(path.parent)
    old = os.umask(0)

    try:
        made = make(path, target)
    finally:
        os.umask(old)

    assert {each.name: each.stat().st_mode & 0o777 for each in target.parent.iterdir()} == {
        "monday.db": 0o600,
        "monday.db.key": 0o600,
    }
    assert (made.findings, made.counts["jobs"]) == ((), 2)
    assert content(path.parent) == before
    assert jobs_in(target) == [1, 2]


def test_a_backup_that_is_opened_as_a_store_begins_above_the_store_s_later_fences(path: Path, target: Path) -> None:
    make(path, target)

    store = SqliteStore(target)

    assert store.open().epoch == 1 + JUMP
    store.close()


def test_an_existing_file_is_never_replaced_unless_that_is_said(path: Path, target: Path) -> None:
    for name in (target, target.with_name("monday.db.key")):
        name.write_text("precious")
        with pytest.raises(Refused, match="is there already; name another file, or write --force"):
            make(path, target)
        assert name.read_text() == "precious"
        name.unlink()

    make(path, target)
    make(path, target, may_replace=True)

    assert jobs_in(target) == [1, 2]


def test_a_backup_of_another_store_is_replaced_key_and_all(path: Path, target: Path) -> None:
    other = SqliteStore(target)
    other.open()
    other.close()

    make(path, target, may_replace=True)

    assert check("s", StoreFiles("s", target)).findings == ()


@pytest.mark.parametrize("name", ["runs.db", "runs.db-wal", "runs.db.key"])
def test_a_store_is_not_its_own_backup(path: Path, name: str) -> None:
    with pytest.raises(Refused, match="is the store itself"):
        make(path, path.with_name(name), may_replace=True)


def test_a_folder_that_is_not_there_is_not_made(path: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no folder"):
        make(path, tmp_path / "typo" / "b.db")


def test_a_damaged_store_leaves_no_backup(path: Path, target: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, 30):
            file.seek(4096 * page)
            file.write(b"\xff" * 200)

    with pytest.raises(StoreError):
        make(path, target)

    assert list(target.parent.iterdir()) == []


def test_an_altered_record_is_copied_and_told(path: Path, target: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET key = 'k' WHERE seq = 2")
    connection.close()

    made = make(path, target)

    assert [("job 'job2'" in sentence) for sentence in made.findings] == [True]
    assert jobs_in(target) == [1, 2]  # the second one set aside


def test_a_full_disk_leaves_nothing_of_a_backup(path: Path, target: Path) -> None:
    limited = """
import resource, sys
from pathlib import Path
from cluster.errors import StoreError
from cluster.store.backup import back_up
from cluster.store.files import StoreFiles
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
path, target = map(Path, sys.argv[1:])
try:
    back_up("s", StoreFiles("s", path), target, may_replace=False)
except StoreError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", limited, path, target], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert "can't be made" in ran.stdout
    assert list(target.parent.iterdir()) == []


BUSY = """
import itertools, sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted, ended

store = SqliteStore(Path(sys.argv[1]))
first = store.open().next_seq
for group in itertools.count():
    seqs = range(first + 50 * group, first + 50 * (group + 1))
    store.commit([admitted(seq, args=b"x" * 2000) for seq in seqs])
    if group % 3 == 0:
        store.tidy()
    print(seqs[-1], flush=True)
"""


def test_backups_of_a_busy_store_hold_whole_groups_and_all_that_was_acknowledged_before(
    path: Path, target: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        lasts = []
        for number in range(4):
            last = [int(process.stdout.readline()) for _ in range(10)][-1]
            make(path, target.with_name(f"{number}.db"))
            lasts.append(last)
        process.kill()

    for number, last in enumerate(lasts):
        jobs = jobs_in(target.with_name(f"{number}.db"))
        assert len(jobs) >= last
        assert jobs == list(range(1, len(jobs) + 1))
        assert (len(jobs) - 2) % 50 == 0
    assert check("s", StoreFiles("s", path)).findings == ()
