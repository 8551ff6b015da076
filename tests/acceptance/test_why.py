"""The reason is always told: certificates, history, output, what a job can say of itself."""

from __future__ import annotations

import os
import pickle
import socket
import time

import pytest

import cluster
from cluster.core.records import Ending
from cluster.core.states import JobState
from tests.acceptance import tasks
from tests.acceptance.programs import wait_until


def test_a_certificate_has_peak_memory_cpu_time_and_the_last_lines(pool: cluster.Cluster) -> None:
    before = time.time()

    job: cluster.Job[None] = pool.submit(tasks.fill, (80,))
    error = job.exception(timeout=20)

    ((run, certificate),) = job.history().attempts
    assert isinstance(error, RuntimeError)
    assert (run, certificate.ending, certificate.attempt) == (1, Ending.RAISED, 1)
    assert certificate.reason == "raised RuntimeError: too full"
    assert certificate.error_types[:2] == ("builtins.RuntimeError", "builtins.Exception")
    assert "in fill" in certificate.traceback
    assert 80 << 20 < certificate.peak_memory < 1 << 30
    assert 0.15 < certificate.cpu_seconds < 5
    assert certificate.cpu_seconds <= certificate.seconds + 0.1
    assert before <= certificate.started <= time.time()
    assert certificate.output_tail.splitlines()[-1] == "line 29"
    assert len(certificate.output_tail.splitlines()) == 20
    assert certificate.host == socket.gethostname()
    assert certificate.worker.startswith("local#")
    assert certificate.pid != os.getpid()


def test_a_killed_process_s_certificate_has_them_too(pool: cluster.Cluster) -> None:
    error = pool.submit(tasks.print_and_die, crash_limit=0).exception(timeout=20)

    assert isinstance(error, cluster.JobCrashed)
    certificate = error.certificate
    assert certificate is not None
    assert certificate.output_tail.splitlines()[-1] == "last words"
    assert certificate.peak_memory > 4 << 20
    assert certificate.cpu_seconds > 0.15
    assert pickle.loads(pickle.dumps(error)).certificate == certificate


def test_a_crash_in_c_code_shows_the_python_line(pool: cluster.Cluster) -> None:
    error = pool.submit(tasks.segfault, crash_limit=0).exception(timeout=20)

    assert isinstance(error, cluster.JobCrashed)
    assert error.certificate is not None
    assert "in segfault" in error.certificate.output_tail


def test_the_task_s_own_exception_has_the_remote_traceback_as_its_cause(pool: cluster.Cluster) -> None:
    with pytest.raises(RuntimeError, match="as it should") as raised:
        pool.submit(tasks.fail).result(timeout=20)

    assert isinstance(raised.value.__cause__, cluster.RemoteTraceback)
    assert "in fail\n    raise RuntimeError(text)" in str(raised.value.__cause__)
    assert "running.py" not in str(raised.value.__cause__)


def test_the_exception_can_be_raised_again_and_again(pool: cluster.Cluster) -> None:
    job: cluster.Job[None] = pool.submit(tasks.fail)

    depths = []
    for _ in range(3):
        with pytest.raises(RuntimeError) as raised:
            job.result(timeout=20)
        depths.append(len(raised.traceback))

    assert len(set(depths)) == 1, "its traceback grows with each look"


def test_logs_hold_what_print_c_code_and_subprocesses_wrote(pool: cluster.Cluster) -> None:
    job = pool.submit(tasks.say_in_every_way)
    job.result(timeout=20)

    assert sorted(job.logs().splitlines()) == sorted(
        ["from print", "from stderr", "from descriptor 1", "from C", "from a subprocess", "from logging"]
    )


