from __future__ import annotations

from cluster.core.job import Job
from cluster.core.states import JobState
from cluster.core.timers import MIN_REBUILD_ENTRIES, Timer, Timers
from tests.core.builders import job


def scheduled(when: float) -> Job:
    one = job()
    one.state = JobState.SCHEDULED
    one.due_mono = when
    return one


def expiring(when: float) -> Job:
    one = job()
    one.state = JobState.QUEUED
    one.expires_mono = when
    return one


def due(timers: Timers, mono: float) -> list[tuple[Timer, Job]]:
    return list(timers.pop_due(mono))


def test_what_has_come_due_comes_out_oldest_first_and_once() -> None:
    timers = Timers()
    late, early = scheduled(2.0), expiring(1.0)
    timers.add(2.0, Timer.DUE, late)
    timers.add(1.0, Timer.EXPIRE, early)

    assert due(timers, 2.0) == [(Timer.EXPIRE, early), (Timer.DUE, late)]
    assert due(timers, 9.0) == []


def test_equal_times_come_out_as_they_came_in() -> None:
    timers = Timers()
    jobs = [scheduled(1.0) for _ in range(5)]
    for one in jobs:
        timers.add(1.0, Timer.DUE, one)

    assert [one for _, one in due(timers, 1.0)] == jobs


def test_what_is_not_due_stays() -> None:
    timers = Timers()
    timers.add(5.0, Timer.DUE, scheduled(5.0))

    assert due(timers, 4.9) == []
    assert timers.next_due() == 5.0
    assert len(timers) == 1


def test_nothing_to_wait_for_is_said_as_none() -> None:
    assert Timers().next_due() is None


def test_a_job_that_has_another_time_by_now_does_not_come_out() -> None:
    timers = Timers()
    moved, renewed = scheduled(1.0), expiring(1.0)
    timers.add(1.0, Timer.DUE, moved)
    timers.add(1.0, Timer.EXPIRE, renewed)

    moved.due_mono = 3.0
    renewed.expires_mono = 0.0

    assert due(timers, 9.0) == []


def test_a_job_that_no_longer_waits_does_not_come_out() -> None:
    timers = Timers()
    gone, ended = scheduled(1.0), expiring(1.0)
    timers.add(1.0, Timer.DUE, gone)
    timers.add(1.0, Timer.EXPIRE, ended)

    gone.state = ended.state = JobState.CANCELLED

    assert due(timers, 9.0) == []


def test_a_retry_that_waits_for_its_backoff_is_meant_too() -> None:
    timers = Timers()
    retried = scheduled(1.0)
    retried.state = JobState.RETRY_QUEUED
    timers.add(1.0, Timer.DUE, retried)

    assert due(timers, 1.0) == [(Timer.DUE, retried)]


def test_stale_entries_are_bounded_and_what_is_meant_is_kept() -> None:
    timers = Timers()
    kept = expiring(7.0)
    timers.add(7.0, Timer.EXPIRE, kept)

    for _ in range(5 * MIN_REBUILD_ENTRIES):
        one = expiring(1.0)
        timers.add(1.0, Timer.EXPIRE, one)
        one.state = JobState.COMPLETED

    assert len(timers) < MIN_REBUILD_ENTRIES
    assert due(timers, 9.0) == [(Timer.EXPIRE, kept)]


def test_many_that_are_meant_are_not_rebuilt_for_each_new_one() -> None:
    timers = Timers()
    jobs = [expiring(float(number)) for number in range(MIN_REBUILD_ENTRIES + 10)]

    for one in jobs:
        timers.add(one.expires_mono, Timer.EXPIRE, one)

    assert timers._rebuild_at == 2 * 4096
    assert [one for _, one in due(timers, float("inf"))] == jobs


def test_order_is_kept_when_stale_entries_are_dropped() -> None:
    timers = Timers()
    jobs = [scheduled(float(number * 7919 % 10_007)) for number in range(MIN_REBUILD_ENTRIES)]
    for number, one in enumerate(jobs):
        if number % 3:
            one.state = JobState.CANCELLED
        timers.add(one.due_mono, Timer.DUE, one)

    came = [one.due_mono for _, one in due(timers, 10_007.0)]

    assert came == sorted(one.due_mono for one in jobs if one.state is JobState.SCHEDULED)
