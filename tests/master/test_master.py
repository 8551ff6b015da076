from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.core import events
from cluster.core.records import JobId, Options, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreTampered
from cluster.master.master import Clock, Master
from cluster.store.memory import MemoryStore
from tests.core.builders import AT_MOST_ONCE, WORKER, failure, spec, success
from tests.master.rig import DEADLINE_SECONDS, HandStore, Rig


def test_a_restarted_master_goes_on_where_the_last_one_stopped() -> None:
    store = MemoryStore()
    with Rig(store) as before:
        before.submit(spec("done"), spec("held"), spec("once", AT_MOST_ONCE), spec("waits", after=("held",)))
        before.jobs.pause("x")
        done, held, _ = before.poll(3)
        before.report(success(done.fence))

    with Rig(store) as after:
        states = {name: after.jobs.info(name).state for name in ("done", "held", "once", "waits")}
        assert states == {
            "done": JobState.COMPLETED,
            "held": JobState.QUEUED,
            "once": JobState.DEAD_LETTER,
            "waits": JobState.WAITING,
        }
        assert after.jobs.stats().paused == ("x",)
        assert after.jobs.info("held").crashes == 1
        (again,) = after.poll(9)
        assert (again.job, again.attempt) == ("held", 2)
        assert again.fence > held.fence


@pytest.mark.parametrize("is_leased", [False, True])
def test_a_restart_gives_no_job_up_for_a_dependency_that_completed_and_was_cancelled_in_a_later_run(
    *, is_leased: bool
) -> None:
    store = MemoryStore()
    with Rig(store) as before:
        before.submit(spec("first"), spec("second", after=("first",), inputs=("first",)))
        before.report(success(before.poll()[0].fence, b"first/result"))
        if is_leased:
            assert [lease.job for lease in before.poll()] == ["second"]
        before.jobs.requeue(["first"])
        before.jobs.cancel(["first"], 0.0)

    with Rig(store) as after:
        (lease,) = after.poll(9)

        assert (lease.job, lease.inputs) == ("second", (("first", b"first/result"),))


def test_a_restart_gives_a_job_up_if_the_result_that_it_was_queued_for_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    with Rig(store) as before:
        before.submit(spec("first"), spec("second", after=("first",)))
        before.report(success(before.poll()[0].fence))
        before.jobs.requeue(["first"])
        before.jobs.cancel(["first"], 0.0)

    def altered(job: JobId) -> Outcome | None:
        raise StoreTampered("test:", f"the result of job {job} was altered")

    monkeypatch.setattr(store, "result", altered)
    with Rig(store) as after:
        assert after.poll(9) == []
        assert after.jobs.info("second").state is JobState.DEAD_LETTER


def test_a_restarted_master_tells_watchers_of_jobs_that_nobody_owns_any_more() -> None:
    store = MemoryStore()
    with Rig(store) as before:
        before.submit(spec("a"))

    with Rig(store) as after:
        after.jobs.watch(after.session, "a")
        (lease,) = after.poll()
        after.report(success(lease.fence))

        assert [outcome.job for outcome in after.notes.of("ended")] == ["a"]


def test_workers_may_be_given_time_to_come_back() -> None:
    store = MemoryStore()
    with Rig(store) as before:
        before.submit(spec("a"))
        (lease,) = before.poll()
    rig = Rig(MemoryStore())
    rig.master.stop()
    master = Master(store, clock=rig.time.clock())

    master.open(grace_seconds=5.0)

    assert master.board.jobs["a"].fence == lease.fence
    rig.time.seconds = 5.0
    master.decide(events.Tick())
    assert master.board.jobs["a"].state is JobState.QUEUED
    master.stop()


def test_a_master_that_sleeps_before_its_first_tick_forgives_that_too() -> None:
    with Rig() as rig:
        rig.register()
        rig.time.seconds = 3600.0

        rig.master.decide(events.Tick())

        assert [info.state for info in rig.jobs.workers()] == ["ready"]


