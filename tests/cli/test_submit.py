"""`cluster submit`: functions, commands, options, waiting, and mistakes."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

import cluster
from cluster.cli import following
from tests.cli.rig import Call

TASKS = "tests.cli.jobs_to_run"


def test_the_id_and_nothing_else_is_printed(c: cluster.Cluster, call: Call) -> None:
    told = call("submit", "builtins:pow", "[2, 10]")

    assert (told.status, told.err) == (0, "")
    assert c.job(told.out.strip()).result(30) == 1024


def test_an_object_holds_arguments_by_name(call: Call) -> None:
    told = call("submit", "--wait", "builtins:int", '["ff"]', '{"base": 16}')

    assert (told.status, told.lines) == (0, ["255"])


def test_wait_prints_the_output_and_then_the_result(call: Call) -> None:
    told = call("submit", "--wait", f"{TASKS}:speak", '["hello"]')

    assert (told.status, told.lines) == (0, ["hello", '"HELLO"'])


def test_a_result_that_is_no_json_is_shown_as_python_shows_it(call: Call) -> None:
    plain = call("submit", "--wait", f"{TASKS}:opaque")
    document = call("submit", "--wait", "--json", f"{TASKS}:opaque").document

    assert plain.lines == ["<opaque>"]
    assert (document["result"], document["result_repr"]) == (None, "<opaque>")


def test_json_of_a_job_that_was_waited_for_tells_all(call: Call) -> None:
    document = call("submit", "--wait", "--json", "--tag", "night", f"{TASKS}:speak", '["hello"]').document

    assert document["state"] == "completed"
    assert document["tags"] == ["night"]
    assert (document["exit_status"], document["result"], document["output"]) == (0, "HELLO", "hello\n")


def test_a_function_that_fails_is_exit_status_1_with_its_traceback(call: Call) -> None:
    told = call("submit", "--wait", f"{TASKS}:fail", '["no such luck"]')

    assert (told.status, told.out) == (1, "")
    assert "ValueError: no such luck" in told.err
    assert "jobs_to_run.py" in told.err
    assert "hint: cluster job show" in told.err


def test_a_command_s_output_and_exit_status_are_the_job_s(call: Call) -> None:
    told = call("submit", "--wait", "--", "sh", "-c", "echo out; echo err >&2; exit 3")

    assert (told.status, told.lines) == (3, ["out", "err"])
    assert "ended with exit status 3" in told.err


def test_a_command_that_ends_well_prints_no_result(call: Call) -> None:
    told = call("submit", "--wait", "--", "echo", "--wait", "--", "done")

    assert (told.status, told.out) == (0, "--wait -- done\n")


def test_a_command_that_is_not_there_is_status_127_as_in_a_shell(call: Call) -> None:
    told = call("submit", "--wait", "--", "no-such-command-here")

    assert told.status == 127
    assert "no-such-command-here can't be started: No such file or directory" in told.err


def test_a_command_runs_where_it_is_told_to(call: Call, tmp_path: Path) -> None:
    told = call("submit", "--wait", "--cwd", str(tmp_path), "--", "pwd")

    assert told.out == f"{tmp_path.resolve()}\n"


def test_options_arrive_at_the_job(c: cluster.Cluster, call: Call) -> None:
    told = call(
        "submit", "--name", "night run", "--queue", "slow", "--priority", "-5", "--tag", "a", "--tag", "b",
        "--retries", "2", "--backoff", "0", "--timeout", "30", "--result-ttl", "1h", "--key", "only-once",
        f"{TASKS}:fail", '["x"]',
    )  # fmt: skip

    job = c.job(told.out.strip())
    concurrent.futures.wait([job], 30)
    (info,) = c.jobs(tag="b")
    assert (info.id, info.name, info.queue, info.priority, info.tags) == (job.id, "night run", "slow", -5, ("a", "b"))
    assert (info.attempts, info.failures) == (3, 2)  # one try, and two that the budget paid for


def test_memory_may_be_given_once_or_several_times(call: Call) -> None:
    told = call("submit", "--wait", "--memory", "200MB", "--memory", "1GB", "builtins:pow", "[2, 10]")
    wrong = call("submit", "--memory", "2", "builtins:pow", "[2, 10]")

    assert (told.status, told.lines) == (0, ["1024"])
    assert wrong.status == 2
    assert "option 'memory' can't be" in wrong.err


def test_a_memory_limit_that_no_host_has_is_explained(c: cluster.Cluster, call: Call) -> None:
    job = call("submit", "--memory", "900TB", "builtins:pow", "[2, 10]").out.strip()

    told = call("job", "explain", job)

    assert "its memory limit of 900 TB is more than any worker's host has" in told.out
    assert c.job(job).cancel()


def test_a_job_waits_for_the_jobs_named_in_after(c: cluster.Cluster, call: Call, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = call("submit", f"{TASKS}:wait_for_file", f'["{gate}"]').out.strip()

    second = call("submit", "--after", first, "builtins:len", '["abc"]').out.strip()

    assert c.job(second).refresh().state is cluster.JobState.WAITING
    gate.touch()
    assert c.job(second).result(30) == 3


def test_the_first_ctrl_c_detaches_and_says_how_to_go_on(
    c: cluster.Cluster, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    waiting = threading.Event()
    follow = following.follow

    def follow_and_say(job: cluster.Job[object]) -> None:
        waiting.set()
        follow(job)

    def interrupt() -> None:
        if waiting.wait(30):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(following, "follow", follow_and_say)
    threading.Thread(target=interrupt, daemon=True).start()

    told = call("submit", "--wait", "--tag", "interrupted", f"{TASKS}:wait_for_file", f'["{gate}"]')

    (info,) = c.jobs(tag="interrupted")
    assert told.status == 130
    assert f"detached; job {info.id} goes on\nhint: cluster job wait {info.id}" in told.err
    gate.touch()
    assert c.job(info.id).result(30) == "released"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to run: write MODULE:FUNC [JSON ARGS], or -- COMMAND..."),
        (["--"], "write MODULE:FUNC [JSON ARGS], or -- COMMAND..."),
        (["ls"], "'ls' names no function: write MODULE:FUNC, as in os:getcwd, or -- ls for a command"),
        (["os:getcwd", "--", "ls"], "a function and a command exclude each other"),
        (["os:getcwd", "{"], "'{' is no JSON"),
        (["os:getcwd", "5"], "one JSON array (positional) and one JSON object (by name); 5 is neither"),
        (["os:getcwd", "[1]", "[2]"], "or one too many"),
        (["--timeout", "soon", "os:getcwd"], "option 'timeout' can't be 'soon'"),
        (["--retries", "-1", "os:getcwd"], "option 'retries.max_retries' can't be -1"),
        (["--backoff", "never", "os:getcwd"], "option 'backoff' can't be 'never'"),
        (["--at", "tomorrow", "os:getcwd"], "--at 'tomorrow' is no date"),
        (["--at", "2030-01-31T08:00", "os:getcwd"], "has no time zone"),
        (["--resource", "gpu", "os:getcwd"], "--resource 'gpu' is not what it takes; write it as in --resource gpu=1"),
        (["--resource", "gpu=few", "os:getcwd"], "--resource 'gpu=few' is not what it takes"),
        (["--label", "=x", "os:getcwd"], "--label '=x' is not what it takes"),
        (["--cwd", "x", "os:getcwd"], "--cwd is for commands"),
        (["1x:y"], "is no name of a task"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_2(call: Call, arguments: list[str], said: str) -> None:
    told = call("submit", *arguments)

    assert (told.status, told.out) == (2, "")
    assert said in told.err
    assert "Traceback" not in told.err


def test_a_mistake_is_told_before_any_cluster_is_asked(call_alone: Call) -> None:
    told = call_alone("submit", "ls")

    assert told.status == 2
    assert "names no function" in told.err


def test_the_command_does_not_import_what_it_submits(call: Call) -> None:
    sys.modules.pop("this", None)

    call("submit", "--wait", "this:s")

    assert "this" not in sys.modules
