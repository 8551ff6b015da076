"""SIGKILL of the master, of a worker and of a child in the middle of many jobs: nothing is lost, nothing counts twice."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil

from cluster.core.records import Ending
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import wait_until


def note(folder: str, number: int) -> int:
    """Leave a mark for each time that this runs."""
    with Path(folder, str(number)).open("a") as file:
        file.write("x")
    return number


def hold_until(folder: str) -> str:
    note(folder, -1)
    while not Path(folder, "go").exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file
    return "done"


def test_all_of_2000_jobs_end_once_although_the_master_is_killed_in_their_middle(tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker("w1", slots=1)
        lab.start_worker("w2", slots=1)

        jobs = [client.submit(note, (str(marks), number)) for number in range(2000)]
        jobs[300].result(30)
        lab.processes[0].kill()
        lab.processes[0].wait()
        lab.start_master()
        results = [job.result(60) for job in jobs]

        assert results == list(range(2000))
        assert len(client.dead_letters()) == 0
        runs = sum(len(Path(marks, str(number)).read_text()) for number in range(2000))
        # Only what was leased and not yet durable in that very moment may have begun twice.
        assert 2000 <= runs <= 2200
    assert sorted(lab.log().count(f"ready worker={name}#") for name in ("w1", "w2")) == [1, 1]


def test_a_running_job_survives_the_master_and_is_not_run_again(tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker()
        job = client.submit(hold_until, (str(marks),)).accepted(10)
        wait_until((marks / "-1").exists)
        client.submit(int).result(10)  # its commit covers the lease

        lab.processes[0].kill()
        lab.processes[0].wait()
        lab.start_master()
        client.submit(int).result(20)
        (marks / "go").touch()

        assert job.result(20) == "done"
        assert (marks / "-1").read_text() == "x"
        assert client.job(job.id).attempts == 1


def test_a_killed_worker_costs_an_attempt_with_a_reason_and_nothing_else(tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    with a_lab(tmp_path, heartbeat_timeout_seconds=1.5) as lab, lab.connect() as client:
        victim = lab.start_worker("victim", slots=1)
        job = client.submit(hold_until, (str(marks),))
        wait_until((marks / "-1").exists)
        children = psutil.Process(victim.pid).children(recursive=True)

        victim.kill()
        victim.wait()
        lab.start_worker("heir", slots=1)
        (marks / "go").touch()

        assert job.result(30) == "done"
        ((_, certificate),) = job.history().attempts
        assert certificate.ending is Ending.WORKER_LOST
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_worker_whose_master_stays_away_kills_what_runs_and_comes_back_as_another(tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    with a_lab(tmp_path, heartbeat_timeout_seconds=1.0) as lab, lab.connect() as client:
        worker = lab.start_worker(slots=1)
        job = client.submit(hold_until, (str(marks),))
        wait_until((marks / "-1").exists)
        nursery = psutil.Process(worker.pid).children()[0]
        (child,) = nursery.children()

        lab.processes[0].kill()
        lab.processes[0].wait()
        assert not psutil.wait_procs([child], timeout=10)[1]
        (marks / "go").touch()
        lab.start_master()

        assert job.result(30) == "done"
        assert (marks / "-1").read_text() == "xx"


def test_a_stopped_worker_hands_back_what_runs_and_spends_no_attempt(tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    with a_lab(tmp_path) as lab, lab.connect() as client:
        worker = lab.start_worker(slots=1, drain_seconds=0.2)
        job = client.submit(hold_until, (str(marks),))
        wait_until((marks / "-1").exists)

        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 1
        lab.start_worker("heir")
        (marks / "go").touch()

        assert job.result(20) == "done"
        assert client.job(job.id).attempts == 1
        assert job.history().attempts == ()
