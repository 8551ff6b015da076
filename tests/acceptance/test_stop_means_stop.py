"""Cancel and timeout kill running code with all that it started, and never hit a neighbour."""

from __future__ import annotations

import concurrent.futures
import os
import random
import threading
import time
from pathlib import Path

import pytest

import cluster
from cluster.core.records import Ending
from cluster.core.states import JobState
from tests.acceptance import tasks
from tests.acceptance.programs import is_gone, wait_until
from tests.worker.gate import Gate


def family_of(path: Path) -> list[int]:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(word) for word in path.read_text().split()]


def test_cancel_kills_a_running_job_with_its_whole_family(pool: cluster.Cluster, tmp_path: Path) -> None:
    job = pool.submit(tasks.start_family, (str(tmp_path / "pids"),))
    family = family_of(tmp_path / "pids")

    was_cancelled = job.cancel()

    assert was_cancelled
    # The verdict comes once the kill is ordered and the order committed; the kill itself is a matter of milliseconds.
    wait_until(lambda: all(is_gone(pid) for pid in family), seconds=5)
    assert job.cancelled()
    assert job.state is JobState.CANCELLED
    with pytest.raises(concurrent.futures.CancelledError):
        job.result()
    with pytest.raises(cluster.JobCancelled):
        job.result()


def test_a_timeout_kills_a_running_job_with_its_whole_family(pool: cluster.Cluster, tmp_path: Path) -> None:
    job = pool.submit(tasks.start_family, (str(tmp_path / "pids"),), timeout=1)
    family = family_of(tmp_path / "pids")

    with pytest.raises(cluster.JobTimeout, match="longer than its timeout of 1 s and was killed") as raised:
        job.result(timeout=20)

    assert all(is_gone(pid) for pid in family)
    assert not isinstance(raised.value, TimeoutError)
    assert raised.value.certificate is not None
    assert raised.value.certificate.ending is Ending.TIMED_OUT
    assert raised.value.certificate.pid == family[0]
    assert 0.9 < raised.value.certificate.seconds < 5


def test_a_crash_leaves_nothing_of_the_job_s_family(pool: cluster.Cluster, tmp_path: Path) -> None:
    job = pool.submit(tasks.start_family, (str(tmp_path / "pids"),), crash_limit=0)
    family = family_of(tmp_path / "pids")

    os.kill(family[0], 9)

    assert isinstance(job.exception(timeout=20), cluster.JobCrashed)
    assert all(is_gone(pid) for pid in family)


def test_each_attempt_has_the_whole_timeout(pool: cluster.Cluster) -> None:
    policy = cluster.RetryPolicy(max_retries=1, backoff=0.01)

    job = pool.submit(tasks.last_for_ever, timeout=0.3, retries=policy)

    assert isinstance(job.exception(timeout=20), cluster.JobTimeout)
    assert [0.29 < certificate.seconds < 2 for _, certificate in job.history().attempts] == [True, True]


