from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.core import events
from cluster.core.board import FENCE_BITS
from cluster.core.records import Ending, JobSpec, Report
from cluster.core.states import JobState
from cluster.errors import Refused, StoreError, StoreInUse
from cluster.master.master import Master
from cluster.store.backup import back_up
from cluster.store.epochs import JUMP
from cluster.store.files import StoreFiles
from cluster.store.inspection import check
from cluster.store.restore import Restored, restore
from cluster.store.sqlite import SqliteStore
from tests.store.build import FUNCTION, admitted, leased

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of epoch 1 with one job."""
    (folder := tmp_path / "cluster").mkdir()
    path = folder / "runs.db"
    add_job(path)
    return path


@pytest.fixture
def backup(path: Path, tmp_path: Path) -> Path:
    """Of that store as it is now."""
    (folder := tmp_path / "backups").mkdir()
    back_up("s", StoreFiles("s", path), folder / "monday.db", may_replace=False)
    return folder / "monday.db"


def add_job(path: Path) -> int:
    """Open the store, admit a job with the epoch's number, lease it; the epoch."""
    store = SqliteStore(path)
    epoch = store.open().epoch
    store.commit([FUNCTION, admitted(epoch % JUMP), leased("w#1", ((epoch << FENCE_BITS) + 1, epoch % JUMP))])
    store.close()
    return epoch


def put_back(path: Path, backup: Path) -> Restored:
    return restore(f"sqlite:///{path}", StoreFiles(f"sqlite:///{path}", path), backup)


def jobs_in(path: Path) -> list[int]:
    store = SqliteStore(path)
    store.open()
    found = [job.seq for job in store.page(0, 100)]
    store.close()
    return found


