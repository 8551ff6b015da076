"""A child of this program tells the story of `story.py` and is killed at the n-th SQL statement, for every n.

    python -c "from tests.store.crash_points import main; main(FOLDER)"

SQLite's trace tells every statement of the writing connection as it begins, triggers included; of those, which are parts
of one statement, each tenth is a point too. For each n a line is printed: how many steps the child had finished, and which images (by their numbers) the reopened store fits.
It is a program of its own, because it forks, and a process with threads must not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from pathlib import Path

from cluster.store import connection, migrations, sqlite
from cluster.store.sqlite import SqliteStore
from tests.store.story import STEPS, image, images, play

MAX_POINTS = 2000
EVERY_TRIGGER = 10


def main(folder: str) -> None:
    """Do it for every n until a child comes to the end of the story."""
    expected = images(Path(folder))
    for point in range(MAX_POINTS):
        path = Path(folder, f"{point}.db")
        finished, status = play_in_child(path, point)
        seen = image(path)
        verdict = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0]
        fits = [number for number, one in enumerate(expected) if one == seen]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        told = {"point": point, "finished": finished, "fits": fits, "killed": killed, "verdict": verdict}
        print(json.dumps(told), flush=True)
        if not killed:
            return


def play_in_child(path: Path, point: int) -> tuple[int, int]:
    """How many steps a child had finished that was killed at this statement, and its wait status. -1: it had not opened."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _be_killed(path, point, writing)
            os._exit(0)
        os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        finished = len(pipe.read()) - 1
    _, status = os.waitpid(child, 0)
    return finished, status


def _be_killed(path: Path, point: int, writing: int) -> None:
    left = point
    triggers, last = 0, ""

    def count(statement: str) -> None:
        nonlocal left, triggers, last
        if statement == last:  # a trigger is told under the text of its statement
            triggers += 1
            if triggers % EVERY_TRIGGER:
                return
        last = statement
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    real_open, real_connect = connection.open_writer, connection.connect

    def open_writer(*arguments: object) -> sqlite3.Connection:
        writer = real_open(*arguments)  # type: ignore[arg-type]
        writer.set_trace_callback(count)
        return writer

    def connect(*arguments: object) -> sqlite3.Connection:
        made = real_connect(*arguments)  # type: ignore[arg-type]
        made.set_trace_callback(count)
        return made

    sqlite.open_writer = open_writer  # type: ignore[attr-defined,assignment]
    migrations.connect = connect  # type: ignore[attr-defined,assignment]
    store = SqliteStore(path)
    store.open()
    os.write(writing, b".")
    play(store, after=lambda _step: os.write(writing, b"."))
    store.close()


__all__ = ["STEPS", "main"]
