from __future__ import annotations

import pytest
from msgspec import structs

from cluster.core import events
from cluster.core.control import objection_to_requeue
from cluster.core.effects import (
    Admitted,
    Ended,
    FencedOff,
    FunctionAdded,
    QueuePaused,
    Rebudgeted,
    Requeued,
    StoredJob,
    TellStop,
    Wake,
)
from cluster.core.records import Budget, Certificate, Ending, JobSpec, Now, Options, Outcome, RetryRule
from cluster.core.shelf import MAX_IDLE_FUNCTIONS
from cluster.core.states import JobState
from tests.core.builders import (
    AT_ONCE,
    MONO,
    TASK,
    WALL,
    WORKER,
    Scene,
    bad,
    chunk_report,
    done,
    every,
    failure,
    function,
    only,
    spec,
    stop,
    success,
)

SLOW_RETRY = Options(retry=RetryRule(max_retries=1, backoff=60.0))


def stored(one: JobSpec, state: JobState | None = JobState.DEAD_LETTER, seq: int = 50, run: int = 1) -> StoredJob:
    """A job that only the store has."""
    outcome = Outcome(one.id, run, state, WALL) if state is not None else None
    return StoredJob(seq=seq, spec=one, submitted=WALL, run=run, outcome=outcome)


# --- cancel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["submitted", "waiting", "scheduled", "queued", "retry_queued"])
def test_a_job_that_waits_is_cancelled_at_once(state: str) -> None:
    scene = Scene()
    scene.submit(spec("other"))
    match state:
        case "submitted":
            scene.submit(spec("a", key="k"))
        case "waiting":
            scene.submit(spec("a", after=("other",)))
        case "scheduled":
            scene.submit(spec("a", delay=9.0))
        case "queued":
            scene.submit(spec("a"))
        case _:
            scene.poll()
            scene.report(failure(scene.lease(spec("a", SLOW_RETRY))))
    assert scene.state("a").name.lower() == state

    effects = scene.cancel("a")

    ended = only(Ended, effects)
    assert (ended.fence, ended.outcome.state) == (0, JobState.CANCELLED)
    assert ended.outcome.certificate == Certificate(
        ending=Ending.CANCELLED, reason="it was cancelled", attempt=scene.job("a").attempts
    )
    assert not every(TellStop, effects)
    scene.settle(effects)
    assert "a" not in scene.board.jobs
    scene.tick(99.0)
    assert [scene.describe(fence).job for fence in scene.poll(9)] != ["a"]


def test_running_code_is_ordered_to_stop_and_its_outcome_ends_the_lease() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    effects = scene.cancel("a")

    assert effects[0] == TellStop(WORKER, stop(fence))
    ended = only(Ended, effects)
    assert ended.fence == fence
    assert ended.outcome.certificate is not None
    assert (ended.outcome.certificate.worker, ended.outcome.certificate.attempt) == (WORKER, 1)


def test_a_certificate_of_what_was_cancelled_says_where_it_ran() -> None:
    scene = Scene()
    scene.register(host="node1")
    scene.lease(spec("a"))
    scene.tell(events.Heartbeat(WORKER, ("a",), pids=(71,)))

    certificate = only(Ended, scene.cancel("a")).outcome.certificate

    assert certificate is not None
    assert certificate.place == "w#1 on node1, pid 71"


@pytest.mark.parametrize(("wall", "seconds"), [(3.0, 3.0), (-3600.0, 0.0)])
def test_a_certificate_of_what_was_cancelled_says_since_when_it_ran_whatever_became_of_the_clock(
    wall: float, seconds: float
) -> None:
    scene = Scene()
    scene.lease(spec("a"))
    begun = scene.job("a").started

    effects = scene.board.handle(events.Cancel(("a",)), Now(MONO + 3.0, begun + wall))

    certificate = only(Ended, effects).outcome.certificate
    assert certificate is not None
    assert (certificate.started, certificate.seconds) == (begun, seconds)


