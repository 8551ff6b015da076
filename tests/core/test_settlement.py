from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from cluster.core import chunks, events
from cluster.core.board import Board, Settings
from cluster.core.effects import AttemptFailed, Effect, Ended, FencedOff
from cluster.core.records import Certificate, Ending, Options, Outcome, Report, RetryRule
from cluster.core.states import Cause, JobState
from tests.core.builders import (
    AT_MOST_ONCE,
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
    moment,
    only,
    spec,
    success,
)

RETRIES = Options(retry=RetryRule(max_retries=1, backoff=4.0, jitter=0.0))


def outcome(effects: Sequence[Effect]) -> Outcome:
    return only(Ended, effects).outcome


def test_a_success_is_the_outcome() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(result_ttl=60.0)))

    effects = scene.report(Report(fence, Ending.SUCCEEDED, b"1024", output=b"hello"), at=2.0)

    assert effects == [
        Ended(
            1,
            fence,
            Outcome("a", 1, JobState.COMPLETED, WALL + 2.0, b"1024", None, attempts=1, worker=WORKER),
            keep_until=WALL + 62.0,
            owner=scene.owner,
            output=b"hello",
        ),
    ]
    assert scene.board.counters.completed == 1


def test_an_attempt_that_is_known_to_run_ends_like_any_other() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.board.move(scene.job("a"), Cause.START)

    assert outcome(scene.report(success(fence))).state is JobState.COMPLETED


def test_an_ended_job_is_forgotten_once_its_outcome_is_durable() -> None:
    scene = Scene()
    effects = scene.report(success(scene.lease(spec("a"))))

    scene.tell(events.OutcomesDurable((("a", 99), ("never heard of", 1))))
    assert scene.state("a") is JobState.COMPLETED
    scene.settle(effects)

    assert not scene.board.jobs
    assert not any(scene.board.counts)


def test_a_failure_without_retries_is_a_dead_letter_with_its_certificate() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    ended = only(Ended, scene.report(failure(fence, message="boom")))

    assert ended.fence == fence
    assert (ended.outcome.state, ended.outcome.payload) == (JobState.DEAD_LETTER, b"exception")
    assert ended.outcome.certificate == Certificate(
        ending=Ending.RAISED, reason="it raised", message="boom", attempt=1, worker=WORKER
    )
    assert (scene.board.counters.dead, scene.board.counters.failed_attempts) == (1, 1)


def test_what_the_board_knows_better_overrules_the_worker_s_certificate() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    ended = outcome(scene.report(failure(fence, attempt=99, worker="somebody else")))

    assert ended.certificate is not None
    assert (ended.certificate.attempt, ended.certificate.worker) == (1, WORKER)


def test_a_failure_without_a_certificate_gets_one() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    ended = outcome(scene.report(Report(fence, Ending.UNPICKLABLE)))

    assert ended.certificate is not None
    assert ended.certificate.ending is Ending.UNPICKLABLE
    assert ended.certificate.reason == "its worker gave no reason"


def test_a_success_has_nothing_to_certify() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    confused = Report(fence, Ending.SUCCEEDED, b"result", Certificate(ending=Ending.RAISED, reason="?"), b"printed")

    ended = only(Ended, scene.report(confused))

    assert (ended.outcome.state, ended.outcome.certificate) == (JobState.COMPLETED, None)
    assert (ended.fence, ended.outcome.payload, ended.output) == (fence, b"result", b"printed")


def test_a_failure_with_budget_left_is_retried_after_its_backoff() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", RETRIES))

    effects = scene.report(failure(fence), at=1.0)

    failed = only(AttemptFailed, effects)
    assert (failed.fence, failed.failures, failed.crashes, failed.due) == (fence, 1, 0, WALL + 5.0)
    assert failed.certificate.attempt == 1
    assert scene.state("a") is JobState.RETRY_QUEUED
    assert scene.board.next_due() == MONO + 5.0
    assert scene.poll(at=4.9) == []

    scene.tick(5.0)

    assert len(scene.poll(at=5.0)) == 1
    assert (scene.board.counters.retried, scene.board.counters.dead) == (1, 0)


def test_a_retry_without_backoff_is_queued_behind_its_equals_at_once() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=AT_ONCE)))
    scene.submit(spec("b"))

    scene.report(failure(fence))

    assert [scene.describe(one).job for one in scene.poll(2)] == ["b", "a"]


def test_the_last_failure_ends_the_run() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=AT_ONCE)))

    for _ in range(AT_ONCE.max_retries):
        assert every(Ended, scene.report(failure(fence))) == []
        (fence,) = scene.poll()
    ended = outcome(scene.report(failure(fence)))

    assert (ended.state, ended.attempts) == (JobState.DEAD_LETTER, 3)


def test_crashes_and_failures_are_counted_apart() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=AT_ONCE)))

    scene.report(failure(fence, Ending.CRASHED))
    scene.tick(1.0)
    (fence,) = scene.poll()
    effects = scene.report(failure(fence))

    assert (only(AttemptFailed, effects).failures, only(AttemptFailed, effects).crashes) == (1, 1)


