from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from cluster.core import events
from cluster.core.effects import QueuePaused, StoredJob
from cluster.core.records import Budget, Ending, FunctionBlob, JobSpec, Options, Outcome, RetryRule
from cluster.core.shelf import Shelf
from cluster.core.states import JobState
from cluster.errors import MasterUnavailable, Refused, StoreError, StoreFull, StoreTampered, UnknownJob
from cluster.master import durable
from cluster.wire.messages import JobParts, Refusal
from tests.core.builders import AT_ONCE, TASK, WALL, WORKER, failure, function, spec, stop, success
from tests.master.rig import DEADLINE_SECONDS, HandStore, Notes, Rig

OTHER = function("other")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


@pytest.fixture
def held() -> Iterator[tuple[Rig, HandStore]]:
    """With a committer thread, and a store whose gate the test opens and closes."""
    store = HandStore()
    with Rig(store) as one:
        one.master.committer.start()
        yield one, store
        store.gate.set()


def run(rig: Rig, one: JobSpec, payload: bytes = b"result") -> None:
    """Submit a job and have it succeed."""
    rig.submit(one)
    (lease,) = rig.poll()
    rig.report(success(lease.fence, payload))


def altered(jobs: Sequence[str]) -> Iterator[tuple[str, StoredJob | StoreTampered]]:
    """What `Store.find_all` says of records that someone has changed."""
    return iter([(job, StoreTampered("test:", f"job {job} was altered")) for job in jobs])


def fail(rig: Rig, one: JobSpec) -> None:
    rig.submit(one)
    (lease,) = rig.poll()
    rig.report(failure(lease.fence))


def in_thread(call: object) -> tuple[threading.Thread, list[object]]:
    """Begin a call that waits; what it returned or raised comes into the list."""
    answers: list[object] = []

    def body() -> None:
        try:
            answers.append(call())  # type: ignore[operator]
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, answers


# --- submit -------------------------------------------------------------------------------------------------------


def test_a_submitted_job_is_accepted_and_its_outcome_told(rig: Rig) -> None:
    run(rig, spec("a"), b"1024")

    (kind, accepted), (then, outcome) = rig.notes.told
    assert (kind, accepted, then) == ("accepted", "a", "ended")
    assert outcome == Outcome("a", 1, JobState.COMPLETED, WALL, b"1024", attempts=1, worker=WORKER)


def test_nothing_is_told_before_it_is_durable(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    store.gate.clear()

    run(rig, spec("a"))
    assert rig.notes.told == []
    store.gate.set()

    rig.notes.wait("ended")
    assert [kind for kind, _ in rig.notes.told] == ["accepted", "ended"]


def test_one_refused_job_harms_no_other_of_its_batch(rig: Rig) -> None:
    rig.submit(spec("a"), spec("b", after=("ghost",)), spec("c"))

    assert rig.notes.of("accepted") == ["a", "c"]
    (refusal,) = rig.notes.of("refused")
    assert (refusal.job, refusal.kind) == ("b", "refused")


def test_a_dependency_that_only_the_store_knows_counts(rig: Rig) -> None:
    run(rig, spec("good"))
    fail(rig, spec("bad"))
    assert not rig.master.board.jobs

    rig.submit(spec("a", after=("good",)), spec("b", after=("bad",)))

    assert rig.jobs.info("a").state is JobState.QUEUED
    assert rig.jobs.info("b").state is JobState.DEAD_LETTER


def test_a_dependency_may_come_in_the_same_batch(rig: Rig) -> None:
    rig.submit(spec("a"), spec("b", after=("a",)))

    assert rig.jobs.info("b").state is JobState.WAITING


def test_a_dependency_that_settles_while_the_store_is_asked_is_found_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.submit(spec("first"))
    (lease,) = rig.poll()
    find_settled = rig.master.find_settled

    def slowly(jobs: list[str]) -> dict[str, JobState]:
        found = find_settled(jobs)
        rig.report(success(lease.fence))  # once only: later reports are fenced off
        return found

    monkeypatch.setattr(rig.master, "find_settled", slowly)
    rig.submit(spec("b", after=("first", "ghost")), spec("c", after=("first",)))

    assert [refusal.job for refusal in rig.notes.of("refused")] == ["b"]
    assert rig.jobs.info("c").state is JobState.QUEUED


def test_a_dependency_whose_record_was_altered_has_failed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.store, "find_all", altered)
    rig.submit(spec("a", after=("bad",)), spec("b"))

    assert [outcome.job for outcome in rig.notes.of("ended")] == ["a"]
    assert "b" in rig.notes.of("accepted")


