from __future__ import annotations

from cluster.core import events
from cluster.core.effects import (
    Admitted,
    Ended,
    FunctionAdded,
    TellAccepted,
    TellAdmitted,
    TellRefused,
    TellStop,
    Undone,
    Wake,
)
from cluster.core.records import Ending, JobSpec, Options
from cluster.core.shelf import MAX_IDLE_FUNCTIONS
from cluster.core.states import JobState
from tests.core.builders import (
    AT_MOST_ONCE,
    MONO,
    TASK,
    WALL,
    WORKER,
    Scene,
    every,
    failure,
    function,
    moment,
    only,
    spec,
    stop,
    success,
)


def refusal(scene: Scene, *jobs: JobSpec) -> TellRefused:
    return only(TellRefused, scene.submit(*jobs))


def test_a_job_is_admitted_with_its_function_and_may_be_leased() -> None:
    scene = Scene()
    one = spec("a")

    effects = scene.submit(one)

    assert effects == [FunctionAdded(TASK), Admitted(1, one, WALL, owner=scene.owner)]
    assert scene.state("a") is JobState.QUEUED
    assert scene.board.counters.submitted == 1


def test_jobs_are_numbered_in_the_order_in_which_they_came() -> None:
    scene = Scene()

    effects = scene.submit(spec("a"), spec("b")) + scene.submit(spec("c"))

    assert [(one.seq, one.spec.id) for one in every(Admitted, effects)] == [(1, "a"), (2, "b"), (3, "c")]


def test_the_store_is_told_once_of_a_function_that_many_jobs_share() -> None:
    scene = Scene()

    effects = scene.submit(spec(), spec()) + scene.submit(spec())

    assert every(FunctionAdded, effects) == [FunctionAdded(TASK)]


def test_a_batch_may_bring_more_functions_than_stay_on_an_idle_shelf() -> None:
    scene = Scene()
    blobs = tuple(function(f"f{number}") for number in range(2 * MAX_IDLE_FUNCTIONS))
    jobs = tuple(spec(function=blob.digest) for blob in blobs)

    effects = scene.tell(events.Submit(1, jobs, blobs))

    assert not every(TellRefused, effects)
    assert len(every(Admitted, effects)) == len(jobs)


def test_a_job_that_is_here_already_is_accepted_again_and_runs_once() -> None:
    scene = Scene()
    scene.submit(spec("a"))

    effects = scene.submit(spec("a"))

    assert effects == [TellAccepted(scene.owner, "a")]
    assert scene.board.next_seq == 2


def test_an_id_that_another_function_has_is_refused() -> None:
    scene = Scene()
    scene.submit(spec("a"))
    other = function("other")

    effects = scene.tell(events.Submit(1, (spec("a", function=other.digest),), (other,)))

    assert only(TellRefused, effects) == TellRefused(1, "a", "refused", "job a is another job already", other="a")


def test_a_key_that_another_function_has_is_refused_as_a_conflict_of_keys() -> None:
    scene = Scene()
    scene.submit(spec("a", key="k"))
    other = function("other")

    effects = scene.tell(events.Submit(1, (spec("a", function=other.digest, key="k"),), (other,)))

    assert only(TellRefused, effects).kind == "key"


def test_a_job_without_its_function_is_refused() -> None:
    scene = Scene()

    effects = scene.tell(events.Submit(1, (spec("a"),)))

    assert only(TellRefused, effects).reason == "the function of job a is not here; send it with the job"
    assert not scene.board.jobs


def test_a_job_that_depends_on_an_unknown_one_is_refused() -> None:
    refused = refusal(Scene(), spec("a", after=("ghost",)))

    assert refused.kind == "refused"
    assert refused.reason == "job a depends on 'ghost', which is not in this cluster; submit that one first"


def test_a_job_that_depends_on_itself_is_refused() -> None:
    assert "depends on 'a', which is not in this cluster" in refusal(Scene(), spec("a", after=("a",))).reason


def test_a_job_that_depends_on_one_refused_in_the_same_batch_is_refused() -> None:
    scene = Scene()

    effects = scene.submit(spec("a", after=("ghost",)), spec("b", after=("a",)))

    assert [one.job for one in every(TellRefused, effects)] == ["a", "b"]


def test_what_is_refused_leaves_nothing_behind() -> None:
    scene = Scene()

    refusal(scene, spec("a", after=("ghost",)))

    assert (scene.board.jobs, scene.board.dependants, scene.board.next_seq) == ({}, {}, 1)
    assert not any(scene.board.counts)


def test_beyond_the_limit_jobs_are_refused_until_some_have_ended() -> None:
    scene = Scene(max_live_jobs=1)
    scene.submit(spec("a"))

    refused = refusal(scene, spec("b"))
    scene.settle(scene.cancel("a"))

    assert refused.reason == "1 jobs are waiting, which is the limit; submit again once some are done"
    assert every(Admitted, scene.submit(spec("b")))


