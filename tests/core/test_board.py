from __future__ import annotations

import gc
import tracemalloc

import pytest

from cluster.core import events
from cluster.core.board import HANDLERS, Board, Settings
from cluster.core.effects import Wake
from cluster.core.job import LeaseHeld
from cluster.core.records import JobSpec
from cluster.core.states import Cause, IllegalMove, JobState
from cluster.store.memory import MemoryStore
from tests.core.builders import TASK, WORKER, Scene, job, moment, spec, success
from tests.sim.invariants import check_board

MAX_BYTES_PER_QUEUED_JOB = 600
MANY = 100_000


def test_every_event_has_its_handler() -> None:
    assert set(HANDLERS) == set(events.Event.__args__)


def test_a_move_that_the_table_does_not_hold_changes_nothing() -> None:
    scene = Scene()
    scene.submit(spec("a"))

    with pytest.raises(IllegalMove, match="a job that is QUEUED can't move by RETRY"):
        scene.board.move(scene.job("a"), Cause.RETRY)

    assert scene.state("a") is JobState.QUEUED
    check_board(scene.board)


def test_ten_thousand_leases_of_lost_workers_are_remembered_and_the_oldest_goes_first() -> None:
    board = Board(Settings(), epoch=1)

    for fence in range(1, 10_002):
        board.lapse(LeaseHeld(fence, job("a"), WORKER, run=1, attempt=1))

    assert list(board.lapsed) == list(range(2, 10_002))


def test_a_result_is_needed_while_its_job_is_here_or_others_wait_for_it() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b", after=("a",)))

    assert scene.board.needs_result("a")
    assert not scene.board.needs_result("never heard of")

    (fence,) = scene.poll()
    scene.settle(scene.report(success(fence)))

    assert not scene.board.needs_result("a"), "it was waited for, and its result is nobody's argument"


def test_counts_say_how_many_jobs_are_in_each_state() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b"), spec("c", after=("a",)), spec("d", delay=1.0))
    scene.poll()

    counts = {state: scene.board.counts[state] for state in JobState if scene.board.counts[state]}

    assert counts == {JobState.ASSIGNED: 1, JobState.QUEUED: 1, JobState.WAITING: 1, JobState.SCHEDULED: 1}


def test_a_queued_job_costs_at_most_six_hundred_bytes_besides_its_payload() -> None:
    board, store = Board(Settings(), epoch=1), MemoryStore()
    store.open()
    shared = spec("template").options
    gc.collect()
    tracemalloc.start()
    try:
        for first in range(0, MANY, 100):
            batch = tuple(
                JobSpec(f"abcdefghij-{number}", TASK.digest, b"", shared) for number in range(first, first + 100)
            )
            effects = board.handle(events.Submit(1, batch, (TASK,)), moment())
            store.commit([effect for effect in effects if not isinstance(effect, Wake)])  # type: ignore[misc]
        del batch, effects
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert board.counts[JobState.QUEUED] == MANY
    assert used / MANY <= MAX_BYTES_PER_QUEUED_JOB


def test_a_later_opening_of_the_store_issues_only_higher_fences() -> None:
    last_of_third, first_of_fourth = 4 * 2**40, Board(Settings(), epoch=4).issue_fence()

    assert first_of_fourth == last_of_third + 1, "where an epoch begins may not change: fences are in stores"


def test_what_an_operator_does_not_say_of_the_board_is_this() -> None:
    assert Settings() == Settings(
        heartbeat_timeout_seconds=10.0, max_live_jobs=5_000_000, dead_retention_seconds=2_592_000.0
    )