def test_when_the_store_fails_the_jobs_are_refused_and_not_run() -> None:
    store = HandStore()
    with Rig(store) as rig:
        store.failures.append(StoreFull("test:", "disk full"))
        rig.submit(spec("a"))

        (refusal,) = rig.notes.of("refused")
        assert (refusal.job, refusal.kind, "disk full" in refusal.reason) == ("a", "store", True)
        rig.submit(spec("b"))
        assert [one.job for one in rig.notes.of("refused")] == ["a", "b"], "until one commit succeeds"
        rig.tick(1.0)
        rig.submit(spec("c"))
        assert rig.notes.of("accepted") == ["c"]
        assert store.find("a") is None


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_starts_one_job_for_all_who_use_it(rig: Rig) -> None:
    other = Notes()
    session = rig.jobs.open(other)
    rig.submit(spec("a", key="k"))

    rig.jobs.submit(session, [spec("a", key="k")], [TASK])
    (lease,) = rig.poll(9)
    rig.report(success(lease.fence))

    assert other.of("accepted") == ["a"]
    assert other.of("ended") == rig.notes.of("ended") == [rig.store.outcome("a")]


def test_a_key_of_an_ended_job_is_answered_with_its_outcome(rig: Rig) -> None:
    run(rig, spec("a", key="k"))

    rig.submit(spec("a", key="k"))

    assert rig.notes.of("ended") == [rig.store.outcome("a")] * 2
    assert rig.poll(9) == []


def test_a_key_of_an_ended_job_that_is_still_dying_is_answered_with_its_outcome(rig: Rig) -> None:
    rig.submit(spec("a", key="k"))
    rig.poll()
    rig.jobs.cancel(["a"], 0.0)
    other = Notes()

    rig.jobs.submit(rig.jobs.open(other), [spec("a", key="k")], [TASK])

    assert [outcome.state for outcome in other.of("ended")] == [JobState.CANCELLED]


@pytest.mark.parametrize("is_over", [True, False], ids=["ended", "running"])
def test_a_key_of_another_function_is_a_conflict(rig: Rig, is_over: bool) -> None:
    if is_over:
        run(rig, spec("a", key="k"))
    else:
        rig.submit(spec("a", key="k"))
    other = Notes()

    rig.jobs.submit(rig.jobs.open(other), [spec("a", key="k", function=OTHER.digest), spec("b")], [OTHER, TASK])

    (refusal,) = other.of("refused")
    assert (refusal.job, refusal.kind, refusal.other) == ("a", "key", "a")
    assert other.of("ended") == []
    assert other.of("accepted") == ["b"]


def test_a_key_whose_job_s_retention_is_over_starts_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run(rig, spec("a", Options(result_ttl=1.0), key="k"))
    find_settled = rig.master.find_settled

    def pruned_just_then(jobs: list[str]) -> dict[str, JobState]:
        found = find_settled(jobs)
        rig.store.prune(WALL + 99.0, lambda job: False)
        return found

    monkeypatch.setattr(rig.master, "find_settled", pruned_just_then)
    rig.submit(spec("a", key="k"))

    assert rig.jobs.info("a").state is JobState.QUEUED


