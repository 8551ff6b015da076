"""Jobs that take more than their limit, and those that only seem to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from cluster.core.records import Ending
from cluster.worker import memory, weighing
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk, a_worker, wait_gone

MB = 10**6
LIMIT = 200 * MB
# What a job may have taken by the time it is dead: it takes 8 GB in all if nobody stops it.
MOST = 5 * LIMIT

EATER = "hoard = [b'x' * 10_000_000 + bytes([n % 256]) for n in range(800)]"


@pytest.fixture(scope="module", autouse=True)
def by_value() -> Iterator[None]:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def desk() -> Iterator[RecordingDesk]:
    with a_worker(slots=2) as (running, _):
        yield running


def eat(megabytes: int) -> int:
    """Take so much, ten at a time, and use it."""
    hoard = [b"x" * (10 * MB) + bytes([n % 256]) for n in range(megabytes // 10)]
    return len(hoard)


def eat_in_a_child(gate: Gate) -> int:
    process = subprocess.Popen([sys.executable, "-c", EATER])
    gate.tell(process.pid)
    return process.wait()


def fork_a_family(gate: Gate, megabytes: int) -> int:
    """Take much, and share it with three forks, which only look at it."""
    hoard = b"x" * (megabytes * MB)
    pids = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            gate.pass_through()
            os._exit(hoard[-1])
        pids.append(pid)
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


def keep(megabytes: int) -> int:
    """Leave something behind in the process."""
    sys.hoard = b"x" * (megabytes * MB)  # type: ignore[attr-defined]
    return os.getpid()


def eat_if(megabytes: int) -> int:
    return eat(megabytes)


def test_a_job_over_its_limit_is_killed_and_told_why_and_its_neighbours_are_not(desk: RecordingDesk) -> None:
    square = desk.function(lambda x: x * x)
    before = [desk.put(square, number) for number in range(50)]
    culprit = desk.put(eat, 8000, memory=LIMIT)
    after = [desk.put(square, number) for number in range(50)]

    report = desk.report_of(culprit)

    certificate = report.certificate
    assert certificate is not None
    assert (report.ending, certificate.ending) == (Ending.OUT_OF_MEMORY, Ending.OUT_OF_MEMORY)
    assert certificate.reason.endswith("of memory, more than its limit of 200 MB, and were killed")
    assert LIMIT < certificate.peak_memory < MOST
    for fences in (before, after):
        assert [desk.result_of(fence) for fence in fences] == [number * number for number in range(50)]


def test_what_a_job_starts_counts_and_is_killed_with_it(desk: RecordingDesk, tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    culprit = desk.put(eat_in_a_child, gate, memory=LIMIT)
    grandchild = gate.wait_entered()
    report = desk.report_of(culprit)

    assert report.ending is Ending.OUT_OF_MEMORY
    assert report.certificate is not None
    assert LIMIT < report.certificate.peak_memory < MOST
    assert wait_gone(grandchild)


def test_a_job_under_its_limit_goes_on(desk: RecordingDesk) -> None:
    assert desk.result_of(desk.put(eat, 100, memory=LIMIT)) == 10


def test_memory_that_forks_share_counts_once(
    desk: RecordingDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, is_weighed = Gate(tmp_path), threading.Event()

    def weigh_exactly(pid: int) -> int:
        weight = weighing.weigh_exactly(pid)
        is_weighed.set()
        return weight

    monkeypatch.setattr(memory, "weigh_exactly", weigh_exactly)

    fence = desk.put(fork_a_family, gate, 120, memory=LIMIT)
    for _ in range(3):
        gate.wait_entered()
    assert is_weighed.wait(20), "four times 120 MB did not look like too much"
    gate.release(3)

    assert desk.result_of(fence) == 3 * ord("x")


def test_a_job_without_a_limit_is_not_weighed(desk: RecordingDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: int) -> int:
        raise AssertionError("weighed")

    monkeypatch.setattr(memory, "weigh", forbidden)

    assert desk.result_of(desk.put(eat, 300)) == 30


def test_the_next_job_of_a_child_is_not_held_to_the_limit_of_the_last(tmp_path: Path) -> None:
    with a_worker(slots=1) as (desk, _):
        gate = Gate(tmp_path)
        desk.result_of(desk.put(eat, 50, memory=LIMIT))

        free = desk.put(lambda: (eat(400), gate.pass_through())[0])
        gate.wait_entered()
        gate.release()

        assert desk.result_of(free) == 40


def test_a_child_full_of_what_earlier_jobs_left_is_replaced_and_no_attempt_is_spent() -> None:
    with a_worker(slots=1) as (desk, supervisor):
        full = desk.result_of(desk.put(keep, 180))
        fence = desk.put(lambda: (eat(100), os.getpid())[1], memory=LIMIT)

        fresh = desk.result_of(fence)

        assert fresh != full
        assert wait_gone(full)
        (slot,) = supervisor.statistics().slots
        assert (slot.crashes, slot.spawned) == (0, 2)


def test_a_child_that_kept_little_is_used_again() -> None:
    with a_worker(slots=1) as (desk, _):
        before = desk.result_of(desk.put(keep, 10))

        assert desk.result_of(desk.put(os.getpid, memory=LIMIT)) == before


def test_of_a_chunk_that_tells_of_its_items_the_greedy_one_is_blamed(desk: RecordingDesk) -> None:
    fence = desk.put_chunk(eat_if, [(10,), (8000,), (10,)], memory=LIMIT, careful=True)

    report = desk.report_of(fence)

    assert report.ending is Ending.OUT_OF_MEMORY
    assert [(segment.first, segment.certificate is None) for segment in report.segments] == [(0, True), (1, False)]
    assert report.segments[1].certificate is not None
    assert report.segments[1].certificate.item == 1


def test_threads_of_one_process_offer_no_memory_because_none_can_be_weighed_alone() -> None:
    with a_worker(slots=2, threads=2) as (threads, _):
        threads.wait(lambda: threads.hellos)

        assert (threads.hellos[0].memory_room, threads.hellos[0].memory_most) == (0, 0)


@pytest.mark.parametrize(
    ("left", "seconds"),
    [(0, memory.LEAST_SECONDS), (200 * MB, 200 * MB / memory.FASTEST), (100_000 * MB, memory.MOST_SECONDS)],
)
def test_a_job_is_weighed_before_it_can_have_taken_the_rest(left: int, seconds: float) -> None:
    assert memory.pause(left) == seconds


# --- weighing ---------------------------------------------------------------------------------------------------------


def test_memory_that_is_taken_weighs_and_files_that_are_mapped_do_not(tmp_path: Path) -> None:
    script = """
import mmap, os, sys
from cluster.worker.weighing import weigh, weigh_exactly
def weights(): return weigh(os.getpid()), weigh_exactly(os.getpid())
before = weights()
with open(sys.argv[1], "w+b") as file:
    file.truncate(100_000_000)
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sum(mapped[::4096])
    after_file = weights()
hoard = b"x" * 100_000_000
after_memory = weights()
print([round((b - a) / 1e7) for a, b in zip(before + after_file, after_file + after_memory)])
"""

    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "sparse")], capture_output=True, text=True, check=True
    ).stdout

    assert told.strip() == "[0, 0, 10, 10]"


def test_a_process_that_is_gone_weighs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert weighing.weigh(process.pid) == weighing.weigh_exactly(process.pid) == 0