def test_an_ended_job_whose_record_was_altered_does_not_keep_the_master_from_opening(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    with Rig(store) as before:
        before.submit(spec("first"))
        (lease,) = before.poll()
        before.report(success(lease.fence))
        before.submit(spec("second", after=("first",)), spec("third"))

    def altered(jobs: list[str]) -> Iterator[tuple[str, StoreTampered]]:
        return iter([(job, StoreTampered("test:", f"job {job} was altered")) for job in jobs])

    with monkeypatch.context() as patch:
        patch.setattr(store, "find_all", altered)
        after = Rig(store)
    with after:
        assert after.jobs.info("second").state is JobState.DEAD_LETTER
        assert after.jobs.info("third").state is JobState.QUEUED
    assert "job first was altered; what depends on job first fails" in caplog.text


def test_a_store_that_can_t_be_opened_says_so_and_stop_still_works() -> None:
    store = MemoryStore()
    store.open()
    master = Master(store)

    with pytest.raises(StoreError, match="open already"):
        master.open(grace_seconds=0.0)
    master.stop()


def test_a_master_may_be_stopped_twice_and_before_it_starts() -> None:
    never_opened = Master(MemoryStore())
    never_opened.stop()
    never_opened.stop()

    with Rig() as rig:
        rig.master.start()
        rig.master.stop()
        rig.master.stop()


def test_stop_writes_what_was_decided() -> None:
    store = HandStore()
    with Rig(store) as rig:
        rig.master.start()
        store.gate.clear()
        rig.submit(spec("a"))
        assert store.is_reached.wait(DEADLINE_SECONDS)
        rig.submit(spec("b"))
        store.gate.set()

    assert [job.spec.id for job in store.live_jobs()] == ["a", "b"]
    assert rig.notes.of("accepted") == ["a", "b"]


def test_a_decision_returns_its_effects_and_says_when_it_is_durable() -> None:
    with Rig() as rig:
        durable: list[str] = []

        effects = rig.master.decide(events.Tick(), lambda: durable.append("yes"))

        assert effects == []
        assert durable == ["yes"]


def test_a_whole_job_on_a_store_with_its_own_committer() -> None:
    store = HandStore()
    with Rig(store) as rig:
        rig.master.start()
        rig.submit(spec("a"), spec("b", Options(crash_limit=0), inputs=("a",)))
        (lease,) = rig.poll()
        rig.report(success(lease.fence, b"1"))
        rig.notes.wait("ended")
        # Its lease has to be durable first: it comes by a poll after the wake-up.
        leases = rig.poll()
        while not leases:
            assert rig.wakes.acquire(timeout=DEADLINE_SECONDS)
            leases = rig.poll()
        rig.report(failure(leases[0].fence))

        outcomes = rig.notes.wait("ended", 2)

    assert leases[0].inputs == (("a", b"1"),)
    assert [(one.job, one.state) for one in outcomes] == [("a", JobState.COMPLETED), ("b", JobState.DEAD_LETTER)]
    assert rig.master.board.jobs == {}


def test_results_that_live_jobs_need_are_not_pruned() -> None:
    with Rig() as rig:
        rig.submit(spec("a", Options(result_ttl=1.0)))
        (lease,) = rig.poll()
        rig.report(success(lease.fence))
        rig.submit(spec("b", inputs=("a",)))
        rig.time.seconds = 60.0

        rig.master.committer.prune_soon()
        assert rig.store.find("a") is not None
        (lease,) = rig.poll()
        rig.report(success(lease.fence))
        rig.master.committer.prune_soon()

        assert rig.store.find("a") is None


def test_the_clock_is_read_for_both_times_at_once() -> None:
    now = Clock(mono=lambda: 1.0, wall=lambda: 2.0).now()

    assert (now.mono, now.wall) == (1.0, 2.0)


def test_a_worker_unknown_to_the_mailboxes_hears_nothing() -> None:
    with Rig() as rig:
        rig.submit(spec("a"))
        rig.poll()
        rig.master.mailboxes.remove(WORKER)

        assert rig.jobs.cancel(["a"], 0.0) == [True]
