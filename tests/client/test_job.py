from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from cluster.client.gate import Gate
from cluster.client.handle import Cluster
from cluster.client.job import Job, accept_all
from cluster.core.records import Certificate, Ending, Outcome
from cluster.core.states import JobState
from cluster.errors import (
    ClusterError,
    DependencyFailed,
    Detached,
    JobCancelled,
    Refused,
    RemoteError,
    RemoteTraceback,
)
from cluster.wire.messages import Progress, Refusal
from tests.acceptance.programs import wait_until
from tests.client.desk import DEADLINE_SECONDS, InlineDesk


class Stubborn(Exception):
    pass


def fail(text: str) -> str:
    raise Stubborn(text)


class Slow:
    """Its unpickling waits until the test allows it; how often it was unpickled is counted."""

    may_load = threading.Event()
    is_loading = threading.Event()
    loads = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return load_slowly, ()


def load_slowly() -> str:
    Slow.loads += 1
    Slow.is_loading.set()
    assert Slow.may_load.wait(DEADLINE_SECONDS)
    return "loaded"


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ("not here",)


@pytest.fixture(autouse=True)
def _slow_is_fresh() -> None:
    Slow.may_load.clear()
    Slow.is_loading.clear()
    Slow.loads = 0


# --- results and errors -------------------------------------------------------------------------------------------


def test_the_result_is_what_the_task_returned(c: Cluster) -> None:
    job = c.submit(pow, (2, 10))

    assert job.result(DEADLINE_SECONDS) == 1024
    assert job.exception() is None
    assert (job.state, job.attempts, job.worker, job.done()) == (JobState.COMPLETED, 1, "w#1", True)


def test_the_tasks_own_exception_is_raised_with_its_remote_traceback(c: Cluster) -> None:
    job = c.submit(fail, ("no",))

    with pytest.raises(Stubborn, match="no") as caught:
        job.result(DEADLINE_SECONDS)

    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert job.certificate is not None
    assert job.certificate.ending is Ending.RAISED


def test_the_same_exception_object_is_returned_each_time(c: Cluster) -> None:
    job = c.submit(fail, ("no",))

    first = job.exception(DEADLINE_SECONDS)

    assert isinstance(first, Stubborn)
    assert job.exception() is first


def test_a_result_that_cannot_be_unpickled_here_names_its_job(c: Cluster) -> None:
    job = c.submit(Unloadable)

    with pytest.raises(RemoteError, match=f"{job.id}: its result can't be unpickled here: Stubborn: not here"):
        job.result(DEADLINE_SECONDS)


