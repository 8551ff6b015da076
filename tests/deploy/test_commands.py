from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.deploy.commands import Part, parts_of
from cluster.deploy.load import load_config
from cluster.deploy.processes import MARK
from cluster.deploy.runtime import Runtime, Snapshot
from cluster.master import process
from cluster.master.process import MasterConfig
from cluster.master.retention import Retention

TEXT = """
drain: {timeout: 90s}
heartbeat: {interval: 500ms, timeout: 5s}
defaults: {retries: 3, backoff: 0.00001, factor: 1.5, max_delay: 0, jitter: 0, crash_limit: 1}
retention: {results: 1d, dead: 2d, output: 3d, max_size: 4GB}
log: {level: debug, format: json}
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


def test_the_master_reads_from_its_command_line_what_the_file_says(parts: list[Part], tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    from_file: list[MasterConfig] = []
    from_command: list[MasterConfig] = []

    with pytest.MonkeyPatch.context() as patch:
        for found, arguments in [
            (from_file, ["--config", str(file)]),
            (from_command, list(parts[0].command[parts[0].command.index("master") + 1 :])),
        ]:
            patch.setattr(process, "run_master", lambda config, found=found: found.append(config) or 0)
            CliRunner().invoke(app, ["master", *arguments], catch_exceptions=False)

    (said,), (told,) = from_file, from_command
    assert told == replace(said, bind=told.bind)
    assert (told.defaults.retry.max_retries, told.defaults.retry.backoff, told.defaults.crash_limit) == (3, 1e-05, 1)
    assert (told.defaults.result_ttl, told.dead_retention_seconds) == (86400.0, 2 * 86400.0)
    assert told.retention == Retention(output_seconds=3 * 86400.0, max_bytes=4 * 10**9)
    assert (told.log_level, told.log_format) == ("debug", "json")


def test_workers_are_told_how_to_log(parts: list[Part]) -> None:
    for part in parts[1:]:
        assert (after(part, "--log-level"), after(part, "--log-format")) == ("debug", "json")


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
        assert [name for name in part.environment if name.startswith("CLUSTER")] == []


def test_every_command_line_says_which_cluster_it_is_of(parts: list[Part], tmp_path: Path) -> None:
    assert {after(part, MARK) for part in parts} == {f"{tmp_path}/state/run/cluster"}


def test_a_worker_whose_jobs_are_another_user_s_has_its_folders_where_that_user_can_get_to(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(
        "workers: [{user: nobody, limits: {nofile: 256, fsize: 10GB}, cgroup: {pids: 200, memory: 4GB, cpu: 1.5}}, {}]"
    )
    config = load_config(file, environment={})

    _, other, own = parts_of(Snapshot.of(config, "tcp://127.0.0.1:7601"), Runtime.of(config), {})

    assert after(other, "--user") == "nobody"
    assert " ".join(other.command).count("--limit fsize=10000000000 --limit nofile=256") == 1
    assert " ".join(other.command).count("--cgroup cpu=1.5 --cgroup memory=4000000000 --cgroup pids=200") == 1
    assert "--scratch" not in other.command
    assert "--cgroup" not in own.command
    assert after(own, "--scratch").startswith(str(tmp_path))


def test_jobs_find_the_program_s_modules_and_those_beside_the_file(parts: list[Part], tmp_path: Path) -> None:
    assert parts[0].environment["PYTHONPATH"] == "/a"
    assert parts[1].environment["PYTHONPATH"].split(os.pathsep) == ["/a", "/mine", str(tmp_path)]
