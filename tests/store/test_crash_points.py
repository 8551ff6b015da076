"""SIGKILL at each SQL statement of everything that a store writes: a step has happened wholly, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.story import STEPS

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 110.0


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Where syncing costs nothing: what a process wrote survives its SIGKILL anywhere."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.timeout(120)
def test_a_process_killed_at_any_statement_leaves_every_finished_step_and_no_half_one(memory_folder: Path) -> None:
    program = "import sys; from tests.store.crash_points import main; main(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(memory_folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    for one in told:
        assert one["verdict"] == "ok", one
        # What was acknowledged is there, and of what was under way all or nothing.
        assert {max(one["finished"], 0), min(max(one["finished"], 0) + 1, len(STEPS))} & set(one["fits"]), one
    *killed, last = told
    assert all(one["killed"] for one in killed)
    assert (last["killed"], last["finished"]) == (False, len(STEPS))
    assert {one["finished"] for one in killed} >= set(range(-1, len(STEPS)))  # it was killed in the midst of each step
    assert len(killed) > 80
