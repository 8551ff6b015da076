from __future__ import annotations

import pytest

from cluster.core import board, events
from cluster.core.effects import AttemptFailed, Ended, GivenBack, Wake
from cluster.core.records import Ending, Options
from cluster.core.states import JobState
from tests.core.builders import AT_MOST_ONCE, MONO, WORKER, Scene, every, moment, only, spec, success

TIMEOUT = 10.0
GPU = Options(resources=(("gpu", 1),))


def test_a_worker_joins_with_what_it_offers() -> None:
    scene = Scene()

    effects = scene.register(resources=(("gpu", 2),), labels=(("zone", "lab"),))

    held = scene.board.workers[WORKER]
    assert effects == []
    assert (held.free, held.labels) == ({"gpu": 2}, frozenset({("zone", "lab")}))
    assert held.deadline == MONO + TIMEOUT


def test_registering_again_changes_nothing_but_the_deadline() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    fence = scene.lease(spec("a", GPU))

    scene.register(at=5.0, resources=(("gpu", 1),))

    held = scene.board.workers[WORKER]
    assert (held.free, list(held.leases)) == ({"gpu": 0}, [fence])
    assert held.deadline == MONO + 5.0 + TIMEOUT


def test_a_heartbeat_renews_all_leases() -> None:
    scene = Scene()
    scene.lease(spec("a"))

    scene.beat(25.0, WORKER)

    assert scene.state("a") is JobState.ASSIGNED
    assert scene.tell(events.Heartbeat("never heard of")) == []


def test_a_job_shows_as_running_once_its_worker_says_that_a_child_is_at_it() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.lease(spec("b"))

    effects = scene.tell(events.Heartbeat(WORKER, ("never heard of", "a", "ended since")))

    assert (effects, scene.state("a"), scene.state("b")) == ([], JobState.RUNNING, JobState.ASSIGNED)


def test_a_heartbeat_says_nothing_of_jobs_that_another_worker_has() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.tell(events.Register("other#1"))

    scene.tell(events.Heartbeat("other#1", ("a",)))

    assert scene.state("a") is JobState.ASSIGNED


def test_a_job_shows_as_running_once_its_worker_says_that_its_attempt_has_begun() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.lease(spec("b"))

    effects = scene.tell(events.Begun(WORKER, (fence, 12345)))

    assert (effects, scene.state("a"), scene.state("b")) == ([], JobState.RUNNING, JobState.ASSIGNED)


def test_that_an_attempt_has_begun_is_for_its_own_worker_to_say_and_may_come_late_or_twice() -> None:
    scene = Scene()
    fence, other = scene.lease(spec("a")), scene.lease(spec("b"))
    scene.cancel("b")

    scene.tell(events.Begun("other#1", (fence,)))
    assert scene.state("a") is JobState.ASSIGNED

    scene.tell(events.Begun(WORKER, (fence, fence, other)))
    scene.report(success(fence))
    scene.tell(events.Begun(WORKER, (fence,)))

    assert (scene.state("a"), scene.state("b")) == (JobState.COMPLETED, JobState.CANCELLED)


def test_a_silent_worker_is_lost_and_its_jobs_run_elsewhere_at_once() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.beat(TIMEOUT - 0.5)
    assert scene.state("a") is JobState.ASSIGNED

    effects = scene.tick(TIMEOUT)

    failed = only(AttemptFailed, effects)
    assert (failed.fence, failed.crashes) == (fence, 1)
    assert failed.certificate.ending is Ending.WORKER_LOST
    assert failed.certificate.reason == "its worker w#1 was lost: no heartbeat for 10 s"
    assert WORKER not in scene.board.workers
    assert scene.describe(*scene.poll(name="other#1", at=TIMEOUT)).attempt == 2


def test_a_lost_worker_s_certificate_says_where_its_jobs_ran() -> None:
    scene = Scene()
    scene.register(host="node1")
    scene.submit(spec("a"), spec("b"))
    scene.poll(2)
    scene.tell(events.Heartbeat(WORKER, ("a", "gone"), pids=(71, 72)))

    failed = every(AttemptFailed, scene.beat(TIMEOUT))

    places = {one.job: (one.certificate.worker, one.certificate.host, one.certificate.pid) for one in failed}
    assert places == {"a": (WORKER, "node1", 71), "b": (WORKER, "node1", 0)}


