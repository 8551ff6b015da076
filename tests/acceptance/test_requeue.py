"""Dead letters run again: with the budget they had or another one, which outlives their master; and what waits for them."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import cluster
from cluster.core.states import JobState


def fail_and_count(log: str) -> None:
    with Path(log).open("a") as file:
        file.write("x")
    raise ValueError("no such luck")


def count_lines(log: str) -> int:
    with Path(log).open("a") as file:
        file.write("x\n")
    return len(Path(log).read_text().splitlines())


def ten_times(value: int) -> int:
    return 10 * value


def test_a_new_budget_holds_in_the_new_run_and_after_a_restart(tmp_path: Path) -> None:
    log, store = tmp_path / "log", f"sqlite:///{tmp_path}/runs.db"
    with cluster.local(slots=1, store=store) as c:
        job = c.submit(fail_and_count, (str(log),))
        concurrent.futures.wait([job], 30)
        c.queue("default").pause()
        c.requeue(job, retries=cluster.RetryPolicy(max_retries=2, backoff=0), crash_limit=0)
        c.close(wait=False)
    assert log.read_text() == "x"

    with cluster.local(slots=1, store=store) as c:
        again = c.job(job.id)
        c.queue("default").resume()
        concurrent.futures.wait([again], 30)

        assert [(run, why.attempt) for run, why in again.history().attempts] == [(1, 1), (2, 1), (2, 2), (2, 3)]
        assert log.read_text() == "xxxx"
        c.requeue(again)  # and the new budget stays
        third = c.job(job.id)
        concurrent.futures.wait([third], 30)
        assert third.refresh().attempts == 3


def test_a_dependant_keeps_the_result_it_was_queued_for_while_its_input_runs_again(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with cluster.local(slots=1) as c:
        first = c.submit(count_lines, (log,), queue="inputs")
        assert first.result(30) == 1
        c.queue("default").pause()
        c.queue("inputs").pause()
        dependant = c.submit(ten_times, (first,))
        c.flush(30)
        c.requeue(first)

        c.queue("default").resume()

        assert dependant.result(30) == 10
        assert c.job(first.id).state is JobState.QUEUED
        c.queue("inputs").resume()
        assert c.job(first.id).result(30) == 2
        assert c.submit(ten_times, (c.job(first.id),)).result(30) == 20