def test_a_waiter_that_runs_out_of_time_leaves_the_job_alone(pool: cluster.Cluster, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    job = pool.submit(gate.pass_through)
    pid = gate.wait_entered()

    with pytest.raises(TimeoutError):
        job.result(timeout=0.01)

    gate.release()
    assert job.result(timeout=20) == pid


@pytest.mark.parametrize("how", ["delayed", "waiting", "paused", "unwanted"])
def test_cancel_ends_a_job_that_has_not_begun(pool: cluster.Cluster, how: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool.queue("held").pause()
    other = pool.submit(tasks.last, (0,), delay=60)
    job = {
        "delayed": lambda: pool.submit(tasks.note, (str(log), "x"), delay=60),
        "waiting": lambda: pool.submit(tasks.note, (str(log), "x"), after=other),
        "paused": lambda: pool.submit(tasks.note, (str(log), "x"), queue="held"),
        "unwanted": lambda: pool.submit(tasks.note, (str(log), "x"), labels={"no": "such"}),
    }[how]()

    assert job.cancel() is True

    assert job.state is JobState.CANCELLED
    assert other.cancel()
    pool.queue("held").resume()
    assert not log.exists()


def test_cancelling_what_has_ended_changes_nothing(pool: cluster.Cluster) -> None:
    job = pool.submit(abs, (-1,))
    assert job.result(timeout=20) == 1

    assert job.cancel() is False
    assert pool.job(job.id).cancel() is False
    assert job.result() == 1


def test_thousands_of_cancels_that_race_the_end_tell_the_truth_and_hit_no_neighbour(pool: cluster.Cluster) -> None:
    jobs = [pool.submit(tasks.last, (0.0005 * (n % 3),), crash_limit=0) for n in range(2000)]
    neighbours = [pool.submit(abs, (-n,), crash_limit=0) for n in range(500)]
    verdicts: dict[str, bool] = {}

    def cancel(some: list[cluster.Job[float]]) -> None:
        for job in some:
            verdicts[job.id] = job.cancel()

    threads = [threading.Thread(target=cancel, args=(jobs[k::4],)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    concurrent.futures.wait(jobs, timeout=60)
    for job in jobs:
        assert job.done()
        assert job.cancelled() is verdicts[job.id], job.explain()
        if not job.cancelled():
            assert job.result() in (0.0, 0.0005, 0.001)
    assert [job.result(timeout=20) for job in neighbours] == list(range(500))


def test_a_cancelled_map_stops_at_once(pool: cluster.Cluster) -> None:
    batch = pool.map(tasks.last, [30.0] * 100, chunksize=1)
    wait_until(lambda: any(slot.running for slot in pool.workers()))
    begun = time.monotonic()

    assert batch.cancel()

    assert time.monotonic() - begun < 10
    with pytest.raises(cluster.JobCancelled):
        list(batch)


def test_a_map_s_timeout_is_each_item_s(pool: cluster.Cluster) -> None:
    seconds = [0.01] * 20 + [30.0] + [0.01] * 20

    results = list(pool.map(tasks.last, seconds, timeout=0.5, chunksize=41, errors="return"))

    assert [type(result) for result in results] == [float] * 20 + [cluster.JobTimeout] + [float] * 20


def test_a_job_cancelled_in_its_first_milliseconds_leaves_nothing_and_the_next_one_is_right(tmp_path: Path) -> None:
    dice = random.Random(4)
    cancelled: list[Path] = []
    with cluster.local(slots=2) as c:
        for number in range(60):
            pids = tmp_path / str(number)
            job = c.submit(tasks.daemonise_and_go_on, (str(pids), 60.0))
            # Before it is leased, while it forks, or when its daemon is just there.
            threading.Event().wait(dice.uniform(0.0, 0.012))
            assert job.cancel()
            cancelled.append(pids)
            assert c.submit(tasks.add, (number, 1)).result(20) == number + 1
        begun = [pids for pids in cancelled if pids.exists()]
        wait_until(lambda: all(is_gone(int(pid)) for pids in begun for pid in pids.read_text().split()))
        assert (c.stats().completed, c.stats().failed_attempts) == (60, 0)
    assert begun


@pytest.mark.parametrize("seconds", [0.001, 0.005, 0.02, 0.05])
def test_a_timeout_however_short_ends_its_own_job_only(pool: cluster.Cluster, seconds: float) -> None:
    dice = random.Random(int(seconds * 1000))

    jobs = [
        (pool.submit(tasks.last, (seconds * dice.uniform(0.0, 2.0),), timeout=seconds), pool.submit(tasks.add, (n, 1)))
        for n in range(100)
    ]

    for number, (job, neighbour) in enumerate(jobs):
        assert neighbour.result(30) == number + 1
        error = job.exception(30)
        assert error is None or isinstance(error, cluster.JobTimeout)
        assert len(job.history().attempts) == (error is not None)
    assert any(job.exception() is not None for job, _ in jobs)
