"""What a keeper does that `test_lifecycle` does not show: its logs, its limits, and that it is alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.deploy import kept_part, lifecycle
from cluster.deploy.commands import Part
from cluster.deploy.kept_part import KeptPart
from cluster.deploy.runtime import Runtime
from tests.acceptance.programs import wait_until
from tests.deploy.conftest import Lab


def test_a_full_log_is_moved_away_and_its_writer_goes_on(lab: Lab) -> None:
    lifecycle.up(lab.config("workers: [{}]\nlog: {max_size: 2kB}"))
    log = lab.folder / "state" / "logs" / "worker-1.log"

    with log.open("a") as file:
        file.write("x" * 3000 + "\n")

    wait_until(lambda: log.with_name("worker-1.log.1").exists() and log.stat().st_size == 0)
    lifecycle.down(lab.config("workers: [{}]\nlog: {max_size: 2kB}"))
    assert "hello" in log.with_name("worker-1.log.1").read_text()
    assert log.read_text() == "goodbye from worker-1\n"


def test_a_second_keeper_of_the_same_folder_does_not_stay(lab: Lab) -> None:
    lifecycle.up(lab.config())

    second = subprocess.run(
        [sys.executable, "-m", "cluster.deploy.keeper", "--run", str(lab.runtime.folder)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert second.returncode == 1
    assert "another keeper" in second.stderr
    assert len(lab.left()) == 4


def test_a_keeper_has_one_thread_and_few_descriptors(lab: Lab) -> None:
    lifecycle.up(lab.config())

    keeper = psutil.Process(lab.keeper_pid())

    assert keeper.num_threads() == 1
    assert keeper.num_fds() < 20


def test_a_restart_waits_longer_each_time_a_part_dies_young(lab: Lab) -> None:
    lab.runtime.make()
    kept = KeptPart(part_of(lab, "exit 1"), lab.runtime)
    delays: list[float] = []

    while kept.state != "failed":
        kept.look(kept.not_before)  # as if the time for it had come
        look_until(kept, lambda: not kept.pid)
        delays.append(kept.not_before - time.monotonic())

    assert len(delays) == kept_part.MAX_UNREADY_DEATHS
    assert [round(delay, 1) for delay in delays[:-1]] == [0.2, 0.4, 0.8, 1.6]


def test_a_master_whose_store_is_unwell_is_started_again_for_as_long_as_that_lasts(lab: Lab) -> None:
    lab.runtime.make()
    kept = KeptPart(part_of(lab, f"exit {kept_part.PASSING_STATUS}"), lab.runtime)
    kept._is_proven = True  # it has worked before

    for _ in range(3 * kept_part.MAX_UNREADY_DEATHS):
        kept.look(kept.not_before)
        look_until(kept, lambda: not kept.pid)
        assert kept.state == "waiting"


def test_a_master_whose_store_is_unwell_from_the_start_is_given_up_at_once(lab: Lab) -> None:
    lab.runtime.make()
    kept = KeptPart(
        part_of(lab, f"echo 'cluster master: the disk is full'; exit {kept_part.PASSING_STATUS}"), lab.runtime
    )

    kept.look(kept.not_before)
    look_until(kept, lambda: not kept.pid)

    assert kept.state == "failed"
    assert lab.record(kept.part.name).trouble == "the disk is full"


def test_a_command_that_is_not_there_is_given_up_at_once_with_its_name(lab: Lab) -> None:
    lab.runtime.make()
    part = Part("one", ("no-such-interpreter",), {}, str(lab.folder), str(lab.folder / "logs" / "one.log"))
    kept = KeptPart(part, lab.runtime)

    kept.look(0.0)

    assert kept.state == "failed"
    assert "no-such-interpreter" in lab.record("one").trouble


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("exit 3", "it ended with exit status 3 and said nothing"),
        ("echo 'cluster worker: no key'; exit 1", "no key"),
    ],
)
def test_the_reason_of_a_death_is_kept(lab: Lab, script: str, trouble: str) -> None:
    lab.runtime.make()
    kept = KeptPart(part_of(lab, script), lab.runtime)
    kept.look(0.0)

    look_until(kept, lambda: kept.state == "waiting")

    assert lab.record("one").trouble == trouble


def test_no_descriptor_is_left_of_a_part_that_died(lab: Lab) -> None:
    lab.runtime.make()
    before = open_descriptors()
    kept = KeptPart(part_of(lab, "exit 1"), lab.runtime)
    kept.look(0.0)
    assert len(kept.descriptors) == 2

    look_until(kept, lambda: kept.state == "waiting")

    assert kept.descriptors == []
    assert open_descriptors() == before


def test_a_part_that_does_not_stop_in_time_is_killed(lab: Lab) -> None:
    lab.runtime.make()
    kept = KeptPart(part_of(lab, "trap '' TERM; echo on > on; while :; do read x < /dev/null; done"), lab.runtime)
    kept.look(0.0)
    wait_until((lab.folder / "on").exists)

    kept.stop(0.0)

    look_until(kept, lambda: kept.is_over, now=kept.kill_at)
    assert kept.state == "stopped"


def look_until(kept: KeptPart, is_so: Callable[[], bool], now: float = 0.0) -> None:
    def looked() -> bool:
        if not is_so():
            kept.look(now)
        return is_so()

    wait_until(looked)


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def part_of(lab: Lab, script: str) -> Part:
    command = ("sh", "-c", script)
    return Part("one", command, dict(os.environ), str(lab.folder), str(lab.folder / "logs" / "one.log"))


def test_a_runtime_without_snapshot_is_nothing_to_keep(lab: Lab) -> None:
    Runtime(lab.folder / "empty").make()

    ran = subprocess.run(
        [sys.executable, "-m", "cluster.deploy.keeper", "--run", str(lab.folder / "empty")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ran.returncode == 1
    assert "nothing to keep" in ran.stderr
