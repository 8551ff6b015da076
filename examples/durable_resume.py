"""A script that is killed with SIGKILL in the middle of its work, and goes on where it stopped.

This file starts itself as a second process, kills it once a third of the jobs are done, opens the same store, and
collects every result.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cluster

JOBS = 60


def slow_square(number: int) -> int:
    time.sleep(0.05)
    return number * number


def submit_and_report(store: str) -> None:
    """The first life: submit everything, then say how many jobs are done until someone kills this process."""
    with cluster.local(slots=2, store=store) as c:
        jobs = [c.submit(slow_square, (number,), name=str(number)) for number in range(JOBS)]
        c.flush()  # from here on, every job is on disk
        for done, job in enumerate(jobs, start=1):
            job.result()
            print(done, flush=True)


def killed_in_the_middle(store: str) -> None:
    """Start the first life and end it without warning."""
    with subprocess.Popen([sys.executable, __file__, store], stdout=subprocess.PIPE, text=True) as first_life:
        assert first_life.stdout is not None
        for line in first_life.stdout:
            if int(line) >= JOBS // 3:
                first_life.send_signal(signal.SIGKILL)
                break
    print("killed after", JOBS // 3, "of", JOBS, "jobs")


def resume(store: str) -> None:
    """The second life: open the store again; what was left goes on by itself."""
    with cluster.local(slots=2, store=store) as c:
        results = {int(info.name): c.job(info.id).result() for info in c.jobs()}
    print("all", len(results), "results are there")
    assert results == {number: number * number for number in range(JOBS)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        submit_and_report(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            store = f"sqlite:///{Path(folder, 'runs.db')}"
            killed_in_the_middle(store)
            resume(store)
