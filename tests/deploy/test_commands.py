from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.deploy.commands import Part, parts_of
from cluster.deploy.load import load_config
from cluster.deploy.processes import MARK
from cluster.deploy.runtime import Runtime, Snapshot

TEXT = """
drain: {timeout: 90s}
heartbeat: {interval: 500ms, timeout: 5s}
workers:
  - {slots: auto}
  - {slots: {threads: 32}, resources: {gpu: 2}, labels: {zone: lab}, max_jobs_per_child: 9, python: py/bin/python}
"""


@pytest.fixture
def parts(tmp_path: Path) -> list[Part]:
    file = tmp_path / "lab.yaml"
    file.write_text(TEXT)
    config = load_config(file, environment={})
    snapshot = Snapshot.of(config, "tcp://127.0.0.1:7601", ("/mine",))
    environment = {"HOME": "/root", "CLUSTER_ADDRESS": "x", "CLUSTER__NAME": "y", "PYTHONPATH": "/a"}
    return parts_of(snapshot, Runtime.of(config), environment)


def after(part: Part, option: str) -> str:
    return part.command[part.command.index(option) + 1]


def test_the_master_comes_first_and_is_told_all_it_needs(parts: list[Part], tmp_path: Path) -> None:
    master = parts[0]

    assert master.name == "master"
    assert after(master, "--bind") == "tcp://127.0.0.1:7601"
    assert after(master, "--store") == f"sqlite:///{tmp_path}/state/cluster.db"
    assert after(master, "--heartbeat-interval") == "500ms"
    assert after(master, "--drain-timeout") == "90s"


def test_a_worker_is_told_its_slots_and_what_it_offers(parts: list[Part], tmp_path: Path) -> None:
    first, second = parts[1:]

    assert after(first, "--slots") == "auto"
    assert after(first, "--authkey-file") == f"{tmp_path}/state/keys/worker.key"
    assert after(second, "--slots") == "threads:32"
    assert after(second, "--resource") == "gpu=2"
    assert after(second, "--label") == "zone=lab"
    assert after(second, "--max-jobs-per-child") == "9"
    assert second.command[0] == f"{tmp_path}/py/bin/python"


def test_the_environment_is_the_caller_s_without_what_clients_are_told(parts: list[Part]) -> None:
    for part in parts:
        assert part.environment["HOME"] == "/root"
        assert [name for name in part.environment if name.startswith("CLUSTER")] == [MARK]


def test_jobs_find_the_program_s_modules_and_those_beside_the_file(parts: list[Part], tmp_path: Path) -> None:
    assert parts[0].environment["PYTHONPATH"] == "/a"
    assert parts[1].environment["PYTHONPATH"].split(os.pathsep) == ["/a", "/mine", str(tmp_path)]
