from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from cluster.client.batch import Batch, Piece
from cluster.client.chunking import WINDOW_PER_SLOT
from cluster.client.handle import Cluster
from cluster.client.job import Job
from cluster.errors import Detached, JobCancelled, MasterUnavailable, UnknownJob
from tests.client.desk import DEADLINE_SECONDS, InlineDesk


def half(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number // 2


def test_results_come_in_order_of_the_input(c: Cluster) -> None:
    batch = c.map(pow, range(500), itertools.repeat(2))

    assert next(batch) == 0
    assert list(batch) == [n * n for n in range(1, 500)]


@pytest.mark.parametrize("inputs", [range(400, -400, -1), list(range(500)), tuple(range(500)), iter(range(500))])
def test_an_input_is_mapped_whole_whatever_its_kind(c: Cluster, inputs: Iterable[int]) -> None:
    expected = [abs(n) for n in inputs] if not isinstance(inputs, Iterator) else list(range(500))

    assert list(c.map(abs, inputs)) == expected


class Doubles(list[int]):
    def __iter__(self) -> Iterator[int]:
        return (2 * n for n in range(len(self)))


def test_a_list_that_iterates_in_its_own_way_is_iterated_over(c: Cluster) -> None:
    assert list(c.map(abs, Doubles([7, 7, 7]))) == [0, 2, 4]


def test_a_list_that_grows_while_it_is_mapped_is_mapped_whole(desk: InlineDesk, c: Cluster) -> None:
    inputs = [1] * 100
    desk.gate.clear()
    batch = c.map(abs, inputs, chunksize=1)
    desk.wait_for(lambda: len(desk.jobs) == WINDOW_PER_SLOT * desk.slots)

    inputs += [2] * 5
    desk.gate.set()

    assert list(batch) == [1] * 100 + [2] * 5


def test_unordered_results_are_all_there(c: Cluster) -> None:
    assert sorted(c.map(abs, range(-500, 0), ordered=False)) == list(range(1, 501))


def test_unordered_results_do_not_wait_for_a_slow_first_chunk(c: Cluster) -> None:
    FIRST_MAY_END.clear()
    batch = c.map(slow_first, range(10), chunksize=1, ordered=False)

    others = [next(batch) for _ in range(9)]
    FIRST_MAY_END.set()

    assert sorted(others) == list(range(1, 10))
    assert list(batch) == [0]


FIRST_MAY_END = threading.Event()


def slow_first(number: int) -> int:
    if number == 0:
        assert FIRST_MAY_END.wait(DEADLINE_SECONDS)
    return number


def test_the_shortest_iterable_ends_the_map(c: Cluster) -> None:
    batch = c.map(pow, [1, 2, 3], itertools.count())

    assert list(batch) == [1, 2, 9]


def test_starmap_takes_tuples_of_arguments(c: Cluster) -> None:
    assert list(c.starmap(pow, [(2, 3), [3, 2]])) == [8, 9]


def test_an_empty_map_ends_at_once(c: Cluster) -> None:
    batch = c.map(abs, [])

    assert list(batch) == []
    assert len(batch) == 0
    assert batch, "a batch is never false"


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_items_error_is_raised_at_its_turn_and_ends_the_iteration(c: Cluster) -> None:
    batch = c.map(half, [0, 2, 3, 4], chunksize=2)

    assert [next(batch), next(batch)] == [0, 1]
    with pytest.raises(ValueError, match="3") as caught:
        next(batch)

    assert "in half" in str(caught.value.__cause__)
    assert list(batch) == []


def test_errors_can_be_returned_in_place(c: Cluster) -> None:
    results: list[Any] = list(c.map(half, range(5), errors="return"))

    assert results[::2] == [0, 1, 2]
    assert [type(error) for error in results[1::2]] == [ValueError, ValueError]


def test_errors_can_be_skipped(c: Cluster) -> None:
    assert list(c.map(half, range(5), errors="skip")) == [0, 1, 2]


def test_failed_items_are_counted(c: Cluster) -> None:
    batch = c.map(half, range(7), errors="skip")
    batch.results()

    now = batch.progress()

    assert (now.done, now.failed, now.total, now.submitted) == (7, 3, 7, 7)
    assert now.seconds > 0


def test_an_error_of_the_input_is_raised_at_its_place_and_what_came_before_is_run(desk: InlineDesk, c: Cluster) -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    batch = c.map(abs, numbers(), errors="skip")
    got: list[int] = []

    with pytest.raises(LookupError, match="no more"):
        got.extend(batch)

    assert got == list(range(5))


def test_an_item_that_cannot_be_pickled_is_an_error_of_that_item_alone(c: Cluster) -> None:
    inputs = [1, threading.Lock(), 3]

    results: list[Any] = list(c.map(type_name, inputs, errors="return", chunksize=3))

    assert results[::2] == ["int", "int"]
    assert isinstance(results[1], TypeError)
    assert "lock" in str(results[1])


def type_name(thing: object) -> str:
    return type(thing).__name__


def test_bad_arguments_are_refused_with_a_sentence(c: Cluster) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        c.map(abs)
    with pytest.raises(ValueError, match="errors must be one of 'raise', 'return', 'skip'"):
        c.map(abs, [1], errors="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunksize must be a whole number"):
        c.map(abs, [1], chunksize=0)
    with pytest.raises(TypeError, match="a map has no `key`"):
        c.map(abs, [1], key="k")


# --- running by itself ------------------------------------------------------------------------------------------------


def test_everything_is_run_although_nobody_iterates(desk: InlineDesk) -> None:
    with Cluster(desk, owns_workers=True) as c:
        batch = c.map(abs, range(1000))

    assert batch.progress().done == 1000
    assert sum(len(chunk.result()) for chunk in batch_jobs(desk, batch.id)) == 1000


def test_a_with_block_waits_for_a_map_that_still_reads_its_input(desk: InlineDesk) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        desk.wait_for(lambda: [record.outcome is not None for record in desk.jobs.values()] == [True])
        while c._session._mine:  # between the outcome and its delivery
            os.sched_yield()
        yield 2

    with Cluster(desk, owns_workers=True) as c:
        batch = c.map(abs, numbers(), chunksize=1)

    assert batch.results() == [1, 2]


def batch_jobs(desk: InlineDesk, batch: str) -> list[Any]:
    with Cluster(desk, owns_workers=False) as c:
        jobs = [c.job(info.id) for info in c.jobs(batch=batch)]
        for job in jobs:
            job.result(DEADLINE_SECONDS)
        return jobs


def test_a_chunk_is_sized_by_what_its_items_took_and_not_by_how_long_it_was_away(desk: InlineDesk, c: Cluster) -> None:
    desk.item_seconds = 10.0

    assert c.map(abs, range(30)).results() == list(range(30))

    assert {record.spec.items for record in desk.jobs.values()} == {1}


def test_an_endless_input_is_read_only_a_little_ahead(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    batch = c.map(abs, itertools.count())

    desk.wait_for(lambda: len(desk.jobs) == desk.slots)

    assert batch.progress().submitted == desk.slots
    with pytest.raises(TypeError, match="unknown length"):
        len(batch)
    batch.cancel()
    desk.gate.set()


def test_at_most_once_means_chunks_of_one(desk: InlineDesk, c: Cluster) -> None:
    batch = c.map(abs, range(300), crash_limit=0, chunksize=50)
    assert batch.results() == list(range(300))

    assert {record.spec.items for record in desk.jobs.values()} == {1}
    assert batch._pending_items == 0, "or the window would close by and by"


def test_chunks_say_where_they_belong(desk: InlineDesk, c: Cluster) -> None:
    batch = c.map(abs, range(10), chunksize=4, tags=["t"], name="sizes")
    batch.results()

    specs = [record.spec for record in desk.jobs.values()]

    assert [(spec.first, spec.items, spec.batch) for spec in specs] == [
        (n, s, batch.id) for n, s in ((0, 4), (4, 4), (8, 2))
    ]
    assert all(spec.options.tags == ("t",) and spec.options.name == "sizes" for spec in specs)


def test_large_arguments_are_split_over_chunks(desk: InlineDesk, c: Cluster) -> None:
    batch = c.map(len, [b"x" * 600_000] * 16, chunksize=16)

    assert batch.results() == [600_000] * 16
    assert max(len(record.spec.args) for record in desk.jobs.values()) <= 2 * (1 << 20)


def test_its_chunks_are_jobs_whose_results_are_lists(c: Cluster) -> None:
    batch = c.map(abs, range(10), chunksize=4)

    assert [job.result(DEADLINE_SECONDS) for job in all_jobs(batch)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_looking_at_a_chunk_takes_nothing_from_the_iteration(c: Cluster) -> None:
    batch = c.map(str, ["x" * 2000] * 10, chunksize=4)

    for job in all_jobs(batch):
        job.result(DEADLINE_SECONDS)

    assert list(batch) == ["x" * 2000] * 10


def all_jobs(batch: Batch[Any]) -> list[Any]:
    assert batch.wait_changed(DEADLINE_SECONDS)
    return batch.jobs()


def test_results_that_were_fetched_are_not_kept(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    batch = c.map(abs, range(100), chunksize=50)
    desk.wait_for(lambda: len(desk.jobs) == 2)
    chunks = [weakref.ref(job) for job in c._session._mine.values()]
    assert [chunk() is not None for chunk in chunks] == [True, True]

    desk.gate.set()
    assert batch.results() == list(range(100))
    assert batch.wait_changed(DEADLINE_SECONDS)
    c.close()

    assert [chunk() for chunk in chunks if chunk() is not None] == []


# --- cancel, close, attach ----------------------------------------------------------------------------------------------


def test_cancel_stops_the_input_and_what_runs(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    batch = c.map(abs, itertools.count(), chunksize=2)
    desk.wait_for(lambda: len(desk.jobs) >= 2)

    assert batch.cancel()

    with pytest.raises(JobCancelled):
        next(batch)
    assert batch.wait_changed(DEADLINE_SECONDS)
    assert batch.cancel(), "twice is once"


def test_a_cancelled_map_does_not_pass_for_a_complete_one(desk: InlineDesk, c: Cluster) -> None:
    read = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        read.wait(DEADLINE_SECONDS)
        yield 3

    batch = c.map(abs, numbers(), chunksize=1)
    assert [next(batch), next(batch)] == [1, 2]
    batch.cancel()
    read.set()

    with pytest.raises(JobCancelled, match="cancelled before item 2 was submitted"):
        next(batch)


def test_a_chunk_that_comes_after_the_cancel_is_not_taken(c: Cluster) -> None:
    batch: Batch[int] = Batch(c._session, "b", ordered=True, errors="raise")
    batch.cancel()

    assert not batch.add(Piece(1, job=Job(c._session, "j", "f")))


def test_closing_the_handle_ends_a_map_with_detached(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    batch = c.map(abs, itertools.count(), chunksize=1)
    desk.wait_for(lambda: len(desk.jobs) == WINDOW_PER_SLOT * desk.slots)

    c.close(wait=False)

    with pytest.raises((Detached, MasterUnavailable)):
        next(batch)
    assert batch.wait_changed(DEADLINE_SECONDS)


def test_a_map_can_be_attached_to_by_its_id(desk: InlineDesk, c: Cluster) -> None:
    batch = c.map(half, range(9), chunksize=2, errors="skip")
    batch.results()

    with Cluster(desk, owns_workers=False) as other:
        again = other.batch(batch.id, errors="skip")
        assert list(again) == [0, 1, 2, 3, 4]
        assert len(again) == 9
        with pytest.raises(UnknownJob):
            other.batch("nothing")


def test_many_maps_may_run_at_once(c: Cluster) -> None:
    batches = [c.map(pow, range(200), itertools.repeat(n)) for n in range(5)]

    assert [sum(batch) for batch in batches] == [sum(k**n for k in range(200)) for n in range(5)]
