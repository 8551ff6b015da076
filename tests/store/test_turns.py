"""Who files the journal for a reader, and who commits, take turns."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.store.sqlite import SqliteStore
from tests.acceptance.programs import wait_until
from tests.store.build import admitted

DEADLINE_SECONDS = 20.0


def test_a_commit_waits_for_one_piece_of_a_reader_s_filing_and_not_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.store.sqlite.FILED_PER_PIECE", 1)
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    for seq in range(1, 21):
        store.commit([admitted(seq)])
    events: list[str] = []
    is_filing, may_go_on = threading.Event(), threading.Event()
    real: Any = store._file_pieces

    def file_pieces(*, to_the_end: bool) -> None:
        is_filing.set()
        assert may_go_on.wait(DEADLINE_SECONDS)
        real(to_the_end=to_the_end)
        events.append("piece")

    monkeypatch.setattr(store, "_file_pieces", file_pieces)
    reader = threading.Thread(target=lambda: events.append(f"read {store.find('job20') is not None}"))

    def commit() -> None:
        store.commit([admitted(21)])
        events.append("commit")

    committer = threading.Thread(target=commit)
    reader.start()
    assert is_filing.wait(DEADLINE_SECONDS)
    committer.start()
    wait_until(store._turns.line.locked)  # the committer stands in line: it holds the turn, and waits for the lock
    may_go_on.set()
    reader.join(DEADLINE_SECONDS)
    committer.join(DEADLINE_SECONDS)

    # A piece had begun, one more may have: not the other eighteen.
    assert events.index("commit") <= 3
    assert events.count("piece") == 20  # what was committed meanwhile is left to others
    assert events[-1] == "read True"
    store.close()
