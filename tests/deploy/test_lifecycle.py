from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path

import psutil
import pytest

from cluster.deploy import lifecycle
from cluster.deploy.load import load_config
from cluster.errors import ClusterError, MasterUnavailable, Refused
from tests.acceptance.programs import is_gone, wait_until
from tests.deploy.conftest import Lab

PARTS = ["master", "worker-1", "worker-2"]


def test_up_returns_when_every_part_is_ready(lab: Lab) -> None:
    started = lifecycle.up(lab.config())

    assert started
    assert [lab.record(part).state for part in PARTS] == ["ready"] * 3
    assert psutil.pid_exists(lab.keeper_pid())


def test_up_twice_changes_nothing(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    pids = [lab.pid(part) for part in PARTS]

    started = lifecycle.up(config)

    assert not started
    assert [lab.pid(part) for part in PARTS] == pids


def test_two_ups_at_once_start_one_cluster(lab: Lab) -> None:
    config = lab.config()
    started: list[bool] = []
    threads = [threading.Thread(target=lambda: started.append(lifecycle.up(config))) for _ in range(3)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(started) == [False, False, True]
    assert len(lab.left()) == 4


def test_down_leaves_no_process_no_folder_and_no_lock(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)

    ended = lifecycle.down(config)

    assert ended == 4
    assert lab.left() == []
    assert not (lab.folder / "state" / "run").exists()
    assert "goodbye from worker-1" in lab.log("worker-1")


def test_down_twice_and_down_of_what_never_was_up_do_nothing(lab: Lab) -> None:
    config = lab.config()

    assert lifecycle.down(config) == 0
    lifecycle.up(config)
    lifecycle.down(config)

    assert lifecycle.down(config) == 0
    assert not (lab.folder / "state" / "run").exists()


def test_down_ends_the_workers_before_the_master(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)

    lifecycle.down(config)

    stopped = [line for line in lab.log("keeper").splitlines() if "stopped part=" in line]
    assert "part=master" in stopped[-1]


@pytest.mark.parametrize("part", ["master", "worker-1"])
def test_a_part_that_is_killed_is_started_again_by_itself(lab: Lab, part: str) -> None:
    lifecycle.up(lab.config())

    dead = lab.kill(part)

    record = lab.wait_state(part, "ready", other_than=dead)
    assert record.restarts == 1
    assert record.trouble == "killed by SIGKILL"


def test_a_killed_keeper_harms_nothing_and_up_adopts_what_runs(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    pids = [lab.pid(part) for part in PARTS]
    lab.kill("keeper")

    started = lifecycle.up(config)

    assert started
    assert [lab.pid(part) for part in PARTS] == pids
    dead = lab.kill("worker-2")
    assert lab.wait_state("worker-2", "ready", other_than=dead).trouble.startswith("it died, of what is not known")


def test_up_without_keeper_starts_what_died_meanwhile(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.kill("keeper")
    kept = lab.pid("master")
    lab.kill("worker-1")

    lifecycle.up(config)

    assert lab.pid("master") == kept
    assert lab.record("worker-1").state == "ready"


def test_a_process_whose_record_was_never_written_is_adopted(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.kill("keeper")
    pid = lab.pid("worker-1")
    lab.runtime.forget_part("worker-1")

    lifecycle.up(config)

    assert lab.pid("worker-1") == pid


def test_up_after_a_crash_of_everything_brings_all_of_it_back_at_the_same_address(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    address = lifecycle.address_of(config)
    for part in ["keeper", *PARTS]:
        lab.kill(part)

    lifecycle.up(config)

    assert lifecycle.address_of(config) == address
    assert [lab.record(part).state for part in PARTS] == ["ready"] * 3


def test_down_finds_everything_without_the_keeper_and_drains_it(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.kill("keeper")

    ended = lifecycle.down(config)

    assert ended == 3
    assert lab.left() == []
    assert "goodbye from master" in lab.log("master")


def test_down_finds_everything_without_keeper_and_records(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.kill("keeper")
    lab.runtime.remove()

    lifecycle.down(config)

    assert lab.left() == []


def test_down_ends_a_cluster_whose_keeper_died_while_a_part_waited_for_its_next_start(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.wish("worker-2", "crash")
    lab.kill("worker-2")
    lab.wait_state("worker-2", "failed")
    lab.kill("keeper")

    lifecycle.down(config, now=True)

    assert lab.left() == []
    assert not lab.runtime.folder.exists()


def test_down_ends_a_keeper_whose_folder_was_deleted_and_all_that_it_starts_again(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.runtime.remove()

    lifecycle.down(config)

    assert lab.left() == []
    assert not lab.runtime.folder.exists()


def test_down_survives_damaged_records(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    for record in lab.runtime.folder.glob("*.json"):
        record.write_text("{")

    lifecycle.down(config)

    assert lab.left() == []
    assert not lab.runtime.folder.exists()


def test_down_now_does_not_wait_for_what_will_not_end(lab: Lab) -> None:
    config = lab.config()
    lab.wish("worker-1", "stubborn")
    lifecycle.up(config)

    lifecycle.down(config, now=True)

    assert lab.left() == []
    assert "goodbye" not in lab.log("worker-2")


def test_what_does_not_drain_in_time_is_killed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.config("workers: [{}]")
    lab.wish("worker-1", "stubborn")
    lifecycle.up(config)
    lab.kill("keeper")  # so that this process is who waits
    monkeypatch.setattr(lifecycle, "GRACE_SECONDS", 0.0)

    lifecycle.down(config)

    assert lab.left() == []


def test_a_mistake_is_told_in_its_own_sentence_and_nothing_is_left(lab: Lab) -> None:
    lab.wish("master", "mistake")

    with pytest.raises(Refused, match=r"^master: port 7601 is in use; choose another one$"):
        lifecycle.up(lab.config())

    assert lab.left() == []
    assert not lab.runtime.folder.exists()
    assert lab.log("master").count("hello") == 1


def test_a_part_that_always_dies_before_it_is_ready_is_given_up(lab: Lab) -> None:
    lab.wish("worker-2", "crash")

    with pytest.raises(
        Refused, match=r"^worker-2: it went wrong; it died 5 times before it was ready; see .*worker-2.log$"
    ):
        lifecycle.up(lab.config())

    assert lab.log("worker-2").count("hello") == 5
    assert lab.left() == []


def test_a_part_that_is_never_ready_is_told_after_the_timeout(lab: Lab) -> None:
    lab.wish("worker-1", "silent")

    with pytest.raises(MasterUnavailable, match="did not get ready in time: worker-1 still to come; see "):
        lifecycle.up(lab.config("workers: [{}]"), timeout_seconds=1.5)

    assert lab.left() == []


def test_a_failure_of_a_part_leaves_alone_what_was_up_before(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    kept = lab.pid("master")
    lab.kill("keeper")
    lab.kill("worker-1")
    lab.wish("worker-1", "mistake")

    with pytest.raises(Refused, match=r"^worker-1: port 7601 is in use"):
        lifecycle.up(config)

    assert lab.pid("master") == kept
    assert lab.record("master").state == "ready"


def test_up_again_tries_what_was_given_up(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.wish("worker-1", "crash")
    lab.kill("worker-1")
    lab.wait_state("worker-1", "failed")
    lab.wish("worker-1", "")

    started = lifecycle.up(config)

    assert started
    assert lab.record("worker-1").state == "ready"


def test_other_settings_than_those_that_run_are_refused_by_the_key_that_differs(lab: Lab) -> None:
    lifecycle.up(lab.config())

    with pytest.raises(Refused, match=r"is up with other settings: log.level is 'info', and the file now says 'debug'"):
        lifecycle.up(lab.config("workers: [{}, {}]\nlog: {level: debug}"))

    assert lab.record("master").state == "ready"


def test_after_down_other_settings_are_fine(lab: Lab) -> None:
    lifecycle.up(lab.config())
    lifecycle.down(lab.config())

    lifecycle.up(lab.config("workers: [{name: other}]"))

    assert lab.record("other").state == "ready"


def test_an_interrupted_up_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "_wait_ready", interrupt)

    with pytest.raises(KeyboardInterrupt):
        lifecycle.up(lab.config())

    assert lab.left() == []
    assert not lab.runtime.folder.exists()


def test_a_socket_that_a_killed_master_left_is_removed(lab: Lab) -> None:
    lab.config()
    file = lab.folder / "lab.yaml"
    file.write_text(file.read_text().replace("tcp://127.0.0.1:0", "unix://master.sock"))
    config = load_config(file, environment={})
    lifecycle.up(config)
    path = lab.folder / "master.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    lifecycle.down(config)

    assert not path.exists()


def test_no_secret_and_none_of_the_caller_s_settings_reach_a_process(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setenv("CLUSTER__NAME", "other")

    lifecycle.up(lab.config())

    for part in ["keeper", *PARTS]:
        environment = psutil.Process(lab.pid(part)).environ()
        assert [name for name in environment if name.startswith("CLUSTER_")] == []


def test_what_a_worker_is_to_give_its_jobs_is_in_its_environment_only(lab: Lab) -> None:
    lifecycle.up(lab.config('workers: [{env: {OMP_NUM_THREADS: "3"}}, {}]'))

    told = [psutil.Process(lab.pid(part)).environ().get("OMP_NUM_THREADS") for part in PARTS]

    assert told == [os.environ.get("OMP_NUM_THREADS"), "3", os.environ.get("OMP_NUM_THREADS")]


def test_the_processes_are_in_sessions_of_their_own(lab: Lab) -> None:
    lifecycle.up(lab.config())

    sessions = {os.getsid(lab.pid(part)) for part in ["keeper", *PARTS]}

    assert len(sessions) == 4
    assert os.getsid(0) not in sessions


def test_the_folder_of_what_runs_is_private(lab: Lab) -> None:
    lifecycle.up(lab.config())

    assert lab.runtime.folder.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in lab.runtime.folder.iterdir())


def test_a_recorded_pid_that_another_process_has_by_now_is_left_alone(lab: Lab) -> None:
    config = lab.config()
    lifecycle.up(config)
    lab.kill("keeper")
    pid = lab.kill("worker-1")
    path = lab.runtime.folder / "worker-1.json"
    record = json.loads(path.read_text())
    record["process"]["pid"] = os.getpid()  # as if the kernel had given us the dead worker's number
    path.write_text(json.dumps(record))

    lifecycle.down(config)

    assert is_gone(pid)
    assert lab.left() == []


def test_a_keeper_that_can_not_start_says_why(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "psutil.py").write_text("raise ImportError('no psutil here')")
    monkeypatch.setenv("PYTHONPATH", f"{broken}{os.pathsep}{os.environ['PYTHONPATH']}")

    with pytest.raises(ClusterError, match="did not start: ImportError: no psutil here"):
        lifecycle.up(lab.config())

    assert not lab.runtime.folder.exists()


def test_a_second_signal_to_the_keeper_kills_at_once(lab: Lab) -> None:
    lab.wish("worker-1", "stubborn")
    lifecycle.up(lab.config())
    keeper = lab.keeper_pid()

    os.kill(keeper, signal.SIGTERM)
    lab.wait_state("worker-1", "stopping")
    os.kill(keeper, signal.SIGTERM)

    wait_until(lambda: is_gone(keeper))
    wait_until(lambda: not lab.left())
