"""`defaults`, `retention` and `log.format` of a file, as the processes of a launched cluster keep to them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster
from cluster.deploy import lifecycle
from cluster.deploy.load import load_config
from cluster.errors import UnknownJob
from tests.acceptance.programs import ROOT, wait_until

TEXT = """
name: lab
master: {bind: "unix://s", store: "sqlite:///jobs.db"}
heartbeat: {interval: 200ms, timeout: 2s}
drain: {timeout: 10s}
workers: [{name: one, slots: 2}]
"""

Launch = Callable[[str], cluster.Cluster]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "lab.yaml"
    path.write_text(TEXT)
    yield path
    lifecycle.down(load_config(path, environment={}), now=True)


@pytest.fixture
def launch(file: Path) -> Iterator[Launch]:
    opened: list[cluster.Cluster] = []

    def launch(terms: str) -> cluster.Cluster:
        file.write_text(f"{TEXT}{terms}\n")
        opened.append(cluster.launch(file))
        return opened[-1]

    yield launch

    for c in opened:
        c.close(wait=False)  # one job is not due for an hour


def command(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments, "--file", str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def attempts(job: cluster.Job[Any]) -> int:
    job.exception(30)
    return job.refresh().attempts


def is_gone(c: cluster.Cluster, job: str) -> bool:
    return job not in {info.id for info in c.jobs()}


@cluster.task(retries=1)
def divide(number: int) -> float:
    return number / 0


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_jobs_that_say_nothing_are_run_again_as_the_file_says(launch: Launch, file: Path) -> None:
    c = launch("defaults: {retries: 2, backoff: 0s, crash_limit: 0}")

    failing = c.submit(int, ("x",))
    said = c.submit(int, ("x",), retries=0)
    task = c.submit(divide, (1,))
    crashing: cluster.Job[Any] = c.submit("os:_exit", (1,))
    batch: cluster.Batch[Any] = c.map(int, ["x"], errors="return")
    by_command = command(file, "submit", "--wait", "builtins:int", '["x"]', "--tag", "cli")

    assert [attempts(job) for job in (failing, said, task, crashing)] == [3, 1, 2, 1]
    assert [type(error) for error in batch] == [ValueError]
    assert [attempts(job) for job in batch.jobs()] == [3]
    assert by_command.returncode == 1, by_command.stderr
    assert [info.attempts for info in c.jobs(tag="cli")] == [3]


def test_a_client_that_stays_has_a_restarted_master_s_other_defaults(launch: Launch, file: Path) -> None:
    file.write_text(f"{TEXT}defaults: {{retries: 1, backoff: 0s}}\n")
    lifecycle.up(load_config(file, environment={}))
    with cluster.connect(f"unix://{file.parent}/s", file.parent / "state" / "keys" / "client.key") as c:
        before = attempts(c.submit(int, ("x",)))
        lifecycle.down(load_config(file, environment={}))

        launch("defaults: {retries: 2, backoff: 0s}")

        wait_until(lambda: attempts(c.submit(int, ("x",))) == 3)
        assert before == 2


# --- retention --------------------------------------------------------------------------------------------------------


def test_output_is_dropped_after_its_time_and_the_outcome_stays(launch: Launch) -> None:
    c = launch("retention: {output: 3s}")
    job = c.submit(print, ("hello",))
    job.result(30)
    assert job.logs() == "hello\n"

    wait_until(lambda: job.logs() == "")

    assert c.job(job.id).result(30) is None
    assert [info.state.name for info in c.jobs()] == ["COMPLETED"]


def test_results_go_after_their_time_dead_letters_after_theirs_and_what_said_its_own_stays(launch: Launch) -> None:
    c = launch("retention: {results: 1s, dead: 1h}")
    done, dead, kept = c.submit(pow, (2, 3)), c.submit(int, ("x",)), c.submit(pow, (2, 3), result_ttl="1h")
    cluster.gather([done, dead, kept], errors="return")

    wait_until(lambda: is_gone(c, done.id))

    assert {info.id for info in c.jobs()} == {dead.id, kept.id}
    with pytest.raises(UnknownJob):
        c.job(done.id).result(30)


def test_a_store_beyond_its_size_drops_the_oldest_and_never_what_lives(launch: Launch, file: Path) -> None:
    # The second key has it looked at each second.
    c = launch("retention: {max_size: 1MB, output: 1s}")
    waiting = c.submit(pow, (2, 3), delay="1h")
    dead = c.submit(int, ("x",))
    dead.exception(30)
    jobs = [c.submit(os.urandom, (100_000,)) for _ in range(30)]
    cluster.gather(jobs)

    log = file.parent / "state" / "logs" / "master.log"
    wait_until(lambda: "took more than max_size" in log.read_text())
    left = {info.id for info in c.jobs()}

    assert 0 < len(left & {job.id for job in jobs}) < 10
    assert {waiting.id, dead.id} < left
    assert is_gone(c, jobs[0].id)
    assert waiting.cancel()


# --- log --------------------------------------------------------------------------------------------------------------


def test_every_process_writes_json_and_the_command_shows_the_lines_as_they_are(launch: Launch, file: Path) -> None:
    c = launch("log: {format: json}")
    c.submit(pow, (2, 3)).result(30)

    logs = file.parent / "state" / "logs"
    said = {part: (logs / f"{part}.log").read_text().splitlines() for part in ("keeper", "master", "one")}
    shown = command(file, "logs", "master")

    events = {part: [json.loads(line)["event"] for line in lines] for part, lines in said.items()}
    assert "started" in events["keeper"]
    assert "ready" in events["master"]
    assert "ready" in events["one"]
    (ready,) = [json.loads(line) for line in said["master"] if json.loads(line)["event"] == "ready"]
    assert ready["fields"]["address"] == f"unix://{file.parent}/s"
    assert all(line in shown.stdout for line in said["master"])


def test_a_mistake_is_the_same_sentence_whatever_the_log_s_form(file: Path) -> None:
    told = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for form in ("text", "json"):
            with pytest.raises(cluster.Refused) as caught:
                cluster.launch(file, master__bind=f"tcp://127.0.0.1:{port}", log__format=form)
            told.append(str(caught.value))

    assert told[0] == told[1]
    assert "{" not in told[0]
