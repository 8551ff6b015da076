"""Real clusters on stores that misbehave: a full disk, a lock held by another program, a log that someone deletes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster
from cluster.deploy.kept_part import PASSING_STATUS
from cluster.deploy.load import load_config
from cluster.deploy.status import status
from cluster.store.files import StoreFiles
from cluster.store.inspection import check
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import wait_until
from tests.small_disk import fill, small_disk

DISK_BYTES = 3 << 20


def hold_until(mark: str) -> str:
    """Say that it runs, and end once it may."""
    Path(f"{mark} runs").touch()
    while not Path(f"{mark} may end").exists():
        time.sleep(0.005)  # sleeps because there is nothing to wait on: job and test meet at a file
    return "held"


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


LAB = """
name: lab
master: {{bind: "tcp://127.0.0.1:0", store: "sqlite:///{disk}/jobs.db"}}
heartbeat: {{interval: 500ms, timeout: 10s}}
drain: {{timeout: 10s}}
workers: [{{slots: 2}}]
"""


def submit_until_refused(c: cluster.Cluster) -> tuple[dict[str, int], str]:
    """What was acknowledged, with the result that it must have, and why the next one was not."""
    acknowledged: dict[str, int] = {}
    for number in range(2000):
        job = c.submit(len, (os.urandom(5000 + number),))
        try:
            acknowledged[job.accepted(30).id] = 5000 + number
        except cluster.MasterUnavailable as error:
            return acknowledged, str(error)
    pytest.fail("a full disk refuses nothing")


def trouble_of_another_submit(c: cluster.Cluster, file: Path) -> str:
    """What the cluster's status says right after one more job was refused, or taken."""
    with contextlib.suppress(cluster.MasterUnavailable):
        assert c.submit(len, (os.urandom(200_000),)).accepted(30).id
    told = status(load_config(file, environment={}))
    # Whoever asks for the state only, as a program does, must see it too.
    assert (told.master.state == "refusing") is bool(told.master.trouble)
    assert told.state == ("degraded" if told.master.trouble else "up")
    return told.master.trouble


def test_a_full_disk_refuses_with_the_reason_loses_nothing_and_goes_on_once_there_is_space(
    disk: Path, tmp_path: Path
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.format(disk=disk))
    with cluster.launch(file) as c:
        before = {c.submit(pow, (n, 2)).accepted(20).id: n**2 for n in range(20)}
        held = c.submit(hold_until, (str(tmp_path / "held"),), retries=0, crash_limit=0)
        wait_until((tmp_path / "held runs").exists)
        filler = fill(disk)

        during, reason = submit_until_refused(c)

        assert "nothing of it was kept" in reason or "takes no new jobs now" in reason
        assert "the disk is full; free some space" in reason
        wait_until(lambda: "the disk is full" in trouble_of_another_submit(c, file))
        # So small a change may still find room in the log; if not, the reason is told.
        try:
            c.queue("later").pause()
            said = "the disk is full"
        except cluster.MasterUnavailable as error:
            said = str(error)
        assert "the disk is full" in said
        (tmp_path / "held may end").touch()  # its outcome, too, is told once it is on the disk and not before
        assert c.job(next(iter(before))).result(20) == 0  # what is on the disk is still answered

        filler.unlink()
        assert held.result(30) == "held"
        wait_until(lambda: not status(load_config(file, environment={})).master.trouble)
        assert c.submit(pow, (2, 10)).result(30) == 1024
        assert c.stats().paused == ("later",)
        for name, result in (before | during).items():
            assert c.job(name).result(30) == result

    # And it was the disk that had it, not the master's memory.
    assert check("jobs.db", StoreFiles("jobs.db", disk / "jobs.db")).findings == ()
    with cluster.local(slots=1, store=f"sqlite:///{disk}/jobs.db") as again:
        for name, result in (before | during).items():
            assert again.job(name).result(30) == result
        assert again.job(held.id).result(30) == "held"
        assert again.stats().paused == ("later",)


