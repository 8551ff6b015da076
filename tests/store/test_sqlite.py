"""What only the durable store promises: atomic through SIGKILL, usable after faults, tamper-evident, one writer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.core.effects import Admitted, QueuePaused, Record, StoredJob, Undone
from cluster.core.records import Ending
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreFull, StoreInUse, StoreTampered
from cluster.store.port import Room
from cluster.store.scribe import Row, Scribe
from cluster.store.sqlite import SqliteStore
from tests.store.build import DIGEST, FUNCTION, admitted, ended, failed, leased, requeued

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout_seconds=0.05)
    store.open()
    yield store
    store.close()


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def is_sound(path: Path) -> bool:
    connection = sqlite3.connect(path)
    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return bool(verdict == "ok")


# --- SIGKILL -------------------------------------------------------------------------------------------------------

KILLED_AFTER = """
import os, signal, sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
from tests.store.build import FUNCTION, admitted, ended, failed, leased, requeued

class Killer:
    def __init__(self, connection, count):
        self.connection, self.count = connection, count

    def execute(self, *statement):
        if self.count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count -= 1
        return self.connection.execute(*statement)

    def __getattr__(self, name):
        return getattr(self.connection, name)

store = SqliteStore(Path(sys.argv[1]))
store.open()
store.commit([admitted(1), admitted(2), leased("w#1", (1, 1), (2, 2))])
store._max_rows = int(sys.argv[3])
store._writer = Killer(store._writer, int(sys.argv[2]))
store.commit([
    FUNCTION, admitted(3), admitted(4), ended(1, 1, output=b"o"), failed(2, 2), leased("w#2", (4, 3)), requeued(1, 2),
])
print("committed", flush=True)
store.tidy()
print("filed", flush=True)
os._exit(0)
"""


def outcome_of_killing(path: Path, count: int, max_rows: int) -> tuple[str, bool]:
    """What the killed process had said, and whether its commit is there; it must be there wholly or not."""
    with python(KILLED_AFTER, path, count, max_rows) as process:
        said, _ = process.communicate()
    is_killed = process.returncode == -signal.SIGKILL
    store = SqliteStore(path)
    store.open()
    jobs = {job.seq: (job.run, job.fence, job.attempts) for job in store.live_jobs()}
    before = {1: (1, 1, 1), 2: (1, 2, 1)}
    after = {1: (2, 0, 0), 2: (1, 0, 1), 3: (1, 4, 1), 4: (1, 0, 0)}
    assert jobs in (before, after)
    assert [blob.digest for blob in store.functions([DIGEST])] == ([DIGEST] if jobs == after else [])
    assert store.output("job1") == (b"o" if jobs == after else b"")
    assert rows_of(path, "journal") == 0
    store.close()
    assert is_sound(path)
    assert is_killed != ("filed" in said)
    return said.replace("\n", " ").strip(), jobs == after


def test_a_group_is_there_wholly_or_not_wherever_the_process_is_killed(tmp_path: Path) -> None:
    found = [outcome_of_killing(tmp_path / f"{count}.db", count, max_rows=3) for count in range(8)]

    # The journal's row; then, filing it: BEGIN, four statements, COMMIT.
    assert found == [("", False)] + [("committed", True)] * 6 + [("committed filed", True)]


def test_a_group_that_is_filed_is_filed_wholly(tmp_path: Path) -> None:
    found = [outcome_of_killing(tmp_path / f"{count}.db", count, max_rows=2048) for count in range(3)]

    assert found == [("", False), ("committed", True), ("committed filed", True)]


def test_a_commit_goes_to_the_journal_and_is_filed_later(store: SqliteStore, path: Path) -> None:
    store.commit([admitted(1), ended(1)])
    store.commit([admitted(2)])
    before = (rows_of(path, "journal"), rows_of(path, "jobs"))

    has_more = store.tidy()

    assert (before, has_more) == ((2, 0), False)
    assert (rows_of(path, "journal"), rows_of(path, "jobs"), rows_of(path, "outcomes")) == (0, 2, 1)


def test_whoever_reads_finds_what_was_only_in_the_journal(store: SqliteStore, path: Path) -> None:
    for read in (
        lambda: store.find("job1"),
        lambda: store.find("job2"),
        lambda: store.page(2, 10),
        lambda: list(store.live_jobs())[3:],
    ):
        store.commit([admitted(rows_of(path, "jobs") + 1)])

        assert read()
        assert rows_of(path, "journal") == 0


def test_an_entry_of_the_journal_that_was_altered_is_named_and_not_filed(store: SqliteStore, path: Path) -> None:
    store.commit([admitted(1)])
    store.commit([admitted(2)])
    store._file_all = lambda: None  # type: ignore[method-assign]  # as if it were killed
    tamper(store, "UPDATE journal SET body = x'90' WHERE entry = (SELECT min(entry) FROM journal)")

    assert [job.seq for job in store.live_jobs()] == [2]
    assert len(store.tampered) == 1
    assert "of the journal" in store.tampered[0]


def test_only_so_much_waits_to_be_filed(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.sqlite.MAX_UNFILED_RECORDS", 3)
    monkeypatch.setattr("cluster.store.sqlite.FILED_PER_PIECE", 1)

    for seq in range(1, 8):
        store.commit([admitted(seq)])

    assert (rows_of(path, "journal"), rows_of(path, "jobs")) == (3, 4)


def test_what_a_killed_store_had_not_filed_is_filed_in_few_commits(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seq in range(1, 10):
        store.commit([admitted(seq)])
    store._file_all = lambda: None  # type: ignore[method-assign]  # as if it were killed
    store.close()
    monkeypatch.setattr("cluster.store.sqlite.FILED_PER_PIECE", 4)
    filed: list[int] = []
    file_rows = Scribe.rows

    def count_rows(self: Scribe, records: Iterable[Record], last: int = 0) -> list[Row]:
        filed.append(last)
        return file_rows(self, records, last)

    monkeypatch.setattr(Scribe, "rows", count_rows)

    again = SqliteStore(path)
    again.open()

    assert [job.seq for job in again.live_jobs()] == list(range(1, 10))
    # The epoch stands in the upper half of an entry's number.
    assert [entry & 0xFFFFFFFF for entry in filed if entry] == [4, 8, 9]
    again.close()


def test_a_large_group_is_filed_at_once(store: SqliteStore, path: Path) -> None:
    store.commit([admitted(1)])

    store.commit([admitted(2, args=b"x" * (8 << 20))])

    assert (rows_of(path, "journal"), rows_of(path, "jobs")) == (0, 2)


COMMIT_FOREVER = """
import itertools, sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted, ended