def test_of_what_an_earlier_master_leased_nobody_says_since_when_it_ran() -> None:
    scene = Scene()
    scene.lease(spec("a"))
    scene.job("a").started = 0.0

    certificate = only(Ended, scene.cancel("a")).outcome.certificate

    assert certificate is not None
    assert (certificate.started, certificate.seconds) == (0.0, 0.0)


def test_a_cancelled_job_s_late_success_does_not_count() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.cancel("a")

    assert scene.report(success(fence)) == [FencedOff(WORKER, fence, Ending.SUCCEEDED, "a", 1)]
    assert scene.state("a") is JobState.CANCELLED


def test_cancelling_an_ended_or_unknown_job_changes_nothing() -> None:
    scene = Scene()
    scene.report(success(scene.lease(spec("a"))))

    assert scene.cancel("a", "never heard of") == []
    assert scene.state("a") is JobState.COMPLETED


def test_what_waits_for_a_cancelled_job_fails() -> None:
    scene = Scene()
    scene.submit(spec("a"), spec("b", after=("a",)))

    effects = scene.cancel("a")

    assert [(one.outcome.job, one.outcome.state) for one in every(Ended, effects)] == [
        ("a", JobState.CANCELLED),
        ("b", JobState.DEAD_LETTER),
    ]
    assert scene.board.counters.dead == 1


# --- requeue ------------------------------------------------------------------------------------------------------


def test_a_requeued_job_has_a_new_run_with_fresh_budgets() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=AT_ONCE, crash_limit=0)))
    scene.report(failure(fence))
    (fence,) = scene.poll()
    scene.report(failure(fence, Ending.CRASHED))

    effects = scene.requeue("a")

    assert only(Requeued, effects) == Requeued(1, "a", 2, WALL)
    one = scene.job("a")
    assert (one.state, one.run, one.attempts, one.failures, one.crashes) == (JobState.QUEUED, 2, 0, 0, 0)
    (fence,) = scene.poll()
    assert (scene.describe(fence).run, scene.describe(fence).attempt) == (2, 1)


@pytest.mark.parametrize("ending", ["completed", "cancelled", "expired", "dead_letter"])
def test_every_ended_job_can_be_requeued(ending: str) -> None:
    scene = Scene()
    scene.submit(spec("a", expires=5.0))
    match ending:
        case "completed":
            scene.report(success(scene.poll()[0]))
        case "cancelled":
            scene.cancel("a")
        case "expired":
            scene.tick(5.0)
        case _:
            scene.report(failure(scene.poll()[0]))
    assert scene.state("a").name.lower() == ending

    scene.requeue("a")
    scene.tick(9.0)

    assert scene.state("a") is JobState.QUEUED, "the expiry was of the first run"


def test_a_job_that_the_board_has_forgotten_is_requeued_from_the_store() -> None:
    scene = Scene()

    effects = scene.requeue("a", stored=(stored(spec("a"), run=3),))

    assert only(Requeued, effects) == Requeued(50, "a", 4, WALL)
    assert every(FunctionAdded, effects) == [FunctionAdded(TASK)]
    assert len(scene.poll()) == 1


def test_a_job_that_is_on_the_board_is_requeued_from_there() -> None:
    scene = Scene()
    scene.report(failure(scene.lease(spec("a"))))

    scene.requeue("a", stored=(stored(spec("a"), seq=1),))

    assert (scene.job("a").run, scene.job("a").owner) == (2, scene.owner)


def test_an_old_outcome_that_becomes_durable_late_does_not_forget_the_new_run() -> None:
    scene = Scene()
    effects = scene.report(failure(scene.lease(spec("a"))))
    scene.requeue("a")

    scene.settle(effects)

    assert scene.state("a") is JobState.QUEUED


def test_a_new_run_is_parked_until_the_stopped_attempt_of_the_old_one_is_gone() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.settle(scene.cancel("a"))

    scene.requeue("a")

    assert scene.state("a") is JobState.QUEUED
    assert scene.poll(9) == []
    assert scene.board.placement.depth() == {}

    scene.tell(events.Stopped(WORKER, (fence,)))

    assert len(scene.poll(9)) == 1


