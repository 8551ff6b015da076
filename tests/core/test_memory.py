"""A job's memory limit, and the promises that a worker's host can keep."""

from __future__ import annotations

from cluster.core import events
from cluster.core.effects import AttemptFailed
from cluster.core.explain import explain
from cluster.core.memory import limit_of, room_of, size_text
from cluster.core.records import Ending, Fence, Options
from cluster.core.states import JobState
from tests.core.builders import AT_ONCE, WORKER, Scene, failure, job, moment, only, spec, success, with_options

GROWING = Options(memory=(2, 5))
TWO = Options(memory=(2,))


def scene_with(room: int, most: int = 10) -> Scene:
    scene = Scene()
    scene.register(memory_room=room, memory_most=most)
    return scene


def grant(scene: Scene, options: Options, name: str = "a") -> Fence:
    scene.submit(spec(name, options))
    (fence,) = scene.poll()
    return fence


def test_a_job_without_a_limit_may_take_what_it_likes() -> None:
    assert limit_of(job()) == 0


def test_the_last_limit_holds_for_all_further_attempts() -> None:
    one = job("a", GROWING)

    limits = []
    for outgrown in range(4):
        one.outgrown = outgrown
        limits.append(limit_of(one))

    assert limits == [2, 5, 5, 5]


def test_sizes_are_told_in_the_units_that_limits_are_written_in() -> None:
    texts = [size_text(size) for size in (999, 1500, 200 * 10**6, 2 * 10**9, 3 * 10**12)]

    assert texts == ["999 bytes", "1.5 kB", "200 MB", "2 GB", "3 TB"]


def test_the_next_limit_holds_once_an_attempt_ran_out_of_memory() -> None:
    scene = scene_with(10)
    first = grant(scene, with_options(GROWING, retry=AT_ONCE))

    effects = scene.report(failure(first, Ending.OUT_OF_MEMORY))
    scene.tick(1.0)
    (second,) = scene.poll(at=1.0)

    assert scene.board.leases[second].memory == 5
    assert scene.describe(second).memory == 5
    assert only(AttemptFailed, effects).outgrown == 1
    assert scene.job("a").crashes == 1


def test_another_end_does_not_make_the_limit_grow() -> None:
    scene = scene_with(10)
    fence = grant(scene, with_options(GROWING, retry=AT_ONCE))
    scene.report(failure(fence, Ending.RAISED))

    (second,) = scene.poll()

    assert scene.describe(second).memory == 2


def test_a_chunk_is_held_to_the_limit_too() -> None:
    scene = scene_with(10)
    scene.submit(spec("a", GROWING, items=3))

    (fence,) = scene.poll()

    lease = scene.describe(fence)
    assert (lease.memory, lease.ranges) == (2, ((0, 3),))


def test_no_more_is_promised_than_there_is() -> None:
    scene = scene_with(5)
    scene.submit(*(spec(options=TWO) for _ in range(4)))

    fences = scene.poll(capacity=4)

    assert len(fences) == 2
    assert room_of(scene.board.workers[WORKER]) == 1


def test_what_a_job_gives_back_is_promised_to_the_next() -> None:
    scene = scene_with(2)
    first = grant(scene, TWO, "a")
    scene.submit(spec("b", TWO))
    assert scene.poll() == []

    scene.report(success(first))

    assert len(scene.poll()) == 1


def test_a_job_that_wants_too_much_does_not_delay_one_that_wants_none() -> None:
    scene = scene_with(1)
    scene.submit(spec("large", TWO), spec("plain"))

    (fence,) = scene.poll()

    assert scene.board.leases[fence].job.spec.id == "plain"


def test_a_heartbeat_tells_how_much_there_is_now() -> None:
    scene = scene_with(10)
    scene.submit(spec("a", TWO))

    scene.tell(events.Heartbeat(WORKER, (), 1, 10))
    assert scene.poll() == []

    scene.tell(events.Heartbeat(WORKER, (), 2, 10))
    assert len(scene.poll()) == 1


