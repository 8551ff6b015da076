from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from cluster.errors import Refused
from cluster.worker import scratch
from tests.worker.recording_desk import DEADLINE_SECONDS, a_worker


def leave_a_file() -> tuple[str, list[str]]:
    found = [path.name for path in Path().iterdir()]
    Path("left").write_text("by this job")
    Path("folder").mkdir()
    Path("folder", "too").touch()
    return str(Path.cwd()), found


def remove_own_folder() -> None:
    Path.cwd().rmdir()


def leave_a_file_and_die() -> None:
    Path("left").touch()
    os.kill(os.getpid(), 9)


def test_each_job_starts_in_an_empty_folder_of_its_own_worker(tmp_path: Path) -> None:
    with a_worker(slots=1, scratch=str(tmp_path)) as (desk, _):
        task = desk.function(leave_a_file)
        first = desk.result_of(desk.put(task))
        second = desk.result_of(desk.put(task))

        assert first[1] == second[1] == []
        assert Path(first[0]).parent == tmp_path

    assert list(tmp_path.iterdir()) == []


def test_a_job_that_removes_its_folder_harms_nobody(tmp_path: Path) -> None:
    with a_worker(slots=1, scratch=str(tmp_path)) as (desk, _):
        desk.result_of(desk.put(remove_own_folder))

        folder, found = desk.result_of(desk.put(leave_a_file))

    assert (Path(folder).parent, found) == (tmp_path, [])


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    with a_worker(slots=1, scratch=str(tmp_path)) as (desk, _):
        desk.report_of(desk.put(leave_a_file_and_die))

        _folder, found = desk.result_of(desk.put(leave_a_file))

    for thread in threading.enumerate():
        if thread.name == "cluster-scratch":
            thread.join(DEADLINE_SECONDS)
    assert found == []
    assert list(tmp_path.iterdir()) == []


def test_a_worker_removes_its_folder_and_those_of_dead_ones_of_its_name(tmp_path: Path) -> None:
    (dead := tmp_path / "w-dead").mkdir()
    (dead / ".lock").touch()
    (living := tmp_path / "w-living").mkdir()
    (other := tmp_path / "v-dead").mkdir()
    with (living / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with scratch.scratch_folder(str(tmp_path), "w") as folder:
            assert Path(folder).parent == tmp_path
            assert not dead.exists()

    assert sorted(tmp_path.iterdir()) == [other, living]


def test_a_folder_that_was_never_locked_is_removed_once_its_worker_would_have_locked_it(tmp_path: Path) -> None:
    old, young = tmp_path / "w-old", tmp_path / "w-young"
    (old / "child-1").mkdir(parents=True)
    young.mkdir()
    at = time.time() - scratch.UNLOCKED_SECONDS - 1
    os.utime(old, (at, at))

    with scratch.scratch_folder(str(tmp_path), "w"):
        assert not old.exists()

    assert list(tmp_path.iterdir()) == [young]


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with (
        pytest.raises(Refused, match="belongs to another user"),
        scratch.scratch_folder(str(tmp_path), "w"),
    ):
        pass


def test_a_link_in_place_of_the_folder_is_refused_and_what_is_behind_it_stays(tmp_path: Path) -> None:
    """In /tmp, where the folder lies by default, another user may be there first."""
    home = tmp_path / "home"
    precious = home / "w-precious"
    precious.mkdir(parents=True)
    long_ago = time.time() - 2 * scratch.UNLOCKED_SECONDS
    os.utime(precious, (long_ago, long_ago))
    link = tmp_path / "cluster-1000"
    link.symlink_to(home)

    with pytest.raises(Refused, match="symbolic link"), scratch.scratch_folder(str(link), "w"):
        pass

    assert precious.is_dir()


def test_a_folder_that_others_can_write_into_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)

    with pytest.raises(Refused, match=f"run `chmod go-w {parent}`"), scratch.scratch_folder(str(parent), "w"):
        pass


def test_folders_for_another_user_can_be_gone_through_and_nothing_else(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"

    with scratch.scratch_folder(str(parent), "w", is_shared=True) as base:
        modes = [stat.S_IMODE(Path(path).stat().st_mode) for path in (parent, base)]

    assert modes == [0o711, 0o711]
