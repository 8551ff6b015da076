"""When a job starts, and what has to be there first: order, dates, queues, dependencies, resources, keys."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import cluster
from cluster.core.states import JobState
from tests.acceptance import tasks
from tests.acceptance.programs import wait_until
from tests.worker.gate import Gate


@pytest.fixture(scope="module")
def one() -> Iterator[cluster.Cluster]:
    """One slot: jobs run one after the other."""
    with cluster.local(slots=1, resources={"gpu": 2}, labels={"zone": "lab"}) as handle:
        yield handle


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_higher_priority_starts_first_and_equals_keep_their_order(one: cluster.Cluster, tmp_path: Path) -> None:
    gate, log = Gate(tmp_path), tmp_path / "log"
    first = one.submit(gate.pass_through)
    gate.wait_entered()
    jobs = [one.submit(tasks.note, (str(log), f"{p}-{n}"), priority=p) for n in range(3) for p in (0, 5, -5, 9)]
    for job in jobs:
        _ = job.accepted(timeout=10)

    gate.release()
    one.gather(jobs)
    assert first.done()

    assert lines(log) == [f"{p}-{n}" for p in (9, 5, 0, -5) for n in range(3)]


def test_a_delayed_job_is_scheduled_and_starts_when_due(one: cluster.Cluster) -> None:
    begun = time.monotonic()

    job = one.submit(time.monotonic, delay="0.3s").accepted()

    assert one.job(job.id).refresh().state is JobState.SCHEDULED
    assert "is due in 0." in job.explain()
    assert 0.3 <= job.result(timeout=20) - begun < 2


def test_a_job_for_a_moment_starts_then_and_one_of_the_past_at_once(one: cluster.Cluster) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)

    later = one.submit(time.time, at=soon)
    now = one.submit(time.time, at=soon - timedelta(days=1))

    assert now.result(timeout=20) < soon.timestamp() <= later.result(timeout=20) < soon.timestamp() + 2


def test_a_naive_moment_is_refused(one: cluster.Cluster) -> None:
    with pytest.raises((TypeError, ValueError), match=r"naive|zone"):
        _ = one.submit(abs, (1,), at=datetime(2040, 1, 1))  # noqa: DTZ001 - that is the point


def test_a_paused_queue_holds_its_jobs_and_no_others(one: cluster.Cluster, tmp_path: Path) -> None:
    one.queue("slow").pause()
    held = one.submit(tasks.note, (str(tmp_path / "log"), "held"), queue="slow").accepted()
    free = one.submit(abs, (-3,), queue="fast")

    assert free.result(timeout=20) == 3
    assert "queue 'slow' is paused; resume it with c.queue('slow').resume()" in held.explain()
    assert one.stats().paused == ("slow",)
    assert lines(tmp_path / "log") == []
    one.queue("slow").resume()
    assert held.result(timeout=20) == "held"


def test_a_job_waits_for_those_it_comes_after_and_gets_the_results_it_is_passed(
    one: cluster.Cluster, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    first = one.submit(gate.pass_through)
    gate.wait_entered()
    deep = one.submit(tasks.add, (1, first))
    nested = one.submit(sum, ([deep, 1],), after=[first])
    for job in (deep, nested):
        _ = job.accepted(timeout=10)

    assert deep.refresh().state is JobState.WAITING
    assert f"waits for 1 job(s) to complete: {first.id}" in deep.explain()
    gate.release()
    pid = first.result(timeout=20)

    assert (deep.result(timeout=20), nested.result(timeout=20)) == (pid + 1, pid + 2)


def test_a_result_that_is_there_already_is_passed_as_well(one: cluster.Cluster) -> None:
    first = one.submit(tasks.add, (2, 3))
    assert first.result(timeout=20) == 5

    assert one.submit(tasks.add, (first, first), {}).result(timeout=20) == 10
    assert one.submit(dict, ((("a", 1),),), {"b": first}).result(timeout=20) == {"a": 1, "b": 5}


def test_a_failure_takes_down_what_depends_on_it_and_nothing_else(one: cluster.Cluster) -> None:
    root: cluster.Job[None] = one.submit(tasks.fail, ("at the root",))
    branch = one.submit(tasks.ignore, (root,))
    leaf = one.submit(tasks.ignore, (branch,))
    beside = one.submit(abs, (-1,))

    for job, culprit in ((branch, root), (leaf, branch)):
        with pytest.raises(cluster.DependencyFailed) as raised:
            job.result(timeout=20)
        assert culprit.id in str(raised.value)
        assert job.state is JobState.DEAD_LETTER
    assert beside.result(timeout=20) == 1


def test_dead_letters_are_requeued_with_what_depends_on_them(one: cluster.Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    root = one.submit(os.stat, (str(mark),), name="root of a tree")
    leaf = one.submit(tasks.give, (getattr, root, "st_size"), name="leaf of a tree")
    assert isinstance(leaf.exception(timeout=20), cluster.DependencyFailed)
    assert {root.id, leaf.id} <= {info.id for info in one.dead_letters()}

    mark.write_text("four")
    told = one.requeue([root, leaf.id])

    assert [info.run for info in told] == [2, 2]
    assert one.job(leaf.id).result(timeout=20) == 4
    assert isinstance(leaf.exception(), cluster.DependencyFailed)  # the old future keeps the old outcome
    assert not {root.id, leaf.id} & {info.id for info in one.dead_letters()}


def test_retry_gives_a_future_of_the_new_run(one: cluster.Cluster, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = one.submit(os.stat, (str(mark),))
    assert isinstance(first.exception(timeout=20), FileNotFoundError)

    mark.write_text("")
    second = first.retry()

    assert second.id == first.id
    assert second.result(timeout=20).st_size == 0
    assert second.refresh().attempts == 1


def test_a_job_that_lives_is_not_requeued(one: cluster.Cluster) -> None:
    job = one.submit(abs, (1,), delay=60).accepted()

    with pytest.raises(cluster.Refused):
        one.requeue(job)

    assert job.cancel()


def test_resources_bound_how_many_run_at_once(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with cluster.local(slots=3, resources={"gpu": 2}) as c:
        jobs = [c.submit(gate.pass_through, resources={"gpu": 1}) for _ in range(3)]
        for _ in range(2):
            gate.wait_entered()

        assert c.submit(abs, (-1,)).result(timeout=20) == 1  # the third slot is free for others
        assert gate.is_quiet()
        gate.release()
        gate.wait_entered()
        gate.release(2)
        assert len(c.gather(jobs)) == 3


def test_what_no_worker_offers_waits_and_says_so(one: cluster.Cluster) -> None:
    much = one.submit(abs, (1,), resources={"gpu": 3}).accepted()
    elsewhere = one.submit(abs, (1,), labels={"zone": "moon"}).accepted()
    here = one.submit(abs, (-1,), labels={"zone": "lab"}, resources={"gpu": 2})

    assert here.result(timeout=20) == 1
    assert "no registered worker offers gpu=3" in much.explain()
    assert "no registered worker offers zone=moon" in elsewhere.explain()
    assert much.cancel()
    assert elsewhere.cancel()


def test_the_same_key_and_function_are_the_same_job(one: cluster.Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"

    jobs = [one.submit(tasks.note, (str(log), "once"), key="nightly") for _ in range(5)]
    results = one.gather(jobs)
    again = one.submit(tasks.note, (str(log), "once"), key="nightly")

    assert results == ["once"] * 5
    assert again.result(timeout=20) == "once"
    assert len({job.id for job in (*jobs, again)}) == 1
    assert lines(log) == ["once"]


def test_another_function_under_a_taken_key_is_a_conflict(one: cluster.Cluster) -> None:
    assert one.submit(abs, (-1,), key="taken").result(timeout=20) == 1

    with pytest.raises(cluster.KeyConflict, match="'taken'"):
        one.submit(pow, (2, 3), key="taken").result(timeout=20)


def test_a_job_expires_whether_it_waits_or_runs(one: cluster.Cluster, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    running = one.submit(gate.pass_through, expires=0.4)
    pid = gate.wait_entered()
    waiting = one.submit(tasks.note, (str(tmp_path / "log"), "late"), expires=0.2)

    for job in (waiting, running):
        with pytest.raises(cluster.JobExpired):
            job.result(timeout=20)
        assert job.state is JobState.EXPIRED
    assert one.submit(os.getpid).result(timeout=20) != pid
    assert lines(tmp_path / "log") == []


def test_retries_are_spent_as_the_policy_says(one: cluster.Cluster) -> None:
    soon = cluster.RetryPolicy(max_retries=3, backoff=0.01)

    assert one.submit(tasks.fail_before, (3,), retries=soon).result(timeout=20) == 3
    too_few = one.submit(tasks.fail_before, (9,), retries=soon)
    with pytest.raises(RuntimeError, match="attempt 4"):
        too_few.result(timeout=20)
    assert len(too_few.history().attempts) == 4


def test_an_exception_that_is_not_to_be_retried_is_not(one: cluster.Cluster) -> None:
    policy = cluster.RetryPolicy(max_retries=3, backoff=0.01, retry_on=(OSError,))

    job = one.submit(tasks.fail_before, (3,), retries=policy)

    with pytest.raises(RuntimeError, match="attempt 1"):
        job.result(timeout=20)


def test_a_backoff_is_told_by_explain(one: cluster.Cluster) -> None:
    job: cluster.Job[None] = one.submit(tasks.fail, retries=cluster.RetryPolicy(max_retries=1, backoff=60, jitter=0))

    wait_until(lambda: job.refresh().state is JobState.RETRY_QUEUED)

    assert re.search(r"failed and runs again in (60|5\d)\.", job.explain())
    assert "1 of 1 retries" in job.explain()
    assert job.cancel()


def test_a_queued_job_says_how_many_are_before_it(one: cluster.Cluster, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    first = one.submit(gate.pass_through)
    gate.wait_entered()
    jobs = [one.submit(abs, (-n,)) for n in range(40)]
    _ = jobs[-1].accepted(timeout=10)

    wait_until(lambda: "waits for a free slot" in jobs[-1].explain())
    assert f"job {first.id} is running: it was given to local#" in first.explain() or "is assigned" in first.explain()
    gate.release()

    assert one.gather(jobs) == list(range(40))
    assert "is completed" in jobs[-1].explain()


def test_an_at_most_once_job_is_never_started_twice(one: cluster.Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [
        one.submit(func, (str(log), name), retries=0, crash_limit=0)
        for name, func in (("good", tasks.note), ("bad", tasks.note_and_fail), ("dead", tasks.note_and_die))
    ]

    ends = [job.exception(timeout=20) for job in jobs]

    assert [type(end) for end in ends] == [type(None), RuntimeError, cluster.JobCrashed]
    assert sorted(lines(log)) == ["bad", "dead", "good"]