def test_a_worker_that_comes_back_has_still_promised_what_it_holds() -> None:
    scene = scene_with(4)
    fence = grant(scene, TWO)

    scene.register(memory_room=4, memory_most=10, held=(fence,))

    assert scene.board.workers[WORKER].promised == 2


def test_a_cancelled_attempt_keeps_its_promise_until_it_is_gone_whatever_the_next_run_may_take() -> None:
    scene = scene_with(10)
    first = grant(scene, with_options(GROWING, retry=AT_ONCE))
    scene.report(failure(first, Ending.OUT_OF_MEMORY))
    scene.tick(1.0)
    (second,) = scene.poll(at=1.0)
    scene.settle(scene.cancel("a"))
    scene.requeue("a")  # a new run begins at the first limit

    assert (limit_of(scene.job("a")), scene.board.workers[WORKER].promised) == (2, 5)
    scene.tell(events.Stopped(WORKER, (second,)))

    assert scene.board.workers[WORKER].promised == 0


# --- why it waits -----------------------------------------------------------------------------------------------------


def why(scene: Scene, name: str = "a") -> str:
    return explain(scene.board, name, moment())


def test_a_job_that_waits_for_memory_says_so() -> None:
    scene = scene_with(10**9, most=8 * 10**9)
    scene.submit(spec("a", Options(memory=(2 * 10**9,))))

    assert scene.poll() == []
    assert (
        "waits for memory: its limit is 2 GB, and of the workers that fit none has more than 1 GB to promise now"
        in why(scene)
    )


def test_a_job_whose_limit_there_is_room_for_waits_for_nothing_but_a_slot() -> None:
    scene = scene_with(2)
    scene.submit(spec("a", TWO))

    assert "waits for a free slot" in why(scene)


def test_a_job_that_no_host_can_ever_hold_says_so() -> None:
    scene = scene_with(10**9, most=8 * 10**9)
    scene.submit(spec("a", Options(memory=(9 * 10**9,))))

    assert "its memory limit of 9 GB is more than any worker's host has: the largest that fits offers 8 GB" in why(
        scene
    )


def test_a_job_with_a_limit_waits_where_no_worker_can_hold_it_to_one() -> None:
    scene = Scene()
    scene.register()
    scene.submit(spec("a", TWO))

    assert scene.poll() == []
    assert "no worker that fits can hold a job to one" in why(scene)


def test_a_worker_that_fits_otherwise_is_not_asked_for_its_memory() -> None:
    scene = scene_with(10)
    scene.submit(spec("a", Options(memory=(2,), labels=(("zone", "lab"),))))

    assert "no registered worker offers zone=lab" in why(scene)


def test_hosts_that_are_short_of_memory_are_told_of() -> None:
    scene = scene_with(10)
    scene.tell(events.Heartbeat(WORKER, (), 10, 10, is_short=True))
    scene.submit(spec("a"))

    assert "on a host that is short of memory" in why(scene)
    scene.tell(events.Heartbeat(WORKER, (), 10, 10))
    assert "waits for a free slot" in why(scene)
    assert scene.state("a") is JobState.QUEUED


def test_the_largest_host_that_fits_is_the_one_to_name() -> None:
    scene = scene_with(10**9, most=8 * 10**9)
    scene.register("small#1", memory_room=10**8, memory_most=2 * 10**9)

    scene.submit(spec("a", Options(memory=(8 * 10**9,))), spec("b", Options(memory=(9 * 10**9,))))

    assert "none has more than 1 GB to promise now" in why(scene, "a")
    assert "the largest that fits offers 8 GB" in why(scene, "b")


def test_a_host_that_has_promised_more_than_it_has_has_nothing_left_to_promise() -> None:
    scene = scene_with(10)
    grant(scene, TWO)
    scene.tell(events.Heartbeat(WORKER, (), 1, 10))

    assert room_of(scene.board.workers[WORKER]) == 0
