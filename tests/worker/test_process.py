"""`cluster worker`, as the process that a keeper starts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from cluster.errors import Refused
from cluster.worker.process import parse_slots
from tests.acceptance.lab import Lab, a_lab
from tests.acceptance.programs import wait_until


def hold_until(folder: str) -> str:
    Path(folder, "begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file
    return os.environ["OMP_NUM_THREADS"]


def look_around() -> tuple[str, str, str, list[str]]:
    secrets = [name for name in os.environ if name.startswith("CLUSTER_")]
    return str(Path.cwd()), os.environ["OMP_NUM_THREADS"], os.environ.get("COLOUR", ""), secrets


@pytest.mark.parametrize(
    ("text", "slots"), [("4", (4, 0)), ("auto", (3, 0)), ("threads:32", (32, 32)), (" 1 ", (1, 0))]
)
def test_slots_are_a_number_or_all_cpus_or_threads(text: str, slots: tuple[int, int]) -> None:
    assert parse_slots(text, cpus=3) == slots


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "threads:", "threads:0", "threads:auto", "fibres:3", "99999"])
def test_other_slots_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(Refused, match="write a number from 1 on, auto, or threads:N"):
        parse_slots(text, cpus=3)


def test_a_worker_that_can_not_start_says_one_sentence_and_exits_with_2(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        keys = tmp_path / "keys"
        wrong_key = lab.run_worker(authkey_file=str(keys / "client.key"))
        no_key = lab.run_worker(authkey_file=str(keys / "nothing.key"))
        name = lab.run_worker(name="a#b")
        nobody = Lab(tmp_path, "tcp://127.0.0.1:1").run_worker(patience_seconds=0.1)
        nonsense = Lab(tmp_path, "nonsense").run_worker()

    for done, words in [
        (wrong_key, "key"), (no_key, "nothing.key"), (name, "must not be empty or hold '#'"),
        (nobody, "can't be reached"), (nonsense, "is no address"),
    ]:  # fmt: skip
        last = done.stderr.strip().splitlines()[-1]
        assert (done.returncode, last.startswith("cluster worker: ")) == (2, True), done.stderr
        assert words in last
        assert "Traceback" not in done.stderr


def test_jobs_get_the_environment_that_was_asked_for_and_a_share_of_the_cpus(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker(slots=1, env=(("COLOUR", "green"),))

        folder, threads, colour, secrets = client.submit(look_around).result(20)

        assert Path(folder).is_relative_to(tmp_path / "scratch")
        assert (threads, colour, secrets) == (str(len(os.sched_getaffinity(0))), "green", [])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_drained_worker_lets_what_runs_end_and_takes_nothing_more(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        worker = lab.start_worker(slots=1)
        running = client.submit(hold_until, (str(tmp_path),))
        wait_until((tmp_path / "begun").exists)
        waiting = client.submit(int).accepted(10)

        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining name=w" in lab.log())
        (tmp_path / "go").touch()

        assert worker.wait(20) == 0
        assert running.result(10)
        assert not waiting.done()
        lab.start_worker("heir")
        assert waiting.result(20) == 0


def test_threads_run_many_jobs_at_once_in_one_process(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker(slots=16, threads=16)
        jobs = [client.submit(hold_until, (str(tmp_path),)) for _ in range(16)]

        wait_until(lambda: client.stats().states.get("assigned") == 16)
        wait_until((tmp_path / "begun").exists)
        (tmp_path / "go").touch()

        assert len({job.result(20) for job in jobs}) == 1
        (info,) = client.workers()
        assert (info.slots, info.state) == (16, "ready")


def test_the_second_signal_kills_what_runs_and_leaves_no_process(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        worker = lab.start_worker(slots=1)
        job = client.submit(hold_until, (str(tmp_path),))
        wait_until((tmp_path / "begun").exists)
        family = psutil.Process(worker.pid).children(recursive=True)

        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining name=w" in lab.log())
        worker.send_signal(signal.SIGTERM)

        assert worker.wait(20) == 1
        assert not job.done()
        assert not psutil.wait_procs(family, timeout=10)[1]


def test_health_of_host_and_slots_is_listed(tmp_path: Path) -> None:
    with a_lab(tmp_path, heartbeat_timeout_seconds=1.0) as lab, lab.connect() as client:
        worker = lab.start_worker(slots=1, resources=(("gpu", 2),), labels=(("zone", "lab"),))
        job = client.submit(hold_until, (str(tmp_path),))

        def slot_of_job() -> bool:
            return any(slot.job == job.id for info in client.workers() for slot in info.health.slots)

        wait_until(slot_of_job)

        (info,) = client.workers()
        assert (info.name, info.pid, info.state, info.slots) == ("w", worker.pid, "ready", 1)
        assert (info.resources, info.labels) == ((("gpu", 2),), (("zone", "lab"),))
        assert info.health.memory_total > 0
        assert info.health.disk_free > 0
        assert psutil.pid_exists(info.health.slots[0].pid)
        (tmp_path / "go").touch()
        assert job.result(10)
