"""What a job prints can be read while it runs, and is never told twice or of another job."""

from __future__ import annotations

import time
from pathlib import Path

import cluster
from tests.acceptance.programs import wait_until


def talk(first: str, gate: str, last: str) -> None:
    print(first, flush=True)
    while not Path(gate).exists():
        time.sleep(0.01)  # sleeps because the test decides when the job may end
    print(last, flush=True)


def test_output_is_there_while_the_job_runs_and_whole_once_it_has_ended(pool: cluster.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = pool.submit(talk, ("one", str(gate), "two"))

    wait_until(lambda: job.logs() == "one\n")

    gate.touch()
    job.result(30)
    assert job.logs() == "one\ntwo\n"


def test_two_jobs_that_talk_at_once_are_told_apart(pool: cluster.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [pool.submit(talk, (name, str(gate), "end")) for name in ("left", "right")]

    wait_until(lambda: [job.logs() for job in jobs] == ["left\n", "right\n"])

    gate.touch()
    assert [job.result(30) for job in jobs] == [None, None]
    assert [job.logs() for job in jobs] == ["left\nend\n", "right\nend\n"]


def test_what_a_cancelled_job_had_said_stays_readable(pool: cluster.Cluster, tmp_path: Path) -> None:
    job = pool.submit(talk, ("last words", str(tmp_path / "never"), ""))
    wait_until(lambda: job.logs() == "last words\n")

    assert job.cancel()

    assert job.logs() == "last words\n"
