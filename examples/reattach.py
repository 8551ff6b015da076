"""One program submits and ends; another one, started later, finds the jobs by their ids and has the results.

This file launches a cluster, starts itself as a second process that submits and leaves at once, and then collects. All
that the two share is the environment (where the cluster is, and the key) and the printed ids.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cluster

LAB = """
name: lab
master: {bind: "unix://lab.sock"}
workers: [{slots: 2}]
"""


def slow_cube(number: int) -> int:
    time.sleep(0.2)
    return number**3


def submit_and_leave() -> None:
    """The first program: it waits until the cluster has taken the jobs, and for nothing else."""
    with cluster.connect() as c:
        job = c.submit(slow_cube, (7,), name="cube").accepted()
        batch = c.map(slow_cube, range(6), chunksize=1)
        while batch.progress().submitted < 6:
            time.sleep(0.01)
        c.flush()
        print(job.id, batch.id)


def collect(ids: list[str]) -> None:
    """The second program: futures of somebody else's jobs."""
    with cluster.connect() as c:
        job, batch = c.job(ids[0]), c.batch(ids[1])
        print(job.name, "of 7 is", job.result(), "and the others are", cubes := list(batch))
        assert job.result() == 343
        assert cubes == [0, 1, 8, 27, 64, 125]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = Path(folder, "lab.yaml")
        lab.write_text(LAB, encoding="utf-8")
        with cluster.launch(lab):
            os.environ["CLUSTER_ADDRESS"] = f"unix://{folder}/lab.sock"
            os.environ["CLUSTER_AUTHKEY_FILE"] = f"{folder}/state/keys/client.key"
            first = subprocess.run([sys.executable, __file__, "submit"], stdout=subprocess.PIPE, text=True, check=True)
            collect(first.stdout.split())


if __name__ == "__main__":
    if sys.argv[1:] == ["submit"]:
        submit_and_leave()
    else:
        main()