def test_a_worker_that_names_no_processes_has_none_in_its_certificates() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.tell(events.Heartbeat(WORKER, ("a",)))

    assert only(AttemptFailed, scene.beat(TIMEOUT)).certificate.pid == 0


def test_a_job_that_loses_more_workers_than_its_crash_limit_allows_is_given_up() -> None:
    scene = Scene()
    scene.submit(spec("a", Options(crash_limit=1)))
    scene.poll(name="w#1")
    scene.beat(TIMEOUT)
    scene.poll(name="w#2", at=TIMEOUT)

    outcome = only(Ended, scene.beat(2 * TIMEOUT)).outcome

    assert outcome.state is JobState.DEAD_LETTER
    assert outcome.certificate is not None
    assert outcome.certificate.ending is Ending.WORKER_LOST


def test_a_job_that_may_run_only_once_is_given_up_with_its_worker() -> None:
    scene = Scene()
    scene.lease(spec("a", AT_MOST_ONCE))

    scene.beat(TIMEOUT)

    assert scene.state("a") is JobState.DEAD_LETTER


def test_a_lease_that_a_lost_worker_never_heard_of_is_given_back_unspent() -> None:
    scene = Scene()
    scene.submit(spec("a", AT_MOST_ONCE), spec("b"))
    scene.durable("a")
    unheard, begun = sorted(scene.poll(2), key=lambda fence: scene.board.leases[fence].is_granted)
    scene.beat(TIMEOUT - 1.0)

    effects = scene.tick(TIMEOUT)

    assert only(GivenBack, effects) == GivenBack((unheard,))
    assert only(AttemptFailed, effects).fence == begun
    assert (scene.state("a"), scene.job("a").attempts) == (JobState.QUEUED, 0)


def test_an_attempt_that_was_to_stop_is_gone_with_its_worker() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.settle(scene.cancel("a"))
    scene.requeue("a")

    scene.beat(TIMEOUT)

    assert not scene.board.leases
    assert len(scene.poll(name="other#1", at=TIMEOUT)) == 1


def test_of_lapsed_leases_no_more_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_LAPSED", 2)
    scene = Scene()
    scene.submit(spec("a"), spec("b"), spec("c"))
    fences = scene.poll(3)

    scene.beat(TIMEOUT)

    assert scene.board.lapsed == {fences[1]: ("b", 1), fences[2]: ("c", 1)}


def test_a_report_of_a_lost_worker_comes_too_late() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.beat(TIMEOUT)

    scene.report(success(fence))

    assert scene.state("a") is JobState.QUEUED
    assert scene.board.counters.fenced == 1


def test_a_worker_that_leaves_gives_back_what_it_held() -> None:
    scene = Scene()
    fences = (scene.lease(spec("a")), scene.lease(spec("b")))

    effects = scene.tell(events.Leave(WORKER))

    assert only(GivenBack, effects) == GivenBack(fences)
    assert (scene.state("a"), scene.job("a").attempts) == (JobState.QUEUED, 0)
    assert WORKER not in scene.board.workers
    assert scene.tell(events.Leave(WORKER)) == []


def test_a_master_that_slept_itself_gives_its_workers_time() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.tick(1.0)

    scene.tick(3600.0)

    assert scene.state("a") is JobState.ASSIGNED
    assert scene.board.workers[WORKER].deadline == MONO + 3600.0 + TIMEOUT
    scene.beat(3600.0 + TIMEOUT)
    assert scene.state("a") is JobState.QUEUED, "forgiven once, not for ever"


def test_a_first_tick_forgives_nothing() -> None:
    scene = Scene()
    scene.lease(spec("a"))

    scene.tick(3600.0)

    assert scene.state("a") is JobState.QUEUED