def test_a_store_on_a_full_disk_says_so_when_it_is_opened_and_opens_once_there_is_space(
    disk: Path, tmp_path: Path
) -> None:
    store = f"sqlite:///{disk}/lab.db"
    with cluster.local(slots=1, store=store) as c:
        name = c.submit(pow, (2, 10)).accepted(20).id
        c.submit(pow, (2, 11)).result(20)
    filler = fill(disk)

    with pytest.raises(cluster.StoreError, match="the disk is full"), cluster.local(slots=1, store=store):
        pass

    master = subprocess.run(
        [sys.executable, "-m", "cluster", "master", "--bind", "tcp://127.0.0.1:0", "--store", store, "--keys", "keys"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert "the disk is full" in master.stderr
    assert master.returncode == PASSING_STATUS  # which tells its keeper to go on trying

    filler.unlink()
    with cluster.local(slots=1, store=store) as c:
        assert c.job(name).result(20) == 1024


def test_a_master_that_dies_on_a_full_disk_comes_back_once_there_is_space(disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.format(disk=disk))
    with cluster.launch(file) as c:
        config = load_config(file, environment={})
        name = c.submit(pow, (2, 10)).accepted(20).id
        filler = fill(disk)
        pid = status(config).master.pid
        os.kill(pid, signal.SIGKILL)
        for left in (".lock", "-shm"):  # so that to open the store takes space
            (disk / f"jobs.db{left}").unlink(missing_ok=True)
        fill(disk)
        wait_until(lambda: status(config).master.restarts >= 2 and "full" in status(config).master.trouble)

        told = status(config)
        filler.unlink()

        assert told.master.state in {"waiting", "starting"}
        wait_until(lambda: status(config).master.state == "ready")
        assert c.job(name).result(30) == 1024


# --- another program ----------------------------------------------------------------------------------------------------

LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_program_that_holds_the_write_lock_delays_and_loses_nothing(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker(slots=1)
        before = client.submit(pow, (2, 10)).accepted(20).id
        held = client.submit(hold_until, (str(tmp_path / "held"),)).accepted(20)
        wait_until((tmp_path / "held runs").exists)
        with subprocess.Popen(
            [sys.executable, "-c", LOCKER, str(tmp_path / "lab.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == b"locked\n"

            refused = client.submit(pow, (2, 11))
            with pytest.raises(cluster.MasterUnavailable, match="another program has held its write lock for 5 s"):
                refused.accepted(30).cancel()
            (tmp_path / "held may end").touch()
            with pytest.raises(TimeoutError):
                held.result(timeout=0.5)

            locker.communicate(b"go on\n", timeout=20)

        assert held.result(30) == "held"
        assert client.submit(pow, (2, 12)).result(30) == 4096
        assert client.job(before).result(20) == 1024
        with pytest.raises(cluster.UnknownJob):
            client.job(refused.id).cancel()


# --- files that vanish ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["lab.db-wal"], ["lab.db-wal", "lab.db-shm"]])
def test_a_log_deleted_under_a_running_master_that_is_killed_afterwards_costs_no_acknowledged_job(
    tmp_path: Path, names: list[str]
) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        results = {client.submit(pow, (n, 2)).accepted(20).id: n**2 for n in range(20)}
        for name in names:
            (tmp_path / name).unlink()

        results |= {client.submit(pow, (n, 3)).accepted(20).id: n**3 for n in range(20)}
        lab.processes[0].kill()
        lab.processes[0].wait()
        lab.start_master()
        lab.start_worker(slots=1)

        for name, result in results.items():
            assert client.job(name).result(30) == result


def test_a_master_that_was_killed_is_not_started_again_without_its_log(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        name = client.submit(pow, (2, 10)).accepted(20).id
        lab.processes[0].kill()
        lab.processes[0].wait()
        log = (tmp_path / "lab.db-wal").rename(tmp_path / "away")

        with pytest.raises(AssertionError, match="put the log back"):
            lab.start_master()

        log.rename(tmp_path / "lab.db-wal")
        lab.start_master()
        lab.start_worker(slots=1)
        assert client.job(name).result(30) == 1024