store = SqliteStore(Path(sys.argv[1]))
first = store.open().next_seq
for group in itertools.count():
    seqs = range(first + 50 * group, first + 50 * (group + 1))
    store.commit([admitted(seq) for seq in seqs] + [ended(seq) for seq in seqs[::2]])
    print(seqs[-1], flush=True)
"""


def test_every_acknowledged_group_survives_sigkill_at_any_instant(path: Path) -> None:
    last = 0
    for round_ in range(4):
        with python(COMMIT_FOREVER, path) as process:
            assert process.stdout is not None
            for _ in range(3 + 7 * round_):
                last = int(process.stdout.readline())
            process.kill()
            for line in process.stdout.read().splitlines():
                last = int(line) if line else last

        store = SqliteStore(path)
        next_seq = store.open().next_seq
        jobs = store.page(0, 10_000)
        store.close()

        assert next_seq > last
        assert (next_seq - 1) % 50 == 0
        assert [job.seq for job in jobs] == list(range(1, next_seq))
        assert [job.seq for job in jobs if job.outcome] == list(range(1, next_seq, 2))
    assert is_sound(path)


# --- faults of the disk, and other programs --------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [1, 2048])
def test_a_full_disk_is_told_and_the_same_commit_works_once_there_is_room(
    store: SqliteStore, path: Path, max_rows: int
) -> None:
    store._max_rows = max_rows
    store.commit([admitted(1), leased("w#1", (1, 1))])
    writer: Any = store._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    group: list[Record] = [admitted(2, args=b"x" * 100_000), ended(1, 1)]

    with pytest.raises(StoreFull, match="the disk is full; free some space"):
        store.commit(group)

    assert store.find("job2") is None
    assert store.outcome("job1") is None
    writer.execute("PRAGMA max_page_count = 1000000")
    store.commit(group)
    assert store.outcome("job1") is not None
    store.close()
    store.open()
    assert [job.seq for job in store.live_jobs()] == [2]
    store.close()
    assert is_sound(path)


SHORT_WRITES = """
import resource, sys
from pathlib import Path
from cluster.errors import StoreError
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted, ended

