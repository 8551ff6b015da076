"""What is told of a cluster of stand-ins, whose master answers nobody; `test_launch` asks a real one."""

from __future__ import annotations

import msgspec

from cluster.deploy import lifecycle
from cluster.deploy.status import Status, status
from cluster.embedded.cpus import usable_cpus
from tests.deploy.conftest import Lab


def test_what_was_never_up_is_down_and_told_as_the_file_says(lab: Lab) -> None:
    told = status(lab.config("workers: [{slots: 3}, {slots: {threads: 5}}, {slots: auto}]"))

    assert (told.name, told.state, told.keeper) == ("lab", "down", 0)
    assert (told.master.pid, told.master.state) == (0, "down")
    assert [(worker.state, worker.slots) for worker in told.workers] == [
        ("down", 3),
        ("down", 5),
        ("down", usable_cpus()),
    ]
    assert not (lab.folder / "state").exists()


def test_a_master_that_does_not_answer_is_unreachable_and_so_are_its_workers(lab: Lab) -> None:
    lifecycle.up(lab.config())

    told = status(lab.config())

    assert told.state == "degraded"
    assert told.master.pid == lab.pid("master")
    assert told.master.address == lifecycle.address_of(lab.config())
    assert {told.master.state, *(worker.state for worker in told.workers)} == {"unreachable"}
    assert "there is no key" in told.master.trouble  # a stand-in makes none


def test_without_a_keeper_what_died_is_down_and_what_runs_is_told(lab: Lab) -> None:
    lifecycle.up(lab.config())
    lab.kill("keeper")
    lab.kill("worker-1")

    told = status(lab.config())

    assert (told.state, told.keeper) == ("degraded", 0)
    assert [(worker.pid > 0, worker.state) for worker in told.workers] == [(False, "down"), (True, "unreachable")]


def test_a_part_that_was_given_up_says_why(lab: Lab) -> None:
    lifecycle.up(lab.config())
    lab.wish("worker-2", "crash")
    lab.kill("worker-2")
    lab.wait_state("worker-2", "failed")

    worker = status(lab.config()).workers[1]

    assert (worker.pid, worker.state) == (0, "failed")
    assert worker.trouble.startswith("it went wrong; it died 5 times")
    assert worker.restarts == 5


def test_what_runs_is_told_even_when_the_file_was_changed_since(lab: Lab) -> None:
    lifecycle.up(lab.config("workers: [{name: old}]"))

    told = status(lab.config("workers: [{name: new}]"))

    assert [worker.name for worker in told.workers] == ["old"]


def test_a_status_can_be_written_as_json_and_read_again(lab: Lab) -> None:
    told = status(lab.config())

    assert msgspec.json.decode(msgspec.json.encode(told), type=Status) == told
