"""The configurations that come with the kit: each can be had today, says what it shows, and gets into no other's way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cluster
from cluster.deploy.load import load_config
from cluster.deploy.runtime import Runtime
from cluster.deploy.schema import Threads

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_configuration_can_be_had_as_it_is(file: Path) -> None:
    config = load_config(file, environment={})

    assert config.name == file.stem
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_the_folder_s_page_names_it(file: Path) -> None:
    assert f"`{file.name}`" in (CONFIGS / "README.md").read_text()


def test_each_has_a_place_of_its_own_so_that_all_can_be_up_at_once() -> None:
    configs = [load_config(file, environment={}) for file in FILES]

    for places in (
        [config.master.bind for config in configs],
        [config.log.dir for config in configs],
        [str(Runtime.of(config).folder) for config in configs],
        [config.master.store for config in configs if config.master.store != "memory:"],
    ):
        assert len(set(places)) == len(places)


def test_local_is_two_workers_of_one_slot_each_on_a_durable_store() -> None:
    config = load_config(CONFIGS / "local.yaml", environment={})

    assert [worker.slots for worker in config.workers] == [1, 1]
    assert config.master.store.startswith("sqlite:")


def test_threads_has_slots_that_are_threads() -> None:
    config = load_config(CONFIGS / "threads.yaml", environment={})

    assert config.workers[0].slots == Threads(threads=32)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_it_comes_up_runs_a_job_on_each_of_its_workers_and_leaves_nothing_running(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path))
    config = load_config(copy, environment={})
    # The ports of the files are for people; tests run beside each other.
    overrides = {} if config.master.bind.startswith("unix:") else {"master__bind": "tcp://127.0.0.1:0"}

    with cluster.launch(copy, **overrides) as c:
        jobs = [c.submit(pow, (2, 10), labels=worker.labels, resources=worker.resources) for worker in config.workers]

        assert [job.result(30) for job in jobs] == [1024] * len(jobs)
        assert {info.name for info in c.workers()} == {worker.name for worker in config.workers}

    assert not Runtime.of(config).folder.exists()