path = Path(sys.argv[1])
store = SqliteStore(path)
store.open()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
store._max_rows = 4
refused = 0
for round_ in range(40):
    group = [admitted(round_ + 1, args=b"x" * 20_000)] + ([ended(round_)] if round_ else [])
    log = path.with_name("runs.db-wal").stat().st_size
    # The write that crosses this line is cut short there.
    resource.setrlimit(resource.RLIMIT_FSIZE, (log + 1777 * round_, hard))
    try:
        store.commit(group)
    except StoreError as error:
        assert "the disk" in str(error), error
        refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.commit(group)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(refused)
store.close()
"""


def test_a_write_cut_short_anywhere_is_told_and_harms_nothing(path: Path) -> None:
    with python(SHORT_WRITES, path) as process:
        told, _ = process.communicate()

    assert process.returncode == 0
    assert 10 < int(told) < 40
    store = SqliteStore(path)
    store.open()
    assert [(job.seq, job.state) for job in store.page(0, 100)] == [
        *((seq, JobState.COMPLETED) for seq in range(1, 40)),
        (40, None),
    ]
    store.close()
    assert is_sound(path)


def test_another_program_that_holds_the_write_lock_delays_a_commit_only_so_long(store: SqliteStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreError, match=r"another program has held its write lock for 0.05 s; .*fuser"):
        store.commit([admitted(1)])

    assert store.find("job1") is None
    other.execute("ROLLBACK")
    other.close()
    store.commit([admitted(1)])
    assert store.find("job1") is not None


def test_a_long_read_of_another_program_delays_nothing(store: SqliteStore, path: Path) -> None:
    store.commit([admitted(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM jobs").fetchall()

    store.commit([admitted(2)])

    assert store.find("job2") is not None
    other.close()


def test_of_two_jobs_of_one_id_or_key_the_first_stays(store: SqliteStore) -> None:
    store.commit([admitted(1, key="once"), ended(1)])

    store.commit([admitted(2, key="once"), ended(2)])
    store.commit([Admitted(3, admitted(1).spec, 5.0), ended(3)])

    assert [job.seq for job in store.page(0, 10)] == [1]
    assert list(store.live_jobs()) == []


def test_a_closed_store_says_so(store: SqliteStore) -> None:
    store.close()

    for use in (lambda: store.commit([admitted(1)]), lambda: store.find("job1"), lambda: list(store.live_jobs())):
        with pytest.raises(StoreError, match="not open"):
            use()


def test_an_opening_that_fails_leaves_the_store_free(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_bytes(b"garbage")
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreError, match="not a cluster store"):
            store.open()

    path.unlink()

    assert store.open().epoch == 1
    store.close()


# --- one holder ------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

store = SqliteStore(Path(sys.argv[1]))
store.open()
store.commit([admitted(1)])
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_second_cluster_is_refused_until_the_first_is_dead(path: Path) -> None:
    store = SqliteStore(path)
    with python(HOLD, path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreInUse, match=f"process {process.pid} "):
            store.open()
        process.kill()

    assert store.open().next_seq == 2
    store.close()


def test_a_second_store_object_in_this_process_is_refused_and_harms_nothing(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StoreInUse, match="this very process"):
        SqliteStore(path).open()

    store.commit([admitted(1)])
    assert store.find("job1") is not None


FORK = """
import os, sys
from pathlib import Path
from cluster.errors import StoreError
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

