from __future__ import annotations

from cluster.core.records import Lease, Options
from cluster.worker.prefetch import LONG, MAX_FUNCTIONS, MAX_QUEUED, QUEUED_SECONDS, Durations, count_items, room


def lease(function: bytes = b"f", ranges: tuple[tuple[int, int], ...] = ()) -> Lease:
    return Lease(1, "j", 1, 1, function, b"", Options(), ranges=ranges)


def test_a_function_that_was_never_measured_counts_as_long() -> None:
    assert Durations().estimate(lease()) == LONG


def test_a_slow_first_call_is_forgotten_within_a_few_jobs() -> None:
    durations = Durations()

    durations.note(lease(), 0.1)
    for _ in range(12):
        durations.note(lease(), 0.0001)

    assert durations.estimate(lease()) < 0.0005


def test_a_chunk_is_estimated_by_its_items() -> None:
    durations = Durations()

    durations.note(lease(ranges=((0, 10),)), 0.1)

    assert abs(durations.estimate(lease(ranges=((0, 3), (7, 9)))) - 0.05) < 1e-9
    assert durations.estimate(lease()) == LONG


def test_no_more_functions_are_remembered_than_the_bound() -> None:
    durations = Durations()

    for number in range(MAX_FUNCTIONS + 1):
        durations.note(lease(b"%d" % number), 0.001)

    assert durations.estimate(lease(b"0")) == LONG
    assert durations.estimate(lease(b"%d" % MAX_FUNCTIONS)) < 1


def test_an_idle_slot_takes_one_job_of_unknown_length_and_a_busy_one_none() -> None:
    assert room(0, 0.0, LONG) == 1
    assert room(1, LONG, LONG) == 0
    assert room(1, 0.001, LONG) == 0


def test_the_queue_is_bounded_in_time_and_in_number() -> None:
    assert room(0, 0.0, QUEUED_SECONDS / 10) == 10
    assert room(4, QUEUED_SECONDS * 0.4, QUEUED_SECONDS / 10) in {5, 6}
    assert room(0, 0.0, 1e-6) == MAX_QUEUED
    assert room(MAX_QUEUED, 0.0, 1e-6) == 0


def test_items_are_counted_over_all_ranges() -> None:
    assert count_items(lease(ranges=((0, 3), (7, 9)))) == 5
