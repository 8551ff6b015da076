"""`Pruner` on the memory store, and the committer that goes on until it is done."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from cluster.core.effects import Ended
from cluster.core.records import Options
from cluster.core.states import JobState
from cluster.errors import UnknownJob
from cluster.master import retention
from cluster.master.retention import MIN_BYTES, Pruner, Retention, check_max_bytes
from cluster.store.memory import MemoryStore
from tests.core.builders import WALL, spec, success
from tests.master.rig import HandStore, Rig
from tests.store.build import admitted, ended, requeued


def end(store: MemoryStore, seq: int, *, size: int = 100, output: bytes = b"", at: float = WALL) -> None:
    record: Ended = ended(seq, seq, output=output, keep_until=at + 1000.0, at=at)
    outcome = replace(record.outcome, payload=b"x" * size)
    store.commit([admitted(seq, args=b""), replace(record, outcome=outcome)])


def pruner(store: MemoryStore, *, output_seconds: float = 1e9, max_bytes: int = 10**9) -> Pruner:
    return Pruner(store, Retention(output_seconds=output_seconds, max_bytes=max_bytes))


def nobody(_job: str) -> bool:
    return False


@pytest.fixture
def store() -> MemoryStore:
    return HandStore()


def test_output_goes_after_its_time_and_no_sooner(store: MemoryStore) -> None:
    end(store, 1, output=b"old", at=WALL)
    end(store, 2, output=b"young", at=WALL + 5.0)

    pruner(store, output_seconds=10.0).prune(WALL + 12.0, nobody)

    assert (store.output("job1"), store.output("job2")) == (b"", b"young")
    assert store.find("job1") is not None


def test_too_much_is_dropped_and_one_line_says_so(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    for seq in range(1, 6):
        end(store, seq)
    prune = pruner(store, max_bytes=250).prune

    with caplog.at_level(logging.WARNING, "cluster.master"):
        is_unfinished = [prune(WALL, nobody), prune(WALL, nobody)]

    assert is_unfinished == [False, False]
    assert [job.seq for job in store.page(0, 10)] == [4, 5]
    (record,) = caplog.records
    assert "took more than max_size" in record.message
    assert record.message.endswith("max_size=250 dropped=3")


def test_it_works_in_pieces_and_tells_once_it_is_done(
    store: MemoryStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_PRUNED", 2)
    for seq in range(1, 8):
        end(store, seq)
    prune = pruner(store, max_bytes=250).prune

    is_unfinished = [prune(WALL, nobody) for _ in range(3)]

    assert is_unfinished == [True, True, False]
    assert [record.message.partition("dropped=")[2] for record in caplog.records] == ["5"]


def test_what_live_jobs_fill_is_told_once_until_there_is_room_again(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    end(store, 1, size=300)
    prune = pruner(store, max_bytes=250).prune

    for is_needed in (True, True, False, True):
        prune(WALL, lambda _job, is_needed=is_needed: is_needed)  # type: ignore[misc]
    end(store, 2, size=300)
    prune(WALL, lambda _job: True)

    full = [record.message for record in caplog.records if "nothing is left to drop" in record.message]
    assert len(full) == 2
    assert full[0].endswith("max_size=250 excess=50")


def test_a_committer_goes_on_until_there_is_nothing_more_to_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_PRUNED", 2)
    store = HandStore()
    with Rig(store) as rig:
        for seq in range(1, 8):
            end(store, seq, at=WALL - 5000.0)

        rig.master.committer.prune_soon()

        assert store.page(0, 10) == []
        assert len(store.pruned) == 4  # 2, 2, 2, and the last one


def test_a_job_that_lives_again_keeps_what_it_printed(store: MemoryStore) -> None:
    end(store, 1, output=b"first run")
    store.commit([requeued(1, 2)])

    pruner(store, output_seconds=10.0).prune(WALL + 5.0, nobody)

    assert store.output("job1") == b"first run"


@pytest.mark.parametrize("max_bytes", [0, 1, MIN_BYTES - 1])
def test_a_bound_that_no_store_can_keep_to_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match="less than a store takes without any job; write 1MB or more"):
        check_max_bytes(max_bytes)

    assert check_max_bytes(MIN_BYTES) == MIN_BYTES


@pytest.mark.parametrize(
    ("output_seconds", "result_ttl", "dead_seconds", "expected"),
    [(7e5, 7e5, 3e6, 60.0), (5.0, 7e5, 3e6, 5.0), (7e5, 20.0, 3e6, 20.0), (7e5, 7e5, 30.0, 30.0), (0.1, 7e5, 3e6, 1.0)],
)
def test_the_timekeeper_prunes_as_often_as_the_shortest_retention_needs(
    output_seconds: float, result_ttl: float, dead_seconds: float, expected: float
) -> None:
    kept = Retention(output_seconds=output_seconds)

    with Rig(defaults=Options(result_ttl=result_ttl), retention=kept, dead_retention_seconds=dead_seconds) as rig:
        assert rig.master.timekeeper.prune_seconds == expected


@pytest.mark.parametrize("step", [365 * 86400.0, -365 * 86400.0])
def test_a_clock_that_is_set_drops_no_result_before_its_time_and_no_answer(step: float) -> None:
    with Rig() as rig:
        rig.submit(spec("a"))
        (lease,) = rig.poll()
        rig.report(success(lease.fence))
        rig.jobs.requeue(["a"], request="r1")
        (lease,) = rig.poll()
        rig.report(success(lease.fence))

        rig.time.set_forward = step
        rig.master.committer.prune_soon()

        assert rig.jobs.info("a").state is JobState.COMPLETED
        rig.jobs.requeue(["a"], request="r1")
        assert rig.jobs.info("a").run == 2

        rig.time.set_forward = 0.0
        rig.time.seconds += 8 * 86400.0
        rig.master.committer.prune_soon()
        with pytest.raises(UnknownJob):
            rig.jobs.info("a")
