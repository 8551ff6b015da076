"""The program of `test_killed_program`: works through jobs on a durable store, and is killed while it does.

    python victim.py STORE FOLDER LIFE JOBS

Into `FOLDER/accepted` goes a line per job that the store has acknowledged, into `FOLDER/outcomes` a line per outcome
that this program was told: both synchronised to the disk before it goes on, so that the test can hold the cluster to
every word of it. How far it is, it says in a line for each batch. Each execution adds a line to `FOLDER/executions`.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import uuid
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cluster

BATCH = 10


def work(folder: str, label: str, seconds: float, *inputs: Any) -> str:
    """A token that no other execution returns."""
    descriptor = os.open(f"{folder}/executions", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{label}\n".encode())
    os.close(descriptor)
    time.sleep(seconds)  # sleeps because a job must be there to be killed
    return f"{label}/{uuid.uuid4().hex}"


class Ledger:
    """A file whose lines are on the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()

    def write(self, *lines: str) -> None:
        with self._lock:
            os.write(self._descriptor, "".join(f"{line}\n" for line in lines).encode())
            os.fsync(self._descriptor)


def submit(c: cluster.Cluster, folder: str, label: str, dice: random.Random) -> cluster.Job[str]:
    """A job of one of the kinds: plain, at most once, dependent, delayed."""
    seconds = dice.choice((0.0, 0.001, 0.005, 0.02))
    kind = dice.randrange(10)
    if kind == 0:
        return c.submit(work, (folder, f"once-{label}", seconds), retries=0, crash_limit=0, tags=("once",))
    if kind == 1:
        first = c.submit(work, (folder, f"first-{label}", seconds), crash_limit=1000)
        return c.submit(work, (folder, f"second-{label}", seconds, first), crash_limit=1000)
    if kind == 2:
        return c.submit(work, (folder, f"later-{label}", seconds), crash_limit=1000, delay=0.2)
    return c.submit(work, (folder, f"plain-{label}", seconds), crash_limit=1000, priority=dice.randrange(3))


def main(store: str, folder: str, life: int, jobs: int) -> None:
    dice = random.Random(life)
    accepted = Ledger(Path(folder, "accepted"))
    outcomes = Ledger(Path(folder, "outcomes"))

    def tell(job: Future[str]) -> None:
        assert isinstance(job, cluster.Job)
        if isinstance(job.exception(), cluster.Detached):
            return
        outcomes.write(f"{job.id} {job.state.name} {job.result() if job.exception() is None else ''}")

    with cluster.local(slots=2, store=store) as c:
        print("open", flush=True)
        left = jobs
        while left > 0:
            some = [submit(c, folder, f"{life}-{left - n}", dice) for n in range(min(BATCH, left))]
            left -= len(some)
            for job in some:
                job.add_done_callback(tell)
            accepted.write(*[job.accepted(timeout=60).id for job in some])
            print("accepted", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
