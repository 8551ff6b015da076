"""Stop means stop, and never hits a neighbour."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.core.records import Ending, Options
from cluster.worker.supervisor import Supervisor
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk, a_worker, wait_gone

# Runs until killed.
FOREVER = signal.pause


@pytest.fixture(scope="module")
def worker() -> Iterator[tuple[RecordingDesk, Supervisor]]:
    with a_worker(slots=2) as running:
        assert running[1].wait_ready(20)
        yield running


# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_a_job_that_runs_too_long_is_killed_and_told_so(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    def wait() -> None:
        print("waiting")
        signal.pause()

    report = desk.report_of(desk.put(wait, timeout=0.1), seconds=5)

    assert report.ending is Ending.TIMED_OUT
    certificate = report.certificate
    assert certificate is not None
    assert certificate.reason == "it ran longer than its timeout of 0.1 s and was killed"
    assert 0.1 <= certificate.seconds < 2
    assert certificate.output_tail == "waiting"


def test_a_loop_in_c_that_holds_the_interpreter_is_killed_too(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    report = desk.report_of(desk.put(lambda: sum(range(10**12)), timeout=0.1), seconds=5)

    assert report.ending is Ending.TIMED_OUT


def test_a_job_that_ignores_every_signal_is_killed_too(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    def ignore() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            signal.pause()

    assert desk.report_of(desk.put(ignore, timeout=0.1), seconds=5).ending is Ending.TIMED_OUT


def test_a_job_that_has_stopped_itself_is_killed_too(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    report = desk.report_of(desk.put(lambda: os.kill(os.getpid(), signal.SIGSTOP), timeout=0.1), seconds=5)

    assert report.ending is Ending.TIMED_OUT


def test_the_clock_counts_from_the_job_s_own_start_not_from_its_queueing() -> None:
    with a_worker(slots=1) as (desk, supervisor):
        assert supervisor.wait_ready(20)
        spin = desk.function(_spin, reusable=True)
        for _ in range(8):
            desk.result_of(desk.put(spin, 0.0005))

        # Together they take twice as long as each may.
        fences = [desk.put(spin, 0.0005, timeout=0.1) for _ in range(400)]

        assert [desk.result_of(fence) for fence in fences] == [0.0005] * 400


def _spin(seconds: float) -> float:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass
    return seconds


def test_a_timeout_counts_for_each_item_of_a_chunk(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker
    fence = desk.put_chunk(lambda x: signal.pause() if x == 2 else x, [(n,) for n in range(4)], timeout=0.15)

    report = desk.report_of(fence, seconds=5)

    told = [(s.first, s.certificate.ending if s.certificate else pickle.loads(s.data)) for s in report.segments]
    assert told == [(0, [0]), (1, [1]), (2, Ending.TIMED_OUT)]
    assert report.ending is Ending.TIMED_OUT
    assert report.certificate is not None
    assert report.certificate.reason == "item 2 of it ran longer than its timeout of 0.15 s and was killed"


def test_a_chunk_may_last_longer_than_each_item_may(worker: tuple[RecordingDesk, Supervisor]) -> None:
    desk, _ = worker

    report = desk.report_of(desk.put_chunk(lambda x: _spin(0.1), [(n,) for n in range(10)], timeout=0.7), seconds=9)

    assert report.ending is Ending.SUCCEEDED
    assert report.seconds > 0.7


def test_a_child_that_takes_no_jobs_any_more_is_replaced_and_no_job_is_blamed() -> None:
    with a_worker(slots=1) as (desk, supervisor):
        assert supervisor.wait_ready(20)
        (blocked,) = supervisor.slot_pids()
        os.kill(blocked, signal.SIGSTOP)

        pid = desk.result_of(desk.put(os.getpid, timeout=0.1))

        assert pid != blocked
        assert wait_gone(blocked, 0.0)
        assert supervisor.statistics().slots[0].crashes == 0


# --- orders to stop ---------------------------------------------------------------------------------------------------


def test_a_running_job_is_stopped_and_the_slot_goes_on(
    worker: tuple[RecordingDesk, Supervisor], tmp_path: Path
) -> None:
    desk, _ = worker
    gate = Gate(tmp_path)
    fence = desk.put(gate.pass_through)
    pid = gate.wait_entered()

    desk.order_stop(fence)

    desk.wait(lambda: fence in desk.confirmed)
    assert wait_gone(pid, 0.0)
    assert fence not in desk.reports
    assert desk.result_of(desk.put(abs, -2)) == 2


def test_a_job_that_waits_behind_another_is_stopped_without_a_kill(tmp_path: Path) -> None:
    with a_worker(slots=1) as (desk, supervisor):
        quick = desk.function(Gate.pass_through, reusable=True)
        gate = Gate(tmp_path)
        gate.release(20)
        for _ in range(20):
            desk.result_of(desk.put(quick, gate))
            gate.wait_entered()
        pid = supervisor.slot_pids()[0]
        first, second, third = (desk.put(quick, gate) for _ in range(3))
        assert gate.wait_entered() == pid

        desk.order_stop(second)
        desk.wait(lambda: second in desk.confirmed or not desk.is_held(second))
        gate.release(3)

        assert desk.result_of(first) == pid
        assert desk.result_of(third) == pid
        assert supervisor.slot_pids() == [pid]


def test_a_stop_of_a_job_that_has_ended_is_confirmed_and_kills_nothing(
    worker: tuple[RecordingDesk, Supervisor],
) -> None:
    desk, supervisor = worker
    desk.result_of(fence := desk.put(abs, -1))
    pids = supervisor.slot_pids()

    desk.order_stop(fence)

    desk.wait(lambda: fence in desk.confirmed)
    assert supervisor.slot_pids() == pids


def test_a_stop_of_a_job_whose_child_is_still_starting_is_carried_out() -> None:
    desk = RecordingDesk()
    fence = desk.put(FOREVER)

    with a_worker(slots=1, desk=desk):
        desk.wait_leased(fence)
        desk.order_stop(fence)

        desk.wait(lambda: fence in desk.confirmed)
        assert desk.result_of(desk.put(abs, -3)) == 3


def test_a_kill_never_hits_the_next_job(tmp_path: Path) -> None:
    """Timeouts and orders that race the jobs' own ends, some hundred times; every innocent one must come out right."""
    chance = random.Random(20240607)
    with a_worker(slots=2) as (desk, supervisor):
        assert supervisor.wait_ready(20)
        spin = desk.function(_spin, reusable=True)
        innocent: list[int] = []
        targets: list[int] = []
        for _ in range(150):
            about = chance.uniform(0.0005, 0.004)
            innocent += [desk.put(spin, 0.0001) for _ in range(3)]
            timed = desk.put(spin, about, timeout=about * chance.uniform(0.8, 1.6))
            ordered = desk.put(spin, about)
            innocent += [desk.put(spin, 0.0001) for _ in range(3)]
            desk.wait_leased(ordered)
            desk.order_stop(ordered)
            targets += [timed, ordered]

        assert {desk.result_of(fence) for fence in innocent} == {0.0001}
        desk.wait(lambda: all(fence in desk.reports or fence in desk.confirmed for fence in targets))
        endings = {desk.reports[fence].ending for fence in targets if fence in desk.reports}
        assert endings <= {Ending.SUCCEEDED, Ending.TIMED_OUT}
        assert sum(slot.crashes for slot in supervisor.statistics().slots) == 0


