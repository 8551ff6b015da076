from __future__ import annotations

from pathlib import Path

import pytest

from cluster.core.effects import Answered, Requeued
from cluster.core.states import JobState
from cluster.errors import MasterUnavailable, StoreError
from cluster.master import durable, requests
from cluster.master.requests import Requests
from cluster.store.memory import MemoryStore
from cluster.store.sqlite import SqliteStore
from tests.core.builders import failure, spec
from tests.master.rig import HandStore, Rig


def bury(rig: Rig) -> None:
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    rig.report(failure(lease.fence))


def test_the_answer_and_its_effect_are_one_commit() -> None:
    store = HandStore()
    with Rig(store) as rig:
        bury(rig)

        rig.jobs.requeue(["a"], request="r1")

    (group,) = [group for group in store.groups if any(isinstance(one, Answered) for one in group)]
    assert [type(one) for one in group if isinstance(one, Requeued | Answered)] == [Requeued, Answered]


def test_a_request_repeated_after_a_restart_is_answered_and_not_carried_out(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Rig(SqliteStore(path)) as rig:
        rig.master.committer.start()
        rig.submit(spec("a"))
        (lease,) = rig.poll()
        rig.report(failure(lease.fence))
        rig.notes.wait("ended")
        rig.jobs.requeue(["a"], request="r1")

    with Rig(SqliteStore(path)) as rig:
        rig.master.committer.start()
        (lease,) = rig.poll()
        rig.report(failure(lease.fence))
        rig.jobs.requeue(["a"], request="r1")

        assert rig.jobs.info("a").run == 2
        assert rig.jobs.info("a").state is JobState.DEAD_LETTER


def test_a_repeated_request_waits_until_its_first_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HandStore()
    with Rig(store) as rig:
        bury(rig)
        store.failures = [StoreError("memory:", "the disk is full")]
        order: list[str] = []
        store.on_commit = lambda records: order.extend(type(one).__name__ for one in records)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "DURABLE_SECONDS", 0.0)
            with pytest.raises(MasterUnavailable, match=r"not confirmed|the store fails"):
                rig.jobs.requeue(["a"], request="r1")

        (info,) = rig.jobs.requeue(["a"], request="r1")

    assert info.run == 2
    assert order.count("Requeued") == 2  # the failed commit, and the one that succeeded


def test_what_is_remembered_is_bounded_and_the_store_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_REMEMBERED", 1)
    store = MemoryStore()
    book = Requests(store)
    store.commit([*book.remember("r1", b"one", 0.0), *book.remember("r2", b"two", 0.0)])

    assert list(book._recent) == ["r2"]
    assert (book.answer("r1"), book.answer("r2"), book.answer("r3")) == (b"one", b"two", None)


def test_ten_thousand_are_remembered() -> None:
    book = Requests(MemoryStore())

    for number in range(10_001):
        book.remember(f"r{number}", b"", 0.0)

    assert len(book._recent) == 10_000
    assert "r0" not in book._recent


def test_an_answer_is_kept_long_enough_for_whoever_repeats_his_request() -> None:
    book = Requests(MemoryStore())

    assert book.remember("r1", b"one", 1000.0) == [Answered("r1", b"one", 1000.0 + 86_400.0)]


def test_a_caller_in_this_process_has_no_request_id_and_leaves_no_record() -> None:
    book = Requests(MemoryStore())

    assert book.remember("", b"", 0.0) == []
    assert book.answer("") is None
