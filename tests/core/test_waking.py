"""Who is woken. After every event `Scene` checks the invariant: nobody waits for whom there is work that nobody is on to.

The first half are the ways in which a wake-up could get lost, one by one, as in the table of decision 0047.
"""

from __future__ import annotations

import pytest

from cluster.core import events
from cluster.core.effects import Effect, Wake
from cluster.core.job import WorkerHeld
from cluster.core.placement import Lane, Placement
from cluster.core.records import Ending, Options
from tests.core.builders import AT_ONCE, TASK, WORKER, Scene, every, failure, moment, spec, success, with_options

GPU = Options(resources=(("gpu", 1),))
LAB = Options(labels=(("zone", "lab"),))
BIG = Options(memory=(100,))


def woken(effects: list[Effect]) -> list[str]:
    return [effect.worker for effect in every(Wake, effects)]


def waiting(*names: str, capacity: int = 1) -> Scene:
    """Workers that have polled, in this order, and got nothing."""
    scene = Scene()
    for name in names:
        assert scene.poll(capacity, name) == []
    return scene


# --- no wake-up is lost ------------------------------------------------------------------------------------------


def test_a_poll_right_after_the_job_came_finds_it_and_one_right_before_is_woken_for_it() -> None:
    before, after = waiting(WORKER), Scene()

    assert woken(before.submit(spec("a"))) == [WORKER]
    after.register()
    assert woken(after.submit(spec("a"))) == []
    assert len(after.poll()) == 1


def test_a_poll_between_decision_and_wake_takes_the_job_and_the_wake_comes_in_vain() -> None:
    scene = waiting(WORKER)

    assert woken(scene.submit(spec("a"))) == [WORKER]
    assert len(scene.poll()) == 1, "it polled of its own accord"

    assert scene.poll(0) == [], "and because it was woken: it has room for no more"
    assert woken(scene.submit(spec("b"))) == []


def test_what_a_woken_worker_has_no_room_for_after_all_wakes_another() -> None:
    scene = waiting("a#1", "b#1", capacity=2)
    assert woken(scene.submit(spec(), spec())) == ["a#1"]

    effects = scene.tell(events.Poll("a#1", 1))

    assert woken(effects) == ["b#1"]


def test_what_a_woken_worker_does_not_take_because_it_is_full_wakes_another() -> None:
    scene = waiting("a#1", "b#1")
    assert woken(scene.submit(spec())) == ["a#1"]

    assert woken(scene.tell(events.Poll("a#1", 0))) == ["b#1"]


def test_a_worker_that_has_polled_is_not_counted_on_for_the_room_that_it_had() -> None:
    scene = waiting("a#1", "b#1", capacity=2)
    assert woken(scene.submit(spec())) == ["a#1"]

    assert woken(scene.tell(events.Poll("a#1", 0))) == ["b#1"]
    assert woken(scene.submit(spec())) == [], "b has room for both"


def test_a_job_whose_worker_takes_a_more_urgent_one_of_another_lane_wakes_another() -> None:
    scene = Scene()
    for name in ("a#1", "b#1"):
        scene.register(name, resources=(("gpu", 1),))
        scene.poll(1, name)
    scene.poll(1, "plain#1")
    assert woken(scene.submit(spec("gpu", GPU))) == ["a#1"]
    assert woken(scene.submit(spec("urgent", Options(priority=1)))) == ["b#1"]

    # b is on its way too, for the urgent one, which a takes; b will find the other, but nobody may count on that.
    assert woken(scene.tell(events.Poll("a#1", 1))) == []
    assert len(scene.poll(1, "b#1")) == 1


def test_jobs_of_a_woken_worker_that_leaves_wake_another() -> None:
    scene = waiting("a#1", "b#1")
    scene.submit(spec())

    assert woken(scene.tell(events.Leave("a#1"))) == ["b#1"]


def test_jobs_of_a_woken_worker_that_is_lost_wake_another() -> None:
    scene = waiting("a#1", "b#1")
    scene.tick(0.0)
    scene.submit(spec())
    for second in (4.0, 8.0):
        scene.tell(events.Heartbeat("c#1"), second)
        scene.tick(second)
    scene.board.workers["b#1"].deadline += 100.0

    assert woken(scene.tick(11.0)) == ["b#1"]


def test_jobs_of_a_woken_worker_that_registers_again_wake_another() -> None:
    scene = waiting("a#1", "b#1")
    scene.submit(spec())

    assert woken(scene.register("a#1", held=())) == ["b#1"]
    assert len(scene.poll(1, "a#1")) == 1, "it polls all the same"


def test_the_heartbeat_of_a_waiting_worker_brings_it_the_job_of_one_that_was_woken_and_is_dead() -> None:
    scene = waiting("dead#1", "b#1")
    assert woken(scene.submit(spec())) == ["dead#1"]

    assert woken(scene.tell(events.Heartbeat("b#1"))) == ["b#1"]
    assert len(scene.poll(1, "b#1")) == 1
    assert woken(scene.tell(events.Heartbeat("b#1"))) == []


