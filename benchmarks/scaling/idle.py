"""What a master and a worker cost while nobody wants anything of them."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.processes import Part, lab
from benchmarks.tasks import echo

SETTLE_SECONDS = 2.0
WARM_UP_JOBS = 20


def measure_idle(seconds: float, folder: Path) -> dict[str, float]:
    """Figures by name: per cent of a core over so many seconds, the worker's with its children's."""
    import cluster

    with lab(folder) as made:
        master, worker = made.master(), made.worker("worker")
        with cluster.connect(made.address, made.key("client")) as client:
            # All that is done once, on first use, is done.
            for job in [client.submit(echo, (number,)) for number in range(WARM_UP_JOBS)]:
                job.result()
        time.sleep(SETTLE_SECONDS)
        before, began = spent(master, worker), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        shares = [(after - first) / passed * 100 for first, after in zip(before, spent(master, worker), strict=True)]
        return {"master, cpu": shares[0], "worker, cpu": shares[1], "master + worker, cpu": sum(shares)}


def spent(master: Part, worker: Part) -> tuple[float, float]:
    return master.cpu_seconds, worker.cpu_seconds + worker.child_cpu_seconds
