"""Many workers at one master, over real sockets: heartbeats and leases within their deadlines, its memory and its cpu."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import percentile
from benchmarks.processes import Part, lab
from benchmarks.scaling.crowd import Crowd, crowd
from benchmarks.tasks import moment

if TYPE_CHECKING:
    from cluster import Cluster

# One job a second for every twenty workers: so little that each lease finds its worker waiting.
JOBS_PER_WORKER_SECOND = 0.05
WARM_UP_JOBS = 20


def measure_connected(workers: int, seconds: float, folder: Path) -> dict[str, float]:
    """Figures by name.

    Args:
        workers: how many.
        seconds: how long they are watched while nothing runs, and as long again while some jobs do.
        folder: for the store and the logs.
    """
    import cluster

    with lab(folder) as made:
        master = made.master()
        with crowd(made, workers) as agents, cluster.connect(made.address, made.key("client")) as client:
            trickle(client, WARM_UP_JOBS, 0.0)
            agents.take()
            cpu = idle_cpu_percent(master, seconds)
            heard = agents.take()
            count = max(1, int(workers * JOBS_PER_WORKER_SECOND * seconds))
            trickle(client, count, seconds / count)
            told = agents.take()
            return {
                "heartbeats too late": float(heard["late"] + heard["refused"] + told["late"] + told["refused"]),
                "heartbeats": float(len(heard["beat"]) + len(told["beat"])),
                "heartbeat answered, p99": percentile(heard["beat"] or [0.0], 99) * 1e3,
                "lease after submit, p50": percentile(told["lease"], 50) * 1e3,
                "lease after submit, p99": percentile(told["lease"], 99) * 1e3,
                "master, resident": master.memory / 1e6,
                "master, cpu": cpu,
            }


def idle_cpu_percent(master: Part, seconds: float) -> float:
    """Of one core, while nothing is submitted."""
    before, began = master.cpu_seconds, time.monotonic()
    time.sleep(seconds)
    return (master.cpu_seconds - before) / (time.monotonic() - began) * 100


def trickle(client: Cluster, jobs: int, pause_seconds: float) -> None:
    """Submit jobs one by one, each as the moment at which it is submitted, and wait for all."""
    submitted = []
    for _ in range(jobs):
        submitted.append(client.submit(moment, (time.monotonic(),)))
        time.sleep(pause_seconds)
    for job in submitted:
        job.result()


def cost_of_a_job(workers: int, jobs: int, folder: Path) -> dict[str, float]:
    """Cpu microseconds of the master for a job, and jobs a second, when all are submitted at once."""
    import cluster

    with lab(folder) as made:
        master = made.master()
        with crowd(made, workers) as agents, cluster.connect(made.address, made.key("client")) as client:
            trickle(client, WARM_UP_JOBS, 0.0)
            idle = idle_cpu_percent(master, 2.0) / 100
            before, began = master.cpu_seconds, time.monotonic()
            trickle(client, jobs, 0.0)
            seconds = time.monotonic() - began
            spent = master.cpu_seconds - before
            require_all(agents, jobs)
            return {
                "master cpu, µs a job": spent * 1e6 / jobs,
                "without what the workers cost idle, µs a job": max(0.0, spent - idle * seconds) * 1e6 / jobs,
                "jobs/s": jobs / seconds,
            }


def require_all(agents: Crowd, jobs: int) -> None:
    """Each job must have been in an agent's hands."""
    leased = len(agents.take()["lease"])
    if leased < jobs:
        raise AssertionError(f"{jobs} jobs ended, and the workers saw {leased} of them")