def test_logs_of_each_attempt_are_kept_and_of_no_other_job(pool: cluster.Cluster) -> None:
    noise = [pool.submit(print, (f"noise {n}",)) for n in range(20)]
    job = pool.submit(tasks.say_and_fail_before, (3,), retries=cluster.RetryPolicy(max_retries=5, backoff=0.01))
    job.result(timeout=20)

    assert job.logs().split("\n")[:3] == ["attempt 1", "attempt 2", "attempt 3"]
    assert [logs_of(job) for job in noise] == [f"noise {n}\n" for n in range(20)]


def logs_of(job: cluster.Job[None]) -> str:
    job.result(timeout=20)
    return job.logs()


def test_a_flood_of_output_keeps_its_beginning_and_end_and_no_more(pool: cluster.Cluster) -> None:
    job = pool.submit(tasks.flood, (100,))

    assert job.result(timeout=30) == 100 << 20

    text = job.logs()
    assert len(text) < 70_000
    assert text.startswith("the beginning\n")
    assert text.endswith("the end\n")
    assert "bytes cut" in text


def test_a_job_knows_itself(pool: cluster.Cluster) -> None:
    before = time.time()

    job = pool.submit(tasks.about_me, timeout=50)
    told = job.result(timeout=20)

    assert (told["id"], told["run"], told["attempt"]) == (job.id, 1, 1)
    assert told["fence"] > 0
    assert before + 49 < told["deadline"] < time.time() + 50
    wait_until(lambda: job.progress is not None)
    assert job.progress is not None
    assert (job.progress.done, job.progress.total, job.progress.note) == (3, 4, "nearly")


def test_outside_a_job_the_stand_in_does_nothing() -> None:
    told = tasks.about_me()

    assert (told["id"], told["run"], told["attempt"], told["deadline"]) == ("", 0, 0, None)


def test_fences_grow_with_each_attempt(pool: cluster.Cluster) -> None:
    fences = [pool.submit(tasks.about_me).result(timeout=20)["fence"] for _ in range(5)]

    assert fences == sorted(set(fences))


def test_a_job_that_submits_is_told_that_it_can_t_yet(pool: cluster.Cluster) -> None:
    with pytest.raises(cluster.ClusterError, match="a job can't submit to its own cluster"):
        _ = pool.submit(cluster.submit, (abs, (1,))).result(timeout=20)


def test_listings_and_counters_agree_with_the_jobs(pool: cluster.Cluster) -> None:
    good = [pool.submit(abs, (-n,), tags=("listed",), name="good one") for n in range(5)]
    bad: cluster.Job[None] = pool.submit(tasks.fail, tags=("listed",))
    for job in (*good, bad):
        job.exception(timeout=20)

    listed = list(pool.jobs(tag="listed"))

    assert [info.id for info in listed] == [job.id for job in (*good, bad)]
    assert {info.name for info in listed[:5]} == {"good one"}
    assert [info.state for info in listed] == [JobState.COMPLETED] * 5 + [JobState.DEAD_LETTER]
    assert [info.id for info in pool.jobs(tag="listed", state="dead_letter")] == [bad.id]
    assert [info.id for info in pool.jobs(tag="listed", limit=2)] == [job.id for job in good[:2]]
    assert bad.id in {info.id for info in pool.dead_letters()}
    stats = pool.stats()
    assert stats.submitted >= stats.completed + stats.dead
    assert (stats.workers, stats.slots, stats.store) == (1, 2, "memory:")


def test_a_worker_s_health_is_told_within_a_few_seconds(pool: cluster.Cluster) -> None:
    wait_until(lambda: pool.workers()[0].health.memory_total)

    (worker,) = pool.workers()
    assert (worker.name, worker.pid, worker.slots, worker.state) == ("local", os.getpid(), 2, "ready")
    assert len(worker.health.slots) == 2
    assert all(slot.memory > 1 << 20 for slot in worker.health.slots)


def test_an_unknown_job_is_said_to_be_unknown(pool: cluster.Cluster) -> None:
    for ask in (pool.job, pool.batch):
        with pytest.raises(cluster.UnknownJob, match="never submitted to this store"):
            ask("no-such-job")
