from __future__ import annotations

from cluster.core import events
from cluster.core.board import FENCE_BITS
from cluster.core.effects import AttemptFailed, Ended, GivenBack, Leased, LeasedJob, TellGranted, TellStop
from cluster.core.records import Ending, Lease, Options
from cluster.core.states import JobState
from tests.core.builders import (
    AT_MOST_ONCE,
    AT_ONCE,
    TASK,
    WALL,
    WORKER,
    Scene,
    bad,
    chunk_report,
    done,
    every,
    failure,
    moment,
    only,
    spec,
    success,
)


def test_a_lease_is_recorded_with_its_fence_run_and_attempt() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b"))
    scene.register()

    effects = scene.tell(events.Poll(WORKER, 9), at=3.0)

    first = (1 << FENCE_BITS) + 1
    assert effects == [Leased(WORKER, (LeasedJob(first, 1, 1, 1), LeasedJob(first + 1, 2, 1, 1)))]
    one = scene.job("a")
    assert (one.state, one.fence, one.worker, one.started) == (JobState.ASSIGNED, first, WORKER, WALL + 3.0)


def test_fences_grow_and_those_of_a_later_opening_are_higher() -> None:
    scene, later = Scene(epoch=1), Scene(epoch=2)
    for one in (scene, later):
        one.submit(*(spec() for _ in range(5)))

    fences = [*scene.poll(3), *scene.poll(2), *later.poll(5)]

    assert fences == sorted(set(fences))
    assert fences[5] == (2 << FENCE_BITS) + 1


def test_an_unknown_worker_is_given_nothing() -> None:
    scene = Scene()
    scene.submit(spec())

    assert scene.tell(events.Poll("who", 9)) == []


def test_a_full_worker_is_given_nothing() -> None:
    scene = Scene()
    scene.submit(spec())

    assert scene.poll(0) == []


def test_where_there_is_no_work_nothing_is_recorded() -> None:
    scene = Scene()
    scene.register()

    assert scene.tell(events.Poll(WORKER, 9)) == []


def test_a_lease_of_a_job_that_may_run_only_once_is_handed_out_when_it_is_durable() -> None:
    scene = Scene()
    scene.submit(spec("a", AT_MOST_ONCE))
    scene.durable("a")
    scene.register()

    effects = scene.tell(events.Poll(WORKER, 1))

    fence = scene.job("a").fence
    assert only(TellGranted, effects) == TellGranted(WORKER, fence)
    assert not scene.board.leases[fence].is_granted

    scene.tell(events.LeaseDurable(WORKER, fence))

    assert scene.board.leases[fence].is_granted


def test_a_job_cancelled_before_its_lease_was_durable_is_never_heard_of() -> None:
    scene = Scene()
    scene.submit(spec("a", AT_MOST_ONCE))
    scene.durable("a")
    (fence,) = scene.poll()

    effects = scene.cancel("a")
    scene.tell(events.LeaseDurable(WORKER, fence))

    assert not every(TellStop, effects)
    assert not scene.board.leases


def test_jobs_given_back_stand_where_they_stood_with_no_attempt_spent() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b"), spec("c"))
    fences = scene.poll(2)

    effects = scene.tell(events.GiveBack(WORKER, tuple(fences)))

    assert effects == [GivenBack(tuple(fences))]
    assert scene.job("a").attempts == 0
    again = scene.poll(3)
    assert [scene.describe(fence).job for fence in again] == ["a", "b", "c"]
    assert [scene.describe(fence).attempt for fence in again] == [1, 1, 1]
    assert not set(again) & set(fences)


def test_resources_come_back_with_what_is_given_back() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    fence = scene.lease(spec("a", Options(resources=(("gpu", 1),))))
    assert scene.board.workers[WORKER].free == {"gpu": 0}

    scene.tell(events.GiveBack(WORKER, (fence,)))

    assert scene.board.workers[WORKER].free == {"gpu": 1}


def test_giving_back_twice_or_what_is_unknown_or_another_s_changes_nothing() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.register("other#1")

    assert scene.tell(events.GiveBack("other#1", (fence,))) == []
    assert scene.state("a") is JobState.ASSIGNED

    effects = scene.tell(events.GiveBack(WORKER, (fence, fence, 12345)))

    assert only(GivenBack, effects) == GivenBack((fence,))
    assert scene.tell(events.GiveBack(WORKER, (fence,))) == []
    assert scene.job("a").attempts == 0


