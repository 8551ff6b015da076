"""`cluster worker list|show|drain|undrain`."""

from __future__ import annotations

import os

import pytest
from msgspec import Struct, structs

import cluster
from cluster.cli import find
from cluster.wire.calls import WorkerArgs
from tests.cli.rig import Call


@pytest.fixture(autouse=True)
def _worker(c: cluster.Cluster) -> None:
    c.submit(pow, (2, 10)).result(30)  # so the worker is registered


def test_list_shows_the_workers(call: Call) -> None:
    told = call("worker", "list")
    (document,) = call("worker", "list", "--json").document

    assert told.lines[1].split()[0] == "local"
    assert told.lines[1].split()[2:5] == [str(os.getpid()), "ready", "0/2"]
    assert (document["name"], document["slots"], document["state"]) == ("local", 2, "ready")


def test_show_knows_a_worker_by_name_and_by_id(c: cluster.Cluster, call: Call) -> None:
    (worker,) = c.workers()

    by_name = call("worker", "show", "local", "--json").document
    by_id = call("worker", "show", worker.id, "--json").document

    assert by_name["id"] == by_id["id"] == worker.id
    assert "slots   2, 0 running" in call("worker", "show", "local").out


def test_a_wrong_name_gets_the_nearest_one_as_a_hint(call: Call) -> None:
    told = call("worker", "show", "locl")

    assert told.status == 2
    assert "did you mean 'local'?" in told.err


@pytest.mark.parametrize(("command", "state"), [("drain", "draining"), ("undrain", "ready")])
def test_orders_to_a_worker_go_to_the_admin_desk(
    call: Call, monkeypatch: pytest.MonkeyPatch, command: str, state: str
) -> None:
    asked: list[tuple[str, Struct]] = []
    monkeypatch.setattr(find, "ask_admin", lambda where, method, said: asked.append((method, said)))

    told = call("worker", command, "local")

    assert asked == [(command, WorkerArgs("local"))]
    assert told.out == f"local  {state}\n"


def test_a_worker_s_trouble_is_told_below_the_list_and_when_it_is_shown(
    c: cluster.Cluster, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (worker,) = c.workers()
    ill = structs.replace(worker, state="quarantined", trouble="jobs fail there at once")
    monkeypatch.setattr(cluster.Cluster, "workers", lambda _: [ill])

    listed = call("worker", "list")
    shown = call("worker", "show", "local")

    assert "quarantined" in listed.lines[1]
    assert listed.lines[-1] == "local: jobs fail there at once"
    assert ["trouble", "jobs fail there at once"] in [line.split(maxsplit=1) for line in shown.lines]