def test_a_job_that_may_run_only_once_is_given_up_at_its_first_crash() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", AT_MOST_ONCE))

    assert outcome(scene.report(failure(fence, Ending.CRASHED))).state is JobState.DEAD_LETTER


def test_a_late_report_is_refused_and_counted() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(retry=AT_ONCE)))
    scene.report(failure(fence))
    (current,) = scene.poll()

    late, again = scene.report(success(fence), failure(fence))

    assert late == FencedOff(WORKER, fence, Ending.SUCCEEDED, "", 0)
    assert again == FencedOff(WORKER, fence, Ending.RAISED, "", 0)
    assert scene.board.counters.fenced == 2
    assert scene.job("a").fence == current


def test_a_repeated_report_changes_nothing() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))

    effects = scene.report(success(fence, b"first"), success(fence, b"second"))

    assert outcome(effects).payload == b"first"
    assert scene.board.counters.fenced == 1


def test_a_report_by_a_worker_that_has_not_the_lease_changes_nothing() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.register("other#1")

    effects = scene.report(success(fence), success(12345), name="other#1")

    others, nobodys = effects
    assert others == FencedOff("other#1", fence, Ending.SUCCEEDED, "a", 1)
    assert nobodys == FencedOff("other#1", 12345, Ending.SUCCEEDED, "", 0)
    assert scene.state("a") is JobState.ASSIGNED
    assert scene.board.counters.fenced == 2


def test_a_report_of_a_stopped_attempt_is_refused_and_shows_that_it_is_gone() -> None:
    scene = Scene()
    fence = scene.lease(spec("a"))
    scene.settle(scene.cancel("a"))

    late = FencedOff("other#1", fence, Ending.SUCCEEDED, "a", 1)
    assert scene.report(success(fence), name="other#1") == [late]
    assert scene.board.leases

    assert scene.report(success(fence)) == [structs.replace(late, worker=WORKER)]

    assert not scene.board.leases
    assert not scene.board.jobs


def test_a_success_releases_what_waited_for_it() -> None:
    scene = Scene()
    fence = scene.lease(spec("first"))
    scene.submit(spec("queued", after=("first",)), spec("later", after=("first",), delay=9.0))

    scene.report(success(fence), at=1.0)

    assert (scene.state("queued"), scene.state("later")) == (JobState.QUEUED, JobState.SCHEDULED)
    scene.tick(9.0)
    assert scene.state("later") is JobState.QUEUED


def test_a_result_is_needed_until_the_last_job_that_has_it_as_an_argument_has_ended() -> None:
    scene = Scene()
    scene.submit(spec("first"))
    scene.submit(spec("b", inputs=("first",)), spec("c", inputs=("first",)))
    scene.settle(scene.report(success(scene.poll()[0])))
    assert "first" not in scene.board.jobs

    needed = []
    for fence in scene.poll(2):
        needed.append(scene.board.needs_result("first"))
        scene.settle(scene.report(success(fence)))

    assert needed == [True, True]
    assert not scene.board.needs_result("first")


def test_a_dead_letter_takes_all_that_waited_for_it_along() -> None:
    scene = Scene()
    fence = scene.lease(spec("root"))
    scene.submit(spec("child", after=("root",)), spec("grandchild", after=("child",)), spec("other"))

    effects = every(Ended, scene.report(failure(fence)))

    assert [one.fence for one in effects] == [fence, 0, 0], "nothing of the others ever ran"
    ended = {one.outcome.job: one.outcome for one in effects}
    assert {name: one.state for name, one in ended.items()} == dict.fromkeys(
        ("root", "child", "grandchild"), JobState.DEAD_LETTER
    )
    reason = ended["grandchild"].certificate
    assert reason is not None
    assert reason.ending is Ending.DEPENDENCY
    assert reason.reason == "it waited for job child, which ended without a result (dead_letter)"
    assert scene.board.counters.dead == 3
    assert not scene.board.dependants


def test_a_job_with_one_failed_dependency_waits_for_no_other() -> None:
    scene = Scene()
    fence = scene.lease(spec("bad"))
    slow = scene.lease(spec("slow"))
    scene.submit(spec("a", after=("bad", "slow")))

    scene.report(failure(fence))
    effects = scene.report(success(slow))

    assert [one.outcome.job for one in every(Ended, effects)] == ["slow"]
    assert scene.state("a") is JobState.DEAD_LETTER


def test_a_job_not_yet_durable_fails_with_its_dependency() -> None:
    scene = Scene()
    fence = scene.lease(spec("bad"))
    scene.submit(spec("a", AT_MOST_ONCE, after=("bad",)))

    scene.report(failure(fence))
    scene.durable("a")

    assert scene.state("a") is JobState.DEAD_LETTER


