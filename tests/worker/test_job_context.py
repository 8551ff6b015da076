from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster.worker.job_context import OUTSIDE, JobContext, current_job, install


@pytest.fixture
def said() -> Iterator[list[tuple[float, float, str]]]:
    said: list[tuple[float, float, str]] = []
    install(lambda: JobContext("j1", run=1, attempt=2, fence=9, deadline=5.0, say=lambda *words: said.append(words)))
    yield said
    install(None)


def test_outside_a_job_there_is_an_inert_stand_in() -> None:
    job = current_job()

    job.progress(1, 2, "nobody hears")
    assert job is OUTSIDE
    assert (job.id, job.run, job.attempt, job.fence, job.deadline) == ("", 0, 0, 0, None)
    assert job.log.name == "cluster.job"
    assert repr(job) == "<no job>"


def test_inside_a_job_its_facts_are_there(said: list[tuple[float, float, str]]) -> None:
    job = current_job()

    assert (job.id, job.run, job.attempt, job.fence, job.deadline) == ("j1", 1, 2, 9, 5.0)
    assert current_job() is job
    assert repr(job) == "<job j1 attempt 2>"


def test_progress_is_told_at_most_ten_times_a_second(
    said: list[tuple[float, float, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    for step in range(50):
        current_job().progress(step, 100)
    now += 0.11
    current_job().progress(51, 100, "n" * 500)

    assert said == [(0.0, 100.0, ""), (51.0, 100.0, "n" * 200)]


def test_the_last_progress_is_told_at_once_and_once(said: list[tuple[float, float, str]]) -> None:
    current_job().progress(1, 2)
    for _ in range(100):
        current_job().progress(2, 2)

    assert said == [(1.0, 2.0, ""), (2.0, 2.0, "")]


def test_progress_without_a_total_is_limited_too(said: list[tuple[float, float, str]]) -> None:
    for step in range(100):
        current_job().progress(step)

    assert len(said) < 5