# --- what jobs have started -------------------------------------------------------------------------------------------


def _daemonise(gate: Gate) -> None:
    """Fork twice with a session of its own between, as daemons do, and let the last one speak."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            gate.tell(os.getpid())
            os.closerange(0, 1024)
            while True:
                signal.pause()
        os._exit(0)


def _family(gate: Gate) -> None:
    """A job with a subprocess in its group, one in a session of its own, and a daemon."""
    code = "import signal; signal.pause()"
    gate.tell(subprocess.Popen([sys.executable, "-c", code]).pid)
    gate.tell(subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid)
    _daemonise(gate)
    gate.pass_through()


@pytest.mark.parametrize("by", ["timeout", "order", "crash"])
def test_everything_that_a_job_has_started_dies_with_it(
    worker: tuple[RecordingDesk, Supervisor], tmp_path: Path, by: str
) -> None:
    desk, supervisor = worker
    gate = Gate(tmp_path)
    fence = desk.put(_family, gate, timeout=1.0 if by == "timeout" else None)
    pids = [gate.wait_entered() for _ in range(4)]

    if by == "order":
        desk.order_stop(fence)
    elif by == "crash":
        (child,) = set(pids) & set(supervisor.slot_pids())
        os.kill(child, signal.SIGKILL)
    desk.wait(lambda: fence in desk.confirmed or fence in desk.reports)

    # Nothing is told before it is true.
    assert [pid for pid in pids if not wait_gone(pid, 0.0)] == []


def test_a_daemon_that_a_finished_job_left_dies_with_the_worker(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with a_worker(slots=1) as (desk, _):
        desk.result_of(desk.put(_daemonise, gate))
        daemon = gate.wait_entered()

    assert wait_gone(daemon, 0.0)


# --- the worker's own end ---------------------------------------------------------------------------------------------


def test_a_stop_gives_back_what_runs_and_what_waits(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    desk = RecordingDesk(requeue=False)
    with a_worker(slots=2, desk=desk) as (_, supervisor):
        running = [desk.put(gate.pass_through) for _ in range(2)]
        pids = [gate.wait_entered() for _ in range(2)]
        waiting = [desk.put(abs, -1) for _ in range(5)]

        supervisor.stop()

        assert set(running) <= set(desk.gave_back)
        assert not set(waiting) & set(desk.reports)
        assert desk.waiting + len(set(waiting) & set(desk.gave_back)) == 5
        assert [pid for pid in pids if not wait_gone(pid, 0.0)] == []
        assert len(desk.left) == 1


def test_a_stop_does_not_give_back_what_may_not_run_twice(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with a_worker(slots=1) as (desk, supervisor):
        fence = desk.put(gate.pass_through, options=Options(crash_limit=0))
        gate.wait_entered()

        supervisor.stop()

        assert desk.gave_back == []
        report = desk.reports[fence]
        assert report.ending is Ending.WORKER_LOST
        assert report.certificate is not None
        assert "may not run twice" in report.certificate.reason


def test_a_drain_finishes_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with a_worker(slots=1) as (desk, supervisor):
        running = desk.put(gate.pass_through)
        pid = gate.wait_entered()
        waiting = desk.put(abs, -1)

        assert supervisor.drain(0.05) is False
        gate.release()
        assert supervisor.drain(20) is True

        assert desk.result_of(running) == pid
        assert waiting not in desk.reports
        assert desk.waiting == 1
        assert supervisor.statistics().is_draining