def test_while_the_store_fails_nothing_is_admitted_and_what_is_here_goes_on() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.tell(events.StoreFailed("disk full"))

    refused = refusal(scene, spec("b"))
    effects = scene.report(success(fence))

    assert (refused.kind, "disk full" in refused.reason) == ("store", True)
    assert only(Ended, effects).outcome.state is JobState.COMPLETED


def test_once_the_store_is_well_jobs_are_admitted_again() -> None:
    scene = Scene()
    scene.tell(events.StoreFailed("disk full"))

    effects = scene.tell(events.StoreHealed())

    assert effects == []
    assert every(Admitted, scene.submit(spec("a")))


def test_a_delayed_job_waits_until_it_is_due() -> None:
    scene = Scene()

    admitted = only(Admitted, scene.submit(spec("a", delay=5.0)))

    assert admitted.due == WALL + 5.0
    assert scene.state("a") is JobState.SCHEDULED
    assert scene.board.next_due() == MONO + 5.0
    assert scene.poll(at=4.9) == []

    scene.tick(5.0)

    assert scene.poll(at=5.0) != []


def test_a_time_of_day_is_turned_into_a_delay_when_the_job_comes_in() -> None:
    scene = Scene()

    scene.submit(spec("future", at=WALL + 60.0), spec("past", at=WALL - 60.0))

    assert scene.state("future") is JobState.SCHEDULED
    assert scene.job("future").due_mono == MONO + 60.0
    assert scene.state("past") is JobState.QUEUED


def test_a_job_that_may_not_run_twice_waits_until_its_admission_is_durable() -> None:
    scene = Scene()

    effects = scene.submit(spec("once", AT_MOST_ONCE), spec("keyed", key="k"))

    assert [one.job for one in every(TellAdmitted, effects)] == ["once", "keyed"]
    assert scene.poll(9) == []

    assert scene.durable("once", "keyed") == [Wake(WORKER)]

    assert len(scene.poll(9)) == 2


def test_jobs_that_ended_before_their_admission_was_durable_are_let_be() -> None:
    scene = Scene()
    scene.submit(spec("a", AT_MOST_ONCE))
    effects = scene.cancel("a")

    scene.durable("a", "never heard of")

    assert scene.state("a") is JobState.CANCELLED
    scene.settle(effects)
    assert not scene.board.jobs


def test_a_durable_job_may_still_have_to_wait_for_its_time_or_its_dependencies() -> None:
    scene = Scene()
    scene.submit(spec("first"))
    scene.submit(spec("late", AT_MOST_ONCE, delay=9.0), spec("second", AT_MOST_ONCE, after=("first",)))

    scene.durable("late", "second")

    assert (scene.state("late"), scene.state("second")) == (JobState.SCHEDULED, JobState.WAITING)


def test_a_dependency_that_completed_before_the_admission_was_durable_counts() -> None:
    scene = Scene()
    fence = scene.lease(spec("first"))
    scene.submit(spec("second", AT_MOST_ONCE, after=("first",)))

    scene.report(success(fence))
    assert scene.state("second") is JobState.SUBMITTED
    scene.durable("second")

    assert scene.state("second") is JobState.QUEUED


def test_a_dependency_may_be_named_twice() -> None:
    scene = Scene()
    fence = scene.lease(spec("first"))
    scene.submit(spec("second", after=("first", "first")))

    scene.report(success(fence))

    assert scene.state("second") is JobState.QUEUED


def test_a_job_waits_for_all_of_its_dependencies() -> None:
    scene = Scene()
    one, other = scene.lease(spec("one")), scene.lease(spec("other"))
    scene.submit(spec("last", after=("one", "other")))

    scene.report(success(one))
    assert scene.state("last") is JobState.WAITING
    scene.report(success(other))

    assert scene.state("last") is JobState.QUEUED


def test_a_dependency_that_has_completed_is_not_waited_for() -> None:
    scene = Scene()
    scene.report(success(scene.lease(spec("here"))))

    scene.submit(spec("a", after=("here", "long gone")), settled={"long gone": JobState.COMPLETED})

    assert scene.state("a") is JobState.QUEUED


def test_a_job_whose_dependency_has_failed_already_is_a_dead_letter_at_once() -> None:
    scene = Scene()
    scene.submit(spec("waits for"))

    effects = scene.submit(spec("a", after=("waits for", "long gone")), settled={"long gone": JobState.CANCELLED})

    outcome = only(Ended, effects).outcome
    assert outcome.state is JobState.DEAD_LETTER
    assert outcome.certificate is not None
    assert outcome.certificate.ending is Ending.DEPENDENCY
    assert outcome.certificate.reason == "it waited for job long gone, which ended without a result"


