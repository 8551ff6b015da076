from __future__ import annotations

from cluster.core import events
from cluster.core.explain import explain
from cluster.core.records import Options, RetryRule
from tests.core.builders import WORKER, Scene, failure, moment, spec

HISTORY = "run 1, 0 attempt(s) so far, 0 of 0 retries and 0 of 5 crash re-runs used"


def why(scene: Scene, name: str = "a", at: float = 0.0) -> str:
    return explain(scene.board, name, moment(at))


def test_a_job_whose_admission_is_not_durable_says_so() -> None:
    scene = Scene()
    scene.submit(spec("a", key="k"))

    assert why(scene) == (
        f"job a is submitted: it waits until its admission is durable, because it may not run twice; {HISTORY}"
    )


def test_a_waiting_job_names_what_it_waits_for() -> None:
    scene = Scene()
    scene.submit(spec("x"), spec("y"), spec("a", after=("x", "y")))

    assert why(scene) == f"job a is waiting: it waits for 2 job(s) to complete: x, y; {HISTORY}"


def test_a_job_that_waits_for_many_names_a_few() -> None:
    scene = Scene()
    names = tuple(f"d{number}" for number in range(8))
    scene.submit(*(spec(name) for name in names), spec("a", after=names))

    assert "8 job(s) to complete: d0, d1, d2, d3, d4 and 3 more" in why(scene)


def test_a_scheduled_job_says_when_it_is_due() -> None:
    scene = Scene()
    scene.submit(spec("a", delay=60.0))

    assert "is scheduled: it is due in 57.5 s" in why(scene, at=2.5)


def test_a_failed_job_says_when_it_runs_again_and_what_it_has_left() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=RetryRule(max_retries=3, backoff=8.0, jitter=0.0))))
    scene.report(failure(fence))

    assert why(scene, at=1.0) == (
        "job a is retry_queued: it failed and runs again in 7.0 s; "
        "run 1, 1 attempt(s) so far, 1 of 3 retries and 0 of 5 crash re-runs used"
    )


def test_a_leased_job_names_its_worker() -> None:
    scene = Scene()
    scene.lease(spec("a"))

    assert f"is assigned: it was given to {WORKER} 3.0 s ago" in why(scene, at=3.0)


def test_an_ended_job_has_ended() -> None:
    scene = Scene()
    scene.submit(spec("a"))
    scene.cancel("a")

    assert "job a is cancelled: it has ended" in why(scene)


def test_a_job_of_a_paused_queue_says_how_to_resume_it() -> None:
    scene = Scene()
    scene.submit(spec("a", Options(queue="x")))
    scene.tell(events.PauseQueue("x", paused=True))

    assert "queue 'x' is paused; resume it with c.queue('x').resume()" in why(scene)


def test_a_parked_job_says_that_an_earlier_attempt_is_still_dying() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.cancel("a")
    scene.requeue("a")

    assert "waits until an earlier attempt of it, which was ordered to stop, is known to be gone" in why(scene)


def test_a_queued_job_without_any_worker_says_so() -> None:
    scene = Scene()
    scene.submit(spec("a"))

    assert "waits because no worker is registered" in why(scene)


def test_a_job_that_no_worker_could_ever_run_says_what_it_wants() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 1),))
    scene.submit(spec("a", Options(resources=(("gpu", 2),), labels=(("zone", "lab"),))))

    assert "waits because no registered worker offers gpu=2, zone=lab" in why(scene)


def test_a_job_that_a_busy_worker_could_run_waits_for_a_slot_behind_others() -> None:
    scene = Scene()
    scene.register(resources=(("gpu", 2),))
    both = Options(resources=(("gpu", 2),))
    scene.lease(spec("busy", both))
    scene.submit(spec("ahead", both), spec("a", both))

    assert "waits for a free slot; 1 other job(s) are queued in 'default'" in why(scene)


def test_a_job_waits_because_every_worker_drains() -> None:
    scene = Scene()
    scene.register()
    scene.submit(spec("a"))
    scene.tell(events.Drain(WORKER, draining=True))

    assert "every registered worker is draining" in why(scene)


def test_a_job_that_waits_for_just_as_many_as_are_named_says_no_more() -> None:
    scene = Scene()
    names = tuple(f"d{number}" for number in range(5))
    scene.submit(*(spec(name) for name in names), spec("a", after=names))

    assert "to complete: d0, d1, d2, d3, d4; " in why(scene)
