"""`cluster job ...`: what it tells, what it does, and its exit statuses."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import cluster
from cluster.cli import following
from tests.cli import jobs_to_run
from tests.cli.rig import Call


@pytest.fixture(scope="module")
def done(c: cluster.Cluster) -> cluster.Job[str]:
    job = c.submit(jobs_to_run.speak, ("hello",), name="greeting", tags=("told",))
    job.result(30)
    return job


@pytest.fixture(scope="module")
def failed(c: cluster.Cluster) -> cluster.Job[None]:
    job = c.submit(
        jobs_to_run.fail, ("no such luck",), name="a failure", retries=cluster.RetryPolicy(max_retries=1, backoff=0)
    )
    concurrent.futures.wait([job], 30)
    return job


def test_list_shows_a_line_for_each_job(call: Call, done: cluster.Job[str]) -> None:
    told = call("job", "list", "--tag", "told")

    head, line = told.lines
    assert head.split() == ["job", "state", "name", "try", "worker", "submitted", "ended"]
    assert line.split()[:5] == [done.id, "completed", "greeting", "1", "local"]


def test_list_as_json_is_one_document(call: Call, done: cluster.Job[str]) -> None:
    (document,) = call("job", "list", "--json", "--tag", "told").document

    assert (document["id"], document["state"], document["tags"]) == (done.id, "completed", ["told"])
    assert document["submitted"].endswith("+00:00")


def test_an_empty_list_is_an_empty_document(call: Call) -> None:
    told = call("job", "list", "--json", "--tag", "nothing has this")

    assert (told.status, told.document) == (0, [])


def test_list_says_that_there_are_more(call: Call, done: cluster.Job[str], failed: cluster.Job[None]) -> None:
    told = call("job", "list", "--limit", "1")
    every = call("job", "list", "--limit", "0")

    assert (len(told.lines), told.err) == (2, "the first 1 are shown; --limit 0 shows all\n")
    assert {done.id, failed.id} <= {line.split()[0] for line in every.lines}


def test_a_state_that_is_none_gets_the_nearest_one_as_a_hint(call: Call) -> None:
    told = call("job", "list", "--state", "complete")

    assert told.status == 2
    assert "did you mean 'completed'?" in told.err


def test_show_tells_why_each_attempt_failed(call: Call, failed: cluster.Job[None]) -> None:
    told = call("job", "show", failed.id)

    assert told.status == 0
    assert "state      dead_letter" in told.out
    assert "2 in this run" in told.out
    assert told.out.count("ValueError: no such luck") >= 2
    assert "run 1, attempt 2: raised" in told.out


def test_show_as_json_has_the_history(call: Call, failed: cluster.Job[None]) -> None:
    document = call("job", "show", "--json", failed.id).document

    assert document["state"] == "dead_letter"
    assert [(one["run"], one["attempt"], one["ending"]) for one in document["history"]] == [
        (1, 1, "raised"),
        (1, 2, "raised"),
    ]


@pytest.mark.parametrize("command", ["show", "logs", "explain", "cancel", "retry", "wait"])
def test_an_unknown_job_is_exit_status_2_with_a_hint(call: Call, command: str) -> None:
    told = call("job", command, "nobody-1")

    assert (told.status, told.out) == (2, "")
    assert "no job 'nobody-1' here" in told.err
    assert "hint: `cluster job list`" in told.err


def test_logs_prints_what_the_job_printed(call: Call, done: cluster.Job[str]) -> None:
    assert call("job", "logs", done.id).out == "hello\n"
    assert call("job", "logs", "--follow", done.id).out == "hello\n"


def test_explain_says_why(c: cluster.Cluster, call: Call, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = c.submit(jobs_to_run.wait_for_file, (str(gate),))
    second = c.submit(len, ("abc",), after=first)

    told = call("job", "explain", second.id)
    document = call("job", "explain", "--json", second.id).document

    assert f"waits for 1 job(s) to complete: {first.id}" in told.out
    assert document["job"] == second.id
    assert first.id in document["explanation"]
    gate.touch()
    assert second.result(30) == 3


def test_cancel_kills_what_runs_and_says_what_had_ended(
    c: cluster.Cluster, call: Call, done: cluster.Job[str], tmp_path: Path
) -> None:
    running = c.submit(jobs_to_run.wait_for_file, (str(tmp_path / "never"),))

    told = call("job", "cancel", running.id, done.id)

    assert told.status == 1
    assert told.lines == [f"{running.id}  cancelled", f"{done.id}  not cancelled: it is completed"]
    assert running.cancelled()


def test_cancelling_twice_is_no_failure(c: cluster.Cluster, call: Call, tmp_path: Path) -> None:
    running = c.submit(jobs_to_run.wait_for_file, (str(tmp_path / "never"),))

    statuses = [call("job", "cancel", running.id).status for _ in range(2)]

    assert statuses == [0, 0]


def test_an_unknown_id_keeps_cancel_from_touching_the_others(c: cluster.Cluster, call: Call, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = c.submit(jobs_to_run.wait_for_file, (str(gate),))

    told = call("job", "cancel", running.id, "nobody-1")

    assert told.status == 2
    gate.touch()
    assert running.result(30) == "released"


def test_retry_starts_a_new_run(c: cluster.Cluster, call: Call) -> None:
    job = c.submit(pow, (2, 10))
    job.result(30)

    told = call("job", "retry", job.id)

    assert told.out.startswith(f"{job.id}  run 2, ")
    assert c.job(job.id).result(30) == 1024


def test_wait_tells_how_jobs_ended(call: Call, done: cluster.Job[str], failed: cluster.Job[None]) -> None:
    good = call("job", "wait", done.id)
    bad = call("job", "wait", done.id, failed.id)

    assert (good.status, good.lines) == (0, [f"{done.id}  completed"])
    assert bad.status == 1
    assert bad.lines[1].startswith(f"{failed.id}  dead_letter: ")


def test_wait_gives_up_after_its_timeout_and_leaves_the_job_alone(
    c: cluster.Cluster, call: Call, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    running = c.submit(jobs_to_run.wait_for_file, (str(gate),))

    told = call("job", "wait", "--timeout", "50ms", running.id)

    assert told.status == 124
    gate.touch()
    assert running.result(30) == "released"


def test_ctrl_c_while_waiting_detaches(
    c: cluster.Cluster, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    running = c.submit(jobs_to_run.wait_for_file, (str(gate),))
    waiting = threading.Event()
    wait_all = following.wait_all

    def say_and_wait(handles: Sequence[cluster.Job[object]], timeout: float | None) -> bool:
        waiting.set()
        return wait_all(handles, timeout)

    def interrupt() -> None:
        if waiting.wait(30):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(following, "wait_all", say_and_wait)
    threading.Thread(target=interrupt, daemon=True).start()

    told = call("job", "wait", running.id)

    assert told.status == 130
    assert f"detached; the jobs go on\nhint: cluster job wait {running.id}" in told.err
    gate.touch()
    assert running.result(30) == "released"


def test_a_timeout_that_is_none_is_a_mistake(call: Call, done: cluster.Job[str]) -> None:
    told = call("job", "wait", "--timeout", "soon", done.id)

    assert told.status == 2
    assert "option 'timeout' can't be 'soon'" in told.err
