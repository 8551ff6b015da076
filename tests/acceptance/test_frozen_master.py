"""Issue 4: "A master stopped longer than a lease lets workers renew before it expires anything. Wall-clock steps change
nothing but displayed times."
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from cluster.core.states import JobState
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import wait_until

TIMEOUT_SECONDS = 1.5
DAY_SECONDS = 86400.0

# Found by every Python that is started with its folder on the path: what it calls the time of day, a file says.
CLOCK = """
import os, time
_real = time.time


def shifted():
    try:
        with open({path!r}) as file:
            return _real() + float(file.read() or 0)
    except (OSError, ValueError):
        return _real()


time.time = shifted
"""


def hold_until(folder: str) -> str:
    """Say who begins, and end once it may."""
    with Path(folder, "begun").open("a") as file:
        file.write("x")
    while not Path(folder, "go").exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file
    Path(folder, "ended").touch()
    return "held"


def test_a_master_that_was_stopped_for_longer_than_a_lease_expires_nothing(tmp_path: Path) -> None:
    with a_lab(tmp_path, heartbeat_timeout_seconds=TIMEOUT_SECONDS) as lab, lab.connect() as client:
        master = lab.processes[0]
        lab.start_worker()
        # At most once: if it was given up, or run again, that could not be mended.
        job = client.submit(hold_until, (str(tmp_path),), retries=0, crash_limit=0).accepted(10)
        wait_until((tmp_path / "begun").exists)

        frozen = time.monotonic()
        master.send_signal(signal.SIGSTOP)
        try:
            (tmp_path / "go").touch()
            wait_until((tmp_path / "ended").exists)
            wait_until(lambda: time.monotonic() > frozen + 3 * TIMEOUT_SECONDS)
        finally:
            master.send_signal(signal.SIGCONT)

        assert job.result(30) == "held"
        assert job.refresh().attempts == 1
        assert (tmp_path / "begun").read_text() == "x"
        assert client.stats().failed_attempts == 0
        assert client.submit(pow, (2, 10)).result(30) == 1024


def test_what_outlasts_a_stopped_master_s_lease_ends_once(tmp_path: Path) -> None:
    with a_lab(tmp_path, heartbeat_timeout_seconds=TIMEOUT_SECONDS) as lab, lab.connect() as client:
        master = lab.processes[0]
        lab.start_worker()
        job = client.submit(hold_until, (str(tmp_path),)).accepted(10)
        wait_until((tmp_path / "begun").exists)

        frozen = time.monotonic()
        master.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: time.monotonic() > frozen + 3 * TIMEOUT_SECONDS)
        finally:
            master.send_signal(signal.SIGCONT)
        # Its worker can't know that no other master had taken over: it has killed it by itself.
        wait_until(lambda: (tmp_path / "begun").read_text() == "xx")
        (tmp_path / "go").touch()

        assert job.result(30) == "held"
        (_, why), = job.history().attempts  # fmt: skip
        assert why.ending.name == "WORKER_LOST"
        assert client.stats().completed == 1


def test_a_step_of_the_wall_clock_changes_displayed_times_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "step"
    (patched := tmp_path / "patched").mkdir()
    (patched / "sitecustomize.py").write_text(CLOCK.format(path=str(step)))
    monkeypatch.setenv("PYTHONPATH", str(patched))
    with a_lab(tmp_path, heartbeat_timeout_seconds=TIMEOUT_SECONDS) as lab, lab.connect() as client:
        lab.start_worker(slots=2)
        before = [worker.id for worker in client.workers()]
        done = client.submit(pow, (2, 10))
        assert done.result(30) == 1024
        held = client.submit(hold_until, (str(tmp_path),), timeout=60, expires=60, retries=0, crash_limit=0)
        wait_until((tmp_path / "begun").exists)
        asked = time.monotonic()
        later = client.submit(pow, (2, 11), delay=2.0).accepted(10)

        for days in (1, -1, 400, 0):
            step.write_text(str(days * DAY_SECONDS))
            # The step is seen by a commit of its own.
            assert abs(client.submit(time.time).result(30) - time.time() - days * DAY_SECONDS) < DAY_SECONDS / 2
            told = client.submit(pow, (2, 12), tags=(f"{days} days",))
            assert told.result(30) == 4096
            (info,) = client.jobs(tag=f"{days} days")
            assert abs(info.ended - time.time() - days * DAY_SECONDS) < DAY_SECONDS / 2

        assert later.result(30) == 2048
        assert time.monotonic() - asked >= 2.0
        assert held.refresh().state in (JobState.ASSIGNED, JobState.RUNNING)
        (tmp_path / "go").touch()
        assert held.result(30) == "held"
        assert (held.refresh().attempts, client.stats().failed_attempts) == (1, 0)
        assert [(worker.id, worker.state) for worker in client.workers()] == [(before[0], "ready")]
        assert client.job(done.id).result(30) == 1024
