"""Fuzzed: what is read back from a store. Its rows without their seals, with them, and the whole file."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.effects import FunctionAdded, QueuePaused, Record
from cluster.core.records import FunctionBlob
from cluster.core.states import JobState
from cluster.errors import StoreError
from cluster.store import journal, rows, sql
from cluster.store.files import StoreFiles
from cluster.store.inspection import check
from cluster.store.rows import BadSealError
from cluster.store.seal import Seal, is_payload_of
from cluster.store.sqlite import SqliteStore
from tests.fuzz.samples import sample
from tests.store.build import DIGEST, admitted, ended, failed, leased, requeued

KEY = b"k" * 32
SEAL = Seal(KEY)
Row = Sequence[Any]

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


def journal_group(data: bytes) -> str:
    """A commit group, as a store of another version might have written it under our key."""
    try:
        records = journal.decode(data)
    except rows.UNREADABLE as error:
        return type(error).__name__
    wire = journal.encode(records)
    assert journal.encode(journal.decode(wire)) == wire, "not read as it was written"
    return ",".join(sorted({type(record).__name__ for record in records})[:2])


def journal_seeds() -> list[bytes]:
    chance = random.Random(5)
    return [journal.encode([sample(kind, chance)]) for kind in journal.KINDS for _ in range(2)]


# --- rows -----------------------------------------------------------------------------------------------------------

# The readers of bodies, each with its columns around the body; what they are given is sealed, so all of it is read.
_BODIES: tuple[tuple[type, Callable[[rows.Reader, bytes], object]], ...] = (
    (
        rows.JobBody,
        lambda reader, body: reader.whole_story(
            (1, "j", None, DIGEST, body, None, b"a", SEAL.over("jobs", 1, "j", None, DIGEST, body, None, b"a"))
            + (None,) * 3
            + (None,) * 7
            + (0, None, None, None)
        ),
    ),
    (
        rows.OutcomeBody,
        lambda reader, body: reader.outcome(
            1, "j", (1, 8, 0.0, body, None, b"p", SEAL.over("outcomes", 1, "j", 1, 8, 0.0, body, None, b"p"))
        ),
    ),
    (
        rows.AttemptBody,
        lambda reader, body: reader.certificate(1, "j", (1, 7, body, SEAL.over("attempts", 1, "j", 1, 7, body))),
    ),
    (
        rows.FunctionBody,
        lambda reader, body: reader.whole_function(
            (DIGEST, body, None, b"c", SEAL.over("functions", DIGEST, body, None, b"c"))
        ),
    ),
    (
        list[tuple[int, int, int, int]],
        lambda reader, body: reader.batch((1, "w", body, SEAL.over("leases", 1, "w", body))),
    ),
    (rows.Marks, lambda reader, body: rows.marks_from(body)),
)


def sealed_row(data: bytes) -> str:
    """A body that we ourselves may have written, in a newer version: it is read, or refused by name."""
    kind, read = _BODIES[data[0] % len(_BODIES)] if data else _BODIES[0]
    name = getattr(kind, "__name__", "leases")
    try:
        found = read(rows.Reader(SEAL), data[1:])
    except rows.UNREADABLE as error:
        return f"{name} {type(error).__name__}"
    return f"{name} {type(found).__name__}"


def row_seeds() -> list[bytes]:
    chance = random.Random(6)
    found = []
    for number, (kind, _) in enumerate(_BODIES):
        for _ in range(4):
            body = sample(kind, chance)
            if kind is rows.JobBody:
                body = msgspec.structs.replace(body, options=msgspec.Raw(encode({"name": "n", "crash_limit": 3})))
            found.append(bytes([number]) + encode(body))
    return found


def _read_outcome(reader: rows.Reader, row: Row) -> object:
    outcome = reader.outcome(row[0], row[1], row[2:])
    if not is_payload_of(row[6], row[7]):  # as every caller does that hands it out
        raise BadSealError("the result", "outcomes")
    return outcome


def _story_row(reader: rows.Reader, row: Row) -> object:
    if row[OUTCOME.start] not in (None, row[REQUEUE.start] or 1):
        raise BadSealError("another run", "outcomes")  # the view joins no such row
    # How many attempts there are is counted by SQL: it is no column of the file.
    count = int(row[FAILED_ATTEMPTS + 1] is not None)
    return reader.whole_story([*row[:FAILED_ATTEMPTS], count, *row[FAILED_ATTEMPTS + 1 :]])


# Where they stand in a row of `stories`.
REQUEUE, OUTCOME, FAILED_ATTEMPTS, ATTEMPT = slice(8, 11), slice(11, 18), 18, slice(19, 22)

_READERS: dict[str, Callable[[rows.Reader, Row], object]] = {
    "stories": _story_row,
    "outcomes": _read_outcome,
    "attempts": lambda reader, row: reader.certificate(row[0], row[1], row[2:]),
    "outputs": lambda reader, row: reader.output(row[0], row[1], row[2:]),
    "functions": lambda reader, row: reader.whole_function(row),
    "leases": lambda reader, row: str(reader.batch(row)),
    "queues": lambda reader, row: reader.paused(row),
    "requests": lambda reader, row: reader.answer(row),
    "journal": lambda reader, row: reader.journaled(row),
    "meta": lambda reader, row: reader.meta(row),
}


@cache
def originals() -> dict[str, list[tuple[Row, object]]]:
    """Rows of a real store, by what reads them, with what they say."""
    queries = sql.statements("inspect.sql") | sql.statements("queries.sql")
    names = {"stories": "SELECT * FROM stories ORDER BY seq"}
    found: dict[str, list[tuple[Row, object]]] = {}
    with contextlib.closing(sqlite3.connect(template().as_uri() + "?immutable=1", uri=True)) as connection:
        connection.execute(queries["make_stories"])
        reader = rows.Reader(Seal(template().with_name("t.db.key").read_bytes()))
        for name, read in _READERS.items():
            said = connection.execute(names.get(name) or queries[name]).fetchall()
            assert said or name in {"journal", "requests"}, f"the template has no {name}"
            found[name] = [(row, read(reader, row)) for row in said]
    # Of a job's story, whole rows may be missing: a deletion leaves the store of an earlier day.
    for row, _ in list(found["stories"]):
        for gone in (REQUEUE, OUTCOME, ATTEMPT), (OUTCOME, ATTEMPT), (OUTCOME,), (ATTEMPT,):
            less = list(row)
            for columns in gone:
                less[columns] = [None] * len(less[columns])
            with contextlib.suppress(BadSealError):
                found["stories"].append((row, _story_row(reader, less)))
    return found


def foreign_row(data: bytes) -> str:
    """[reader, row]: who can't seal can only say what we have said: anything else is not believed."""
    try:
        name, row = decode(data)
        read, known = _READERS[name], originals()[name]
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError):
        return "no input"
    if not isinstance(row, list) or not known or len(row) != len(known[0][0]):
        return "no row"
    reader = rows.Reader(Seal(template().with_name("t.db.key").read_bytes()))
    try:
        said = read(reader, row)
    except BadSealError:
        return f"{name} refused"
    assert any(said == original for _, original in known), f"believed of {name}: {said!r}"
    return f"{name} taken"