def test_a_chain_of_ten_thousand_fails_without_recursion() -> None:
    board = Board(Settings(), epoch=1)
    chain = [spec("0"), *(spec(str(n), after=(str(n - 1),)) for n in range(1, 10_000))]
    board.handle(events.Submit(1, tuple(chain), (TASK,)), moment())

    effects = board.handle(events.Cancel(("0",)), moment())

    assert [one.outcome.job for one in every(Ended, effects)] == [str(n) for n in range(10_000)]
    assert board.counts[JobState.DEAD_LETTER] == 9_999
    assert not board.dependants


def test_missing_arguments_end_the_job_and_name_what_is_missing() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", inputs=("old",)), settled={"old": JobState.COMPLETED})

    effects = scene.tell(events.InputsMissing(WORKER, fence, "old"))

    ended = outcome(effects)
    assert ended.state is JobState.DEAD_LETTER
    assert ended.certificate is not None
    assert ended.certificate.reason == "the result of job old, an argument, is no longer in the store"


def test_missing_arguments_of_a_lease_that_is_over_change_nothing() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", inputs=("old",)), settled={"old": JobState.COMPLETED})
    scene.cancel("a")

    assert scene.tell(events.InputsMissing(WORKER, fence, "old")) == []
    assert scene.state("a") is JobState.CANCELLED


def test_a_whole_chunk_that_succeeded_carries_its_segments() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", items=3))

    ended = outcome(scene.report(chunk_report(fence, done(0, 3))))

    assert (ended.state, ended.items, ended.certificate) == (JobState.COMPLETED, 3, None)
    assert chunks.decode(ended.payload) == (done(0, 3),)
    assert scene.board.counters.failed_attempts == 0


def test_a_chunk_with_a_bad_item_is_a_dead_letter_that_keeps_the_good_ones() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", items=3))

    ended = outcome(scene.report(chunk_report(fence, done(0), bad(1), done(2))))

    assert ended.state is JobState.DEAD_LETTER
    assert ended.certificate == bad(1).certificate
    assert chunks.decode(ended.payload) == (done(0), bad(1), done(2))
    assert (scene.board.counters.failed_attempts, scene.board.counters.dead) == (1, 1)


def test_a_chunk_s_retry_records_its_progress_and_what_its_items_spent() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", Options(retry=AT_ONCE), items=3))

    effects = scene.report(chunk_report(fence, done(0), bad(1), bad(2)))

    failed = only(AttemptFailed, effects)
    assert (failed.failures, failed.crashes) == (2, 0)
    assert scene.board.counters.failed_attempts == 1
    assert chunks.decode_progress(failed.progress) == scene.job("m").chunk
    assert scene.state("m") is JobState.QUEUED


def test_a_chunk_s_attempts_add_up_to_its_outcome() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", Options(retry=AT_ONCE), items=3))
    scene.report(chunk_report(fence, done(0), bad(1), done(2)))
    (again,) = scene.poll()

    ended = outcome(scene.report(chunk_report(again, done(1))))

    assert (ended.state, ended.attempts) == (JobState.COMPLETED, 2)
    assert chunks.decode(ended.payload) == (done(0), done(1), done(2))


def test_a_crash_of_a_chunk_counts_though_nobody_is_blamed() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", items=3))

    effects = scene.report(failure(fence, Ending.CRASHED))

    assert only(AttemptFailed, effects).crashes == 1
    assert scene.state("m") is JobState.RETRY_QUEUED


def test_a_chunk_s_progress_is_dropped_when_it_ends() -> None:
    scene = Scene()
    fence = scene.lease(spec("m", Options(retry=AT_ONCE), items=2))
    scene.report(chunk_report(fence, done(0), bad(1)))

    scene.cancel("m")

    assert scene.job("m").chunk is None


def test_a_dead_letter_is_kept_for_as_long_as_the_operator_says_at_least() -> None:
    scene = Scene()
    fence = scene.lease(spec("a", Options(result_ttl=60.0)))

    effects = scene.report(failure(fence))

    assert only(Ended, effects).keep_until == WALL + scene.board.settings.dead_retention_seconds


def test_a_job_whose_time_has_just_come_does_not_wait_for_the_next_tick() -> None:
    scene = Scene()
    fence = scene.lease(spec("first"))
    scene.submit(spec("a", after=("first",), delay=5.0))

    scene.report(success(fence), at=5.0)

    assert scene.state("a") is JobState.QUEUED


def test_one_that_waits_for_more_keeps_none_behind_it_waiting() -> None:
    scene = Scene()
    scene.submit(spec("first"), spec("other"))
    scene.submit(spec("both", after=("first", "other")), spec("one", after=("first",)))
    (fence, _) = scene.poll(2)

    scene.report(success(fence))

    assert (scene.state("both"), scene.state("one")) == (JobState.WAITING, JobState.QUEUED)


def test_a_chunk_that_is_given_up_is_one_failed_attempt() -> None:
    scene = Scene()
    scene.submit(spec("a", items=1))
    (fence,) = scene.poll()

    scene.report(chunk_report(fence, bad(0)))

    assert scene.board.counters.failed_attempts == 1