def test_the_heartbeat_of_a_woken_worker_that_has_not_polled_wakes_it_again() -> None:
    scene = waiting(WORKER)
    scene.submit(spec())

    assert woken(scene.tell(events.Heartbeat(WORKER))) == [WORKER]


def test_a_dead_worker_is_not_counted_on_for_jobs_that_come_later() -> None:
    scene = waiting("dead#1", "b#1")
    assert woken(scene.submit(spec())) == ["dead#1"]

    assert woken(scene.submit(spec())) == ["b#1"]


def test_a_worker_is_woken_when_a_report_frees_what_a_job_needs() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    scene.submit(spec("a", GPU), spec("b", GPU))
    (fence,) = scene.poll(2)

    assert woken(scene.report(success(fence))) == [WORKER]
    assert len(scene.poll()) == 1


def test_a_worker_is_woken_when_a_report_frees_the_memory_that_a_job_needs() -> None:
    scene = Scene()
    scene.register(memory_room=150, memory_most=150)
    scene.submit(spec("a", BIG), spec("b", BIG))
    (fence,) = scene.poll(2)

    assert woken(scene.report(success(fence))) == [WORKER]


def test_a_worker_is_woken_when_its_host_has_the_memory_that_a_job_needs() -> None:
    scene = Scene()
    scene.register(memory_room=50, memory_most=150)
    scene.poll()
    assert woken(scene.submit(spec("a", BIG))) == []

    assert woken(scene.tell(events.Heartbeat(WORKER, memory_room=150, memory_most=150))) == [WORKER]


def test_a_resumed_queue_wakes_as_many_as_it_has_jobs_for() -> None:
    scene = waiting("a#1", "b#1", "c#1")
    scene.tell(events.PauseQueue("x", paused=True))
    assert woken(scene.submit(*(spec(options=Options(queue="x")) for _ in range(2)))) == []

    assert woken(scene.tell(events.PauseQueue("x", paused=False))) == ["a#1", "b#1"]


def test_a_queue_that_nobody_fitted_before_its_pause_is_offered_anew_after_it() -> None:
    scene = waiting("plain#1")
    scene.submit(spec(options=with_options(GPU, queue="x")))
    scene.tell(events.PauseQueue("x", paused=True))
    scene.register("gpu#1", resources=(("gpu", 1),))
    assert scene.poll(1, "gpu#1") == []

    assert woken(scene.tell(events.PauseQueue("x", paused=False))) == ["gpu#1"]


def test_a_job_that_comes_into_a_paused_queue_wakes_who_waits_when_it_is_resumed_and_others_wake_them_at_once() -> None:
    scene = waiting("a#1", "b#1")
    scene.tell(events.PauseQueue("x", paused=True))

    assert woken(scene.submit(spec(options=Options(queue="x")))) == []
    assert woken(scene.submit(spec(options=Options(queue="y")))) == ["a#1"]
    assert woken(scene.tell(events.PauseQueue("x", paused=False))) == ["b#1"]


def test_a_worker_that_is_no_more_drained_is_woken_and_one_that_is_is_not() -> None:
    scene = waiting("a#1", "b#1")
    scene.tell(events.Drain("a#1", draining=True))
    assert woken(scene.submit(spec())) == ["b#1"]
    assert scene.poll(1, "a#1") == []

    assert woken(scene.tell(events.Drain("a#1", draining=False))) == ["a#1"]


def test_a_job_that_is_tried_again_given_back_or_falls_due_wakes_who_waits() -> None:
    scene = Scene()
    retried, returned = scene.lease(spec("a", Options(retry=AT_ONCE))), scene.lease(spec("b"))
    scene.submit(spec("later", delay=1.0))
    scene.poll(5, "idle#1")

    assert woken(scene.report(failure(retried))) == ["idle#1"]
    scene.poll(5, "idle#1")
    assert woken(scene.tell(events.GiveBack(WORKER, (returned,)))) == ["idle#1"]
    scene.poll(5, "idle#1")
    assert woken(scene.tick(2.0)) == ["idle#1"]


def test_a_job_that_becomes_free_by_another_s_end_or_by_its_own_commit_wakes_who_waits() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.submit(spec("b", after=("a",)), spec("once", with_options(Options(), crash_limit=0)))
    scene.poll(5, "idle#1")

    assert woken(scene.durable("once")) == ["idle#1"]
    scene.poll(5, "idle#1")
    assert woken(scene.report(success(fence))) == ["idle#1"]


# --- and nobody is woken for nothing ---------------------------------------------------------------------------------


def test_as_many_are_woken_as_there_is_work_for_who_waits_longest_first() -> None:
    scene = waiting(*(f"w{number}#1" for number in range(100)))

    assert woken(scene.submit(*(spec() for _ in range(3)))) == ["w0#1", "w1#1", "w2#1"]
    assert woken(scene.submit(spec())) == ["w3#1"]


def test_one_worker_with_room_for_all_is_woken_once_for_all() -> None:
    scene = waiting("a#1", "b#1", capacity=4)

    assert woken(scene.submit(spec(), spec(), spec())) == ["a#1"]
    assert woken(scene.submit(spec())) == []
    assert woken(scene.submit(spec())) == ["b#1"]