def foreign_seeds() -> list[bytes]:
    return [encode([name, list(row)]) for name, known in originals().items() for row, _ in known]


# --- the file -------------------------------------------------------------------------------------------------------

_folder = tempfile.TemporaryDirectory(prefix="cluster-fuzz-")


def story() -> list[Record]:
    """Every table has a row."""
    long = b"\x5a" * 2000
    return [
        FunctionAdded(FunctionBlob(DIGEST, b"code", "3.11", "3.0", "f")), QueuePaused("gpu", paused=True),
        admitted(1), admitted(2, args=long), admitted(3, key="once"),
        failed(1, 1, output=b"one"), ended(1, 2, state=JobState.DEAD_LETTER), requeued(1, 2),
        ended(1, 4, run=2, payload=long, output=b"two"), failed(2, 5), leased("w#1", (9, 2), attempt=2),
    ]  # fmt: skip


@cache
def template() -> Path:
    """A store of a few jobs, closed."""
    path = Path(_folder.name, "t.db")
    store = SqliteStore(path)
    store.open()
    store.commit(story())
    store.close()
    return path


@cache
def truth() -> dict[str, object]:
    """What its jobs are."""
    store = SqliteStore(template())
    store.open()
    found: dict[str, object] = {f"job{seq}": store.find(f"job{seq}") for seq in (1, 2, 3)}
    store.close()
    return found


@cache
def pristine() -> tuple[bytes, bytes]:
    """The template's file, and its key; after `truth`, which opens it once more."""
    truth()
    return template().read_bytes(), template().with_name("t.db.key").read_bytes()


def database(data: bytes) -> str:
    """[(place, byte), ...] of the file: a store says what is wrong, or tells the truth about each job that it tells of."""
    content, key = pristine()
    try:
        changes = msgspec.msgpack.decode(data, type=list[tuple[int, int]])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "no input"
    changed = bytearray(content)
    for place, byte in changes[:64]:
        changed[place % len(changed)] = byte % 256
    with tempfile.TemporaryDirectory(prefix="cluster-fuzz-") as folder:
        path = Path(folder, "f.db")
        path.touch(0o600)
        path.write_bytes(changed)
        path.with_name("f.db.key").touch(0o600)
        path.with_name("f.db.key").write_bytes(key)
        found = check(str(path), StoreFiles(str(path), path))
        store = SqliteStore(path)
        try:
            store.open()
        except StoreError as error:
            if not found.findings:
                raise AssertionError(f"a check is content, but it can't be opened: {error.reason}") from error
            return f"closed: {type(error).__name__} {error.reason[:30]}"
        try:
            return _compare(store)
        finally:
            store.close()


def _compare(store: SqliteStore) -> str:
    known = truth()
    label = "open"
    with contextlib.suppress(StoreError):
        for job in store.live_jobs():
            assert job == known[job.spec.id], f"believed: {job}"
        label = "lists"
        store.page(0, 10)
        for name in known:
            try:
                said = store.find(name)
            except StoreError:
                continue
            assert said is None or said == known[name], f"believed: {said}"
        label = "answers"
    return f"{label}, {min(len(store.tampered), 2)} tampered"


def database_seeds() -> list[bytes]:
    chance = random.Random(7)
    size = len(pristine()[0])
    return [
        encode([(chance.randrange(size), chance.randrange(256)) for _ in range(count)]) for count in (0, 1, 2, 8, 60)
    ] + [
        encode([[place, 255]]) for place in (0, 18, 60, 100, *(pristine()[0].find(said) for said in (b"job1", b"args")))
    ]
