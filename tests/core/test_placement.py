from __future__ import annotations

from collections.abc import Iterable

import pytest

from cluster.core.job import Job
from cluster.core.placement import MAX_STALE_ENTRIES, Lane, Placement, is_satisfiable
from cluster.core.records import Options
from cluster.core.states import JobState
from tests.core.builders import Scene, job, spec, worker


def queued(name: str = "", options: Options | None = None, *, seq: int = 1) -> Job:
    one = job(name, options, seq=seq)
    one.state = JobState.QUEUED
    return one


def push(placement: Placement, *jobs: Job) -> None:
    for one in jobs:
        placement.push(one)


def pop(placement: Placement, capacity: int = 99, **offers: object) -> list[str]:
    """What a worker is given, leased as the board would."""
    return leased(placement.pop(worker(**offers), capacity))  # type: ignore[arg-type]


def leased(jobs: Iterable[Job]) -> list[str]:
    names = []
    for one in jobs:
        one.state = JobState.ASSIGNED
        names.append(one.spec.id)
    return names


def test_equals_are_served_first_come_first_served() -> None:
    placement = Placement()

    push(placement, queued("a"), queued("b"), queued("c"))

    assert pop(placement) == ["a", "b", "c"]


def test_a_higher_priority_goes_first() -> None:
    placement = Placement()

    push(placement, queued("low", Options(priority=-1)), queued("none"), queued("high", Options(priority=5)))

    assert pop(placement) == ["high", "none", "low"]


def test_what_is_given_back_goes_before_its_equals_but_not_before_its_betters() -> None:
    placement = Placement()
    push(placement, queued("better", Options(priority=1)), queued("equal"))

    placement.push(queued("back"), first=True)

    assert pop(placement) == ["better", "back", "equal"]


def test_a_worker_gets_no_more_than_it_asked_for() -> None:
    placement = Placement()
    push(placement, queued("a"), queued("b"), queued("c"))

    assert pop(placement, capacity=2) == ["a", "b"]
    assert placement.depth() == {"default": 1}


def test_among_lanes_the_better_head_goes_first_then_the_older() -> None:
    placement = Placement()
    push(
        placement,
        queued("old", Options(queue="x"), seq=1),
        queued("young", seq=3),
        queued("middle", Options(queue="y"), seq=2),
        queued("urgent", Options(queue="z", priority=1), seq=4),
    )

    assert pop(placement) == ["urgent", "old", "middle", "young"]


def test_a_job_that_needs_what_a_worker_lacks_delays_nobody() -> None:
    placement = Placement()
    push(placement, queued("gpu", Options(resources=(("gpu", 1),)), seq=1), queued("plain", seq=2))

    assert pop(placement) == ["plain"]
    assert pop(placement, resources={"gpu": 1}) == ["gpu"]


def test_resources_are_taken_as_jobs_are_handed_out() -> None:
    placement = Placement()
    wants = Options(resources=(("gpu", 2), ("licence", 1)))
    push(placement, queued("a", wants), queued("b", wants), queued("c", wants))
    strong = worker({"gpu": 5, "licence": 9})

    given = [one.spec.id for one in placement.pop(strong, 9)]

    assert given == ["a", "b"]
    assert strong.free == {"gpu": 1, "licence": 7}


def test_labels_must_all_be_carried() -> None:
    placement = Placement()
    push(placement, queued("here", Options(labels=(("zone", "lab"), ("disk", "ssd")))))

    assert pop(placement, labels=[("zone", "lab")]) == []
    assert pop(placement, labels=[("zone", "lab"), ("disk", "ssd"), ("os", "linux")]) == ["here"]


def test_a_paused_queue_hands_out_nothing_and_others_go_on() -> None:
    placement = Placement()
    placement.paused.add("x")
    push(placement, queued("held", Options(queue="x")), queued("free"))

    assert pop(placement) == ["free"]
    assert placement.any_fitting(worker()) is None

    placement.paused.clear()

    assert placement.any_fitting(worker()) is not None
    assert pop(placement) == ["held"]


def test_the_depth_counts_all_lanes_of_a_queue() -> None:
    placement = Placement()

    push(placement, queued(), queued("", Options(resources=(("gpu", 1),))), queued("", Options(queue="x")))

    assert placement.depth() == {"default": 2, "x": 1}


def test_a_forgotten_job_is_skipped() -> None:
    placement = Placement()
    gone = queued("gone")
    push(placement, queued("a"), gone, queued("b"))

    gone.state = JobState.CANCELLED
    placement.forget(gone)

    assert placement.depth() == {"default": 2}
    assert pop(placement) == ["a", "b"]


def test_an_empty_lane_is_dropped() -> None:
    placement = Placement()
    gone = queued("gone", Options(queue="x"), seq=2)
    push(placement, gone, queued("a"))

    pop(placement, capacity=1)
    gone.state = JobState.CANCELLED
    placement.forget(gone)

    assert placement.depth() == {}
    assert pop(placement) == []
    assert placement.any_fitting(worker()) is None


def test_a_job_that_was_cancelled_and_requeued_is_handed_out_once() -> None:
    placement = Placement()
    twice = queued("twice")
    push(placement, twice, queued("other"))
    twice.state = JobState.CANCELLED
    placement.forget(twice)
    twice.state = JobState.QUEUED

    placement.push(twice)

    assert sorted(pop(placement)) == ["other", "twice"]


