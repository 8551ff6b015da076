from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from cluster.client import default, handle
from cluster.client.handle import Cluster
from cluster.client.job import Job
from cluster.client.retries import RetryPolicy
from cluster.client.task import task
from cluster.core.records import DEFAULT_OPTIONS, Budget, JobInfo, Options, RetryRule
from cluster.core.states import JobState
from cluster.errors import ClusterError, Detached, MasterUnavailable, Refused
from tests.client.desk import DEADLINE_SECONDS, InlineDesk


class Point(NamedTuple):
    x: int
    y: int


def fail(text: str) -> None:
    raise LookupError(text)


@task(retries=3, timeout="10m")
def load(url: str) -> str:
    return url.upper()


# --- submit -----------------------------------------------------------------------------------------------------------


def test_submit_returns_at_once_with_an_id(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()

    job = c.submit(pow, (2, 10))

    assert job.id
    assert not job.done()
    assert c.submit(pow, (2, 10)).id != job.id


def test_keyword_arguments_reach_the_function(c: Cluster) -> None:
    assert c.submit(int, ("ff",), {"base": 16}).result(DEADLINE_SECONDS) == 255


def test_a_function_may_be_a_name(c: Cluster) -> None:
    assert c.submit("math:sqrt", (9,)).result(DEADLINE_SECONDS) == 3.0


def test_closures_and_lambdas_travel(c: Cluster) -> None:
    base = 3

    assert c.submit(lambda number: number + base, (4,)).result(DEADLINE_SECONDS) == 7


@pytest.mark.parametrize("args", [[1], "abc", None, {"a": 1}, Point(1, 2)])
def test_args_that_are_no_tuple_are_refused_with_what_to_write(desk: InlineDesk, c: Cluster, args: Any) -> None:
    with pytest.raises(TypeError, match=r"write submit\(len, \("):
        _ = c.submit(len, args)

    assert desk.jobs == {}


def test_an_unknown_option_is_refused_with_the_nearest_one(c: Cluster) -> None:
    with pytest.raises(TypeError, match="'retrys'; did you mean 'retries'"):
        _ = c.submit(len, ([1],), retrys=3)  # type: ignore[call-overload]


def test_options_reach_the_desk(desk: InlineDesk, c: Cluster) -> None:
    first = c.submit(pow, (2, 3))
    job = c.submit(
        pow,
        (2, 3),
        name="power",
        queue="gpu",
        priority=5,
        retries=RetryPolicy(max_retries=2, backoff=3),
        crash_limit=1,
        timeout=timedelta(minutes=1),
        after=first,
        resources={"gpu": 1},
        tags=["night"],
    )
    job.result(DEADLINE_SECONDS)

    spec = desk.jobs[job.id].spec

    assert (job.name, spec.options.name, spec.options.queue, spec.options.priority) == ("power", "power", "gpu", 5)
    assert (spec.options.retry.max_retries, spec.options.retry.backoff, spec.options.crash_limit) == (2, 3, 1)
    assert (spec.options.timeout, spec.options.resources, spec.options.tags) == (60.0, (("gpu", 1),), ("night",))
    assert (spec.after, spec.inputs) == ((first.id,), ())


def test_a_job_among_the_arguments_is_a_dependency(desk: InlineDesk, c: Cluster) -> None:
    first = c.submit(pow, (2, 3))
    second = c.submit(pow, (first, 2))

    assert second.result(DEADLINE_SECONDS) == 64
    assert (desk.jobs[second.id].spec.after, desk.jobs[second.id].spec.inputs) == ((first.id,), (first.id,))


def test_a_tasks_options_are_defaults(desk: InlineDesk, c: Cluster) -> None:
    plain = c.submit(load, ("a",))
    other = c.submit(load, ("b",), timeout=5)
    batch = c.map(load, ["x"])

    assert [plain.result(DEADLINE_SECONDS), other.result(DEADLINE_SECONDS), *batch] == ["A", "B", "X"]

    said = [(r.spec.options.retry.max_retries, r.spec.options.timeout) for r in desk.jobs.values()]
    assert said == [(3, 600.0), (3, 5.0), (3, 600.0)]


# --- gather -----------------------------------------------------------------------------------------------------------


def test_gather_keeps_the_order_of_the_jobs(c: Cluster) -> None:
    assert c.gather([c.submit(pow, (2, n)) for n in range(9)]) == [2**n for n in range(9)]


def test_gather_raises_returns_or_skips_errors(c: Cluster) -> None:
    def jobs() -> list[Job[Any]]:
        return [c.submit(abs, (-1,)), c.submit(fail, ("no",)), c.submit(abs, (-3,))]

    with pytest.raises(LookupError, match="no"):
        c.gather(jobs())
    returned = c.gather(jobs(), errors="return")
    assert [returned[0], type(returned[1]), returned[2]] == [1, LookupError, 3]
    assert c.gather(jobs(), errors="skip") == [1, 3]
    with pytest.raises(ValueError, match="errors must be one of"):
        c.gather([], errors="ignore")  # type: ignore[arg-type]


def test_gather_returns_cancelled_jobs_as_errors_too(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    job.cancel()

    (error,) = c.gather([job], errors="return")

    assert isinstance(error, ClusterError)


# --- looking and ordering ---------------------------------------------------------------------------------------------


def test_jobs_are_listed_page_by_page(c: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.client.handle._PAGE", 7)
    jobs = [c.submit(pow, (2, n), tags=["even"] if n % 2 == 0 else []) for n in range(30)]
    c.gather(jobs)

    assert [info.id for info in c.jobs()] == [job.id for job in jobs]
    assert [info.id for info in c.jobs(tag="even")] == [job.id for job in jobs[::2]]
    assert [info.id for info in c.jobs(limit=10)] == [job.id for job in jobs[:10]]
    assert [info.id for info in c.jobs(tag="even", limit=10)] == [job.id for job in jobs[:20:2]]


def test_a_state_may_be_a_name_or_a_member(c: Cluster) -> None:
    good = c.submit(pow, (2, 3))
    bad = c.submit(fail, ("no",))
    c.gather([good, bad], errors="skip")

    assert [info.id for info in c.jobs(state="completed")] == [good.id]
    assert (
        [info.id for info in c.jobs(state=JobState.DEAD_LETTER)] == [info.id for info in c.dead_letters()] == [bad.id]
    )


def test_requeue_takes_jobs_infos_ids_and_several_of_them(c: Cluster) -> None:
    bad = [c.submit(fail, (str(n),)) for n in range(4)]
    c.gather(bad, errors="skip")

    runs: list[list[JobInfo]] = [
        c.requeue(bad[0]),
        c.requeue(bad[1].id),
        c.requeue([info for info in c.jobs() if info.id == bad[2].id]),
        c.requeue(iter(bad[3:])),
    ]

    assert [(info.id, info.run) for run in runs for info in run] == [(job.id, 2) for job in bad]


def test_requeue_passes_the_new_budget_on_as_records(desk: InlineDesk, c: Cluster) -> None:
    bad = c.submit(fail, ("no",))
    policy = RetryPolicy(max_retries=2, backoff="1m", retry_on=OSError)

    for budget in ({}, {"retries": 0}, {"crash_limit": 3}, {"retries": policy, "crash_limit": 0}):
        c.gather([c.job(bad.id)], errors="skip")
        c.requeue(bad, **budget)

    rule = RetryRule(max_retries=2, backoff=60.0, retry_on=("builtins.OSError",))
    assert desk.budgets == [Budget(), Budget(retries=0), Budget(crash_limit=3), Budget(retries=rule, crash_limit=0)]


@pytest.mark.parametrize("budget", [{"retries": -1}, {"retries": "3"}, {"crash_limit": -1}, {"crash_limit": 1.0}])
def test_a_budget_that_can_t_be_meant_is_refused_by_name(desk: InlineDesk, c: Cluster, budget: dict[str, Any]) -> None:
    bad = c.submit(fail, ("no",))
    c.gather([bad], errors="skip")

    with pytest.raises((TypeError, ValueError), match=f"option '{next(iter(budget))}'"):
        c.requeue(bad, **budget)

    assert desk.budgets == []


def test_cancel_takes_jobs_infos_ids_and_tells_how_many(desk: InlineDesk, c: Cluster) -> None:
    done = c.submit(pow, (2, 3))
    assert done.result(10) == 8
    desk.gate.clear()
    jobs = [c.submit(pow, (2, 3)) for _ in range(4)]

    counts = [
        c.cancel(jobs[0]),
        c.cancel(jobs[1].id),
        c.cancel(info for info in c.jobs() if info.id in (done.id, jobs[2].id)),
        c.cancel([]),
    ]

    assert counts == [1, 1, 1, 0]
    assert [job.cancelled() for job in jobs] == [True, True, True, False]


def test_cancel_goes_page_by_page(desk: InlineDesk, c: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "_PAGE", 2)
    desk.gate.clear()
    jobs = [c.submit(pow, (2, 3)) for _ in range(5)]

    count = c.cancel(iter(jobs))

    assert count == 5
    assert [len(each) for each in desk.cancels] == [2, 2, 1]


def test_requeueing_a_pending_job_is_refused(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()

    with pytest.raises(Refused, match="has not ended"):
        c.requeue(c.submit(pow, (2, 3)))


def test_a_queue_is_paused_and_resumed(desk: InlineDesk, c: Cluster) -> None:
    queue = c.queue("gpu")

    queue.pause()
    assert desk.paused == {"gpu"}

    queue.resume()
    assert desk.paused == set()


def test_questions_come_after_what_was_submitted_before(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    for _ in range(200):
        _ = c.submit(pow, (2, 3))

    assert c.stats().submitted == 200
    assert [worker.name for worker in c.workers()] == ["w"]


# --- the end ------------------------------------------------------------------------------------------------------------


def test_a_with_block_that_owns_workers_waits_for_its_jobs(desk: InlineDesk) -> None:
    order: list[str] = []
    with Cluster(desk, owns_workers=True, on_close=lambda: order.append("closed")) as c:
        jobs = [c.submit(pow, (2, n)) for n in range(50)]
        jobs[-1].add_done_callback(lambda job: order.append("done"))

    assert order == ["done", "closed"]
    assert [job.result(0) for job in jobs] == [2**n for n in range(50)]


def test_a_with_block_left_by_an_exception_stops_at_once(desk: InlineDesk) -> None:
    desk.gate.clear()

    with pytest.raises(LookupError), Cluster(desk, owns_workers=True) as c:
        job = c.submit(pow, (2, 3))
        raise LookupError

    with pytest.raises(Detached):
        job.result(0)
    assert job.id in desk.jobs, "it was passed on, so that a durable store has it"


def test_a_with_block_of_a_connected_handle_detaches(desk: InlineDesk) -> None:
    desk.gate.clear()

    with Cluster(desk, owns_workers=False) as c:
        job = c.submit(pow, (2, 3))

    with pytest.raises(Detached):
        job.result(0)
    assert job.id in desk.jobs


def test_ctrl_c_while_it_waits_stops_at_once(desk: InlineDesk) -> None:
    desk.gate.clear()
    closed = threading.Event()
    c = Cluster(desk, owns_workers=True, on_close=closed.set)
    job = c.submit(pow, (2, 3))
    threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        c.close()

    assert closed.is_set()
    assert job.done()


def test_close_can_cancel(desk: InlineDesk) -> None:
    desk.gate.clear()
    c = Cluster(desk, owns_workers=True)
    job = c.submit(pow, (2, 3))

    c.close(cancel=True)

    assert job.cancelled()


def test_a_closed_handle_says_so_and_may_be_closed_again(desk: InlineDesk) -> None:
    calls: list[int] = []
    c = Cluster(desk, owns_workers=True, on_close=lambda: calls.append(1))

    c.close()
    c.close()

    assert calls == [1]
    with pytest.raises(MasterUnavailable, match="is closed; open the cluster again"):
        _ = c.submit(pow, (2, 3))
    with pytest.raises(MasterUnavailable, match="is closed"):
        c.stats()
    with pytest.raises(MasterUnavailable, match="is closed"):
        c.map(abs, [1])
    assert "closed" in repr(c)


def test_an_outcome_that_comes_while_the_workers_stop_still_arrives(desk: InlineDesk) -> None:
    desk.gate.clear()

    def let_it_end() -> None:
        desk.gate.set()
        desk.wait_for(lambda: desk.jobs[job.id].outcome is not None)
        desk.stop()

    c = Cluster(desk, owns_workers=True, on_close=let_it_end)
    job = c.submit(pow, (2, 3))

    c.close(wait=False)

    assert job.result(0) == 8


def test_if_stopping_the_workers_fails_the_futures_end_all_the_same(desk: InlineDesk) -> None:
    desk.gate.clear()

    def give_up() -> None:
        raise OSError("stuck")

    c = Cluster(desk, owns_workers=True, on_close=give_up)
    job = c.submit(pow, (2, 3))

    with pytest.raises(OSError, match="stuck"):
        c.close(wait=False)

    assert isinstance(job.exception(0), Detached)


def test_a_with_block_is_the_default_cluster_inside(desk: InlineDesk) -> None:
    with Cluster(desk, owns_workers=True) as outer:
        assert default.current() is outer
        with Cluster(desk, owns_workers=True) as inner:
            assert default.current() is inner
        assert default.current() is outer


# --- the cluster's defaults -------------------------------------------------------------------------------------------

RETRY = RetryRule(max_retries=3, backoff=0.5, factor=3.0, max_delay=9.0, jitter=0.0)
DEFAULTS = Options(retry=RETRY, crash_limit=1, result_ttl=60.0)


@pytest.fixture
def strict() -> Iterator[tuple[InlineDesk, Cluster]]:
    """A cluster with defaults of its own."""
    desk = InlineDesk()
    desk.defaults = DEFAULTS
    with Cluster(desk, owns_workers=True) as c:
        yield desk, c
    desk.stop()
    desk.check()


def options_of(desk: InlineDesk, job: Job[Any]) -> Options:
    job.result(DEADLINE_SECONDS)
    return desk.jobs[job.id].spec.options


def test_a_job_that_says_nothing_has_the_cluster_s_defaults(strict: tuple[InlineDesk, Cluster]) -> None:
    desk, c = strict

    assert options_of(desk, c.submit(pow, (2, 3))) is DEFAULTS


def test_a_job_with_an_input_and_no_options_has_them_too(strict: tuple[InlineDesk, Cluster]) -> None:
    desk, c = strict

    assert options_of(desk, c.submit(abs, (c.submit(pow, (2, 3)),))) == DEFAULTS


@pytest.mark.parametrize(
    ("said", "retry", "crash_limit", "result_ttl"),
    [
        ({"retries": 0}, replace(RETRY, max_retries=0), 1, 60.0),
        ({"retries": 2}, replace(RETRY, max_retries=2), 1, 60.0),
        ({"retries": RetryPolicy(max_retries=2)}, RetryRule(max_retries=2), 1, 60.0),
        ({"crash_limit": 5}, RETRY, 5, 60.0),
        ({"result_ttl": "7d"}, RETRY, 1, 604800.0),
        ({"priority": 1}, RETRY, 1, 60.0),
        ({"key": "k"}, RETRY, 1, 60.0),
    ],
    ids=str,
)
def test_what_a_caller_says_wins_and_the_rest_is_the_cluster_s(
    strict: tuple[InlineDesk, Cluster], said: Any, retry: RetryRule, crash_limit: int, result_ttl: float
) -> None:
    desk, c = strict

    found = options_of(desk, c.submit(pow, (2, 3), **said))

    assert (found.retry, found.crash_limit, found.result_ttl) == (retry, crash_limit, result_ttl)


@task(retries=0, timeout=60)
def careful(number: int) -> int:
    return number


@task(retries=RetryPolicy(max_retries=1, backoff=7))
def patient(number: int) -> int:
    return number


def test_a_task_s_options_win_too_and_submit_s_over_those(strict: tuple[InlineDesk, Cluster]) -> None:
    desk, c = strict

    assert options_of(desk, c.submit(careful, (1,))).retry == replace(RETRY, max_retries=0)
    assert options_of(desk, c.submit(careful, (1,))).timeout == 60.0
    assert options_of(desk, c.submit(careful, (1,), retries=4)).retry == replace(RETRY, max_retries=4)
    assert options_of(desk, c.submit(patient, (1,), crash_limit=0)).retry == RetryRule(max_retries=1, backoff=7.0)
    assert options_of(desk, c.submit(patient, (1,), retries=2)).retry == replace(RETRY, max_retries=2)


def test_a_map_s_chunks_have_the_defaults(strict: tuple[InlineDesk, Cluster]) -> None:
    desk, c = strict

    usual = c.map(abs, [-1, -2], chunksize=2, retries=1)

    assert list(usual) == [1, 2]
    (chunk,) = usual.jobs()
    assert options_of(desk, chunk) == replace(DEFAULTS, retry=replace(RETRY, max_retries=1))


def test_items_of_a_map_go_one_by_one_where_the_defaults_mean_at_most_once(desk: InlineDesk) -> None:
    desk.defaults = Options(crash_limit=0)
    with Cluster(desk, owns_workers=True) as c:
        batch = c.map(abs, [-1, -2], chunksize=2)

        assert list(batch) == [1, 2]
        assert [desk.jobs[job.id].spec.items for job in batch.jobs()] == [1, 1]


def test_jobs_of_one_kind_share_one_record_of_options(strict: tuple[InlineDesk, Cluster]) -> None:
    desk, c = strict

    first, second = (c.submit(pow, (2, n), retries=2, tags=["a"]) for n in (1, 2))

    assert options_of(desk, first) is options_of(desk, second)


def test_what_is_submitted_after_the_defaults_have_changed_has_the_new_ones(desk: InlineDesk, c: Cluster) -> None:
    before = options_of(desk, c.submit(pow, (2, 3)))

    desk.sinks[1].opened(DEFAULTS)

    assert before is DEFAULT_OPTIONS
    assert options_of(desk, c.submit(pow, (2, 3))) is DEFAULTS
