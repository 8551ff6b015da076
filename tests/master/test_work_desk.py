from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.core.records import Ending, Lease, Options
from cluster.core.states import JobState
from cluster.errors import Refused, StoreError, StoreTampered
from cluster.wire.messages import Health, Progress
from tests.core.builders import AT_MOST_ONCE, TASK, WALL, WORKER, failure, function, spec, stop, success
from tests.master.rig import HandStore, Notes, Rig


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


def lease_of(rig: Rig, name: str, options: Options | None = None, **fields: object) -> Lease:
    rig.submit(spec(name, options, **fields))
    (lease,) = rig.poll()
    return lease


def wakes(rig: Rig) -> int:
    """How often the worker was woken since the last look."""
    count = 0
    while rig.wakes.acquire(blocking=False):
        count += 1
    return count


# --- registration -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_not_registered_is_refused(rig: Rig) -> None:
    with pytest.raises(Refused, match="worker who is not registered"):
        rig.work.poll("who", 1)
    with pytest.raises(Refused, match="drop what it holds and register anew"):
        rig.work.heartbeat("who", Health())


def test_a_worker_that_was_lost_is_refused_until_it_comes_back_as_another(rig: Rig) -> None:
    rig.register()
    rig.tick(11.0)

    with pytest.raises(Refused):
        rig.work.poll(WORKER, 1)
    rig.register("w#2")

    assert rig.work.poll("w#2", 1).leases == ()


def test_a_heartbeat_keeps_a_worker_and_its_health(rig: Rig) -> None:
    rig.register()
    for _ in range(4):
        rig.tick(4.0)
        rig.work.heartbeat(WORKER, Health(cpu_percent=12.5))

    (info,) = rig.jobs.workers()

    assert (info.state, info.health.cpu_percent) == ("ready", 12.5)


def test_a_worker_that_leaves_gives_back_what_it_held(rig: Rig) -> None:
    lease_of(rig, "a", AT_MOST_ONCE)

    rig.work.leave(WORKER)

    assert rig.jobs.workers() == []
    assert rig.jobs.info("a").attempts == 0
    assert [lease.attempt for lease in rig.poll(name="w#2")] == [1]


def test_a_new_life_of_a_lost_worker_takes_its_place_in_listings(rig: Rig) -> None:
    rig.register("w#1")
    rig.register("other#1")
    rig.tick(11.0)

    rig.register("w#2")

    assert [(info.id, info.state) for info in rig.jobs.workers()] == [("other#1", "lost"), ("w#2", "ready")]
    assert (rig.jobs.stats().workers, rig.jobs.stats().slots) == (1, 2)


def test_two_living_workers_may_share_a_name(rig: Rig) -> None:
    rig.register("w#1")
    rig.register("w#2")

    assert [info.id for info in rig.jobs.workers()] == ["w#1", "w#2"]


# --- leases -------------------------------------------------------------------------------------------------------


def test_a_worker_is_woken_when_there_is_work_and_only_then(rig: Rig) -> None:
    rig.register()
    rig.work.poll(WORKER, 2)
    wakes(rig)

    rig.tick(1.0)
    assert wakes(rig) == 0
    rig.submit(spec("a"))
    assert wakes(rig) == 1
    rig.submit(spec("b"))
    assert wakes(rig) == 0, "it will poll, and has room for both"
    assert len(rig.work.poll(WORKER, 2).leases) == 2
    rig.submit(spec("c"))
    assert wakes(rig) == 0, "it has room for no more, and asks once it has"


def test_a_lease_has_all_that_the_job_needs(rig: Rig) -> None:
    lease = lease_of(rig, "a")

    assert lease == Lease(lease.fence, "a", 1, 1, TASK.digest, b"args", Options())
    assert rig.work.fetch_function(lease.function) == TASK


def test_a_function_that_the_shelf_has_dropped_comes_from_the_store(rig: Rig) -> None:
    lease = lease_of(rig, "a")
    rig.report(success(lease.fence))
    others = [function(f"f{number}") for number in range(300)]
    rig.submit(*(spec(f"b{number}", function=other.digest) for number, other in enumerate(others)), functions=others)
    rig.jobs.cancel([f"b{number}" for number in range(300)], 0.0)
    assert TASK.digest not in rig.master.board.shelf

    assert rig.work.fetch_function(TASK.digest) == TASK


