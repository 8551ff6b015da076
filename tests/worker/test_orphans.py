"""What a killed nursery leaves: grandchildren of every kind, in a worker process and embedded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.core.records import Ending
from cluster.worker.orphans import Orphans
from tests.worker.gate import Gate
from tests.worker.recording_desk import a_worker, wait_gone

# A process that takes orphans and has no other children, as a worker process. Pids go through the gate.
PROGRAM = """
import sys
from tests.worker.gate import Gate
from tests.worker.recording_desk import a_worker
from tests.worker.test_orphans import start_all_kinds
from cluster.worker.orphans import ORPHANS

ORPHANS.adopt()
gate = Gate.__new__(Gate)
gate.__setstate__((sys.argv[1], sys.argv[2]))
with a_worker(slots=2) as (desk, supervisor):
    fences = [desk.put(start_all_kinds, gate) for _ in range(2)]
    print(supervisor.statistics().nursery_pid, flush=True)
    endings = [desk.report_of(fence).ending.name for fence in fences]
    print(*endings, flush=True)
    sys.stdin.readline()
    print(desk.result_of(desk.put(abs, -1)), flush=True)
"""

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"


def start_all_kinds(gate: Gate) -> None:
    """A grandchild in our session, one in its own, and a daemon with nothing open; then stay."""
    gate.tell(subprocess.Popen([sys.executable, "-c", STUBBORN]).pid)
    gate.tell(subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True).pid)
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


def test_a_worker_process_kills_all_that_its_dead_nursery_would_have_killed(gate: Gate) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, gate.entered, gate.released],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        nursery = int(program.stdout.readline())
        pids = [gate.wait_entered() for _ in range(8)]

        os.kill(nursery, signal.SIGKILL)

        # Nothing is told before it is true.
        assert program.stdout.readline() == "CRASHED CRASHED\n"
        assert [pid for pid in pids if not wait_gone(pid, 0.0)] == []
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "1\n", "it goes on with another nursery"
        assert program.wait(30) == 0


def test_embedded_all_that_jobs_had_started_is_killed_before_the_death_is_told(gate: Gate) -> None:
    own = subprocess.Popen([sys.executable, "-c", STUBBORN])
    try:
        with a_worker(slots=1) as (desk, supervisor):
            fence = desk.put(start_all_kinds, gate)
            pids = [gate.wait_entered() for _ in range(4)]

            os.kill(supervisor.statistics().nursery_pid, signal.SIGKILL)

            assert desk.report_of(fence).ending is Ending.CRASHED
            assert [pid for pid in pids if not wait_gone(pid, 0.0)] == []
            assert own.poll() is None, "the program's own children are its own affair"
            assert desk.result_of(desk.put(abs, -1)) == 1
    finally:
        own.kill()
        own.wait()


def test_the_mark_of_one_nursery_is_not_another_s(gate: Gate) -> None:
    with a_worker(slots=1) as (one, dying), a_worker(slots=1) as (other, _):
        killed, spared = one.put(start_all_kinds, gate), other.put(start_all_kinds, gate)
        pids = {gate.wait_entered() for _ in range(8)}

        os.kill(dying.statistics().nursery_pid, signal.SIGKILL)

        assert one.report_of(killed).ending is Ending.CRASHED
        assert len([pid for pid in pids if not wait_gone(pid, 0.0)]) == 4
        assert spared not in other.reports


def test_a_sweep_of_nothing_returns() -> None:
    Orphans().sweep((), "")
    Orphans().sweep({2**22 + 1}, "")
    Orphans().sweep((), "0" * 16)
