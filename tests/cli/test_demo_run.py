"""The demo's count and its audit: a demo that always says "lost 0" would prove nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import cluster
from cluster.cli.demo_run import Snapshot, Watch, audit, packages_of, submit_analysis


class Listing:
    """The one method of a handle that the audit asks."""

    def __init__(self, jobs: Sequence[cluster.JobInfo]) -> None:
        self._jobs = jobs

    def jobs(self) -> Sequence[cluster.JobInfo]:
        return self._jobs


def listing(*jobs: cluster.JobInfo) -> cluster.Cluster:
    return cast("cluster.Cluster", Listing(jobs))


def info(job: str, state: cluster.JobState = cluster.JobState.COMPLETED, attempts: int = 1) -> cluster.JobInfo:
    return cluster.JobInfo(id=job, name=job, state=state, attempts=attempts)


def test_a_store_that_holds_every_outcome_once_is_clean() -> None:
    found = audit(listing(info("a"), info("b", attempts=3), info("of another run")), ["a", "b"])

    assert found.is_clean
    assert (found.acknowledged, found.done, found.rerun) == (2, 2, 2)


def test_a_job_that_the_store_does_not_know_is_lost() -> None:
    found = audit(listing(info("a")), ["a", "b"])

    assert found.lost == ("b",)
    assert not found.is_clean


@pytest.mark.parametrize("state", [cluster.JobState.QUEUED, cluster.JobState.RUNNING, cluster.JobState.WAITING])
def test_a_job_without_an_outcome_is_lost(state: cluster.JobState) -> None:
    found = audit(listing(info("a", state)), ["a"])

    assert found.lost == ("a",)
    assert not found.is_clean


def test_a_job_that_is_there_twice_is_told() -> None:
    found = audit(listing(info("a"), info("a")), ["a"])

    assert found.doubled == ("a",)
    assert not found.is_clean


def test_a_job_that_was_given_up_has_an_outcome_but_is_not_clean() -> None:
    found = audit(listing(info("a", cluster.JobState.DEAD_LETTER)), ["a"])

    assert (found.lost, found.failed) == ((), ("a",))
    assert not found.is_clean


def test_failed_and_cancelled_jobs_are_counted_and_waited_for_no_longer() -> None:
    with cluster.local(slots=1) as c:
        fine = c.submit(pow, (2, 10), name="fine")
        failing = c.submit(pow, (2, "x"), name="failing")
        cancelled = c.submit(pow, (2, 10), name="cancelled", delay=3600)
        assert cancelled.cancel()
        watch = Watch(c, [fine, failing, cancelled])

        end = watch.until(3, lambda _: None)

    assert (end.done, end.failed, end.lost) == (3, 2, 0)


def test_a_run_shows_how_it_stands_while_it_waits() -> None:
    shown: list[Snapshot] = []
    with cluster.local(slots=1) as c:
        slow = c.submit(time.sleep, (0.3,), name="slow")

        Watch(c, [slow]).until(1, shown.append)

    assert len(shown) >= 2
    assert [snapshot.done for snapshot in shown][-1] == 1
    assert shown[0].done == 0


def test_each_package_is_summed_up_from_its_own_files(tmp_path: Path) -> None:
    for name, source in {"a.py": "def f(): pass", "p/b.py": "def g(x):\n  if x: pass", "p/c.py": "def (:"}.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)

    with cluster.local(slots=2) as c:
        jobs: list[cluster.Job[Any]] = submit_analysis(c, tmp_path)
        c.gather(jobs)
        packages = list(packages_of(c))

    told = {one.name: (one.files, one.functions, one.branches, one.unparsable) for one in packages}
    assert len(jobs) == 5
    assert told == {"(top level)": (1, 1, 0, 0), "p": (2, 1, 1, 1)}