def test_giving_back_an_attempt_that_was_ordered_to_stop_only_says_that_it_is_gone() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.settle(scene.cancel("a"))

    effects = scene.tell(events.GiveBack(WORKER, (fence,)))

    assert effects == []
    assert not scene.board.jobs
    assert not scene.board.leases


def test_a_stopped_attempt_frees_its_resources_and_lets_the_job_be_forgotten() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    fence = scene.lease(spec("a", Options(resources=(("gpu", 1),))))
    scene.settle(scene.cancel("a"))
    assert scene.state("a") is JobState.CANCELLED

    effects = scene.tell(events.Stopped(WORKER, (fence,)))

    assert effects == []
    assert not scene.board.jobs
    assert scene.board.workers[WORKER].free == {"gpu": 1}


def test_the_worker_gets_all_that_it_needs_to_run_the_job() -> None:
    scene = Scene()
    options = Options(timeout=3.0)
    scene.finish(spec("first"))

    fence = scene.lease(spec("a", options, inputs=("first",)), settled={"first": JobState.COMPLETED})

    assert scene.describe(fence) == Lease(
        fence, "a", run=1, attempt=1, function=TASK.digest, args=b"args", options=options, inputs=(("first", b""),)
    )


def test_a_chunk_is_leased_whole_and_then_only_what_is_left_of_it() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", Options(retry=AT_ONCE), items=10))
    whole = scene.describe(fence)

    scene.report(chunk_report(fence, done(0, 4), bad(4), done(5, 5)))
    (again,) = scene.poll()
    rest = scene.describe(again)

    assert (whole.ranges, whole.careful) == (((0, 10),), False)
    assert (rest.ranges, rest.careful, rest.attempt) == (((4, 5),), False, 2)


def test_a_chunk_that_crashed_is_leased_carefully() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", items=3))

    scene.report(failure(fence, Ending.CRASHED))
    scene.tick(1.0)
    (again,) = scene.poll()

    assert scene.describe(again).careful


def test_the_attempt_after_a_failed_one_is_the_next() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=AT_ONCE)))

    scene.report(failure(fence))
    (again,) = scene.poll()

    assert scene.describe(again).attempt == 2
    assert not every(Ended, scene.report(success(fence))), "the first lease is over"


def test_an_attempt_that_was_stopped_by_an_order_which_nobody_remembers_is_lost_and_not_waited_for() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    effects = scene.tell(events.Stopped(WORKER, (fence,)))

    failed = only(AttemptFailed, effects)
    assert failed.certificate.ending is Ending.WORKER_LOST
    assert "an order of a master that died" in failed.certificate.reason
    assert not scene.board.leases


def test_stopped_means_nothing_of_a_lease_that_is_another_s_or_nobody_s() -> None:
    scene = Scene()
    running, cancelled = scene.lease(spec("running")), scene.lease(spec("cancelled"))
    scene.cancel("cancelled")

    scene.tell(events.Stopped("other#1", (running, cancelled, 12345)))

    assert scene.state("running") is JobState.ASSIGNED
    assert set(scene.board.leases) == {running, cancelled}


def test_of_what_a_worker_says_is_gone_each_counts_whatever_stands_before_it() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b"))
    first, second = scene.poll(2)
    scene.cancel("a", "b")

    scene.tell(events.Stopped(WORKER, (12345, first, second)))

    assert not scene.board.leases


def test_a_stop_in_vain_says_when_its_attempt_began() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"), at=2.0)

    failed = only(AttemptFailed, scene.tell(events.Stopped(WORKER, (fence,)), at=3.0))

    assert failed.certificate.started == moment(2.0).wall


def test_who_leaves_gives_back_what_stands_behind_a_stopped_attempt_too() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b"))
    scene.poll(2)
    scene.cancel("b")  # given back first, for it goes backwards

    scene.tell(events.Leave(WORKER))

    assert scene.state("a") is JobState.QUEUED


def test_a_chunk_is_handed_out_with_the_names_of_its_inputs() -> None:
    scene = Scene()
    scene.finish(spec("x"))

    fence = scene.lease(spec("a", items=2, inputs=("x",)), settled={"x": JobState.COMPLETED})

    assert scene.describe(fence).inputs == (("x", b""),)