def test_a_dependency_that_failed_and_is_still_here_fails_a_new_job_too() -> None:
    scene = Scene()
    scene.report(failure(scene.lease(spec("bad"))))

    effects = scene.submit(spec("a", after=("bad",)))

    assert only(Ended, effects).outcome.state is JobState.DEAD_LETTER
    assert scene.board.counters.dead == 2


def test_a_job_expires_wherever_it_waits() -> None:
    scene = Scene()
    scene.submit(spec("first"))
    jobs = [
        spec("waiting", after=("first",)),
        spec("scheduled", delay=9.0),
        spec("queued"),
        spec("not durable", key="k"),
    ]

    admitted = every(Admitted, scene.submit(*(_expiring(one) for one in jobs)))
    effects = scene.tick(2.0)

    assert [one.expires for one in admitted] == [WALL + 2.0] * 4
    ended = {one.outcome.job: one.outcome for one in every(Ended, effects)}
    assert {name: outcome.state for name, outcome in ended.items()} == {one.id: JobState.EXPIRED for one in jobs}
    assert ended["queued"].certificate is not None
    assert ended["queued"].certificate.reason == "its time to live was over before it had an outcome"


def test_a_running_job_that_expires_is_stopped() -> None:
    scene = Scene()
    fence = scene.lease(_expiring(spec("a")))

    effects = scene.tick(2.0)

    assert only(TellStop, effects) == TellStop(WORKER, stop(fence, Ending.EXPIRED))
    assert only(Ended, effects).fence == fence


def test_an_undone_admission_leaves_nothing_behind() -> None:
    scene = Scene()
    scene.submit(
        spec("queued"),
        spec("waiting", inputs=("queued",)),
        spec("scheduled", delay=9.0),
        _expiring(spec("not durable", key="k")),
    )

    effects = scene.tell(events.AdmissionsFailed(("queued", "waiting", "scheduled", "not durable"), "disk full"))

    assert every(Undone, effects) == [Undone(1), Undone(2), Undone(3), Undone(4)]
    assert [(one.owner, one.kind, one.reason) for one in every(TellRefused, effects)] == [(7, "store", "disk full")] * 4
    board = scene.board
    assert (board.jobs, board.dependants, board.inputs_needed, board.placement.depth()) == ({}, {}, {}, {})
    assert list(board.timers.pop_due(float("inf"))) == []
    assert board.counters.submitted == 0
    assert board.next_seq == 5, "a number is never used again"


def test_an_undone_job_that_had_started_early_is_stopped_and_its_report_refused() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    effects = scene.tell(events.AdmissionsFailed(("a",), "disk full"))

    assert only(TellStop, effects) == TellStop(WORKER, stop(fence, Ending.ADMISSION))
    assert every(Ended, scene.report(success(fence))) == []
    assert not scene.board.leases


def test_an_undone_job_that_had_ended_already_is_undone_all_the_same() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.submit(spec("b", after=("a",)))
    scene.report(success(fence))

    effects = scene.tell(events.AdmissionsFailed(("a", "b", "unheard of"), "disk full"))

    assert every(Undone, effects) == [Undone(1), Undone(2)]
    assert not scene.board.jobs


def test_the_same_id_may_come_again_after_it_was_undone() -> None:
    scene = Scene()
    scene.submit(spec("a"))
    scene.tell(events.AdmissionsFailed(("a",), "disk full"))

    effects = scene.submit(spec("a"))

    assert only(Admitted, effects).seq == 2
    assert every(FunctionAdded, effects), "the store may have lost it together with the first"
    assert len(scene.poll(9)) == 1


def test_options_name_a_job_s_place_in_line() -> None:
    scene = Scene()

    scene.submit(spec("later"), spec("sooner", Options(priority=3)))
    scene.poll()

    assert scene.state("sooner") is JobState.ASSIGNED


def _expiring(one: JobSpec) -> JobSpec:
    return JobSpec(one.id, one.function, one.args, one.options, one.after, delay=one.delay, expires=2.0, key=one.key)


def test_a_delay_of_less_than_a_second_is_durable_too() -> None:
    scene = Scene()

    admitted = only(Admitted, scene.submit(spec("a", delay=0.5)))

    assert admitted.due == moment(0.5).wall


def test_a_dependency_that_has_completed_hides_none_behind_it() -> None:
    scene = Scene()
    scene.submit(spec("slow"))

    scene.submit(spec("a", after=("done", "slow")), settled={"done": JobState.COMPLETED})

    assert scene.state("a") is JobState.WAITING
    assert scene.job("a").unmet == 1
