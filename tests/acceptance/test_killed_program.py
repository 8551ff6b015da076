"""The promise that nothing is lost, on a real disk, with the embedding process killed for real."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cluster
from cluster.core.states import JobState
from tests.acceptance.programs import ROOT, Program

JOBS = 2000
KILLS = 50
VICTIM = str(ROOT / "tests" / "acceptance" / "victim.py")


def live_and_die(store: str, folder: Path, life: int, seconds: float) -> bool:
    """One life of the program; False if it came to its end before it could be killed."""
    program = Program([sys.executable, VICTIM, store, str(folder), str(life), str(JOBS // KILLS)], folder)
    with program.started() as process:
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            status = process.wait()
        assert process.stdout is not None
        words = process.stdout.read()
    assert status in (0, -signal.SIGKILL), words
    return status != 0


def lines_of(path: Path) -> list[str]:
    """The lines that were written wholly."""
    return [line for line in path.read_text().split("\n")[:-1] if line] if path.exists() else []


def test_every_acknowledged_job_has_one_outcome_after_fifty_kills_of_the_program(tmp_path: Path) -> None:
    # SIGKILL the embedding process at random, 50 times, while it works through 2,000 jobs on a SQLite store, reopening
    # each time: every acknowledged job ends with one outcome.
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")  # pytest shows it if the test fails
    dice = random.Random(seed)
    store = f"sqlite:///{tmp_path / 'jobs.db'}"

    kills = life = 0
    while kills < KILLS:
        life += 1
        # From before it has opened the store to after its last job; 0.2 s pass until it is there.
        kills += live_and_die(store, tmp_path, life, seconds=dice.uniform(0.15, 0.75))
    with cluster.local(slots=2, store=store) as c:
        known = {info.id for info in c.jobs()}
        ends = {name: c.job(name) for name in known}
        for job in ends.values():
            job.exception(timeout=60)
        infos = list(c.jobs())

    accepted = lines_of(tmp_path / "accepted")
    print(f"{life} lives, {len(accepted)} acknowledged, {Counter(info.state.name for info in infos)}")
    # Not one acknowledged job is lost, none is there twice, and all have ended.
    assert len(accepted) >= JOBS // 4
    assert set(accepted) <= known
    assert len(infos) == len(known)
    assert {info.state for info in infos} <= {JobState.COMPLETED, JobState.DEAD_LETTER}
    # Only what may run once was given up, and it did run once, or never.
    assert all("once" in info.tags for info in infos if info.state is JobState.DEAD_LETTER)
    executions = Counter(lines_of(tmp_path / "executions"))
    assert all(count == 1 for label, count in executions.items() if label.startswith("once-"))
    # An outcome that was told once is the outcome for good: results name their execution.
    for line in lines_of(tmp_path / "outcomes"):
        name, state, token = line.split(" ")
        assert ends[name].state.name == state
        assert not token or ends[name].result() == token
    assert_is_the_same_when_opened_again(store, infos)


def assert_is_the_same_when_opened_again(store: str, infos: list[cluster.JobInfo]) -> None:
    begun = time.monotonic()
    with cluster.local(slots=1, store=store) as c:
        assert [(info.id, info.state, info.ended, info.attempts) for info in c.jobs()] == [
            (info.id, info.state, info.ended, info.attempts) for info in infos
        ]
    assert time.monotonic() - begun < 10
