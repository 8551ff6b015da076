from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cluster.deploy.load import load_config
from cluster.deploy.processes import NOBODY, ProcessName, name_process
from cluster.deploy.runtime import PartRecord, Runtime, Snapshot
from cluster.errors import Refused


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    made = Runtime(tmp_path / "run" / "lab")
    made.make()
    return made


def test_the_folder_lies_beside_the_keys_and_has_the_cluster_s_name(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: lab\nmaster: {keys: deep/keys}\n")

    runtime = Runtime.of(load_config(file, environment={}))

    assert runtime.folder == tmp_path / "deep" / "run" / "lab"


def test_what_is_written_is_read(runtime: Runtime) -> None:
    record = PartRecord(ProcessName(7, "x"), "ready", 2, 1.5, "killed by SIGKILL")
    runtime.write_part("one", record)
    runtime.write_keeper(name_process(os.getpid()))

    assert runtime.part("one") == record
    assert runtime.recorded() == {"one": record}
    assert runtime.keeper() == name_process(os.getpid())


def test_a_dead_keeper_is_none(runtime: Runtime) -> None:
    runtime.write_keeper(ProcessName(os.getpid(), "before this boot"))

    assert runtime.keeper() is None


def test_what_is_damaged_or_not_there_is_none(runtime: Runtime) -> None:
    (runtime.folder / "one.json").write_text('{"process":')

    assert runtime.part("one") is None
    assert runtime.part("two") is None
    assert runtime.snapshot() is None
    assert runtime.recorded() == {}


def test_a_snapshot_gives_the_configuration_back(runtime: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("workers: [{slots: {threads: 4}}]\n")
    config = load_config(file, environment={})
    runtime.write_snapshot(Snapshot.of(config, "tcp://127.0.0.1:7601", ("/lib",)))

    known = runtime.snapshot()

    assert known is not None
    assert known.parse() == config
    assert known.parse().file == file


def test_a_part_can_be_forgotten_twice(runtime: Runtime) -> None:
    runtime.write_part("one", PartRecord(NOBODY, "failed"))

    runtime.forget_part("one")
    runtime.forget_part("one")

    assert runtime.part("one") is None


def test_the_lock_is_had_by_one_at_a_time(runtime: Runtime) -> None:
    with runtime.locked(1.0), pytest.raises(Refused, match="another `cluster up` or `down`"), runtime.locked(0.1):
        pass


def test_who_waits_for_the_lock_gets_it_after_the_folder_was_removed_and_made_again(runtime: Runtime) -> None:
    got: list[bool] = []

    def wait() -> None:
        with runtime.locked(10.0):
            got.append((runtime.folder / "lock").exists())

    waiter = threading.Thread(target=wait)
    with runtime.locked(1.0):
        waiter.start()
        runtime.remove()
    waiter.join(10.0)

    assert got == [True]


def test_removing_leaves_other_clusters_folders(runtime: Runtime) -> None:
    other = Runtime(runtime.folder.with_name("other"))
    other.make()

    runtime.remove()
    runtime.remove()

    assert not runtime.folder.exists()
    assert other.folder.exists()


def test_a_link_in_place_of_the_lock_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    (runtime.folder / "lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Refused, match="can't be opened"), runtime.locked(0.1):
        pass

    assert not (tmp_path / "elsewhere").exists()