path = Path(sys.argv[1])
store = SqliteStore(path)
store.open()
store.commit([admitted(1)])
child = os.fork()
if child == 0:
    for use in (lambda: store.commit([admitted(2)]), lambda: store.find("job1"), SqliteStore(path).open):
        try:
            use()
        except StoreError as error:
            print(error, flush=True)
    store.close()
    store.close()
    sys.exit(0)
os.waitpid(child, 0)
store.commit([admitted(3)])
print([job.seq for job in store.live_jobs()], flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_forked_child_can_neither_use_nor_harm_the_store(path: Path) -> None:
    with python(FORK, path) as process:
        told, _ = process.communicate()

    lines = told.splitlines()
    assert "belongs to the parent process" in lines[0]
    assert "belongs to the parent process" in lines[1]
    assert f"process {process.pid} " in lines[2]
    assert lines[3] == "[1, 3]"
    store = SqliteStore(path)
    store.open()
    assert [job.seq for job in store.live_jobs()] == [1, 3]
    store.close()
    assert is_sound(path)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_readers_in_any_thread_see_whole_groups_while_one_commits(store: SqliteStore) -> None:
    store.commit([admitted(1)])
    done = threading.Event()
    faults: list[object] = []

    def read() -> None:
        try:
            while not done.is_set():
                jobs = store.page(0, 10_000)
                ended_ones = sum(1 for job in jobs if job.outcome)
                if len(jobs) != 1 + 2 * ended_ones:
                    faults.append((len(jobs), ended_ones))
                store.find("job1")
                store.history("job2")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seq in range(2, 400, 2):
        store.commit([admitted(seq), admitted(seq + 1), ended(seq)])
    done.set()
    for thread in threads:
        thread.join(timeout=30)

    assert faults == []


# --- size and shape --------------------------------------------------------------------------------------------------


def test_a_group_of_any_size_is_written(store: SqliteStore) -> None:
    seq = 0
    for count in (1, 2, 3, 5, 7, 100, 1025, 2047, 2048, 2049, 5000):
        store.commit([admitted(seq := seq + 1) for _ in range(count)])

    assert [job.seq for job in store.live_jobs()] == list(range(1, seq + 1))


def test_live_jobs_are_read_in_bounded_parts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.stories.LIVE_JOBS_PER_READ", 3)
    monkeypatch.setattr("cluster.store.stories.MAX_BYTES_PER_READ", 5000)
    store.commit([admitted(seq, args=b"x" * (3000 if seq > 4 else 1)) for seq in range(1, 10)])
    sizes = []
    real_read = store._stories.live

    def read_live(after: int) -> tuple[list[StoredJob], int | None]:
        found, more = real_read(after)
        sizes.append(len(found))
        return found, more

    monkeypatch.setattr(store._stories, "live", read_live)

    assert [job.seq for job in store.live_jobs()] == list(range(1, 10))
    assert sizes == [3, 3, 2, 1]


def test_live_jobs_are_those_without_an_outcome_of_their_latest_run_wherever_others_stand(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.store.stories.LIVE_JOBS_PER_READ", 2)
    store.commit([FUNCTION, *[admitted(seq) for seq in range(1, 13)]])
    store.commit([ended(2), failed(4, 41), ended(5), requeued(5, 2), ended(6), requeued(6, 2), ended(6, run=2)])
    store.commit([ended(9), requeued(9, 2), failed(9, 42, run=2), Undone(12)])

    found = list(store.live_jobs())

    assert [job.seq for job in found] == [1, 3, 4, 5, 7, 8, 9, 10, 11]
    assert found == [store.find(job.spec.id) for job in found]


def test_found_jobs_are_read_in_bounded_parts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.stories.MAX_BYTES_PER_READ", 5000)
    for seq in range(1, 8):
        store.commit([admitted(seq, args=b"x" * 2000), ended(seq, payload=b"x" * 2000)])
    sizes = []
    real_read = store._stories.some

    def some(jobs: Sequence[str]) -> tuple[list[Any], Sequence[str]]:
        found, rest = real_read(jobs)
        sizes.append(len(found))
        return found, rest

    monkeypatch.setattr(store._stories, "some", some)
    asked = ["nobody", *[f"job{seq}" for seq in (3, 1, 2, 7, 4)], "no one"]

    assert [job for job, _ in store.find_all(asked)] == asked[1:-1]
    assert sizes == [2, 2, 1]


def test_to_look_for_many_files_what_was_committed_before(store: SqliteStore) -> None:
    store.commit([admitted(1), admitted(2)])
    found = store.find_all(["job1", "job2"])
    store.commit([ended(1), Undone(2)])

    assert [(job, getattr(stored, "state", None)) for job, stored in found] == [("job1", JobState.COMPLETED)]


def test_a_written_payload_is_not_kept_in_memory(store: SqliteStore) -> None:
    big = os.urandom(32 << 20)
    before = resident()

    for count in (1, 2, 3, 5, 7):
        store.commit([admitted(count, args=big), *(admitted(100 * count + each) for each in range(count))])

    assert resident() - before < 3 * len(big)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_lease_rows_do_not_pile_up(store: SqliteStore, path: Path) -> None:
    for seq in range(1, 200, 2):
        store.commit([admitted(seq), admitted(seq + 1), leased("w#1", (seq, seq), (seq + 1, seq + 1))])
        store.commit([ended(seq, seq), failed(seq + 1, seq + 1)])

    assert rows_of(path, "leases") == 0


def test_a_lease_row_left_by_a_crash_is_cleared_at_the_next_opening(store: SqliteStore, path: Path) -> None:
    store.commit([admitted(1), admitted(2), leased("w#1", (1, 1), (2, 2))])
    store.tidy()
    connection = sqlite3.connect(path)
    (row,) = connection.execute("SELECT * FROM leases").fetchall()
    store.commit([ended(1, 1), failed(2, 2)])
    store.tidy()
    connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", row)
    connection.commit()
    connection.close()

    store.close()
    store.open()

    assert rows_of(path, "leases") == 0
    assert [job.fence for job in store.live_jobs()] == [0]


def test_nothing_of_a_pruned_job_stays(store: SqliteStore, path: Path) -> None:
    store.commit([FUNCTION, admitted(1), failed(1, 1, output=b"o"), ended(1, 2, state=JobState.DEAD_LETTER)])
    store.commit([requeued(1, 2), ended(1, 3, run=2, keep_until=5.0, output=b"o")])

    for _ in range(2):
        store.prune(6.0, lambda _job: False)

    tables = ("functions", "jobs", "outcomes", "attempts", "outputs", "requeues", "leases", "queues")
    assert {table: rows_of(path, table) for table in tables} == dict.fromkeys(tables, 0)


def test_a_job_requeued_while_prune_asks_is_not_dropped(store: SqliteStore) -> None:
    store.commit([admitted(1), ended(1, keep_until=5.0)])

    def requeue_meanwhile(_job: str) -> bool:
        store.commit([requeued(1, 2)])
        return False

    store.prune(6.0, requeue_meanwhile)

    assert [(job.seq, job.run) for job in store.live_jobs()] == [(1, 2)]


def test_a_long_prune_goes_round_the_store_in_parts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.pruning.WINDOW_ROWS", 3)
    store.commit([admitted(seq) for seq in range(1, 11)])
    store.commit([ended(seq, keep_until=5.0 if seq % 2 else 50.0) for seq in range(1, 11)])

    dropped = [store.prune(6.0, lambda job: job == "job1") for _ in range(6)]

    assert sum(dropped) == 4
    assert [job.seq for job in store.page(0, 20)] == [1, 2, 4, 6, 8, 10]


def test_outputs_are_looked_at_in_parts_and_all_of_them_in_turn(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.store.pruning.OUTPUT_WINDOW_ROWS", 3)
    store.commit([admitted(seq) for seq in range(1, 11)])
    store.commit([ended(seq, seq, output=b"o", at=5.0 if seq % 2 else 50.0) for seq in range(1, 11)])

    dropped = [store.drop_outputs(6.0) for _ in range(8)]

    assert max(dropped) < 5
    assert sum(dropped) == 5
    assert [seq for seq in range(1, 11) if store.output(f"job{seq}")] == [2, 4, 6, 8, 10]


def test_old_output_is_found_behind_much_that_must_stay(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.pruning.OUTPUT_WINDOW_ROWS", 2)
    store.commit([admitted(seq) for seq in range(1, 11)])
    store.commit([failed(seq, seq, output=b"lives") for seq in range(1, 10)])
    store.commit([ended(10, 10, output=b"o", at=5.0)])

    dropped = [store.drop_outputs(6.0) for _ in range(5)]

    assert sum(dropped) == 1
    assert store.output("job10") == b""


def test_room_is_looked_for_in_parts_until_all_has_been_looked_at(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.store.pruning.WINDOW_ROWS", 3)
    dead = JobState.DEAD_LETTER
    store.commit([admitted(seq) for seq in range(1, 11)])
    store.commit([ended(seq, state=dead if seq % 2 else JobState.COMPLETED) for seq in range(1, 11)])

    rooms: list[Room] = []
    while not rooms or not rooms[-1].is_exhausted:
        rooms.append(store.make_room(1, lambda job: job in {"job1", "job2"}))
        assert len(rooms) < 20

    assert [job.seq for job in store.page(0, 20)] == [1, 2]
    assert sum(room.dropped for room in rooms) == 8
    assert rooms[-1].excess > 0


def test_what_was_dropped_is_room_for_what_comes(store: SqliteStore, path: Path) -> None:
    for first in range(0, 300, 30):
        for seq in range(first + 1, first + 31):
            store.commit([admitted(seq, args=b"x" * 100_000), ended(seq)])
        while store.make_room(1_000_000, lambda _job: False).dropped:
            pass

    assert len(store.page(0, 1000)) < 12
    store.close()
    # 30 MB went through it. What 30 jobs take twice, in the journal and in the tables, is what it has grown to.
    assert path.stat().st_size < 10_000_000


def test_an_outcome_that_was_altered_keeps_its_output_and_stops_nobody_s(store: SqliteStore) -> None:
    store.commit([admitted(1), admitted(2), ended(1, 1, output=b"o"), ended(2, 2, output=b"p")])
    store.tidy()
    tamper(store, "UPDATE outcomes SET body = x'c1' WHERE seq = 1")

    dropped = store.drop_outputs(1e12)

    assert (dropped, store.output("job1"), store.output("job2")) == (1, b"o", b"")


def rows_of(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return int(count)


# --- tampering -------------------------------------------------------------------------------------------------------

LONG = b"long payload " * 500


@pytest.fixture
def filled(store: SqliteStore) -> SqliteStore:
    """Every table has a row: job1 has ended twice, job2 is out, job3 waits, both for a long time."""
    store.commit([FUNCTION, QueuePaused("gpu", paused=True)])
    store.commit([admitted(1), admitted(2, args=LONG), admitted(3, key="once")])
    store.commit([failed(1, 1, output=b"one"), ended(1, 2, state=JobState.DEAD_LETTER), requeued(1, 2)])
    store.commit([ended(1, 4, run=2, payload=LONG, output=b"two"), failed(2, 5), leased("w#1", (9, 2), attempt=2)])
    return store


def tamper(store: SqliteStore, statement: str) -> None:
    """Change the file while the store is closed, and open it again."""
    store.close()
    connection = sqlite3.connect(store._files.database, isolation_level=None)
    assert connection.execute(statement).rowcount == 1
    connection.close()
    store.open()


FLIP = "CAST(substr({0}, 1, length({0}) - 1) || CASE substr({0}, -1) WHEN x'41' THEN x'42' ELSE x'41' END AS BLOB)"


def flip(column: str) -> str:
    """SQL that changes the last byte of a column."""
    return f"{column} = {FLIP.format(column)}"


@pytest.mark.parametrize(
    "change",
    [
        *map(flip, ("function", "body", "args_digest", "args", "mac")),
        "id = 'job7'",
        "id = CAST(x'ff' AS TEXT)",
        "key = 'mine'",
        "seq = 77",
        "args = x''",
        "args_digest = NULL",
        "args_digest = NULL, args = x''",
    ],
)
def test_a_tampered_job_is_named_and_neither_run_nor_answered(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE jobs SET {change} WHERE seq = 2")

    assert [job.seq for job in filled.live_jobs()] == [3]
    assert len(filled.tampered) == 1
    assert "is not what this cluster wrote" in filled.tampered[0]
    for job in ("job2", "job7"):
        if rows_with_id(filled, job):
            with pytest.raises(StoreTampered):
                filled.find(job)


def rows_with_id(store: SqliteStore, job: str) -> int:
    connection = sqlite3.connect(store._files.database)
    (count,) = connection.execute("SELECT count(*) FROM jobs WHERE id = ?", (job,)).fetchone()
    connection.close()
    return int(count)


def test_arguments_moved_from_one_job_to_another_are_found(filled: SqliteStore) -> None:
    tamper(filled, "UPDATE jobs SET args = (SELECT args FROM jobs WHERE seq = 2) WHERE seq = 3")

    assert [job.seq for job in filled.live_jobs()] == [2]


@pytest.mark.parametrize(
    "change",
    [*map(flip, ("body", "payload_digest", "payload", "mac")), "state = 12", "keep_until = 0", "payload = x''"],
)
def test_a_tampered_outcome_is_never_answered(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE outcomes SET {change} WHERE seq = 1 AND run = 2")

    for read in (filled.outcome, filled.find):
        with pytest.raises(StoreTampered, match="job 'job1' is not what this cluster wrote"):
            read("job1")


def test_an_outcome_moved_from_one_job_to_another_is_found(filled: SqliteStore) -> None:
    tamper(filled, "UPDATE outcomes SET seq = 3, run = 1 WHERE seq = 1 AND run = 2")

    assert [job.seq for job in filled.live_jobs()] == [1, 2]
    with pytest.raises(StoreTampered):
        filled.outcome("job3")


def test_a_listing_shows_of_a_tampered_job_its_name_and_why_it_is_set_aside(
    filled: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    tamper(filled, f"UPDATE outcomes SET {flip('body')} WHERE seq = 1 AND run = 2")

    first, *others = filled.page(0, 10)

    assert [job.seq for job in others] == [2, 3]
    assert first.outcome is not None
    assert first.outcome.certificate is not None
    assert (first.spec.id, first.spec.args, first.state) == ("job1", b"", JobState.DEAD_LETTER)
    assert first.outcome.certificate.ending is Ending.TAMPERED
    assert "the outcome of run 2 of job 'job1' is not what this cluster wrote" in first.outcome.certificate.reason
    assert [job.seq for job in filled.page(0, 10, JobState.DEAD_LETTER)] == [1]
    assert [job.seq for job in filled.page(0, 1)] == [1]  # a page of nothing else is no end of the listing
    assert caplog.text.count("tampered: table=outcomes job=job1") == 1
    assert filled.tampered == [
        "the outcome of run 2 of job 'job1' is not what this cluster wrote; it is left out of everything"
    ]


@pytest.mark.parametrize("change", [flip("body"), flip("mac"), "fence = 6", "fence = fence + 100"])
def test_a_tampered_attempt_keeps_its_job_from_being_run(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE attempts SET {change} WHERE seq = 2")

    assert [job.seq for job in filled.live_jobs()] == [3]
    with pytest.raises(StoreTampered):
        filled.history("job2")


def test_a_planted_requeue_does_not_run_an_ended_job_again(filled: SqliteStore) -> None:
    tamper(filled, "INSERT INTO requeues SELECT seq, 3, at, mac FROM requeues WHERE seq = 1")

    assert [job.seq for job in filled.live_jobs()] == [2, 3]
    with pytest.raises(StoreTampered, match="requeue 3 of job 'job1'"):
        filled.find("job1")


@pytest.mark.parametrize("change", [flip("output"), flip("mac"), "run = 7"])
def test_tampered_output_is_never_answered(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE outputs SET {change} WHERE seq = 1 AND run = 1")

    with pytest.raises(StoreTampered, match="the output of run"):
        filled.output("job1")


@pytest.mark.parametrize("change", [*map(flip, ("body", "code", "mac")), "digest = x'00'"])
def test_a_tampered_function_is_named_and_left_out(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE functions SET {change}")

    assert list(filled.functions([DIGEST, b"\0"])) == []
    assert len(filled.tampered) == 1
    assert filled.tampered[0].startswith("function ")


def test_a_tampered_long_function_is_left_out(store: SqliteStore) -> None:
    blob = type(FUNCTION.blob)(DIGEST, LONG, "3.11", "3.0", "f")
    store.commit([type(FUNCTION)(blob)])

    tamper(store, f"UPDATE functions SET {flip('code')}")

    assert list(store.functions([DIGEST])) == []


@pytest.mark.parametrize("change", [flip("body"), flip("mac"), "worker = 'mallory#1'", "first_fence = 1"])
def test_a_tampered_lease_is_named_at_opening_and_holds_nothing(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE leases SET {change}")

    assert [(job.seq, job.fence) for job in filled.live_jobs()] == [(2, 0), (3, 0)]
    filled.close()
    opening = filled.open()
    assert len(opening.tampered) == 1
    assert opening.tampered[0].startswith("the lease batch")


@pytest.mark.parametrize("change", ["name = 'default'", flip("mac")])
def test_a_tampered_pause_is_named_and_pauses_nothing(filled: SqliteStore, change: str) -> None:
    tamper(filled, f"UPDATE queues SET {change}")

    filled.close()
    opening = filled.open()
    assert opening.paused == ()
    assert opening.tampered[0].startswith("the paused queue")


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE meta SET {flip('body')} WHERE name = 'epoch'",
        f"UPDATE meta SET {flip('body')} WHERE name = 'marks'",
        "UPDATE meta SET body = (SELECT body FROM meta WHERE name = 'epoch') WHERE name = 'marks'",
        "DELETE FROM meta WHERE name = 'epoch'",
        "DELETE FROM meta WHERE name = 'marks'",
    ],
)
def test_a_store_that_can_not_tell_its_epoch_is_not_opened(filled: SqliteStore, statement: str) -> None:
    with pytest.raises(StoreTampered, match="fences could repeat"):
        tamper(filled, statement)


def test_sentences_on_tampered_rows_are_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.aside.MAX_NAMED", 2)
    store.commit([admitted(seq) for seq in (1, 2, 3)])
    store.close()
    connection = sqlite3.connect(store._files.database)
    connection.execute("UPDATE jobs SET mac = x'00'")
    connection.commit()
    connection.close()
    store.open()

    assert list(store.live_jobs()) == []
    assert len(store.tampered) == 2