def test_a_parked_new_run_can_be_cancelled_again() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.settle(scene.cancel("a"))
    scene.requeue("a")

    scene.settle(scene.cancel("a"))
    scene.tell(events.Stopped(WORKER, (fence,)))

    assert not scene.board.jobs
    assert scene.poll(9) == []


def test_a_late_report_of_the_old_run_frees_the_new_one() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.cancel("a")
    scene.requeue("a")

    scene.report(success(fence))

    (again,) = scene.poll()
    assert scene.describe(again).run == 2


def test_jobs_requeued_together_wait_for_one_another_as_before() -> None:
    scene = Scene()
    scene.submit(spec("first"), spec("second", after=("first",)))
    scene.settle(scene.report(failure(scene.poll()[0])))
    assert not scene.board.jobs

    effects = scene.requeue(
        "second", "first", stored=(stored(spec("second", after=("first",)), seq=2), stored(spec("first"), seq=1))
    )

    assert [one.job for one in every(Requeued, effects)] == ["first", "second"]
    assert (scene.state("first"), scene.state("second")) == (JobState.QUEUED, JobState.WAITING)
    scene.report(success(scene.poll()[0]))
    assert scene.state("second") is JobState.QUEUED


def test_a_requeued_job_does_not_wait_for_what_has_completed() -> None:
    scene = Scene()

    scene.requeue("a", stored=(stored(spec("a", after=("old",))),), settled={"old": JobState.COMPLETED})

    assert scene.state("a") is JobState.QUEUED


def test_a_new_budget_holds_from_the_new_run_on() -> None:
    scene = Scene()
    rule = RetryRule(max_retries=1, backoff=0.0, retry_on=("builtins.OSError",))
    scene.report(failure(scene.lease(spec("a", Options(retry=rule, crash_limit=2)))))

    effects = scene.requeue("a", budget=Budget(retries=3))

    (changed,) = every(Rebudgeted, effects)
    assert changed == Rebudgeted(1, Admitted(1, scene.job("a").spec, WALL, owner=scene.owner))
    assert changed.admitted.spec is scene.job("a").spec
    assert scene.job("a").spec.options == Options(retry=structs.replace(rule, max_retries=3), crash_limit=2)


def test_the_new_budget_decides_how_often_the_job_is_tried() -> None:
    scene = Scene()
    scene.report(failure(scene.lease(spec("a", Options(crash_limit=0)))))

    scene.requeue("a", budget=Budget(retries=RetryRule(max_retries=1, backoff=0.0), crash_limit=1))

    states: list[JobState] = []
    for second, kind in enumerate((Ending.RAISED, Ending.CRASHED, Ending.RAISED)):
        scene.tick(float(second))
        scene.report(failure(scene.poll(at=float(second))[0], kind), at=float(second))
        states.append(scene.state("a"))
    assert states == [JobState.QUEUED, JobState.RETRY_QUEUED, JobState.DEAD_LETTER]


def test_a_new_budget_of_a_job_from_the_store_keeps_all_else_that_was_said_of_it() -> None:
    scene = Scene()
    old = stored(spec("a", key="once", delay=2.0, expires=9.0))

    effects = scene.requeue("a", stored=(old,), budget=Budget(crash_limit=7))

    (changed,) = every(Rebudgeted, effects)
    assert changed.admitted == Admitted(
        50, structs.replace(old.spec, options=Options(crash_limit=7)), old.submitted, due=WALL + 2.0, expires=WALL + 9.0
    )


@pytest.mark.parametrize("budget", [Budget(), Budget(retries=0), Budget(retries=RetryRule(), crash_limit=5)])
def test_a_budget_that_is_the_old_one_is_not_recorded(budget: Budget) -> None:
    scene = Scene()
    scene.report(failure(scene.lease(spec("a"))))

    assert every(Rebudgeted, scene.requeue("a", budget=budget)) == []