def test_a_key_whose_record_was_altered_is_refused_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.store, "find_all", altered)
    rig.submit(spec("a", key="k"), spec("b"))

    assert rig.notes.of("refused") == [Refusal("a", "refused", "store test:: job a was altered")]
    assert rig.notes.of("accepted") == ["b"]


def test_a_key_s_job_that_vanishes_while_it_is_answered_for_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(rig, spec("a", key="k"))
    record = rig.store.find("a")
    answers = iter([[("a", record)], [("a", record)], []])
    monkeypatch.setattr(rig.store, "find_all", lambda jobs: iter(next(answers)))

    rig.submit(spec("a", key="k"))

    assert [refusal.job for refusal in rig.notes.of("refused")] == ["a"]


# --- cancel -------------------------------------------------------------------------------------------------------


def test_cancel_is_true_once_it_is_committed_and_false_of_anything_else(rig: Rig) -> None:
    run(rig, spec("done"))
    rig.submit(spec("waits"))
    rig.submit(spec("cancelled before"))
    rig.jobs.cancel(["cancelled before"], 0.0)

    verdicts = rig.jobs.cancel(["done", "waits", "never heard of", "cancelled before"], 0.0)

    assert verdicts == [False, True, False, True]


def test_cancel_does_not_wait_for_ever(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    rig.submit(spec("a"))
    rig.notes.wait("accepted")
    store.gate.clear()

    assert rig.jobs.cancel(["a"], 0.0) == [False]

    store.gate.set()
    assert rig.notes.wait("ended")[0].state is JobState.CANCELLED


def test_a_running_job_is_ordered_to_stop_at_once(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    rig.submit(spec("a"))
    (lease,) = rig.poll()
    store.gate.clear()

    rig.jobs.cancel(["a"], 0.0)

    assert rig.stops() == [stop(lease.fence)]
    assert rig.notes.of("ended") == []


# --- requeue ------------------------------------------------------------------------------------------------------


def test_a_requeued_job_runs_again(rig: Rig) -> None:
    fail(rig, spec("a"))

    (info,) = rig.jobs.requeue(["a", "a"])

    assert (info.state, info.run) == (JobState.QUEUED, 2)
    (lease,) = rig.poll()
    assert (lease.run, lease.attempt) == (2, 1)


def test_a_requeued_job_may_be_given_another_budget_which_a_restart_keeps(rig: Rig) -> None:
    fail(rig, spec("a"))

    rig.jobs.requeue(["a"], Budget(retries=1, crash_limit=0))
    rig.master.stop()
    with Rig(rig.store) as later:
        (lease,) = later.poll()

    assert (lease.run, lease.options) == (2, Options(retry=RetryRule(max_retries=1), crash_limit=0))
    assert later.jobs.info("a").run == 2


def test_the_parts_of_a_job_are_there_while_it_lives_and_after(rig: Rig) -> None:
    rig.submit(spec("a", args=b"real"), spec("lives"))
    rig.report(failure(rig.poll()[0].fence))

    assert rig.jobs.parts("a") == JobParts(spec("a", args=b"real"), TASK)
    assert rig.jobs.parts("lives") == JobParts(spec("lives"), TASK)
    with pytest.raises(UnknownJob, match="'ghost'"):
        rig.jobs.parts("ghost")


def test_parts_without_a_function_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(rig, spec("a"))
    with rig.master.lock:
        rig.master.board.shelf = Shelf()
    monkeypatch.setattr(rig.store, "functions", lambda digests: iter(()))

    with pytest.raises(Refused, match="the function of job a is no longer in the store"):
        rig.jobs.parts("a")


def test_a_result_is_that_of_the_latest_run_that_completed(rig: Rig) -> None:
    rig.submit(spec("a"))
    told = [rig.jobs.result("a")]
    rig.report(success(rig.poll()[0].fence, b"first"))
    rig.jobs.requeue(["a"])
    told.append(rig.jobs.result("a"))

    assert [one and one.payload for one in told] == [None, b"first"]
    with pytest.raises(UnknownJob):
        rig.jobs.result("ghost")


def test_several_jobs_are_requeued_together_or_not_at_all(rig: Rig) -> None:
    fail(rig, spec("a"))
    rig.submit(spec("lives"))

    with pytest.raises(Refused, match="job lives is queued"):
        rig.jobs.requeue(["a", "lives"])

    assert rig.jobs.info("a").run == 1


def test_an_unknown_job_can_t_be_requeued(rig: Rig) -> None:
    with pytest.raises(UnknownJob, match="'ghost'"):
        rig.jobs.requeue(["ghost"])


def test_a_job_is_requeued_with_the_ones_that_it_depends_on(rig: Rig) -> None:
    rig.submit(spec("first"), spec("second", after=("first",)))
    (lease,) = rig.poll()
    rig.report(failure(lease.fence))

    with pytest.raises(Refused, match="requeue that one too"):
        rig.jobs.requeue(["second"])
    infos = rig.jobs.requeue(["second", "first"])

    assert [info.state for info in infos] == [JobState.WAITING, JobState.QUEUED]


def test_a_requeue_is_durable_on_return(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    fail(rig, spec("a"))
    rig.notes.wait("ended")
    store.is_reached.clear()
    store.gate.clear()

    thread, answers = in_thread(lambda: rig.jobs.requeue(["a"]))
    assert store.is_reached.wait(DEADLINE_SECONDS)
    assert answers == []
    store.gate.set()
    thread.join(DEADLINE_SECONDS)

    assert [info.run for info in answers[0]] == [2]  # type: ignore[attr-defined]


def test_a_store_that_does_not_confirm_is_said_to_be_unwell(
    held: tuple[Rig, HandStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, store = held
    monkeypatch.setattr(durable, "DURABLE_SECONDS", 0.0)
    store.gate.clear()

    with pytest.raises(MasterUnavailable, match="the change is decided, but the store has not confirmed it in 0 s"):
        rig.jobs.pause("default")


def test_who_waits_for_a_failing_store_is_told_its_reason_and_the_change_is_written_later(
    held: tuple[Rig, HandStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, store = held
    monkeypatch.setattr(durable, "LOOK_SECONDS", 0.01)
    store.failures = [StoreError("memory:", "the disk is full")] * 10_000

    for what, call in (("the change", lambda: rig.jobs.pause("x")), ("the purge", lambda: rig.jobs.purge([]))):
        with pytest.raises(MasterUnavailable, match=rf"{what} is decided, but not on the disk: .*the disk is full"):
            call()

    monkeypatch.setattr(durable, "LOOK_SECONDS", DEADLINE_SECONDS)
    store.failures.clear()
    rig.jobs.resume("y")  # waits for what is before it in the log
    assert [(one.queue, one.paused) for one in store.records if isinstance(one, QueuePaused)] == [
        ("x", True),
        ("y", False),
    ]


# --- watch --------------------------------------------------------------------------------------------------------


def test_a_watched_job_s_outcome_is_told_when_it_comes(rig: Rig) -> None:
    rig.submit(spec("a"))
    other = Notes()

    info = rig.jobs.watch(rig.jobs.open(other), "a")
    (lease,) = rig.poll()
    rig.report(success(lease.fence))

    assert info.state is JobState.QUEUED
    assert other.of("ended") == rig.notes.of("ended")


def test_an_ended_job_s_outcome_is_told_at_once(rig: Rig) -> None:
    run(rig, spec("a"))
    other = Notes()

    info = rig.jobs.watch(rig.jobs.open(other), "a")

    assert info.state is JobState.COMPLETED
    assert other.of("ended") == rig.notes.of("ended")


def test_many_are_watched_with_one_look_into_the_store(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        run(rig, spec(name))
    rig.submit(spec("waits"))
    other = Notes()
    session = rig.jobs.open(other)
    looks = []
    find_all = rig.store.find_all

    def look(jobs: list[str]) -> Iterator[tuple[str, StoredJob | StoreTampered]]:
        looks.append(list(jobs))
        return find_all(jobs)

    monkeypatch.setattr(rig.store, "find_all", look)

    infos = rig.jobs.watch_all(session, ["b", "waits", "ghost", "a"])
    rig.report(success(rig.poll()[0].fence))

    assert [info and info.state.name for info in infos] == ["COMPLETED", "QUEUED", None, "COMPLETED"]
    assert [outcome.job for outcome in other.of("ended")] == ["b", "a", "waits"]
    assert looks == [["b", "ghost", "a"]]


def test_long_outcomes_are_told_some_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.master.jobs_desk.MAX_TOLD_BYTES", 100)
    for name in ("a", "b", "c"):
        run(rig, spec(name), b"x" * 60)
    rig.submit(spec("waits"))
    other = Notes()
    session = rig.jobs.open(other)
    wanted = ["waits", "ghost", "a", "b", "c"]

    first = rig.jobs.watch_all(session, wanted)
    heard = [outcome.job for outcome in other.of("ended")]
    rest = rig.jobs.watch_all(session, wanted[len(first) :])

    assert [info and info.id for info in first] == ["waits", None, "a", "b"]
    assert heard == ["a", "b"]
    assert [info and info.id for info in rest] == ["c"]
    assert [outcome.job for outcome in other.of("ended")] == ["a", "b", "c"]


def test_a_job_whose_record_was_altered_is_refused_to_whoever_watches_it_and_the_others_are_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(rig, spec("good"))
    stored = rig.store.find("good")
    monkeypatch.setattr(rig.store, "find_all", lambda jobs: iter([*altered(["bad"]), ("good", stored)]))
    other = Notes()

    infos = rig.jobs.watch_all(rig.jobs.open(other), ["bad", "good"])

    assert [info and info.state.name for info in infos] == ["DEAD_LETTER", "COMPLETED"]
    assert other.of("refused") == [Refusal("bad", "refused", "store test:: job bad was altered")]
    assert [outcome.job for outcome in other.of("ended")] == ["good"]


def test_a_job_that_is_requeued_between_the_looks_at_board_and_store_is_watched(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(rig, spec("a"))
    other = Notes()
    find_all = rig.store.find_all

    def requeued_just_then(jobs: list[str]) -> Iterator[tuple[str, StoredJob | StoreTampered]]:
        monkeypatch.setattr(rig.store, "find_all", find_all)
        rig.jobs.requeue(jobs)
        return find_all(jobs)

    monkeypatch.setattr(rig.store, "find_all", requeued_just_then)
    info = rig.jobs.watch(rig.jobs.open(other), "a")
    rig.report(success(rig.poll()[0].fence))

    assert (info.run, info.state) == (2, JobState.QUEUED)
    assert [outcome.run for outcome in other.of("ended")] == [2]


def test_what_was_found_is_told_even_if_the_store_fails_after_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run(rig, spec("a"))
    other = Notes()
    stored = rig.store.find("a")

    def failing(_jobs: list[str]) -> Iterator[tuple[str, StoredJob | None]]:
        yield "a", stored
        raise StoreError("test:", "the disk does not read")

    monkeypatch.setattr(rig.store, "find_all", failing)
    with pytest.raises(StoreError):
        rig.jobs.watch_all(rig.jobs.open(other), ["a", "b"])

    assert [outcome.job for outcome in other.of("ended")] == ["a"]


def test_an_unknown_job_can_t_be_watched(rig: Rig) -> None:
    with pytest.raises(UnknownJob):
        rig.jobs.watch(rig.session, "ghost")


def test_who_begins_to_watch_while_the_outcome_is_being_told_is_told_too(rig: Rig) -> None:
    other = Notes()
    session = rig.jobs.open(other)
    infos = []

    class Nosy(Notes):
        def ended(self, outcomes: object) -> None:
            infos.append(rig.jobs.watch(session, "a"))

    rig.jobs.submit(rig.jobs.open(Nosy()), [spec("a")], [TASK])
    (lease,) = rig.poll()
    rig.report(success(lease.fence))

    assert [info.state for info in infos] == [JobState.COMPLETED]
    assert other.of("ended") == [rig.store.outcome("a")]
    assert rig.master.sessions.interested(0, "a", 99) == (0,), "nobody is left behind who waits"


def test_who_watches_an_outcome_on_its_way_to_the_disk_is_told_once_it_is_there(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    store.gate.clear()
    run(rig, spec("a"))
    other = Notes()

    rig.jobs.watch(rig.jobs.open(other), "a")
    assert other.told == []
    store.gate.set()

    assert [outcome.job for outcome in other.wait("ended")] == ["a"]


def test_who_watches_a_new_run_that_has_ended_is_not_told_what_the_store_still_says(
    held: tuple[Rig, HandStore],
) -> None:
    rig, store = held
    fail(rig, spec("a"))
    rig.notes.wait("ended")
    first_run = store.find("a")
    assert first_run is not None
    store.gate.clear()
    rig.master.decide(events.Requeue(("a",), (first_run,), (TASK,)))
    (lease,) = rig.poll()
    rig.report(success(lease.fence))
    other = Notes()

    rig.jobs.watch(rig.jobs.open(other), "a")
    assert other.told == []
    store.gate.set()

    assert [(outcome.run, outcome.state) for outcome in other.wait("ended")] == [(2, JobState.COMPLETED)]


def test_who_watches_a_new_run_is_not_served_with_the_old_one_s_outcome(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    other = Notes()
    session = rig.jobs.open(other)
    fail(rig, spec("a"))
    rig.notes.wait("ended")
    rig.jobs.requeue(["a"])
    store.gate.clear()
    (lease,) = rig.poll()
    rig.report(failure(lease.fence))
    rig.master.decide(events.Requeue(("a",), functions=(TASK,)))

    rig.jobs.watch(session, "a")
    store.gate.set()
    (lease,) = rig.poll()
    rig.report(success(lease.fence))

    assert [(outcome.run, outcome.state) for outcome in other.wait("ended")] == [(3, JobState.COMPLETED)]


# --- questions ----------------------------------------------------------------------------------------------------


def test_a_job_s_info_is_the_board_s_while_it_lives_and_then_the_store_s(rig: Rig) -> None:
    options = Options(name="fit", queue="x", priority=3, tags=("t",))
    rig.submit(spec("a", options, batch="m1"))
    before = rig.jobs.info("a")
    (lease,) = rig.poll()
    during = rig.jobs.info("a")
    rig.report(failure(lease.fence))
    after = rig.jobs.info("a")

    assert (before.name, before.queue, before.priority, before.tags, before.batch) == ("fit", "x", 3, ("t",), "m1")
    assert [info.state for info in (before, during, after)] == [
        JobState.QUEUED,
        JobState.ASSIGNED,
        JobState.DEAD_LETTER,
    ]
    assert (during.worker, after.worker, after.attempts, after.ended) == (WORKER, WORKER, 1, WALL)
    assert after.certificate is not None
    assert after.certificate.ending is Ending.RAISED


def test_the_history_has_every_attempt_that_went_wrong(rig: Rig) -> None:
    rig.submit(spec("a", Options(retry=AT_ONCE)))
    for ending in (Ending.RAISED, Ending.TIMED_OUT, Ending.RAISED):
        (lease,) = rig.poll()
        rig.report(failure(lease.fence, ending))

    history = rig.jobs.history("a")

    assert history.state is JobState.DEAD_LETTER
    assert [(run, one.attempt, one.ending) for run, one in history.attempts] == [
        (1, 1, Ending.RAISED),
        (1, 2, Ending.TIMED_OUT),
        (1, 3, Ending.RAISED),
    ]


def test_the_output_is_what_its_attempts_printed(rig: Rig) -> None:
    rig.submit(spec("a", Options(retry=AT_ONCE)))
    for text in (b"one\n", b"two\n"):
        (lease,) = rig.poll()
        report = failure(lease.fence)
        rig.report(type(report)(lease.fence, report.ending, b"", report.certificate, text))

    assert rig.jobs.output("a") == b"one\ntwo\n"


@pytest.mark.parametrize("question", ["info", "history", "output", "explain"])
def test_a_question_about_an_unknown_job_says_so(rig: Rig, question: str) -> None:
    with pytest.raises(UnknownJob, match="no job 'ghost' here"):
        getattr(rig.jobs, question)("ghost")


def test_a_live_job_is_explained_by_the_board_and_an_ended_one_by_its_record(rig: Rig) -> None:
    rig.submit(spec("a"))
    alive = rig.jobs.explain("a")
    (lease,) = rig.poll()
    rig.report(failure(lease.fence, reason="raised ValueError: no"))
    run(rig, spec("b"))

    assert "waits because no worker is registered" in alive
    assert rig.jobs.explain("a") == "job a is dead_letter: raised ValueError: no (run 1, 1 attempt(s))"
    assert rig.jobs.explain("b") == "job b is completed (run 1, 1 attempt(s))"


def test_a_paused_queue_waits_until_it_is_resumed(rig: Rig) -> None:
    rig.submit(spec("a", Options(queue="x")))

    rig.jobs.pause("x")
    assert rig.poll(9) == []
    assert rig.jobs.stats().paused == ("x",)
    rig.jobs.resume("x")

    assert len(rig.poll(9)) == 1
    assert rig.jobs.stats().paused == ()


def test_a_closed_session_s_jobs_go_on(rig: Rig) -> None:
    rig.submit(spec("a"))

    rig.jobs.close(rig.session)
    (lease,) = rig.poll()
    rig.report(success(lease.fence))

    assert rig.notes.of("ended") == []
    assert rig.jobs.info("a").state is JobState.COMPLETED


# --- submitted again, after a lost answer or a restart ------------------------------------------------------------------


def submit_again(rig: Rig, *jobs: JobSpec, functions: Sequence[FunctionBlob] = (TASK,)) -> Notes:
    """By another session, as a client does that has lost its first one."""
    notes = Notes()
    rig.jobs.submit(rig.jobs.open(notes), jobs, functions, again=True)
    return notes


def test_a_job_submitted_again_while_it_lives_is_acknowledged_again_and_told_to_the_new_session(rig: Rig) -> None:
    rig.submit(spec("a"))

    notes = submit_again(rig, spec("a"), spec("b"))

    (first, second) = rig.poll(9)
    rig.report(success(first.fence), success(second.fence))
    assert notes.of("accepted") == ["a", "b"]
    assert sorted(outcome.job for outcome in notes.of("ended")) == ["a", "b"]


def test_a_job_submitted_again_after_it_ended_is_told_and_not_run_again(rig: Rig) -> None:
    run(rig, spec("a"))

    notes = submit_again(rig, spec("a"))

    assert [outcome.job for outcome in notes.of("ended")] == ["a"]
    assert rig.poll(9) == []
    assert len(rig.jobs.page()[0]) == 1


def test_a_job_submitted_again_that_never_arrived_is_admitted(rig: Rig) -> None:
    notes = submit_again(rig, spec("a"))

    assert notes.of("accepted") == ["a"]
    assert len(rig.poll(9)) == 1


def test_an_id_submitted_again_with_another_function_is_refused(rig: Rig) -> None:
    run(rig, spec("a"))
    other = function("other")

    notes = submit_again(rig, spec("a", function=other.digest), functions=(other,))

    (refusal,) = notes.of("refused")
    assert (refusal.kind, refusal.reason) == ("refused", "job a is another job already")
