from __future__ import annotations

import gc
import tracemalloc

from cluster.core.effects import Admitted
from cluster.store.memory import MemoryStore
from tests.store.build import admitted, ended, requeued


def test_too_many_ended_jobs_are_pruned_the_oldest_first() -> None:
    store = MemoryStore(max_ended=2)
    store.commit([admitted(seq) for seq in (1, 2, 3, 4, 5)])
    store.commit([ended(4), ended(1), ended(5), ended(2)])

    dropped = store.prune(0.0, lambda _job: False)

    assert dropped == 2
    assert [job.seq for job in store.page(0, 10)] == [2, 3, 5]


def test_too_many_ended_bytes_are_pruned_the_oldest_first() -> None:
    store = MemoryStore(max_ended_bytes=250)
    store.commit([admitted(seq, args=b"x" * 50) for seq in (1, 2, 3)])
    store.commit([ended(seq, payload=b"y" * 50) for seq in (3, 1, 2)])

    dropped = store.prune(0.0, lambda _job: False)

    assert dropped == 1
    assert [job.seq for job in store.page(0, 10)] == [1, 2]
    assert store.size() == 200


def test_a_needed_job_stays_and_a_younger_one_goes_instead() -> None:
    store = MemoryStore(max_ended=1)
    store.commit([admitted(seq) for seq in (1, 2)])
    store.commit([ended(1), ended(2)])

    store.prune(0.0, lambda job: job == "job1")

    assert [job.seq for job in store.page(0, 10)] == [1]


def test_live_jobs_are_never_pruned_whatever_the_bounds() -> None:
    store = MemoryStore(max_ended=0, max_ended_bytes=0)
    store.commit([admitted(1), admitted(2), ended(2), requeued(2, 2)])

    dropped = store.prune(1e12, lambda _job: False)

    assert dropped == 0
    assert [job.seq for job in store.live_jobs()] == [1, 2]


def test_bytes_of_pruned_and_requeued_jobs_are_no_longer_counted() -> None:
    store = MemoryStore()
    store.commit([admitted(1, args=b"x" * 10), admitted(2, args=b"x" * 20)])
    store.commit([ended(1, keep_until=5.0), ended(2), requeued(2, 2)])

    store.prune(6.0, lambda _job: False)

    assert store.size() == 0


def test_a_queued_job_costs_at_most_120_bytes_besides_its_record() -> None:
    count = 100_000
    records = [admitted(seq) for seq in range(1, count + 1)]
    store = MemoryStore()
    gc.collect()
    tracemalloc.start()

    store.commit(records)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used / count <= 120


def test_records_are_kept_by_reference() -> None:
    store = MemoryStore()
    record: Admitted = admitted(1)

    store.commit([record])

    found = store.find("job1")
    assert found is not None
    assert found.spec is record.spec
