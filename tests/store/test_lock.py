from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.errors import StoreError, StoreInUse, StoreUnsafe
from cluster.store.lock import Possession

HOLD = """
import sys
from pathlib import Path
from cluster.store.lock import Possession
sys.argv[0] = "/somewhere/night_run.py"
Possession("sqlite:///runs.db", Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def possession(path: Path) -> Possession:
    return Possession("sqlite:///runs.db", path)


def test_a_second_opener_in_another_process_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"

    with other_holder(path) as process, pytest.raises(StoreInUse) as told:
        possession(path).acquire()

    said = str(told.value)
    assert f"process {process.pid} (night_run.py) on {os.uname().nodename}" in said
    assert "since 20" in said
    assert "close that one first" in said


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/venv/bin/cluster", "cluster"),
        ("/src/cluster/__main__.py", "cluster"),
        ("__main__.py", "python"),
        ("", "python"),
    ],
)
def test_a_holder_goes_by_a_name_that_somebody_would_know(
    path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [path])
    lock = possession(tmp_path / "runs.db.lock")

    lock.acquire()

    assert json.loads((tmp_path / "runs.db.lock").read_text())["program"] == name
    lock.release()


def test_a_second_opener_in_the_same_process_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"
    first = possession(path)
    first.acquire()

    with pytest.raises(StoreInUse, match=f"process {os.getpid()} .* this very process"):
        possession(path).acquire()

    # Refusing it must not have cost the first its lock, as closing a second descriptor would.
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stderr=subprocess.PIPE, text=True) as other:
        _, errors = other.communicate()
    assert "StoreInUse" in errors
    first.release()


def test_a_released_lock_leaves_no_file_and_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"
    mine = possession(path)

    for _ in range(2):
        mine.acquire()
        assert path.stat().st_mode & 0o777 == 0o600
        mine.release()
        mine.release()

    assert not path.exists()


def test_a_lock_file_left_by_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"
    with other_holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()

    mine = possession(path)
    mine.acquire()

    assert str(os.getpid()) in path.read_text()
    mine.release()


def test_a_fork_of_the_holder_neither_keeps_nor_gives_up_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"
    program = r"""
import os, sys
from pathlib import Path
from cluster.store.lock import Possession
held = Possession("s", Path(sys.argv[1]))
held.acquire()
child = os.fork()
if child == 0:
    held.release()  # not the child's to give up
    os.write(1, b"released\n")
    sys.stdin.readline()  # outlive the parent
    os._exit(0)
os.write(1, b"%d\n" % child)
sys.stdin.readline()
os._exit(1)  # as hard as SIGKILL: nothing is given up by hand
"""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(next(line for line in (parent.stdout.readline(), parent.stdout.readline()) if line != "released\n"))
        with pytest.raises(StoreInUse):
            possession(path).acquire()

        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()

        os.kill(child, 0)  # the child still lives
        mine = possession(path)
        mine.acquire()
        mine.release()


def test_whoever_locks_a_file_that_was_just_deleted_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db.lock"
    real_open = os.open
    races = iter([True, True, False])

    def open_and_lose(*args: object, **kwargs: object) -> int:
        descriptor = real_open(*args, **kwargs)  # type: ignore[arg-type]
        if next(races):
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    mine = possession(path)
    mine.acquire()

    assert path.exists()
    mine.release()


def test_a_path_that_is_deleted_all_the_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.db.lock"
    real_open = os.open

    def open_and_lose(*args: object, **kwargs: object) -> int:
        descriptor = real_open(*args, **kwargs)  # type: ignore[arg-type]
        path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)

    with pytest.raises(StoreError, match="made and deleted by others"):
        possession(path).acquire()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"
    target = tmp_path / "precious"
    target.write_text("keep")
    path.symlink_to(target)

    with pytest.raises(StoreUnsafe, match="lock file can't be opened"):
        possession(path).acquire()

    assert target.read_text() == "keep"


def test_a_holder_that_left_no_name_is_still_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"

    with other_holder(path):
        path.write_text("")
        with pytest.raises(StoreInUse, match="another process has it open"):
            possession(path).acquire()


def test_one_of_many_threads_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db.lock"
    start = threading.Barrier(8)
    taken: list[Possession] = []
    refused: list[StoreInUse] = []

    def try_it() -> None:
        mine = possession(path)
        start.wait(timeout=10)
        try:
            mine.acquire()
            taken.append(mine)
        except StoreInUse as error:
            refused.append(error)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)

    assert (len(taken), len(refused)) == (1, 7)
    taken[0].release()
