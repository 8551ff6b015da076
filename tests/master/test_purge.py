from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.core.records import JobId
from cluster.core.states import JobState
from cluster.errors import Refused, UnknownJob
from cluster.master.committer import PRUNE_AFTER_ENDED
from cluster.store.memory import MemoryStore
from cluster.store.port import Store
from cluster.store.sqlite import SqliteStore
from tests.core.builders import failure, spec, success
from tests.master.rig import DEADLINE_SECONDS, HandStore, Rig


@pytest.fixture(params=["memory", "sqlite"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "runs.db")
    with Rig(store) as rig:
        rig.master.committer.start()
        yield rig


def bury(rig: Rig, name: str) -> None:
    rig.submit(spec(name))
    (lease,) = rig.poll()
    rig.report(failure(lease.fence))
    rig.notes.wait("ended")
    assert rig.jobs.info(name).state is JobState.DEAD_LETTER


def test_a_purged_dead_letter_is_gone_with_its_history(rig: Rig) -> None:
    bury(rig, "a")

    assert rig.jobs.purge(["a", "a"]) == 1

    with pytest.raises(UnknownJob):
        rig.jobs.history("a")
    assert rig.jobs.page()[0] == []


def test_a_repeated_purge_finds_nothing(rig: Rig) -> None:
    bury(rig, "a")
    rig.jobs.purge(["a"])

    assert rig.jobs.purge(["a"]) == 0


def test_only_dead_letters_are_purged_and_otherwise_none_is(rig: Rig) -> None:
    bury(rig, "dead")
    rig.submit(spec("done"))
    (lease,) = rig.poll()
    rig.report(success(lease.fence))
    rig.submit(spec("live"))
    rig.notes.wait("ended", 2)
    rig.notes.wait("accepted", 3)

    for name, what in (("done", "is completed"), ("live", "has not ended")):
        with pytest.raises(Refused, match=f"{what}; only a dead letter"):
            rig.jobs.purge(["dead", name])

    assert rig.jobs.info("dead").state is JobState.DEAD_LETTER


def test_a_requeued_dead_letter_is_not_purged(rig: Rig) -> None:
    bury(rig, "a")
    rig.jobs.requeue(["a"])

    with pytest.raises(Refused, match="only a dead letter"):
        rig.jobs.purge(["a"])

    assert rig.poll()[0].run == 2


def test_a_job_that_is_requeued_between_the_question_and_the_deletion_of_a_prune_is_kept() -> None:
    """The prune asks whether the job is needed; then an operator requeues it; then it is deleted, or not."""

    class SlowPrune(HandStore):
        def prune(self, wall: float, is_needed: object, limit: int = 10_000) -> int:
            def ask(job: JobId) -> bool:
                answer: bool = rig.master.is_needed(job)
                has_asked.set()
                may_go_on.wait(0.2)  # a requeue that does not wait for us would decide now
                return answer

            return super().prune(wall, ask, limit)

    store = SlowPrune()
    has_asked, may_go_on = threading.Event(), threading.Event()
    with Rig(store) as rig:
        bury(rig, "a")
        rig.time.seconds += 31 * 86400.0
        errors: list[Exception] = []

        def requeue() -> None:
            assert has_asked.wait(DEADLINE_SECONDS)
            try:
                rig.jobs.requeue(["a"])
            except UnknownJob as error:
                errors.append(error)
            may_go_on.set()

        thread = threading.Thread(target=requeue)
        thread.start()
        rig.master.committer.prune_soon()
        thread.join(DEADLINE_SECONDS)

        # Either it was pruned first, and the operator was told; or it was requeued, and runs.
        assert len(errors) + len(rig.poll()) == 1
        assert bool(errors) == (store.find("a") is None)


def test_a_prune_that_would_have_to_wait_is_put_off() -> None:
    store = HandStore()
    with Rig(store) as rig:
        with rig.master.committer.pruning:
            rig.master.committer._ended_since_prune = PRUNE_AFTER_ENDED
            bury(rig, "a")
            assert store.pruned == []

        bury(rig, "b")

        assert len(store.pruned) == 1
