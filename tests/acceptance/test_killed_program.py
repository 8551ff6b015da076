"""The promise that nothing is lost, on a real disk, with the embedding process killed for real."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cluster
from cluster.core.states import JobState
from tests.acceptance.programs import ROOT, Program
from tests.acceptance.victim import BATCH

JOBS = 2000
KILLS = 50
VICTIM = str(ROOT / "tests" / "acceptance" / "victim.py")


# When a life ends: a moment after its start, after it has opened the store, or after so many batches are acknowledged.
# Its own word tells how far it is, for how long that takes depends on who else uses the machine.
FROM_ITS_START = -1
STAGES = tuple(range(FROM_ITS_START, JOBS // KILLS // BATCH + 1))
MAX_MOMENT_SECONDS = 0.15
DEADLINE_SECONDS = 120.0


def live_and_die(store: str, folder: Path, life: int, stage: int, moment: float) -> bool:
    """One life of the program; False if it came to its end before it could be killed."""
    program = Program([sys.executable, VICTIM, store, str(folder), str(life), str(JOBS // KILLS)], folder)
    with program.started() as process:
        words = listen(process, stage + 1)
        try:
            status = process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            status = process.wait()
    assert status in (0, -signal.SIGKILL), words
    return status != 0


def listen(process: subprocess.Popen[str], lines: int) -> bytes:
    """What the program says, until that are so many lines, or all that it will ever say."""
    assert process.stdout is not None
    words = b""
    while words.count(b"\n") < lines:
        assert select.select([process.stdout], [], [], DEADLINE_SECONDS)[0], words
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            break
        words += piece
    return words


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
        # From before it has opened the store to after its last job, each stage as often.
        stage = STAGES[life % len(STAGES)]
        life += 1
        kills += live_and_die(store, tmp_path, life, stage, moment=dice.uniform(0.0, MAX_MOMENT_SECONDS))
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
