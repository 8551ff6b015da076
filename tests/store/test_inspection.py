from __future__ import annotations

import hashlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.core.effects import Answered, QueuePaused
from cluster.errors import StoreInUse
from cluster.store.files import StoreFiles
from cluster.store.inspection import Inspection, check
from cluster.store.sqlite import SqliteStore
from tests.store.build import FUNCTION, admitted, ended, failed, leased, requeued

ROOT = Path(__file__).parents[2]

FILL = [
    [FUNCTION, admitted(1, key="k"), admitted(2, args=b"x" * 5000), admitted(3), leased("w#1", (1, 1), (2, 2), (3, 3))],
    [failed(1, 1, output=b"first"), leased("w#1", (4, 1)), ended(2, 2, payload=b"y" * 5000, output=b"o")],
    [requeued(2, 2), QueuePaused("gpu", paused=True), Answered("r1", b"yes", 1e12)],
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store with a row of every kind, filed."""
    path = tmp_path / "runs.db"
    store = SqliteStore(path)
    store.open()
    for group in FILL:
        store.commit(group)  # type: ignore[arg-type]  # lists of several kinds
    store.close()
    return path


def look(path: Path) -> Inspection:
    return check(f"sqlite:///{path}", StoreFiles(f"sqlite:///{path}", path))


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        each.name: (each.stat().st_mtime_ns, hashlib.sha256(each.read_bytes()).hexdigest()) for each in folder.iterdir()
    }


def test_a_sound_store_is_told_as_such_with_its_counts_and_nothing_is_touched(path: Path) -> None:
    before = state_of(path.parent)

    found = look(path)

    assert found.findings == ()
    counts = {"jobs": 3, "live": 3, "functions": 1, "outcomes": 1, "attempts": 1, "leases": 2, "journal": 0}
    assert {**found.counts, "bytes": 0} == {**counts, "bytes": 0}
    assert state_of(path.parent) == before


TAMPER = {
    "a job": ("UPDATE jobs SET key = 'other' WHERE seq = 1", "job 'job1'"),
    "arguments": ("UPDATE jobs SET args = x'00' WHERE seq = 2", "the arguments of job 'job2'"),
    "an outcome": ("UPDATE outcomes SET keep_until = 1 WHERE seq = 2", "the outcome of run 1 of job 'job2'"),
    "a result of an earlier run": ("UPDATE outcomes SET payload = x'00'", "the result of run 1 of job 'job2'"),
    "an attempt": ("UPDATE attempts SET fence = 9", "a failed attempt of job 'job1'"),
    "output": ("UPDATE outputs SET output = 'x' WHERE seq = 1", "the output of run 1 of job 'job1'"),
    "a requeue": ("UPDATE requeues SET at = 5", "requeue 2 of job 'job2'"),
    "a function": ("UPDATE functions SET code = x'00'", "function 6666666666666666"),
    "a lease": ("UPDATE leases SET worker = 'evil'", "of worker 'evil'"),
    "a pause": ("UPDATE queues SET name = 'cpu'", "the paused queue 'cpu'"),
    "an answer": ("UPDATE requests SET answer = 'no'", "the answer to request 'r1'"),
    "an entry of the journal": ("INSERT INTO journal VALUES (1, x'90', x'00')", "entry 1 of the journal"),
    "a stray": ("DELETE FROM jobs WHERE seq = 2", "row(s) of the table outcomes belong to no job"),
    "a function that is gone": ("DELETE FROM functions", "job 'job1' waits to be run, but its function is not here"),
}


@pytest.mark.parametrize("what", TAMPER)
def test_every_kind_of_altered_row_is_found_and_named(path: Path, what: str) -> None:
    statement, named = TAMPER[what]
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()

    found = look(path)

    assert any(named in sentence for sentence in found.findings), found.findings
    assert found.is_usable


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, 30):
            file.seek(4096 * page)
            file.write(b"\xff" * 200)


def forget_epoch(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'epoch'")
    connection.close()


WRECK: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: path.unlink(), "there is no store at"),
    "garbage": (garbage, "not a cluster store, nor any SQLite file"),
    "cut short": (truncate, "of its"),
    "pages overwritten": (scribble, "the file is damaged"),
    "no key": (lambda path: path.with_name("runs.db.key").unlink(), "its key"),
    "readable by others": (lambda path: path.chmod(0o644), "chmod 600"),
    "an interrupted restore": (lambda path: shutil.copy(path, f"{path}.restoring"), "a restore was interrupted"),
    "no epoch": (forget_epoch, "its epoch or its marks are missing"),
}


@pytest.mark.parametrize("what", WRECK)
def test_a_store_that_can_not_be_opened_is_told_why_and_not_touched(path: Path, what: str) -> None:
    wreck, named = WRECK[what]
    wreck(path)
    before = state_of(path.parent)

    found = look(path)

    assert not found.is_usable
    assert named in found.findings[0]
    assert state_of(path.parent) == before


HOLD = """
import sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

store = SqliteStore(Path(sys.argv[1]))
store.open()
store.commit([admitted(10)])
print("open", flush=True)
sys.stdin.readline()
store.commit([admitted(11)])
store.close()
"""


def holding(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_store_is_checked_while_another_process_works_on_it(path: Path) -> None:
    with holding(path) as process:
        found = look(path)
        process.communicate("go on\n", timeout=20)

    assert process.returncode == 0
    assert (found.findings, found.counts["journal"], found.counts["jobs"]) == ((), 1, 3)
    assert look(path).counts["jobs"] == 5


def test_what_a_killed_process_left_is_checked_with_its_log(path: Path) -> None:
    with holding(path) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL

    found = look(path)

    assert (found.findings, found.counts["journal"]) == ((), 1)
    assert not path.with_name("runs.db.lock").exists()


def test_a_log_that_is_gone_is_found(path: Path) -> None:
    with holding(path) as process:
        process.kill()
    path.with_name("runs.db-wal").unlink()

    assert "put the log back" in look(path).findings[0]


def test_a_process_that_has_the_store_open_itself_does_not_look_at_its_files(path: Path) -> None:
    store = SqliteStore(path)
    store.open()

    with pytest.raises(StoreInUse, match="this very process"):
        look(path)

    store.close()


def test_findings_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.inspection.MAX_FINDINGS", 3)
    path.with_name("runs.db.key").write_bytes(b"x" * 32)

    assert len(look(path).findings) == 3