def test_result_raises_timeout_error_and_the_job_goes_on(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    with pytest.raises(TimeoutError, match=f"job {job.id} has no outcome after 0.01 s"):
        job.result(0.01)
    desk.gate.set()

    assert job.result(DEADLINE_SECONDS) == 8


def test_a_dependency_among_the_arguments_is_replaced_by_its_result(c: Cluster) -> None:
    base = c.submit(pow, (2, 3))

    assert c.submit(sum, ([base, base, 1],)).result(DEADLINE_SECONDS) == 17


def test_a_failed_dependency_fails_the_job(c: Cluster) -> None:
    job = c.submit(abs, (c.submit(fail, ("no",)),))

    with pytest.raises(DependencyFailed):
        job.result(DEADLINE_SECONDS)


def test_a_job_cannot_be_pickled_outside_of_a_submit(c: Cluster) -> None:
    job = c.submit(pow, (2, 3))

    with pytest.raises(TypeError, match="pass it as an argument of submit"):
        pickle.dumps(job)


def test_only_the_cluster_settles_a_job(c: Cluster) -> None:
    job = c.submit(pow, (2, 3))

    for settle in (job.set_result, job.set_exception):
        with pytest.raises(TypeError, match="settled by the cluster"):
            settle(None)
    with pytest.raises(TypeError, match="settled by the cluster"):
        job.set_running_or_notify_cancel()


def test_a_raised_error_keeps_neither_its_job_nor_itself_alive(c: Cluster) -> None:
    job = c.submit(fail, ("no",))
    with pytest.raises(Stubborn):
        job.result(DEADLINE_SECONDS)
    gone = weakref.ref(job)
    c.close()

    gc.disable()
    try:
        del job
        assert gone() is None
    finally:
        gc.enable()


# --- lazy decoding ------------------------------------------------------------------------------------------------


def test_a_result_that_is_slow_to_unpickle_does_not_hold_up_other_deliveries(c: Cluster) -> None:
    slow = c.submit(Slow)
    reader = threading.Thread(target=slow.result)
    reader.start()
    assert Slow.is_loading.wait(DEADLINE_SECONDS)

    assert c.submit(pow, (2, 3)).result(DEADLINE_SECONDS) == 8

    Slow.may_load.set()
    reader.join(DEADLINE_SECONDS)


def test_a_result_is_unpickled_once_however_many_threads_ask(c: Cluster) -> None:
    job: Job[Any] = c.submit(Slow)
    with concurrent.futures.ThreadPoolExecutor(4) as readers:
        results = [readers.submit(job.result) for _ in range(4)]
        assert Slow.is_loading.wait(DEADLINE_SECONDS)

        Slow.may_load.set()

        assert [result.result(DEADLINE_SECONDS) for result in results] == ["loaded"] * 4
    assert Slow.loads == 1


def test_a_result_that_nobody_asks_for_is_never_unpickled(c: Cluster) -> None:
    job = c.submit(Slow)

    c.close()

    assert job.done()
    assert Slow.loads == 0


# --- as a future of the standard library --------------------------------------------------------------------------


def test_wait_and_as_completed_take_jobs(c: Cluster) -> None:
    jobs = [c.submit(pow, (2, n)) for n in range(20)]

    done, pending = concurrent.futures.wait(jobs, DEADLINE_SECONDS)

    assert (done, pending) == (set(jobs), set())
    assert {job.result() for job in concurrent.futures.as_completed(jobs, DEADLINE_SECONDS)} == {
        2**n for n in range(20)
    }


def test_as_completed_yields_jobs_as_they_end(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    late = c.submit(pow, (2, 1))
    early = [c.submit(fail, ("no",)) for _ in range(3)]
    for job in early:
        job.cancel()

    order = concurrent.futures.as_completed([late, *early], DEADLINE_SECONDS)
    first = [next(order) for _ in early]
    desk.gate.set()

    assert set(first) == set(early)
    assert list(order) == [late]


def test_wait_stops_at_the_first_exception(desk: InlineDesk, c: Cluster) -> None:
    bad = c.submit(fail, ("no",))
    held = c.submit(pow, (2, 3), after=[c.submit(held_back, name="held")])

    done, pending = concurrent.futures.wait([bad, held], DEADLINE_SECONDS, concurrent.futures.FIRST_EXCEPTION)

    assert bad in done
    assert held in pending
    HELD.set()


HELD = threading.Event()


def held_back() -> None:
    assert HELD.wait(DEADLINE_SECONDS)


def test_looking_and_settling_at_the_same_moment_loses_no_wake_up(c: Cluster) -> None:
    for _ in range(300):
        job = c.submit(pow, (2, 3))
        done, _ = concurrent.futures.wait([job], DEADLINE_SECONDS)
        assert done == {job}


def test_a_callback_runs_in_a_thread_of_its_own(desk: InlineDesk, c: Cluster) -> None:
    called = concurrent.futures.Future[str]()
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    job.add_done_callback(lambda job: called.set_result(threading.current_thread().name))

    desk.gate.set()

    assert called.result(DEADLINE_SECONDS) == "cluster-callbacks"


def test_a_callback_on_a_done_job_is_called_at_once(c: Cluster) -> None:
    job = c.submit(pow, (2, 3))
    job.result(DEADLINE_SECONDS)
    called: list[object] = []

    job.add_done_callback(called.append)

    assert called == [job]


def test_a_callback_that_blocks_holds_up_no_delivery(desk: InlineDesk, c: Cluster) -> None:
    may_return = threading.Event()
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    job.add_done_callback(lambda job: may_return.wait(DEADLINE_SECONDS))
    desk.gate.set()

    assert c.submit(pow, (2, 4)).result(DEADLINE_SECONDS) == 16

    may_return.set()


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_says_so_everywhere(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    assert job.cancel()

    assert job.cancelled()
    assert job.done()
    assert job.state is JobState.CANCELLED
    with pytest.raises(JobCancelled):
        job.result()
    with pytest.raises(concurrent.futures.CancelledError):
        job.exception()


def test_cancelling_an_ended_job_changes_nothing(c: Cluster) -> None:
    job = c.submit(pow, (2, 3))
    job.result(DEADLINE_SECONDS)

    assert not job.cancel()
    assert job.result() == 8


# --- asyncio --------------------------------------------------------------------------------------------------------


def test_many_jobs_can_be_awaited_at_once(c: Cluster) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(c.submit(pow, (2, n)) for n in range(50)))

    assert asyncio.run(main()) == [2**n for n in range(50)]


def test_a_cancelled_waiter_leaves_the_job_alone(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    async def main() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_for_it(), 0.01)
        desk.gate.set()
        return await job

    async def wait_for_it() -> Any:
        return await job

    assert asyncio.run(main()) == 8
    assert not job.cancelled()


def test_awaiting_a_cancelled_job_raises_job_cancelled_and_not_the_loops_own(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    async def main() -> None:
        waiter = asyncio.ensure_future(wait_for_it())
        await asyncio.sleep(0)
        await asyncio.to_thread(job.cancel)
        await waiter

    async def wait_for_it() -> None:
        await job

    with pytest.raises(JobCancelled):
        asyncio.run(main())


def test_wrap_future_works(c: Cluster) -> None:
    async def main() -> Any:
        return await asyncio.wrap_future(c.submit(pow, (2, 5)))

    assert asyncio.run(main()) == 32


def test_a_loop_that_is_closed_harms_no_delivery(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    loop = asyncio.new_event_loop()

    async def wait_for_it() -> Any:
        return await job

    waiter = loop.create_task(wait_for_it())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    waiter._log_destroy_pending = False  # type: ignore[attr-defined]  # that it is pending is the point
    desk.gate.set()

    assert job.result(DEADLINE_SECONDS) == 8


# --- acceptance -------------------------------------------------------------------------------------------------------


def test_accepted_returns_the_job_once_it_is_durable(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    assert job.accepted(DEADLINE_SECONDS) is job
    assert not job.done()


def test_accepted_times_out_while_nothing_is_acknowledged(desk: InlineDesk, c: Cluster) -> None:
    desk.is_accepting = False
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    with pytest.raises(TimeoutError, match="is not acknowledged"):
        _ = job.accepted(0.01)
    desk.gate.set()

    assert job.accepted(DEADLINE_SECONDS) is job, "an outcome implies it"


def waiting_on(job: Job[Any], wait: Callable[[], object]) -> tuple[threading.Thread, Gate]:
    """A thread that waits for the job, and the gate that it waits at."""
    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: job._gate is not None and len(job._gate._waiters) == 1)
    assert job._gate is not None
    return thread, job._gate


def test_who_waits_for_the_acceptance_is_woken_by_it_and_who_waits_for_the_outcome_is_not(
    desk: InlineDesk, c: Cluster
) -> None:
    desk.is_accepting = False
    desk.gate.clear()
    patient, impatient = c.submit(pow, (2, 3)), c.submit(pow, (2, 4))
    sleeper, gate = waiting_on(patient, patient.result)
    waker, _ = waiting_on(impatient, impatient.accepted)

    assert accept_all([patient, impatient]) == 2

    waker.join(DEADLINE_SECONDS)
    assert not waker.is_alive()
    assert len(gate._waiters) == 1
    desk.gate.set()
    sleeper.join(DEADLINE_SECONDS)
    assert not sleeper.is_alive()


def test_a_refusal_is_raised_by_accepted_and_by_result(desk: InlineDesk, c: Cluster) -> None:
    desk.refuse = lambda spec: Refusal(spec.id, "refused", "too many jobs")
    job = c.submit(pow, (2, 3))

    with pytest.raises(Refused, match="too many jobs"):
        _ = job.accepted(DEADLINE_SECONDS)
    with pytest.raises(Refused, match="too many jobs"):
        job.result()
    assert "refused" in repr(job)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_properties_make_no_round_trip_and_refresh_does(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3), name="power")
    _ = job.accepted(DEADLINE_SECONDS)
    desk.wait_for(lambda: desk.jobs[job.id].state is JobState.RUNNING)

    before = job.state, job.running()
    same = job.refresh()

    assert before == (JobState.SUBMITTED, False)
    assert (same.state, same.running(), same.name) == (JobState.RUNNING, True, "power")
    assert same is job


def test_progress_is_the_last_word_of_the_job(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3)).accepted(DEADLINE_SECONDS)
    before = job.progress

    desk.progress(job.id, Progress(1, done=3, total=10, note="third"))

    assert (before, job.progress) == (None, Progress(1, 3, 10, "third"))
    assert job.running()


def test_logs_explain_and_history_ask_the_desk(c: Cluster) -> None:
    job = c.submit(fail, ("no",))
    job.exception(DEADLINE_SECONDS)

    assert job.logs() == f"output of {job.id}\n�"
    assert job.explain() == "it is DEAD_LETTER"
    assert [certificate.message for _, certificate in job.history().attempts] == ["no"]


def test_retry_gives_a_new_future_of_the_same_id(c: Cluster) -> None:
    FLAKY.clear()
    job = c.submit(flaky)
    assert isinstance(job.exception(DEADLINE_SECONDS), Stubborn)

    FLAKY.set()
    again = job.retry()

    assert again is not job
    assert again.id == job.id
    assert again.result(DEADLINE_SECONDS) == "well"
    assert isinstance(job.exception(), Stubborn), "the old future keeps its outcome"


FLAKY = threading.Event()


def flaky() -> str:
    if not FLAKY.is_set():
        raise Stubborn("not yet")
    return "well"


def test_an_outcome_of_an_earlier_run_does_not_resolve_a_retried_job(desk: InlineDesk, c: Cluster) -> None:
    job = c.submit(fail, ("no",))
    job.exception(DEADLINE_SECONDS)
    desk.gate.clear()
    again = job.retry()

    stale = Outcome(job.id, 1, JobState.COMPLETED, 0.0, cloudpickle.dumps("stale"))
    desk.sinks[1].ended([stale])

    assert not again.done()


def test_a_closed_handle_detaches_what_is_pending(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))

    c.close(wait=False)

    with pytest.raises(Detached, match=f"c.job\\('{job.id}'\\)"):
        job.result(DEADLINE_SECONDS)


def test_job_cancelled_is_both_kinds_of_error() -> None:
    error = JobCancelled("j", "it was cancelled", Certificate(ending=Ending.CANCELLED, reason="it was cancelled"))

    assert isinstance(error, ClusterError)
    assert isinstance(error, concurrent.futures.CancelledError)


def test_a_job_is_a_future_of_its_result_type(c: Cluster) -> None:
    job: Job[int] = c.submit(pow, (2, 3))

    assert isinstance(job, concurrent.futures.Future)
    assert repr(job) in {f"<Job {job.id} builtins.pow {state}>" for state in ("submitted", "completed")}
