"""A store in the making, killed or cut off from its power at any instant: the next opening finds none, or a whole one."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cluster.store import epochs, files
from cluster.store.files import StoreFiles
from cluster.store.sqlite import SqliteStore
from tests.store.build import admitted

# What is counted: each line of these, which between them do all that making a store takes.
TRACED = {files.__file__, epochs.__file__}


def test_a_process_killed_at_any_line_leaves_what_the_next_opening_makes_whole(tmp_path: Path) -> None:
    for count in range(1000):
        (folder := tmp_path / str(count)).mkdir()
        ended = make_and_die(folder / "runs.db", count)
        key = folder / "runs.db.key"
        key_before = key.read_bytes() if key.exists() else None
        take_a_job(folder / "runs.db")

        assert key_before in (None, key.read_bytes())
        assert {each.name for each in folder.iterdir()} == {"runs.db", "runs.db.key", "runs.db.epoch"}
        if ended == 0:
            break
        assert ended == -signal.SIGKILL

    assert 60 < count < 1000


def make_and_die(path: Path, lines: int) -> int:
    """Make a store in a process that is killed at its line of this number; how that process ended."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        left = lines

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in TRACED:
                return None
            if event == "line":
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return trace

        sys.settrace(trace)
        StoreFiles("sqlite", path).prepare()
        os._exit(0)
    finally:
        os._exit(1)


def take_a_job(path: Path) -> None:
    """Open the store as a new one, and find it sound."""
    store = SqliteStore(path)
    opening = store.open()
    assert opening.epoch == 1
    store.commit([admitted(1)])
    assert [job.seq for job in store.live_jobs()] == [1]
    store.close()


class Disk:
    """What of a folder a power failure leaves at least: contents and names that were synced, and when."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.contents: dict[int, bytes] = {}  # by inode, as synced
        self.names: dict[str, int] = {}  # of the folder, as synced
        self.renames: list[tuple[str, int]] = []  # since then; each of them may be on the disk, or not
        self.crashes: list[dict[str, bytes]] = []  # what may be left, by name
        self.told: list[str] = []
        real_sync, real_replace = os.fsync, Path.replace

        def sync(descriptor: int) -> None:
            real_sync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path == folder:
                self.names = {each.name: each.stat().st_ino for each in folder.iterdir()}
                self.renames.clear()
            else:
                self.contents[path.stat().st_ino] = path.read_bytes()
            self.told.append(path.name if path != folder else "the folder")
            self._crash()

        def replace(path: Path, target: Path) -> Path:
            self.renames.append((target.name, path.stat().st_ino))
            made = real_replace(path, target)
            self.told.append(f"-> {target.name}")
            self._crash()
            return made

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(Path, "replace", replace)

    def _crash(self) -> None:
        for count in range(len(self.renames) + 1):
            for done in itertools.combinations(self.renames, count):
                names = {**self.names, **dict(done)}
                self.crashes.append({name: self.contents.get(inode, b"") for name, inode in names.items()})


def test_a_power_failure_at_any_instant_leaves_what_the_next_opening_makes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made := tmp_path / "made").mkdir()
    disk = Disk(made, monkeypatch)
    StoreFiles("sqlite", made / "runs.db").prepare()
    monkeypatch.undo()

    assert disk.told == [
        "runs.db.key.new", "-> runs.db.key", "runs.db.new", "the folder", "-> runs.db", "the folder",
    ]  # fmt: skip
    assert len(disk.crashes) > 8
    for number, left in enumerate(disk.crashes):
        (folder := tmp_path / str(number)).mkdir()
        for name, content in left.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(content)
        take_a_job(folder / "runs.db")


def test_what_is_synced_and_named_is_the_whole_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, monkeypatch)

    StoreFiles("sqlite", tmp_path / "runs.db").prepare()

    content = (tmp_path / "runs.db").read_bytes()
    assert disk.contents[(tmp_path / "runs.db").stat().st_ino] == content
    assert {each.name for each in tmp_path.iterdir()} == {"runs.db", "runs.db.key"}
    assert content[18:20] == b"\2\2"  # for a log, so that the first opening needs no transaction for that
    database = sqlite3.connect(f"file:{tmp_path / 'runs.db'}?mode=ro&immutable=1", uri=True)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
