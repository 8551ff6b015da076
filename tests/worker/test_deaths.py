"""Every way in which a child can die, each blamed on the job that was in hand, and on no other."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from cluster.core.records import Ending, Report
from cluster.worker.supervisor import Supervisor
from tests.acceptance.programs import wait_until
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk, a_worker, wait_gone

NEIGHBOURS = 100


@pytest.fixture(scope="module", autouse=True)
def by_value() -> Iterator[None]:
    """The tasks of this module travel by value, for children may not be able to import it; and only while it runs."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def worker() -> Iterator[tuple[RecordingDesk, Supervisor]]:
    with a_worker(slots=2) as running:
        yield running


def among_neighbours(desk: RecordingDesk, put: Callable[[], int]) -> Report:
    """The report of a job that was put in the middle of a hundred others, each of which must come out right."""
    square = desk.function(lambda x: x * x)
    before = [desk.put(square, number) for number in range(NEIGHBOURS // 2)]
    culprit = put()
    after = [desk.put(square, number) for number in range(NEIGHBOURS // 2)]

    report = desk.report_of(culprit, seconds=5)

    for fences in (before, after):
        assert [desk.result_of(fence) for fence in fences] == [number * number for number in range(NEIGHBOURS // 2)]
    return report


# --- the ways to go ---------------------------------------------------------------------------------------------------


def exit_politely() -> None:
    sys.exit(3)


def exit_hard() -> None:
    os._exit(0)


def fail() -> None:
    raise RuntimeError("on purpose")


def fault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


DEADLY = {
    exit_hard: (0, "exited with code 0 before the job ended"),
    fault: (signal.SIGSEGV, "SIGSEGV"),
    abort: (signal.SIGABRT, "SIGABRT"),
    be_killed: (signal.SIGKILL, "SIGKILL"),
}


@pytest.mark.parametrize("how", DEADLY, ids=lambda how: how.__name__)
def test_a_job_that_kills_its_process_is_blamed_and_its_neighbours_are_right(
    worker: tuple[RecordingDesk, Supervisor], how: Callable[[], None]
) -> None:
    desk, _ = worker
    number, words = DEADLY[how]

    report = among_neighbours(desk, lambda: desk.put(how))

    certificate = report.certificate
    assert certificate is not None
    assert report.ending is Ending.CRASHED
    assert words in certificate.reason
    assert certificate.signal == number
    assert certificate.exit_code == (None if number else 0)
    assert certificate.pid > 0
    assert certificate.peak_memory > 1_000_000
    assert certificate.cpu_seconds > 0
    assert certificate.worker.startswith("w#")


@pytest.mark.parametrize("how", [exit_politely, fail, interrupt], ids=lambda how: how.__name__)
def test_a_job_that_raises_harms_nobody(worker: tuple[RecordingDesk, Supervisor], how: Callable[[], None]) -> None:
    desk, _ = worker

    report = among_neighbours(desk, lambda: desk.put(how))

    assert report.ending is Ending.RAISED
    assert report.certificate is not None
    assert report.certificate.peak_memory > 1_000_000
    assert report.certificate.host


def test_a_segmentation_fault_leaves_its_python_stack(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    def stumble() -> None:
        print("before the fall")
        fault()

    certificate = desk.report_of(desk.put(stumble)).certificate

    assert certificate is not None
    assert "before the fall" in certificate.output_tail
    assert "in stumble" in certificate.output_tail


# --- loky's points: where it happens, times how -----------------------------------------------------------------------


class AtPickling:
    def __init__(self, how: Callable[[], None]) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        self.how()
        return (int, ())


class AtUnpickling:
    def __init__(self, how: Callable[[], None]) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return (self.how, ())


class AtCollection:
    def __init__(self, how: Callable[[], None]) -> None:
        self.how = how

    def __del__(self) -> None:
        if os.environ.get("TESTS_WORKER_PARENT") != str(os.getpid()):
            self.how()


class Deadly:
    """Strikes when `abs` is taken of it."""

    def __init__(self, how: Callable[[], None]) -> None:
        self.how = how

    def __abs__(self) -> None:
        self.how()


HOW = [exit_politely, exit_hard, fail, fault]


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
def test_a_result_that_strikes_while_it_is_pickled(
    worker: tuple[RecordingDesk, Supervisor], how: Callable[[], None]
) -> None:
    desk, _ = worker

    report = among_neighbours(desk, lambda: desk.put(lambda: AtPickling(how)))

    assert report.ending is (Ending.CRASHED if how in DEADLY else Ending.UNPICKLABLE)


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
def test_an_argument_that_strikes_while_it_is_unpickled(
    worker: tuple[RecordingDesk, Supervisor], how: Callable[[], None]
) -> None:
    desk, _ = worker

    report = among_neighbours(desk, lambda: desk.put(len, AtUnpickling(how)))

    assert report.ending is (Ending.CRASHED if how in DEADLY else Ending.UNPICKLABLE)


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
def test_an_argument_that_strikes_when_it_is_collected(
    worker: tuple[RecordingDesk, Supervisor], monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]
) -> None:
    desk, _ = worker
    monkeypatch.setenv("TESTS_WORKER_PARENT", str(os.getpid()))

    report = among_neighbours(desk, lambda: desk.put(lambda x: 7, AtCollection(how)))

    # Python itself swallows what `__del__` raises.
    assert report.ending is (Ending.CRASHED if how in DEADLY else Ending.SUCCEEDED)


def test_a_result_that_strikes_in_the_client_is_nothing_to_the_worker(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    report = desk.report_of(desk.put(lambda: AtUnpickling(fail)))

    assert report.ending is Ending.SUCCEEDED
    with pytest.raises(RuntimeError, match="on purpose"):
        pickle.loads(report.payload)


def test_an_exception_that_can_t_be_rebuilt_arrives_as_its_description(
    worker: tuple[RecordingDesk, Supervisor],
) -> None:
    desk, _ = worker

    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("odd")

    def raise_it() -> None:
        raise Odd(1, 2)

    report = desk.report_of(desk.put(raise_it))

    assert report.ending is Ending.RAISED
    assert report.payload == b""
    assert report.certificate is not None
    assert report.certificate.reason.endswith("Odd: odd")


# --- around the job in hand -------------------------------------------------------------------------------------------


def test_jobs_behind_a_dead_one_are_not_blamed_and_run() -> None:
    with a_worker(slots=1) as (desk, supervisor):
        quick = desk.function(abs, reusable=True)
        for _ in range(20):
            desk.result_of(desk.put(quick, -1))
        # The same function, so that the worker expects the deadly call to be as short, and queues others behind it.
        leases = [desk.lease(quick, cloudpickle.dumps(((-n,), {}))) for n in range(50)]
        deadly = desk.lease(quick, cloudpickle.dumps(((Deadly(exit_hard),), {})))

        culprit, *fences = desk.put_leases([deadly, *leases])

        assert desk.report_of(culprit).ending is Ending.CRASHED
        assert [desk.result_of(fence) for fence in fences] == list(range(50))
        assert supervisor.statistics().slots[0].crashes == 1


def test_a_child_killed_while_idle_harms_nobody(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, supervisor = worker
    assert supervisor.wait_ready(10)
    pid = desk.result_of(desk.put(os.getpid))
    crashes = sum(slot.crashes for slot in supervisor.statistics().slots)

    os.kill(pid, signal.SIGKILL)

    assert wait_gone(pid)
    fences = [desk.put(os.getpid) for _ in range(20)]
    assert pid not in {desk.result_of(fence) for fence in fences}
    assert sum(slot.crashes for slot in supervisor.statistics().slots) == crashes


def test_a_thread_that_kills_its_process_between_jobs_is_nobody_s_crash(
    worker: tuple[RecordingDesk, Supervisor], tmp_path: Path
) -> None:
    desk, _ = worker
    gate = Gate(tmp_path)

    def leave_a_bomb() -> int:
        import threading

        def explode() -> None:
            gate.pass_through()
            os._exit(1)

        threading.Thread(target=explode, daemon=True).start()
        return os.getpid()

    pid = desk.result_of(desk.put(leave_a_bomb))
    assert gate.wait_entered() == pid
    gate.release()

    assert wait_gone(pid)
    assert desk.result_of(desk.put(abs, -1)) == 1


def test_a_job_that_writes_into_the_worker_s_socket_is_killed_for_it(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    def babble() -> None:
        import socket

        for descriptor in range(3, 300):
            try:
                with socket.socket(fileno=os.dup(descriptor)) as end:
                    end.send(b"blah blah blah blah")
            except OSError:
                continue
        signal.pause()

    report = among_neighbours(desk, lambda: desk.put(babble))

    assert report.ending is Ending.CRASHED
    assert report.certificate is not None
    assert "nonsense" in report.certificate.reason


def test_a_copy_that_a_job_forks_does_not_speak_for_it(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    def fork() -> str:
        return "child" if os.fork() == 0 else "parent"

    fences = [desk.put(fork) for _ in range(10)]

    assert [desk.result_of(fence) for fence in fences] == ["parent"] * 10


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_a_chunk_that_dies_at_once_blames_no_item(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    report = desk.report_of(desk.put_chunk(lambda x: os._exit(1) if x == 3 else x, [(n,) for n in range(6)]))

    assert report.ending is Ending.CRASHED
    assert report.segments == ()


def test_a_careful_chunk_blames_the_item_and_keeps_what_was_done(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker
    fence = desk.put_chunk(lambda x: os._exit(1) if x == 3 else x, [(n,) for n in range(6)], careful=True)

    report = desk.report_of(fence)

    told = [
        (s.first, s.count, s.certificate.ending if s.certificate else pickle.loads(s.data)) for s in report.segments
    ]
    assert told == [(0, 1, [0]), (1, 1, [1]), (2, 1, [2]), (3, 1, Ending.CRASHED)]
    assert all(s.seconds > 0 for s in report.segments)
    assert report.ending is Ending.CRASHED
    assert report.certificate is not None
    assert report.certificate.item == 3


def test_a_careful_chunk_s_items_arrive_with_its_report(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    report = desk.report_of(desk.put_chunk(lambda x: 1 // x, [(1,), (0,), (2,)], careful=True))

    assert [(s.first, s.certificate is None) for s in report.segments] == [(0, True), (1, False), (2, True)]
    assert report.ending is Ending.RAISED
    failed = report.segments[1].certificate
    assert failed is not None
    assert failed.pid > 0


# --- in a cgroup ------------------------------------------------------------------------------------------------------


def a_group(folder: Path) -> Path:
    """Stands for a cgroup with a limit of memory; `tests/kernel` has real ones."""
    for name, text in {"cgroup.procs": "", "memory.max": "4000000000", "memory.events": "oom 0\noom_kill 0\n"}.items():
        (folder / name).write_text(text)
    return folder


def be_killed_for_memory(folder: str) -> None:
    """What the kernel does: it counts, it kills; and a large process takes a while to be gone."""
    Path(folder, "memory.events").write_text("oom 1\noom_kill 1\n")
    wait_until(Path(folder, "go").exists)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_that_the_group_has_counted_is_out_of_memory_though_a_heartbeat_came_between(tmp_path: Path) -> None:
    group = a_group(tmp_path)
    with a_worker(slots=1, group=str(group)) as (desk, _):
        fence = desk.put(be_killed_for_memory, str(tmp_path))
        wait_until(lambda: "oom 1" in (group / "memory.events").read_text())
        heartbeats = len(desk.health)
        wait_until(lambda: len(desk.health) > heartbeats)
        (tmp_path / "go").touch()

        report = desk.report_of(fence)
        later = desk.report_of(desk.put(be_killed))

    assert report.certificate is not None
    assert report.ending is Ending.OUT_OF_MEMORY
    assert report.certificate.reason.endswith("all that this worker's jobs start may take 4 GB together")
    assert later.ending is Ending.CRASHED


def test_a_job_is_only_given_what_its_group_can_hold(tmp_path: Path) -> None:
    group = a_group(tmp_path)
    (group / "memory.max").write_text("300000000")
    (group / "memory.current").write_text("50000000")
    (group / "memory.stat").write_text("inactive_file 0\n")

    with a_worker(slots=1, group=str(group)) as (desk, _):
        desk.result_of(desk.put(os.getpid))

    assert desk.hellos[0].memory_most == 285_000_000  # less the twentieth that is kept
    assert 0 < desk.hellos[0].memory_room <= 235_000_000
