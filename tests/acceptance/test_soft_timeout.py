"""A job that wants to end by itself before its timeout kills it: by looking at its deadline, or by an alarm of its own."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

import cluster


class Enough(Exception):  # as a user's own module would have it
    pass


def look_at_the_clock(spare_seconds: float) -> str:
    """Does work in small steps, and stops in time."""
    job = cluster.current_job()
    steps = 0
    while job.deadline is None or time.time() < job.deadline - spare_seconds:
        time.sleep(0.01)  # sleeps because it stands for a step of work
        steps += 1
    return f"stopped after {steps} steps"


def have_oneself_interrupted(spare_seconds: float) -> str:
    """Waits for something that does not look at any clock."""

    def ring(_number: int, _frame: object) -> NoReturn:
        raise Enough

    deadline = cluster.current_job().deadline
    assert deadline is not None
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline - time.time() - spare_seconds))
    try:
        time.sleep(60)  # sleeps because it stands for a call that takes too long
    except Enough:
        return "saved what there was"
    return "was never interrupted"


def refuse_to_stop(spare_seconds: float) -> None:
    while True:
        with contextlib.suppress(Exception):
            have_oneself_interrupted(spare_seconds)


def pause_and_tell_deadline(_item: int) -> float:
    deadline = cluster.current_job().deadline
    assert deadline is not None
    time.sleep(0.05)  # sleeps because items must begin at different times
    return deadline


@pytest.fixture(scope="module")
def one_slot() -> Iterator[cluster.Cluster]:
    with cluster.local(slots=1) as handle:
        yield handle


@pytest.mark.parametrize("task", [look_at_the_clock, have_oneself_interrupted])
def test_a_job_may_end_by_itself_before_it_is_killed(
    one_slot: cluster.Cluster, task: Callable[[float], object]
) -> None:
    job: cluster.Job[object] = one_slot.submit(task, (9.5,), timeout=10)

    assert job.result(timeout=9)
    assert job.refresh().attempts == 1


def test_one_that_does_not_is_killed_all_the_same(one_slot: cluster.Cluster) -> None:
    job = one_slot.submit(refuse_to_stop, (0.3,), timeout=0.5)

    assert isinstance(job.exception(timeout=20), cluster.JobTimeout)


def test_an_alarm_that_is_not_used_up_rings_for_nobody_else(one_slot: cluster.Cluster) -> None:
    first = one_slot.submit(signal.setitimer, (signal.ITIMER_REAL, 0.05))
    others = [one_slot.submit(time.sleep, (0.02,)) for _ in range(6)]

    first.result(timeout=20)
    assert [job.result(timeout=20) for job in others] == [None] * 6
    assert {job.refresh().attempts for job in others} == {1}


def test_in_a_map_the_deadline_is_each_item_s(one_slot: cluster.Cluster) -> None:
    deadlines = list(one_slot.map(pause_and_tell_deadline, range(6), chunksize=6, timeout=5))

    assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(deadlines)), deadlines


def test_without_a_timeout_there_is_no_deadline(one_slot: cluster.Cluster) -> None:
    assert one_slot.submit(lambda: cluster.current_job().deadline).result(timeout=20) is None
