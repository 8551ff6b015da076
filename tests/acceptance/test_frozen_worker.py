"""Issue 4: "A worker frozen beyond the heartbeat timeout: its job completes elsewhere; woken, its late report is refused
and counted, and it takes new work."
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from cluster.core.records import Ending
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import wait_until


def hold_until(folder: str) -> int:
    """Tell who begins, wait for the word, tell who ends."""
    with Path(folder, "begun").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(folder, "go").exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file
    Path(folder, f"ended-{os.getpid()}").touch()
    return os.getpid()


def test_the_job_of_a_frozen_worker_ends_elsewhere_and_its_late_report_is_refused(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with a_lab(tmp_path, heartbeat_timeout_seconds=1.5) as lab, lab.connect() as client:
        frozen = lab.start_worker("frozen", slots=1, labels=(("who", "frozen"),))
        job = client.submit(hold_until, (str(tmp_path),)).accepted(10)
        wait_until(lambda: begun.exists() and begun.read_text().endswith("\n"))
        lab.start_worker("heir", slots=1)

        frozen.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: begun.read_text().count("\n") == 2)
            first, second = map(int, begun.read_text().split())
            (tmp_path / "go").touch()
            result = job.result(20)
            # Its child was not frozen, so there is a result that the frozen supervisor has yet to read: the child sleeps
            # for nothing else than its next job once it has sent that.
            wait_until((tmp_path / f"ended-{first}").exists)
            wait_until(lambda: psutil.Process(first).status() == psutil.STATUS_SLEEPING)
            before = client.stats().fenced
        finally:
            frozen.send_signal(signal.SIGCONT)
        wait_until(lambda: client.stats().fenced == before + 1)

        assert result == second
        assert client.job(job.id).result(10) == second
        assert client.job(job.id).worker.startswith("heir#")
        ((_, certificate),) = job.history().attempts
        assert certificate.ending is Ending.WORKER_LOST
        assert client.submit(os.getpid, labels={"who": "frozen"}).result(20)