def test_the_next_due_time_is_the_earliest_of_deadlines_and_timers() -> None:
    scene = Scene()
    assert scene.board.next_due() is None

    scene.submit(spec(delay=30.0))
    assert scene.board.next_due() == moment(30.0).mono
    scene.register()
    assert scene.board.next_due() == moment(TIMEOUT).mono
    scene.submit(spec(expires=2.0))

    assert scene.board.next_due() == moment(2.0).mono


def test_a_worker_that_comes_back_keeps_the_leases_that_it_names() -> None:
    scene = Scene()
    kept = scene.lease(spec("a"))
    unheard = scene.lease(spec("b"))

    effects = scene.register(held=(kept,))

    assert only(GivenBack, effects) == GivenBack((unheard,))
    assert (scene.state("a"), scene.state("b")) == (JobState.ASSIGNED, JobState.QUEUED)
    assert scene.job("b").attempts == 0
    assert only(Ended, scene.report(success(kept))).outcome.attempts == 1


def test_a_worker_that_names_what_is_not_its_own_gets_nothing_by_it() -> None:
    scene = Scene()
    others = scene.lease(spec("a"))

    effects = scene.register("other#1", held=(others, 999))

    assert effects == []
    assert scene.board.leases[others].worker == WORKER
    assert scene.board.workers["other#1"].leases == {}


def test_an_attempt_that_was_to_stop_is_gone_if_the_worker_does_not_name_it() -> None:
    scene = Scene()
    named, _unnamed = scene.lease(spec("a")), scene.lease(spec("b"))
    scene.cancel("a", "b")

    scene.register(held=(named,))

    assert list(scene.board.leases) == [named]
    assert scene.job("a").stopping == named
    scene.tell(events.Stopped(WORKER, (named,)))
    assert not scene.board.leases


def test_the_resources_of_leases_that_never_arrived_are_free_again() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    scene.lease(spec("a", GPU))

    scene.register(resources=(("gpu", 1),), held=())

    assert scene.board.workers[WORKER].free == {"gpu": 1}
    assert len(scene.poll()) == 1


def test_a_draining_worker_is_leased_nothing_and_keeps_what_it_has() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.submit(spec("b"))

    scene.tell(events.Drain(WORKER, draining=True))

    assert scene.poll() == []
    assert only(Ended, scene.report(success(fence))).outcome.job == "a"
    assert len(scene.poll(name="other#1")) == 1


def test_a_worker_drains_until_it_is_told_otherwise_also_if_it_registers_again() -> None:
    scene = Scene()
    scene.register()
    scene.submit(spec("a"))
    scene.tell(events.Drain(WORKER, draining=True))
    scene.register(held=())
    assert scene.poll() == []

    effects = scene.tell(events.Drain(WORKER, draining=False))

    assert effects == [Wake(WORKER)]
    assert len(scene.poll()) == 1
    assert scene.tell(events.Drain("never heard of", draining=True)) == []


def test_a_lost_worker_s_stopped_attempt_hides_none_behind_it() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b"))
    scene.poll(2)
    scene.cancel("a")

    effects = scene.tick(11.0)  # the master itself may have slept
    effects += scene.tick(25.0) if scene.board.workers else []

    assert not scene.board.leases
    assert [one.job for one in every(AttemptFailed, effects)] == ["b"]
    assert only(AttemptFailed, effects).certificate.started == moment().wall


def test_what_a_worker_offers_no_more_it_has_not_though_it_holds_some_of_it() -> None:
    scene = Scene()
    gpu = Options(resources=(("gpu", 1),))
    scene.register(resources=(("gpu", 1),))
    fence = scene.lease(spec("a", gpu))
    # Not by way of the scene, which would rightly say that it is overdrawn: no sane worker does this.
    scene.board.handle(events.Register(WORKER, held=(fence,)), moment())
    scene.board.handle(events.Reported(WORKER, (success(fence),)), moment())

    scene.submit(spec("b", gpu))

    assert scene.poll() == []


def test_a_master_that_slept_for_more_than_half_a_timeout_gives_everyone_a_whole_one() -> None:
    scene = Scene()
    scene.register()
    scene.tick(0.0)

    scene.tick(6.0)
    scene.tick(10.5)

    assert scene.board.workers[WORKER].deadline == moment(16.0).mono
