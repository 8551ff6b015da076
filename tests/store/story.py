"""One story that leads a store through everything it writes, told step by step, and what it looks like after each.

The tests of crash points and of faults play it, and stop it at every statement.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.core.effects import Answered, GivenBack, Purged, QueuePaused, Record, Undone
from cluster.core.states import JobState
from cluster.store import sqlite
from cluster.store.sqlite import SqliteStore
from tests.store.build import DIGEST, FUNCTION, admitted, ended, failed, leased, requeued

Step = Callable[[SqliteStore], object]

JOBS = [f"job{seq}" for seq in range(1, 12)]
LONG_AGO, LATER = 5.0, 4e9


def commit(*records: Record) -> Step:
    return lambda store: store.commit(records)


def prune(store: SqliteStore) -> None:
    store.prune(LONG_AGO + 1, lambda _job: False)


def tidy(store: SqliteStore) -> None:
    while store.tidy():
        pass


# Each step changes one thing that a reader can see, or nothing; so it has happened or it has not.
STEPS: list[Step] = [
    commit(FUNCTION, admitted(1), admitted(2, key="once"), admitted(3), admitted(4)),
    commit(leased("w#1", (1, 1), (2, 2)), leased("w#2", (3, 3))),
    tidy,
    commit(ended(1, 1, output=b"said", keep_until=LONG_AGO), failed(2, 2, output=b"cried"), GivenBack((3,))),
    tidy,
    commit(requeued(1, 2), QueuePaused("gpu", paused=True), Answered("r1", b"yes", LATER)),
    commit(admitted(5), Undone(5), admitted(6)),
    # Too large for the journal (see `play`): filed at once, what waits before it first.
    commit(*(admitted(seq, args=b"x" * 500) for seq in range(7, 12))),
    commit(ended(7, payload=b"y" * 1500, keep_until=LATER), QueuePaused("gpu", paused=False)),
    tidy,
    commit(ended(8, state=JobState.DEAD_LETTER, keep_until=LATER), Answered("r2", b"no", LONG_AGO)),
    prune,  # the answer
    commit(ended(9, keep_until=LONG_AGO), ended(10, keep_until=LONG_AGO)),
    prune,
    commit(Purged(8, "job8")),
    tidy,
]


def play(store: SqliteStore, *, after: Callable[[int], object] = lambda step: None, steps: int = len(STEPS)) -> None:
    """Tell the story, with bounds so small that every way of writing is taken; `after` hears of each finished step."""
    sqlite.MAX_JOURNALED_BYTES = 2000
    store._max_rows = 3
    for number, step in enumerate(STEPS[:steps], start=1):
        step(store)
        after(number)


def image(path: Path) -> dict[str, Any]:
    """All that a store tells, once it has been opened again."""
    store = SqliteStore(path)
    opening = store.open()
    try:
        return {
            "paused": opening.paused,
            "tampered": opening.tampered,
            "live": list(store.live_jobs()),
            "page": store.page(0, 100),
            "history": [store.history(job) for job in JOBS],
            "output": [store.output(job) for job in JOBS],
            "outcome": [store.outcome(job) for job in JOBS],
            "answers": [store.answer("r1"), store.answer("r2")],
            "functions": list(store.functions([DIGEST])),
        }
    finally:
        store.close()


def images(folder: Path) -> list[dict[str, Any]]:
    """What it looks like before the first step and after each."""
    found = []
    for steps in range(len(STEPS) + 1):
        path = folder / f"image{steps}.db"
        store = SqliteStore(path)
        store.open()
        play(store, steps=steps)
        store.close()
        found.append(image(path))
    return found
