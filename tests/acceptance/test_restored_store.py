"""A worker lives through the restore of an old backup, and what it holds of the later life is fenced off."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import cluster
from cluster.store.backup import back_up
from cluster.store.files import StoreFiles
from cluster.store.restore import restore
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import wait_until


def hold_until(folder: str, name: str) -> str:
    """Say that it runs, and return its name once it may."""
    with Path(folder, f"{name} runs").open("a") as file:
        file.write("x")
    while not Path(folder, f"{name} may end").exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file
    return name


def test_a_worker_that_survives_a_restore_can_settle_nothing_of_the_later_life(tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    files = StoreFiles("lab.db", tmp_path / "lab.db")
    with a_lab(tmp_path) as lab:
        worker = lab.start_worker(slots=1)
        with lab.connect() as client:
            early = client.submit(pow, (2, 10)).accepted(10).id
            assert client.job(early).result(20) == 1024
            back_up("lab.db", files, tmp_path / "backup.db", may_replace=False)  # while the master works
        lab.processes[0].kill()
        lab.processes[0].wait()
        lab.start_master()
        with lab.connect() as client:
            later = client.submit(hold_until, (str(marks), "later")).accepted(20).id
            wait_until((marks / "later runs").exists)
            client.close(wait=False)

        master = lab.processes[-1]
        master.kill()
        master.wait()
        restore("lab.db", files, tmp_path / "backup.db")
        lab.start_master()

        with lab.connect() as client:
            fresh = client.submit(hold_until, (str(marks), "fresh"))
            wait_until((marks / "fresh runs").exists)
            (marks / "later may end").touch()
            (marks / "fresh may end").touch()
            assert fresh.result(20) == "fresh"
            assert fresh.refresh().attempts == 1
            assert client.job(early).result(20) == 1024
            with pytest.raises(cluster.UnknownJob):
                client.job(later).cancel()
        assert worker.poll() is None
        epochs = [int(each) for each in re.findall(r" epoch=(\d+) ", lab.log())]
        assert epochs == [1, 2, 3]
        assert len(re.findall(r"ready worker=w#", lab.log())) == 1
