"""The nursery's own death, and that of whoever it works for."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.core.records import Ending
from tests.acceptance.programs import wait_until
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk, a_worker, wait_gone

# A program of its own with a worker in it. Each job leaves a daemon and stays; pids go through the gate.
PROGRAM = """
import os, signal, sys
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk
from tests.worker.test_nursery import leave_a_daemon_and_stay
from cluster.worker.config import WorkerConfig
from cluster.worker.supervisor import Supervisor

gate = Gate.__new__(Gate)
gate.__setstate__((sys.argv[1], sys.argv[2]))
desk = RecordingDesk()
supervisor = Supervisor(WorkerConfig(name="w", slots=2))
supervisor.start(desk)
for _ in range(2):
    desk.put(leave_a_daemon_and_stay, gate)
desk.wait(lambda: not desk.waiting)
assert supervisor.wait_ready(20)
gate.tell(supervisor.statistics().nursery_pid)
if sys.argv[3] == "fork" and os.fork() == 0:
    gate.tell(-os.getpid())
signal.pause()
"""


def leave_a_daemon_and_stay(gate: Gate) -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            gate.tell(os.getpid())
            os.closerange(0, 1024)
            signal.pause()
        os._exit(0)
    gate.pass_through()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_a_child_that_can_t_be_set_up_is_told_of_with_its_reason_and_no_job_is_blamed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "scratch"
    with a_worker(1, scratch=str(folder)) as (desk, _):
        job = desk.put(abs, -1)
        wait_until(lambda: "died before its first job" in caplog.text)
        assert "FileNotFoundError" in caplog.text
        assert str(folder) in caplog.text

        folder.mkdir(mode=0o700)
        assert desk.report_of(job).ending is Ending.SUCCEEDED


def start_program(gate: Gate, how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, gate.entered, gate.released, how], start_new_session=True)


def test_nothing_is_left_when_the_program_is_killed(gate: Gate) -> None:
    program = start_program(gate, "plain")
    pids = [gate.wait_entered() for _ in range(5)]

    os.killpg(program.pid, signal.SIGKILL)

    assert [pid for pid in pids if not wait_gone(pid, 2.0)] == []
    assert program.wait() == -signal.SIGKILL


def test_nothing_is_left_when_a_fork_of_the_killed_program_lives_on(gate: Gate) -> None:
    program = start_program(gate, "fork")
    pids = [gate.wait_entered() for _ in range(6)]
    (copy,) = [-pid for pid in pids if pid < 0]

    program.kill()

    try:
        assert [pid for pid in pids if pid > 0 and not wait_gone(pid, 4.0)] == []
        assert program.wait() == -signal.SIGKILL
    finally:
        os.kill(copy, signal.SIGKILL)
    assert wait_gone(copy)


def test_nothing_is_left_when_the_program_ends_without_a_stop(gate: Gate) -> None:
    program = start_program(gate, "plain")
    pids = [gate.wait_entered() for _ in range(5)]

    program.send_signal(signal.SIGTERM)

    assert [pid for pid in pids if not wait_gone(pid, 2.0)] == []
    program.wait()


def test_a_dead_nursery_is_replaced_and_only_jobs_in_hand_are_blamed(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with a_worker(slots=2) as (desk, supervisor):
        running = [desk.put(gate.pass_through) for _ in range(2)]
        pids = [gate.wait_entered() for _ in range(2)]
        waiting = [desk.put(abs, -n) for n in range(10)]
        nursery = supervisor.statistics().nursery_pid

        os.kill(nursery, signal.SIGKILL)

        for fence in running:
            report = desk.report_of(fence)
            assert report.ending is Ending.CRASHED
            assert report.certificate is not None
            assert "nursery" in report.certificate.reason
        assert [desk.result_of(fence) for fence in waiting] == list(range(10))
        assert [pid for pid in pids if not wait_gone(pid, 0.0)] == []
        assert supervisor.statistics().nurseries == 2
        assert supervisor.statistics().nursery_pid != nursery
    assert "its nursery died" in caplog.text


class Sorted:
    """An epoll that tells of one descriptor first."""

    def __init__(self, real: select.epoll, first: int) -> None:
        self._real, self._first = real, first

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        return sorted(self._real.poll(timeout, most), key=lambda event: event[0] != self._first)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_result_that_is_told_in_one_breath_with_the_nursery_s_death_is_no_error(
    gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_worker(slots=1) as (desk, supervisor):
        fence = desk.put(gate.pass_through)
        gate.wait_entered()
        slots, link = supervisor._slots, supervisor._link.fileno()
        (of_slot,) = slots.by_descriptor
        with desk._changed:
            supervisor.wake()
            wait_until(lambda: not supervisor._is_rung)  # from here on it waits for the desk
            gate.release(1)
            assert is_readable(of_slot)
            os.kill(supervisor.statistics().nursery_pid, signal.SIGKILL)
            assert is_readable(link)
            monkeypatch.setattr(slots, "epoll", Sorted(slots.epoll, link))

        _ = desk.report_of(fence)
        assert desk.result_of(desk.put(abs, -1)) == 1
    assert "its nursery died" in caplog.text
    assert "goes on after an error" not in caplog.text


def is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(20_000))


def test_a_nursery_that_can_t_start_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with a_worker(slots=1, sys_path=()) as (_, supervisor):
        assert not supervisor.wait_ready(0.5)

    assert "its nursery died" in caplog.text
    assert "Error" in caplog.text


def test_signals_from_the_terminal_do_not_move_it() -> None:
    with a_worker(slots=1) as (desk, supervisor):
        assert supervisor.wait_ready(20)
        nursery = supervisor.statistics().nursery_pid

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(nursery, number)

        assert desk.result_of(desk.put(abs, -1)) == 1
        assert supervisor.statistics().nurseries == 1
        assert os.getsid(nursery) == nursery


def test_a_hundred_deaths_leak_no_descriptor_and_no_process() -> None:
    def die() -> None:
        os._exit(1)

    def descriptors(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    with a_worker(slots=2) as (desk, supervisor):
        assert supervisor.wait_ready(20)
        nursery = supervisor.statistics().nursery_pid
        function = desk.function(die)
        desk.report_of(desk.put(function))
        _settle(desk, supervisor.slot_pids)
        before = descriptors(os.getpid()), descriptors(nursery)

        fences = [desk.put(function) for _ in range(100)]
        for fence in fences:
            assert desk.report_of(fence).ending is Ending.CRASHED

        _settle(desk, supervisor.slot_pids)
        assert (descriptors(os.getpid()), descriptors(nursery)) == before
        children = Path(f"/proc/{nursery}/task/{nursery}/children").read_text().split()
        assert sorted(map(int, children)) == sorted(supervisor.slot_pids())


def _settle(desk: RecordingDesk, slot_pids: object) -> None:
    """Wait until both slots have a child again: each answers a job while the other holds one."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        fences = [desk.put(gate.pass_through) for _ in range(2)]
        for _ in fences:
            gate.wait_entered()
        gate.release(2)
        for fence in fences:
            desk.result_of(fence)


def test_a_whole_life_leaves_no_descriptor() -> None:
    def live() -> None:
        with a_worker(slots=2) as (desk, supervisor):
            supervisor.wait_ready(20)
            desk.result_of(desk.put(abs, -1))

    def descriptors() -> list[str]:
        gc.collect()  # the desk and the worker hold each other
        return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())

    live()
    before = descriptors()

    live()

    assert descriptors() == before