def test_a_function_that_nobody_has_is_refused(rig: Rig) -> None:
    with pytest.raises(Refused, match=r"no function [0-9a-f]+ here; its lease is over"):
        rig.work.fetch_function(b"never heard of")


def test_a_job_may_start_before_its_admission_is_durable(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    store.gate.clear()

    lease_of(rig, "a")

    assert rig.notes.told == []


def test_a_job_that_may_run_only_once_is_handed_out_when_its_lease_is_durable(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    rig.register()
    rig.work.poll(WORKER, 1)
    rig.submit(spec("a", AT_MOST_ONCE))
    rig.notes.wait("accepted")
    # Accepted is told just before the board hears of it.
    while not rig.master.board.placement.depth():
        assert rig.wakes.acquire(timeout=10.0)
    store.gate.clear()

    assert rig.work.poll(WORKER, 1).leases == ()
    wakes(rig)
    store.gate.set()
    assert rig.wakes.acquire(timeout=10.0)
    (lease,) = rig.work.poll(WORKER, 0).leases

    assert lease.job == "a"


def test_a_job_cancelled_before_its_lease_was_durable_is_never_handed_out(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    rig.register()
    rig.work.poll(WORKER, 1)
    rig.submit(spec("a", AT_MOST_ONCE))
    while not rig.master.board.placement.depth():
        assert rig.wakes.acquire(timeout=10.0)
    store.gate.clear()
    rig.work.poll(WORKER, 1)

    rig.jobs.cancel(["a"], 0.0)
    store.gate.set()
    rig.notes.wait("ended")
    poll = rig.work.poll(WORKER, 0)

    assert (poll.leases, poll.stops) == ((), ())


def test_orders_to_stop_come_with_the_next_poll_even_of_a_full_worker(rig: Rig) -> None:
    lease = lease_of(rig, "a")
    wakes(rig)

    rig.jobs.cancel(["a"], 0.0)

    assert wakes(rig) > 0
    assert rig.stops() == [stop(lease.fence)]
    assert rig.stops() == []
    rig.work.stopped(WORKER, [lease.fence])
    assert not rig.master.board.jobs


def test_leases_given_back_are_handed_out_again(rig: Rig) -> None:
    lease = lease_of(rig, "a")

    rig.work.give_back(WORKER, [lease.fence])
    (again,) = rig.poll()

    assert (again.job, again.attempt) == ("a", 1)
    assert again.fence > lease.fence


def test_a_late_report_is_fenced_off_and_counted(rig: Rig) -> None:
    lease = lease_of(rig, "a")
    rig.report(success(lease.fence, b"first"))

    rig.report(success(lease.fence, b"second"))

    assert [outcome.payload for outcome in rig.notes.of("ended")] == [b"first"]
    assert rig.jobs.stats().fenced == 1


# --- inputs -------------------------------------------------------------------------------------------------------


def test_a_stored_result_is_filled_in(rig: Rig) -> None:
    rig.report(success(lease_of(rig, "first").fence, b"1024"))

    assert lease_of(rig, "second", inputs=("first",)).inputs == (("first", b"1024"),)


def test_a_result_that_is_not_durable_yet_is_filled_in(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    store.gate.clear()
    rig.report(success(lease_of(rig, "first").fence, b"1024"))

    assert lease_of(rig, "second", inputs=("first",)).inputs == (("first", b"1024"),)
    assert rig.notes.told == []


def test_a_job_whose_argument_has_left_the_store_is_given_up(rig: Rig) -> None:
    rig.report(success(lease_of(rig, "first", Options(result_ttl=1.0)).fence))
    rig.submit(spec("second", inputs=("first",)), spec("third"))
    rig.store.prune(WALL + 99.0, lambda job: False)

    assert [lease.job for lease in rig.poll(2)] == ["third"]

    info = rig.jobs.info("second")
    assert info.state is JobState.DEAD_LETTER
    assert info.certificate is not None
    assert info.certificate.reason == "the result of job first, an argument, is no longer in the store"


def test_a_result_stays_what_it_was_while_its_job_runs_again(rig: Rig) -> None:
    rig.report(success(lease_of(rig, "first").fence, b"1024"))
    rig.submit(spec("second", inputs=("first",)))
    rig.jobs.pause("default")
    rig.jobs.requeue(["first"])
    rig.jobs.resume("default")

    second, first = sorted(rig.poll(2), key=lambda lease: lease.job, reverse=True)

    assert (first.run, second.inputs) == (2, (("first", b"1024"),))


def test_an_exception_is_never_filled_in_for_a_result(rig: Rig) -> None:
    rig.report(success(lease_of(rig, "first").fence, b"1024"))
    rig.jobs.pause("x")
    rig.submit(spec("second", Options(queue="x"), inputs=("first",)))
    rig.jobs.requeue(["first"])
    (again,) = rig.poll()
    rig.report(failure(again.fence))

    rig.jobs.resume("x")

    assert rig.poll()[0].inputs == (("first", b"1024"),), "what its earlier run returned"


def test_of_two_results_the_newer_one_is_filled_in_even_before_it_is_durable(held: tuple[Rig, HandStore]) -> None:
    rig, store = held
    rig.report(success(lease_of(rig, "first").fence, b"old"))
    rig.notes.wait("ended")
    rig.jobs.requeue(["first"])
    (again,) = rig.poll()
    store.gate.clear()
    rig.report(success(again.fence, b"new"))

    given = lease_of(rig, "second", inputs=("first",)).inputs
    store.gate.set()

    assert given == (("first", b"new"),)


def test_a_result_that_can_t_be_read_now_is_asked_for_again_later_but_not_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.report(success(lease_of(rig, "first").fence, b"1024"))
    result = rig.store.result
    faults = [StoreError("test:", "input/output error")]

    def fails_once(job: str) -> object:
        if faults:
            raise faults.pop()
        return result(job)

    monkeypatch.setattr(rig.store, "result", fails_once)
    rig.submit(spec("second", inputs=("first",)))
    assert rig.poll() == []
    rig.tick(1.0)

    (lease,) = rig.poll()
    assert (lease.inputs, lease.attempt) == ((("first", b"1024"),), 2)
    (_, certificate), *_ = rig.jobs.history("second").attempts
    assert certificate.ending is Ending.CRASHED
    assert certificate.reason == "the results that are its arguments can't be read: store test:: input/output error"


def test_a_worker_that_is_not_given_what_was_leased_to_it_is_woken_to_ask_again(rig: Rig) -> None:
    rig.report(success(lease_of(rig, "first", Options(result_ttl=1.0)).fence))
    rig.submit(spec("second", inputs=("first",)))
    rig.store.prune(WALL + 99.0, lambda job: False)
    wakes(rig)

    assert rig.work.poll(WORKER, 1).leases == ()

    assert wakes(rig) == 1, "the board counts its room as taken"
    assert rig.work.poll(WORKER, 1).leases == ()
    rig.submit(spec("third"))
    assert wakes(rig) == 1


def test_an_altered_result_keeps_no_other_lease_from_its_worker(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.report(success(lease_of(rig, "first").fence))

    def altered(job: str) -> None:
        raise StoreTampered("test:", f"the outcome of job {job} was altered")

    monkeypatch.setattr(rig.store, "result", altered)
    rig.submit(spec("second", Options(crash_limit=1), inputs=("first",)), spec("third"))

    assert [lease.job for lease in rig.poll(2)] == ["third"]
    rig.tick(1.0)
    assert rig.poll(2) == []
    info = rig.jobs.info("second")
    assert info.state is JobState.DEAD_LETTER
    assert info.certificate is not None
    assert "was altered" in info.certificate.reason


# --- progress -----------------------------------------------------------------------------------------------------


def test_progress_is_passed_on_to_the_owner_and_whoever_watches(rig: Rig) -> None:
    lease = lease_of(rig, "a")
    other = Notes()
    rig.jobs.watch(rig.jobs.open(other), "a")
    said = Progress(lease.fence, 1.0, 2.0, "half")

    rig.work.progress(WORKER, [said, Progress(12345, 1.0, 1.0)])

    assert rig.notes.of("progressed") == other.of("progressed") == [("a", said)]


def test_progress_of_an_attempt_that_no_longer_counts_is_nobody_s_business(rig: Rig) -> None:
    lease = lease_of(rig, "a")
    rig.report(failure(lease.fence))

    rig.work.progress(WORKER, [Progress(lease.fence, 1.0, 2.0)])

    assert rig.notes.of("progressed") == []
