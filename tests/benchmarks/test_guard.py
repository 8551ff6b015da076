"""Two commits compared: what counts as a loss, and a real loss found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.fresh import PROJECT
from benchmarks.guard import Turn, Verdict, compare
from benchmarks.plan import Side, Workload


def verdict(
    old: Sequence[float],
    again: Sequence[float],
    new: Sequence[float],
    workload: Workload = Workload.THROUGHPUT,
) -> Verdict:
    return compare(Side.MEMORY, workload, {Turn.OLD: old, Turn.AGAIN: again, Turn.NEW: new}).verdict


def test_less_throughput_beyond_the_noise_is_a_loss() -> None:
    found = verdict([100.0, 101.0, 99.0], [101.0, 100.0, 100.0], [90.0, 91.0, 89.0])

    assert found is Verdict.LOSS


def test_more_throughput_beyond_the_noise_is_a_gain() -> None:
    found = verdict([100.0, 101.0, 99.0], [101.0, 100.0, 100.0], [110.0, 111.0, 112.0])

    assert found is Verdict.GAIN


def test_a_longer_round_trip_is_a_loss() -> None:
    found = verdict([1.0, 1.0, 1.0], [1.0, 1.0, 1.01], [1.2, 1.2, 1.2], Workload.LATENCY)

    assert found is Verdict.LOSS


def test_a_difference_that_the_old_commit_has_with_itself_is_noise() -> None:
    found = verdict([100.0, 140.0, 100.0], [140.0, 100.0, 130.0], [90.0, 91.0, 89.0])

    assert found is Verdict.SAME


def test_a_loss_that_nobody_would_look_for_is_none_however_quiet_the_machine() -> None:
    assert verdict([100.0] * 5, [100.0] * 5, [98.5] * 5) is Verdict.SAME
    assert verdict([100.0] * 5, [100.0] * 5, [97.0] * 5) is Verdict.LOSS


def test_drift_that_hits_all_alike_is_no_noise() -> None:
    found = verdict([100.0, 10.0, 50.0], [100.0, 10.0, 50.0], [90.0, 9.0, 45.0])

    assert found is Verdict.LOSS


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The project as it is here, committed into a repository of its own."""
    folder = tmp_path / "project"
    for name in ("cluster", "benchmarks"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    commit(folder, "before")
    return folder


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, tag: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "--message", tag)
    git(folder, "tag", tag)


def guard(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.guard", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_commit_that_makes_each_submit_wait_is_found_out_and_nothing_is_left(repository: Path) -> None:
    session = repository / "cluster" / "client" / "session.py"
    source = session.read_text(encoding="utf-8")
    begin = "def submit(self, job: Job[R], spec: JobSpec, blob: FunctionBlob) -> Job[R]:\n"
    assert begin in source
    session.write_text(source.replace(begin, f"{begin}        time.sleep(0.02)\n"), encoding="utf-8")
    commit(repository, "after")

    done = guard(repository, "before", "after", "--rounds", "2", "--sides", "memory", "--quick")

    assert (done.returncode, done.stdout.count("LOSS")) == (1, 2), done.stdout + done.stderr
    left = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(left.stdout.splitlines()) == 1


def test_a_commit_that_does_not_exist_is_told_in_git_s_words(repository: Path) -> None:
    done = guard(repository, "before", "nowhere")

    assert done.returncode == 2
    assert "nowhere" in done.stderr
