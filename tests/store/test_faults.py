"""A fault at the n-th statement of everything that a store writes, for every n: it is told, and costs nothing.

The connection is the real one; in front of it stands a guard that raises what SQLite raises, before a statement or after
it, so that what failed may have happened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StoreError
from cluster.store import connection, migrations, sqlite
from cluster.store.files import StoreFiles
from cluster.store.inspection import check
from cluster.store.sqlite import SqliteStore
from tests.store.build import FUNCTION, admitted
from tests.store.story import STEPS, image, play

FAULTS = {
    "full": ("SQLITE_FULL", "database or disk is full", "the disk is full"),
    "does not write": ("SQLITE_IOERR_WRITE", "disk I/O error", "the disk does not read or write"),
    "does not sync": ("SQLITE_IOERR_FSYNC", "disk I/O error", "the disk does not read or write"),
    "locked": ("SQLITE_BUSY", "database is locked", "another program has held its write lock"),
}


class Guard:
    """A connection of which one statement fails; the n-th from now on, or the n-th that matters to `story.py`."""

    def __init__(self, real: sqlite3.Connection, left: int, fault: str, *, is_done: bool) -> None:
        self.real = real
        self.left = left
        self.fault = fault
        self.is_done = is_done

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self.left -= 1
        if self.left != -1 or statement.startswith(("ROLLBACK", "PRAGMA")):
            return self.real.execute(statement, *values)
        if self.is_done:
            self.real.execute(statement, *values)
        raise error(self.fault)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def error(fault: str) -> sqlite3.OperationalError:
    name, text, _ = FAULTS[fault]
    made = sqlite3.OperationalError(text)
    made.sqlite_errorname = name
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """How the story ends where nothing fails."""
    path = tmp_path_factory.mktemp("image") / "runs.db"
    store = SqliteStore(path)
    store.open()
    play(store)
    store.close()
    return image(path)


@pytest.mark.parametrize("is_done", [False, True], ids=["before it is done", "after it is done"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_statement_that_fails_anywhere_is_told_and_the_same_step_again_makes_it_good(
    tmp_path: Path, expected: Any, fault: str, is_done: bool
) -> None:
    told = 0
    for count in range(1000):
        path = tmp_path / f"{count}.db"
        store = SqliteStore(path)
        store.open()
        guard: Any = Guard(store._writer, count, fault, is_done=is_done)  # type: ignore[arg-type]
        store._writer = guard
        for number in range(len(STEPS)):
            told += step_until_it_works(store, number, FAULTS[fault][2])
        store.close()
        assert image(path) == expected
        assert check("s", StoreFiles("s", path)).findings == ()
        if guard.left >= 0:
            break  # the story has fewer statements

    assert count > 30
    assert told > 25


def step_until_it_works(store: SqliteStore, number: int, words: str) -> int:
    """How often it failed: once, at most."""
    sqlite.MAX_JOURNALED_BYTES = 2000
    store._max_rows = 3
    try:
        STEPS[number](store)
    except StoreError as raised:
        said = str(raised)
    else:
        return 0
    assert words in said
    STEPS[number](store)
    return 1


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    before = sqlite.MAX_JOURNALED_BYTES
    yield
    sqlite.MAX_JOURNALED_BYTES = before


@pytest.mark.parametrize("fault", FAULTS)
def test_an_opening_that_fails_anywhere_is_told_and_the_next_one_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "runs.db"
    store = SqliteStore(path)
    store.open()
    store.commit([FUNCTION, admitted(1)])
    store.close()
    real, epochs = connection.connect, [1]
    for count in range(100):
        guards: list[Guard] = []

        def guarded(*arguments: Any, count: int = count, guards: list[Guard] = guards) -> Any:
            guards.append(Guard(real(*arguments), count if not guards else guards[-1].left, fault, is_done=False))
            return guards[-1]

        monkeypatch.setattr(migrations, "connect", guarded)
        monkeypatch.setattr(connection, "connect", guarded)
        said = FAULTS[fault][2]
        try:
            epochs.append(store.open().epoch)
        except StoreError as raised:
            said = str(raised)
        assert FAULTS[fault][2] in said
        store.close()
        monkeypatch.undo()
        epochs.append(store.open().epoch)
        assert [job.seq for job in store.live_jobs()] == [1]
        store.close()
        if guards and guards[-1].left >= 0:
            break

    assert count > 5
    assert epochs == sorted(set(epochs))
    assert check("s", StoreFiles("s", path)).findings == ()
