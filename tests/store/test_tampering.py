"""A store opened by hand: whatever is put into any column of any table, it is found, set aside, and never believed."""

from __future__ import annotations

import contextlib
import logging
import pickle
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.core.effects import Answered, QueuePaused, Record, StoredJob
from cluster.core.records import Ending, JobId, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreTampered
from cluster.store import sql
from cluster.store.files import StoreFiles
from cluster.store.inspection import Inspection, check
from cluster.store.sqlite import SqliteStore
from tests.store.build import DIGEST, FUNCTION, admitted, ended, failed, leased, requeued

LONG = b"\x5a" * 5000
JOBS = ("job1", "job2", "job3", "job4")
FILL: list[list[Record]] = [
    [FUNCTION, QueuePaused("gpu", paused=True), Answered("r1", b"yes", 1e12)],
    [admitted(1), admitted(2, args=LONG), admitted(3, key="once"), admitted(4)],
    [failed(1, 1, output=b"one"), ended(1, 2, state=JobState.DEAD_LETTER), requeued(1, 2)],
    [ended(1, 4, run=2, payload=LONG, output=b"two"), failed(2, 5), leased("w#1", (9, 2), attempt=2)],
    [ended(4, 6, payload=b"four")],
]
PICKLE = pickle.dumps(Exception("planted"))
VALUES = {
    "a number": "7",
    "another number": "4611686018427387904",
    "a fraction": "0.5",
    "text": "'job3'",
    "no text": "CAST(x'fffe' AS TEXT)",
    "bytes": "x'00'",
    "nothing in it": "x''",
    "a pickle": f"x'{PICKLE.hex()}'",
    "nothing": "NULL",
    "a byte more": "CAST({0} || x'41' AS BLOB)",
    "a byte flipped": "CAST(substr({0}, 1, length({0}) - 1) || CASE substr({0}, -1) WHEN x'41' THEN x'42' ELSE x'41' END AS BLOB)",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "runs.db"
    store = SqliteStore(path)
    store.open()
    for group in FILL:
        store.commit(group)
    store.close()
    # The journal is normally empty at rest.
    store.open()
    store.commit([admitted(5)])
    kept = store._file_all
    store._file_all = lambda: None  # type: ignore[method-assign]
    store.close()
    store._file_all = kept  # type: ignore[method-assign]
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    for name in template.parent.iterdir():
        shutil.copy2(name, tmp_path / name.name)
    return tmp_path / "runs.db"


def columns() -> Iterator[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(sql.script("schema.sql"))
        for (table,) in model.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            yield from ((table, row[1]) for row in model.execute(f"PRAGMA table_info({table})").fetchall())


def alter(path: Path, *statements: str) -> bool:
    """Whether the file took it and is not as it was."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = bytes
        before = dump(connection)
        try:
            for statement in statements:
                connection.execute(statement)
        except sqlite3.IntegrityError:
            return False
        return dump(connection) != before


def dump(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    tables = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}


def look(path: Path) -> Inspection:
    return check("runs.db", StoreFiles("runs.db", path))


class Told:
    """All that a store tells of its jobs, where it tells anything; a refusal is none."""

    def __init__(self, path: Path) -> None:
        self.jobs: dict[JobId, StoredJob] = {}
        self.results: dict[JobId, Outcome | None] = {}
        self.live: list[StoredJob] = []
        self.histories: dict[JobId, Any] = {}
        self.outputs: dict[JobId, Any] = {}
        self.listed: list[JobId] = []
        self.functions: list[bytes] = []
        self.tampered: list[str] = []
        self.closed = ""
        store = SqliteStore(path)
        try:
            store.open()
        except StoreError as error:
            self.closed = error.reason
            return
        self.live = list(store.live_jobs())
        self.functions = [blob.body for blob in store.functions([DIGEST])]
        self.listed = [job.spec.id for job in store.page(0, 100)]
        for job in JOBS:
            for read, into in (
                (store.find, self.jobs),
                (store.result, self.results),
                (store.history, self.histories),
                (store.outputs, self.outputs),
            ):
                with contextlib.suppress(StoreError):
                    into[job] = read(job)  # type: ignore[assignment]
        with contextlib.suppress(StoreError):
            store.answer("r1")
        self.tampered = list(store.tampered)
        store.close()


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(("table", "column"), list(columns()))
def test_whatever_stands_in_a_column_is_found_and_not_believed(
    template: Path, path: Path, table: str, column: str, value: str
) -> None:
    truth = Told(shutil.copytree(template.parent, path.parent / "truth") / "runs.db")
    if not alter(path, f"UPDATE OR FAIL {table} SET {column} = {value.format(column)}"):
        return  # the table takes no such thing, or it was that before

    found, said = look(path), Told(path)

    assert found.findings
    assert found.is_usable or said.closed
    assert not said.closed or table in {"meta", "sqlite_master"}, said.closed
    for job, known in truth.jobs.items():
        told = said.jobs.get(job)
        assert told is None or told.spec == known.spec
        # Without its requeue a job is as it was before it.
        assert told is None or told.outcome in (None, known.outcome) or (table, told.run) == ("requeues", 1)
        assert said.results.get(job) in (None, truth.results[job])
        assert all(each in truth.histories[job] for each in said.histories.get(job, ()))
        assert all(each in truth.outputs[job] for each in said.outputs.get(job, ()))
    assert {job.spec.id: job.spec for job in said.live}.items() <= {
        job: known.spec for job, known in truth.jobs.items()
    }.items() | {("job5", job.spec) for job in truth.live if job.spec.id == "job5"}
    assert said.functions in ([], [FUNCTION.blob.body])


SWAPS = {
    "payloads of two jobs": [
        "UPDATE jobs SET args = (SELECT args FROM jobs WHERE seq = 1) WHERE seq = 3",
        "UPDATE jobs SET args = x'5a5a' WHERE seq = 1",
    ],
    "whole rows of two jobs": [
        "UPDATE jobs SET seq = 99 WHERE seq = 3",
        "UPDATE jobs SET seq = 3 WHERE seq = 4",
        "UPDATE jobs SET seq = 4 WHERE seq = 99",
    ],
    "an outcome to another job": ["UPDATE outcomes SET seq = 3 WHERE seq = 4"],
    "an outcome to another run": ["UPDATE outcomes SET run = 2 WHERE seq = 4"],
    "a result into a function": ["UPDATE functions SET code = (SELECT payload FROM outcomes WHERE seq = 4)"],
    "options with more retries": [
        "UPDATE jobs SET body = replace(CAST(body AS TEXT), CAST(x'80' AS TEXT), 'retries') WHERE seq = 3"
    ],
    "a pickle for a result": [f"UPDATE outcomes SET payload = x'{PICKLE.hex()}' WHERE seq = 4"],
    "an outcome that never was": [
        "INSERT INTO outcomes SELECT 3, run, state, keep_until, body, payload_digest, payload, mac FROM outcomes WHERE seq = 4"
    ],
}


@pytest.mark.parametrize("statements", SWAPS.values(), ids=SWAPS)
def test_what_is_true_elsewhere_is_not_believed_here(
    path: Path, statements: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert alter(path, *statements)

    found, said = look(path), Told(path)

    assert found.findings
    assert said.tampered
    assert "tampered: table=" in caplog.text
    assert "job2" in said.jobs  # whom nobody touched
    assert not said.closed


def test_a_tampered_job_is_listed_with_the_reason_and_the_others_go_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alter(path, f"UPDATE jobs SET args = x'{PICKLE.hex()}' WHERE seq = 3")
    store = SqliteStore(path)
    store.open()

    assert [job.spec.id for job in store.live_jobs()] == ["job2", "job5"]
    (aside,) = [job for job in store.page(0, 100, JobState.DEAD_LETTER) if job.spec.id == "job3"]
    with pytest.raises(StoreTampered, match="job 'job3' is not what this cluster wrote"):
        store.find("job3")
    store.close()

    assert aside.outcome is not None
    assert aside.outcome.certificate is not None
    assert aside.outcome.certificate.ending is Ending.TAMPERED
    assert "neither run nor answered" in aside.outcome.certificate.reason
    lines = [record for record in caplog.records if record.name == "cluster.store" and record.levelno == logging.ERROR]
    assert len([line for line in lines if "tampered: table=jobs job=job3" in line.getMessage()]) == 1


def test_of_many_that_are_looked_for_a_tampered_one_is_told_and_the_others_are_found(path: Path) -> None:
    alter(path, f"UPDATE jobs SET args = x'{PICKLE.hex()}' WHERE seq = 3")
    store = SqliteStore(path)
    store.open()

    found = dict(store.find_all(["job2", "job3", "job5"]))
    expected = store.find("job2"), store.find("job5")
    store.close()

    assert (found["job2"], found["job5"]) == expected
    assert isinstance(found["job3"], StoreTampered)
    assert "job 'job3' is not what this cluster wrote; it was not used" in str(found["job3"])


def test_an_outcome_put_back_from_an_earlier_day_does_not_replace_a_later_run(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        old = connection.execute("SELECT * FROM outcomes WHERE seq = 1 AND run = 1").fetchone()
        connection.execute("DELETE FROM outcomes WHERE seq = 1 AND run = 2")
        connection.execute("INSERT OR REPLACE INTO outcomes VALUES (?, 2, ?, ?, ?, ?, ?, ?)", (old[0], *old[2:]))
        connection.commit()

    said = Told(path)

    assert "job1" not in said.jobs
    assert "job1" not in [job.spec.id for job in said.live]
    assert any("run 2 of job 'job1'" in sentence for sentence in said.tampered)