def test_the_room_of_whom_was_woken_last_is_counted_on_though_another_one_has_polled() -> None:
    scene = waiting("a#1", "b#1", "c#1", capacity=2)
    assert woken(scene.submit(spec(), spec(), spec())) == ["a#1", "b#1"]
    assert len(scene.poll(2, "a#1")) == 2

    assert woken(scene.submit(spec())) == [], "b has room for one more"
    assert len(scene.poll(2, "b#1")) == 2
    assert woken(scene.submit(spec())) == ["c#1"]


def test_only_the_room_of_whom_was_woken_last_is_counted_on() -> None:
    scene = waiting(*(f"w{number}#1" for number in range(5)))
    assert woken(scene.submit(spec())) == ["w0#1"]
    for name in ("w1#1", "w2#1"):
        assert woken(scene.tell(events.Heartbeat(name))) == [name], "should w0 be dead"

    assert woken(scene.submit(spec())) == [], "w2 was woken for nothing yet"
    assert woken(scene.submit(spec())) == ["w3#1"], "what w1 is woken for, and whether it lives, nobody knows"


def test_a_worker_whose_jobs_were_cancelled_is_counted_on_for_as_many_others() -> None:
    scene = waiting("a#1", "b#1", "c#1", capacity=3)
    assert woken(scene.submit(spec("a"), spec("b"), spec("c"))) == ["a#1"]
    scene.cancel("b", "c")

    assert woken(scene.submit(spec())) == []
    assert woken(scene.tell(events.Heartbeat("b#1"))) == ["b#1"]
    assert woken(scene.submit(spec())) == [], "a was woken for three"
    assert woken(scene.submit(*(spec() for _ in range(3)))) == [], "and b has room for as many"
    assert woken(scene.submit(spec())) == ["c#1"]


def test_the_heartbeat_of_a_worker_that_waits_for_what_is_not_there_wakes_nobody() -> None:
    scene = waiting(WORKER)
    scene.submit(spec("a", GPU))

    assert woken(scene.tell(events.Heartbeat(WORKER))) == []
    assert woken(scene.submit(spec("b"))) == [WORKER]


def test_only_those_are_woken_that_fit() -> None:
    scene = waiting("plain#1")
    scene.register("gpu#1", resources=(("gpu", 1),))
    scene.poll(1, "gpu#1")
    scene.register("lab#1", labels=(("zone", "lab"),))
    scene.poll(1, "lab#1")

    assert woken(scene.submit(spec(options=GPU))) == ["gpu#1"]
    assert woken(scene.submit(spec(options=LAB))) == ["lab#1"]
    assert woken(scene.submit(spec(options=GPU))) == []
    assert woken(scene.submit(spec(options=GPU))) == [], "nobody left to ask"
    assert woken(scene.submit(spec())) == ["plain#1"]


def test_a_lane_that_nobody_fits_is_offered_once_and_not_for_each_job_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = waiting("a#1", "b#1")
    fits = Placement.fits
    asked: list[str] = []

    def noted(placement: Placement, lane: Lane, worker: WorkerHeld) -> bool:
        asked.append(worker.id)
        return fits(placement, lane, worker)

    monkeypatch.setattr(Placement, "fits", noted)

    # Not through `tell`, whose check of the board asks too.
    for _ in range(100):
        effects = scene.board.handle(events.Submit(scene.owner, (spec(options=GPU),), (TASK,)), moment())
        assert woken(effects) == []

    assert asked == ["a#1", "b#1"]


def test_what_a_decision_brought_is_looked_at_once() -> None:
    scene = waiting("a#1")
    scene.submit(spec(), spec(options=GPU))
    scene.tell(events.Heartbeat("a#1"))

    assert not scene.board.placement.fresh
    assert not scene.board.waking.eased


def test_a_busy_worker_is_not_woken_by_what_comes() -> None:
    scene = Scene()
    scene.lease(spec("a"))

    assert woken(scene.submit(*(spec() for _ in range(10)))) == []
    assert woken(scene.tell(events.Heartbeat(WORKER))) == []
    assert woken(scene.tick(1.0)) == []


def test_a_cancelled_job_leaves_nobody_expected() -> None:
    scene = waiting("a#1", "b#1")
    scene.submit(spec("a"))
    scene.cancel("a")

    assert scene.poll(1, "a#1") == []
    assert woken(scene.submit(spec("b"))) == ["b#1"]


def test_a_quarantined_worker_is_woken_when_its_probe_is_due_and_by_each_heartbeat() -> None:
    scene = Scene()
    scene.finish(spec("known"))
    for _ in range(5):
        fence = scene.lease(spec(options=Options(crash_limit=9)))
        effects = scene.report(failure(fence, Ending.CRASHED))
    assert scene.board.workers[WORKER].suspicion is not None, effects
    assert scene.poll(1, at=0.5) == []

    assert woken(scene.tell(events.Heartbeat(WORKER), 0.6)) == [WORKER]
    assert woken(scene.tick(0.7)) == []
    assert woken(scene.tick(1.5)) == [WORKER]
    assert len(scene.poll(3, at=1.5)) == 1