def test_a_restored_store_is_as_it_was_and_what_was_there_is_kept_as_a_store(path: Path, backup: Path) -> None:
    later = [add_job(path) for _ in range(3)]

    done = put_back(path, backup)

    assert later == [2, 3, 4]
    assert jobs_in(path) == [1]
    kept_database, kept_key = done.kept
    assert kept_key.name == kept_database.name + ".key"
    assert kept_database.name.startswith("runs.db.replaced-")
    assert jobs_in(kept_database) == [1, 2, 3, 4]
    modes = {each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes == {0o600}
    assert check("s", StoreFiles("s", path)).findings == ()


def test_the_next_epoch_is_beyond_any_of_the_later_life(path: Path, backup: Path) -> None:
    later = [add_job(path) for _ in range(3)]

    put_back(path, backup)

    assert add_job(path) > max(later)


@pytest.mark.parametrize("lost", ["the witness", "the witness and the database", "everything"])
def test_without_a_witness_the_epoch_jumps_from_the_highest_that_is_known(
    path: Path, backup: Path, tmp_path: Path, lost: str
) -> None:
    path.with_name("runs.db.epoch").unlink()
    later = [add_job(path) for _ in range(3)]
    path.with_name("runs.db.epoch").unlink()
    if lost != "the witness":
        path.unlink()
    if lost == "everything":
        path.with_name("runs.db.key").unlink()

    put_back(path, backup)

    assert later[0] == 1 + JUMP
    # Only what is left can tell that the epoch had jumped before.
    assert add_job(path) == (later[-1] + JUMP if lost == "the witness" else 1 + JUMP) + 1


def test_a_new_store_in_the_place_of_a_lost_one_is_no_witness_of_it(path: Path, backup: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()
    assert add_job(path) == 1

    put_back(path, backup)

    assert add_job(path) == 2 + JUMP


def test_a_report_under_a_fence_of_the_later_life_is_fenced_off_on_the_desk(path: Path, backup: Path) -> None:
    """The same worker id, the same job: only the fence tells the two lives apart."""

    def lease_one(name: str) -> tuple[Master, int]:
        master = Master(SqliteStore(path))
        master.open(grace_seconds=60)
        master.decide(events.Register("w#2"))
        master.decide(events.Submit(0, (JobSpec(name, FUNCTION.blob.digest, b""),), (FUNCTION.blob,), {}))
        master.decide(events.Poll("w#2", 1))
        (fence,) = master.board.workers["w#2"].leases
        return master, fence

    master, stale = lease_one("job-x")
    master.stop()
    put_back(path, backup)
    master, fresh = lease_one("job-x")

    master.decide(events.Reported("w#2", (Report(stale, Ending.SUCCEEDED, payload=b"of another life"),)))
    assert master.board.jobs["job-x"].state is JobState.ASSIGNED
    assert master.board.counters.fenced == 1
    master.decide(events.Reported("w#2", (Report(fresh, Ending.SUCCEEDED, payload=b"of this life"),)))
    master.stop()
    assert stale < fresh
    store = SqliteStore(path)
    store.open()
    outcome = store.outcome("job-x")
    store.close()
    assert outcome is not None
    assert outcome.payload == b"of this life"


HOLD = """
import sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
store.open()
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_store_that_a_cluster_has_open_is_not_replaced(path: Path, backup: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = set(path.parent.iterdir())

        with pytest.raises(StoreInUse, match=f"process {process.pid} "):
            put_back(path, backup)

        assert set(path.parent.iterdir()) == before
        process.kill()


def test_the_log_of_a_killed_cluster_goes_aside_with_its_database(path: Path, backup: Path) -> None:
    killed = HOLD.replace("print(", "from tests.store.build import admitted\nstore.commit([admitted(9)])\nprint(")
    with subprocess.Popen(
        [sys.executable, "-c", killed, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL

    done = put_back(path, backup)

    assert jobs_in(path) == [1]
    assert jobs_in(done.kept[0]) == [1, 9]


def test_a_damaged_backup_replaces_nothing(path: Path, backup: Path) -> None:
    add_job(path)
    with backup.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    before = set(path.parent.iterdir())

    with pytest.raises(StoreError, match="damaged"):
        put_back(path, backup)

    assert set(path.parent.iterdir()) == before
    assert jobs_in(path) == [1, 2]


def test_a_damaged_store_is_replaced_and_kept(path: Path, backup: Path) -> None:
    path.write_bytes(b"garbage" * 4000)

    done = put_back(path, backup)

    assert jobs_in(path) == [1]
    assert done.kept[0].read_bytes() == b"garbage" * 4000


def test_a_backup_without_its_key_is_refused(path: Path, backup: Path) -> None:
    backup.with_name("monday.db.key").unlink()

    with pytest.raises(StoreError, match=r"its key .* is missing"):
        put_back(path, backup)


def test_a_store_is_not_restored_from_itself(path: Path) -> None:
    with pytest.raises(Refused, match="the store itself"):
        put_back(path, path)


KILLED_AT = """
import os, pathlib, signal, sys
from pathlib import Path
from cluster.store.files import StoreFiles
from cluster.store.restore import restore

left = int(sys.argv[3])

def counted(real):
    def call(*arguments, **options):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*arguments, **options)
    return call

# Every call that changes a name or makes one durable.
for name in ("replace", "rename", "unlink"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
os.fsync = counted(os.fsync)
path = Path(sys.argv[1])
restore("s", StoreFiles("s", path), Path(sys.argv[2]))
"""


def test_a_restore_that_is_killed_anywhere_is_undone_or_can_be_finished_and_never_opens_half(
    path: Path, backup: Path, tmp_path: Path
) -> None:
    add_job(path)
    add_job(path)
    found: set[tuple[int, ...]] = set()
    for count in range(60):
        shutil.copytree(path.parent, folder := tmp_path / str(count))
        place = folder / "runs.db"
        ran = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(place), str(backup), str(count)], cwd=ROOT, check=False
        )
        if (folder / "runs.db.restoring").exists():
            with pytest.raises(StoreError, match="a restore was interrupted"):
                jobs_in(place)
            found.add(())
        else:
            found.add(tuple(jobs_in(place)))
        put_back(place, backup)
        assert jobs_in(place) == [1]
        assert add_job(place) > 3
        assert not list(folder.glob("*.restor*"))
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL

    assert found == {(1, 2, 3), (), (1,)}


def test_a_restore_on_a_new_machine_makes_the_store(backup: Path, tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()

    done = put_back(elsewhere / "lab.db", backup)

    assert done.kept == ()
    assert sorted(each.name for each in elsewhere.iterdir()) == ["lab.db", "lab.db.epoch", "lab.db.key"]
    assert add_job(elsewhere / "lab.db") == 2 + JUMP
