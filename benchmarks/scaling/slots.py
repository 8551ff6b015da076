"""A host with more and more slots, embedded: what a job costs all of our processes together."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import check
from benchmarks.processes import children_cpu
from benchmarks.tasks import echo

if TYPE_CHECKING:
    from cluster import Cluster, Job

WARM_UP_JOBS = 500


def measure_local(slots: int, jobs: int, folder: Path, *, is_dependent: bool = False) -> dict[str, float]:
    """Microseconds a job on the wall and on the cpus, and jobs a second; durable, for so many slots.

    Args:
        slots: how many.
        jobs: how many, all submitted at once.
        folder: where the store goes.
        is_dependent: each second job waits for the one before it.
    """
    import cluster

    with cluster.local(slots=slots, store="sqlite:///" + str(folder / "jobs.db")) as local:
        run(local, max(WARM_UP_JOBS, 2 * slots), is_dependent=False)
        before = time.process_time() + children_cpu(os.getpid())
        began = time.perf_counter()
        run(local, jobs, is_dependent=is_dependent)
        seconds = time.perf_counter() - began
        cpu = time.process_time() + children_cpu(os.getpid()) - before
    return {"wall, µs a job": seconds * 1e6 / jobs, "cpu, µs a job": cpu * 1e6 / jobs, "jobs/s": jobs / seconds}


def run(local: Cluster, jobs: int, *, is_dependent: bool) -> None:
    submitted: list[Job[int]] = []
    for number in range(jobs):
        after = submitted[-1:] if is_dependent and number % 2 else ()
        submitted.append(local.submit(echo, (number,), after=after))
    check([job.result() for job in submitted], jobs)