def test_a_requeued_chunk_starts_from_its_first_item() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", items=2))
    scene.report(chunk_report(fence, done(0), bad(1)))

    scene.requeue("m")

    assert scene.describe(scene.poll()[0]).ranges == ((0, 2),)


def test_more_functions_may_be_requeued_than_stay_on_an_idle_shelf() -> None:
    scene = Scene()
    blobs = tuple(function(f"f{number}") for number in range(2 * MAX_IDLE_FUNCTIONS))
    jobs = tuple(stored(spec(function=blob.digest), seq=number) for number, blob in enumerate(blobs, 50))

    effects = scene.tell(events.Requeue(tuple(one.spec.id for one in jobs), jobs, blobs))

    assert len(every(FunctionAdded, effects)) == len(jobs)


def objection(scene: Scene, *names: str, **fields: object) -> str:
    return objection_to_requeue(scene.board, events.Requeue(names, **fields))  # type: ignore[arg-type]


def test_nothing_speaks_against_requeueing_an_ended_job() -> None:
    scene = Scene()
    scene.report(failure(scene.lease(spec("here"))))
    gone = stored(spec("gone"))

    assert objection(scene, "here", "gone", stored=(gone,), functions=(TASK,)) == ""


def test_a_live_job_is_not_requeued() -> None:
    scene = Scene()
    scene.submit(spec("a"))

    assert objection(scene, "a") == "job a is queued; only an ended job can be requeued"


def test_a_job_that_was_left_out_because_its_function_is_lost_is_not_requeued() -> None:
    assert "job a has not ended, and its function is not in the store" in objection(
        Scene(), "a", stored=(stored(spec("a"), state=None),)
    )


def test_a_job_whose_function_is_lost_is_not_requeued() -> None:
    assert objection(Scene(), "a", stored=(stored(spec("a")),)) == (
        "the function of job a is no longer in the store; submit the job anew"
    )


def test_a_job_whose_dependency_has_no_result_is_not_requeued_alone() -> None:
    scene = Scene()
    scene.report(failure(scene.lease(spec("bad"))))
    scene.submit(spec("a", after=("bad",)))

    said = objection(scene, "a")

    assert said == "job a depends on job bad, which has no result; requeue that one too"
    assert objection(scene, "a", "bad") == ""


def test_a_job_whose_dependency_left_the_store_is_not_requeued() -> None:
    orphan = stored(spec("a", after=("old",)))

    assert "depends on job old" in objection(Scene(), "a", stored=(orphan,), functions=(TASK,))
    assert not objection(Scene(), "a", stored=(orphan,), functions=(TASK,), settled={"old": JobState.COMPLETED})


def test_a_job_whose_dependency_runs_again_may_be_requeued_and_waits() -> None:
    scene = Scene()
    scene.submit(spec("first"))
    orphan = stored(spec("a", after=("first",)))

    assert objection(scene, "a", stored=(orphan,)) == ""
    scene.requeue("a", stored=(orphan,))

    assert scene.state("a") is JobState.WAITING


# --- queues -------------------------------------------------------------------------------------------------------


def test_a_paused_queue_is_recorded_and_hands_out_nothing_until_resumed() -> None:
    scene = Scene()
    scene.submit(spec("a", Options(queue="x")))

    assert scene.tell(events.PauseQueue("x", paused=True)) == [QueuePaused("x", paused=True)]
    assert scene.poll(9) == []
    assert scene.tell(events.PauseQueue("x", paused=False)) == [QueuePaused("x", paused=False), Wake(WORKER)]

    assert len(scene.poll(9)) == 1


def test_a_dependency_without_a_result_is_found_behind_one_that_has_it() -> None:
    scene = Scene()
    scene.submit(spec("good"), spec("bad"), spec("a", after=("good", "bad")))
    good, bad = scene.poll(2)
    scene.report(success(good), failure(bad))

    objection = objection_to_requeue(scene.board, events.Requeue(("a",), functions=(TASK,)))

    assert objection == "job a depends on job bad, which has no result; requeue that one too"