def test_a_job_that_was_cancelled_and_requeued_with_another_limit_is_handed_out_once() -> None:
    placement = Placement()
    grown, other = (queued(name, Options(memory=(10, 20))) for name in ("grown", "other"))
    push(placement, grown, other)
    grown.state = JobState.CANCELLED
    placement.forget(grown)
    grown.state = JobState.QUEUED
    grown.outgrown = 1

    placement.push(grown)

    roomy = worker()
    roomy.memory_room = roomy.memory_most = 100
    assert sorted(leased(placement.pop(roomy, 99))) == ["grown", "other"]
    assert placement.depth() == {}


def test_a_lane_hands_out_in_the_order_in_which_jobs_came() -> None:
    lane = Lane(("default", (), (), 0))
    jobs = [queued() for _ in range(3)]
    for one in jobs:
        lane.push(one)

    assert list(lane.take(9)) == jobs


@pytest.mark.parametrize("grown_is_first", [True, False])
def test_a_lane_neither_shows_nor_hands_out_a_job_whose_limit_is_another_now(*, grown_is_first: bool) -> None:
    lane = Lane(("default", (), (), 10))
    grown, other = (queued(name, Options(memory=(10, 20))) for name in ("grown", "other"))
    for one in (grown, other) if grown_is_first else (other, grown):
        lane.push(one)
    grown.outgrown = 1

    assert lane.head() is other
    assert list(lane.take(9)) == [other]


def test_jobs_that_share_their_options_are_in_different_lanes_once_a_limit_has_grown() -> None:
    placement = Placement()
    options = Options(memory=(10, 20))
    first, grown = queued("first", options), queued("grown", options)
    grown.outgrown = 1
    push(placement, first, grown)
    small = worker()
    small.memory_room = small.memory_most = 10

    assert leased(placement.pop(small, 9)) == ["first"]
    small.memory_room = small.memory_most = 20
    assert leased(placement.pop(small, 9)) == ["grown"]


def test_stale_entries_are_bounded() -> None:
    lane = Lane(("default", (), (), 0))
    keeper = queued("keeper")
    lane.push(keeper)

    most = 0

    for number in range(10 * MAX_STALE_ENTRIES):
        one = queued(options=Options(priority=number % 50))
        lane.push(one)
        one.state = JobState.CANCELLED
        lane.forget()
        most = max(most, lane._entries)

    assert most == 1024 + 1, "so many stale ones, beside the one that is live"
    assert sum(map(len, lane._by_priority.values())) == lane._entries
    assert list(lane.take(9)) == [keeper]


def test_a_rebuilt_lane_keeps_its_order_and_no_empty_priority() -> None:
    lane = Lane(("default", (), (), 0))
    stale = [queued(options=Options(priority=priority)) for priority in range(MAX_STALE_ENTRIES)]
    kept = [queued("low", Options(priority=-3)), queued("a"), queued("b"), queued("high", Options(priority=1000))]
    for one in [*stale, *kept, kept[1]]:
        lane.push(one)
    lane.live -= 1  # the second entry of "a" is one of a job that left and came back

    for one in stale:
        one.state = JobState.CANCELLED
        lane.forget()

    assert len(lane._by_priority) == len(lane._priorities) == 3
    assert leased(lane.take(5)) == ["high", "a", "b", "low"]


def test_whether_a_worker_could_ever_run_a_job_is_asked_of_its_whole_capacity() -> None:
    wants = job(options=Options(resources=(("gpu", 2),), labels=(("zone", "lab"),)))

    assert is_satisfiable(wants, {"gpu": 2}, frozenset({("zone", "lab")}))
    assert not is_satisfiable(wants, {"gpu": 1}, frozenset({("zone", "lab")}))
    assert not is_satisfiable(wants, {"gpu": 2}, frozenset())


def test_jobs_of_several_lanes_come_in_the_order_of_their_admission() -> None:
    scene = Scene()
    names = [f"j{number}" for number in range(6)]
    scene.submit(*(spec(name, Options(queue="even" if at % 2 else "odd")) for at, name in enumerate(names)))

    leased = [scene.describe(fence).job for fence in scene.poll(5)]

    assert leased == names[:5]


def test_a_lane_is_left_when_its_resource_is_used_up() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    scene.submit(*(spec(options=Options(resources=(("gpu", 1),))) for _ in range(3)))

    assert len(scene.poll(3)) == 1


def test_a_worker_that_offers_none_of_a_resource_can_never_run_the_job() -> None:
    one = job("a", Options(resources=(("gpu", 1),)))

    assert not is_satisfiable(one, {}, frozenset())
    assert is_satisfiable(one, {"gpu": 1}, frozenset())


def test_a_lane_counts_its_entries_as_they_come_and_go() -> None:
    scene = Scene()
    scene.submit(*(spec(f"j{number}") for number in range(5)))
    scene.cancel("j0", "j3")
    (lane,) = scene.board.placement._lanes.values()

    head = lane.head()
    counted = [lane._entries]
    scene.poll(2)
    counted.append(lane._entries)

    assert head is not None
    assert head.spec.id == "j1"
    assert counted == [4, 2]
