"""Memory limits as users meet them, and jobs and hosts that fail everything, near and far."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster
from cluster.core.quarantine import MIN_JOBS
from cluster.core.records import Ending
from tests.acceptance import tasks
from tests.acceptance.lab import Lab, a_lab
from tests.acceptance.programs import wait_until

MB = 10**6
NEIGHBOURS = 300


def hoard(megabytes: int) -> list[bytes]:
    return [b"x" * (10 * MB) + bytes([n % 256]) for n in range(megabytes // 10)]


def eat(megabytes: int) -> int:
    return len(hoard(megabytes))


def eat_until_the_third_attempt(megabytes: int) -> int:
    """Eat, and hold it: a supervisor weighs a few times a second, and a quick job is over before that."""
    eaten = hoard(megabytes)
    if cluster.current_job().attempt < 3:
        threading.Event().wait(timeout=30)
    return len(eaten)


def die_while(flag: str, number: int) -> int:
    """Die at once where the host is broken: the worker says so in the environment, for as long as the file is there."""
    if os.environ.get("HOST") == "broken" and Path(flag).exists():
        os._exit(3)
    return number


@pytest.fixture(params=["embedded", "connected"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[cluster.Cluster]:
    """Two slots, here or in processes of their own."""
    if request.param == "embedded":
        with cluster.local(slots=2) as handle:
            yield handle
        return
    with a_lab(tmp_path) as lab:
        lab.start_worker()
        with lab.connect() as handle:
            yield handle


def test_a_job_over_its_limit_raises_out_of_memory_and_harms_no_other(either: cluster.Cluster) -> None:
    neighbours = [either.submit(tasks.add, (n, 1)) for n in range(NEIGHBOURS)]
    greedy = either.submit(eat, (8000,), memory="200MB", crash_limit=1)

    error = greedy.exception(timeout=30)

    assert isinstance(error, cluster.OutOfMemory)
    assert "more than its limit of 200 MB" in str(error)
    assert [certificate.ending for _, certificate in greedy.history().attempts] == [Ending.OUT_OF_MEMORY] * 2
    assert all(200 * MB < certificate.peak_memory < 1000 * MB for _, certificate in greedy.history().attempts)
    assert [job.result(timeout=30) for job in neighbours] == [n + 1 for n in range(NEIGHBOURS)]


def test_a_limit_may_grow_from_attempt_to_attempt(either: cluster.Cluster) -> None:
    job = either.submit(eat_until_the_third_attempt, (300,), memory=("100MB", "200MB", "1GB"))

    assert job.result(timeout=30) == 30
    reasons = [certificate.reason for _, certificate in job.history().attempts]
    assert [reason.partition("limit of ")[2].partition(",")[0] for reason in reasons] == ["100 MB", "200 MB"]


def test_of_a_map_only_the_greedy_item_fails(either: cluster.Cluster) -> None:
    sizes = [10] * 5 + [8000] + [10] * 6

    results: list[object] = list(either.map(eat, sizes, memory="300MB", crash_limit=1, chunksize=4, errors="return"))

    assert [result for result in results if isinstance(result, int)] == [1] * 11
    assert isinstance(results[5], cluster.OutOfMemory)


def test_a_job_that_no_host_can_hold_says_so_and_delays_no_other(either: cluster.Cluster) -> None:
    job = either.submit(eat, (10,), memory="900TB").accepted(10)

    assert either.submit(tasks.add, (1, 2)).result(timeout=20) == 3
    assert "its memory limit of 900 TB is more than any worker's host has" in job.explain()
    assert job.cancel()


def test_a_task_may_have_a_limit_of_its_own(either: cluster.Cluster) -> None:
    task = cluster.task(memory="100MB", crash_limit=0)(eat)

    with cluster.use(either):
        assert isinstance(task.submit(400).exception(timeout=30), cluster.OutOfMemory)
        assert task.options(memory=None).submit(400).result(timeout=30) == 40


# --- jobs and hosts that fail everything ------------------------------------------------------------------------------


def test_a_poison_job_ends_as_a_dead_letter_with_its_whole_history_and_its_neighbours_all_complete(
    either: cluster.Cluster,
) -> None:
    before = [either.submit(tasks.add, (n, 1)) for n in range(NEIGHBOURS)]
    poison: cluster.Job[None] = either.submit(tasks.vanish, (7,), crash_limit=3)
    after = [either.submit(tasks.add, (n, 1)) for n in range(NEIGHBOURS)]

    assert isinstance(poison.exception(timeout=30), cluster.JobCrashed)

    assert [dead.id for dead in either.dead_letters()] == [poison.id]
    history = poison.history().attempts
    assert [(run, certificate.attempt) for run, certificate in history] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert {certificate.reason for _, certificate in history} == {"its process exited with code 7 before the job ended"}
    for jobs in (before, after):
        assert [job.result(timeout=30) for job in jobs] == [n + 1 for n in range(NEIGHBOURS)]
    assert {worker.state for worker in either.workers()} == {"ready"}


def state_of(client: cluster.Cluster, name: str) -> tuple[str, str]:
    """Of its latest life: on a busy machine it may have lost one to a late heartbeat."""
    info = [worker for worker in client.workers() if worker.name == name][-1]
    return info.state, info.trouble


def test_a_broken_host_is_quarantined_and_announced_and_lifted_once_it_is_mended(tmp_path: Path) -> None:
    flag, release = tmp_path / "broken", tmp_path / "release"
    flag.touch()
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker("well", slots=1)
        assert client.submit(die_while, (str(flag), 1)).result(timeout=20) == 1
        # The well host is busy with a long job, so the ill one draws all others: a black hole.
        long = client.submit(hold_until, (str(release),))
        wait_until(lambda: long.refresh().state is not cluster.JobState.QUEUED)
        lab.start_worker("ill", slots=1, env=(("HOST", "broken"),), labels=(("on", "ill"),))

        jobs = [client.submit(die_while, (str(flag), n), crash_limit=50) for n in range(4 * MIN_JOBS)]
        wait_until(lambda: state_of(client, "ill")[0] == "quarantined")
        trouble = state_of(client, "ill")[1]
        release.touch()

        assert [job.result(timeout=60) for job in jobs] == list(range(4 * MIN_JOBS))
        assert trouble.startswith("jobs fail there at once, the last one because its process exited with code 3")
        flag.unlink()
        assert client.submit(die_while, (str(flag), 7), labels={"on": "ill"}).result(timeout=60) == 7
        assert state_of(client, "ill") == ("ready", "")

    log = lab.log()
    assert log.count("is quarantined: its first attempts at") == 1
    assert f"at {MIN_JOBS} different jobs in a row" in log
    assert log.count("its quarantine is lifted") == 1


def hold_until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file


def test_a_cluster_of_one_broken_host_goes_on_once_that_is_mended(lab: Lab, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    with lab.connect() as client:
        lab.start_worker("ill", slots=1, env=(("HOST", "broken"),))
        assert client.submit(die_while, (str(flag), 1)).result(timeout=20) == 1
        flag.touch()
        jobs = [client.submit(die_while, (str(flag), n), crash_limit=20) for n in range(2 * MIN_JOBS)]
        wait_until(lambda: state_of(client, "ill")[0] == "quarantined")
        waiting = client.submit(die_while, (str(flag), -1)).accepted(10)
        assert "every worker that fits is quarantined" in waiting.explain()

        flag.unlink()

        assert [job.result(timeout=60) for job in jobs] == list(range(2 * MIN_JOBS))
        assert waiting.result(timeout=30) == -1
        assert state_of(client, "ill") == ("ready", "")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with a_lab(tmp_path) as one:
        yield one
