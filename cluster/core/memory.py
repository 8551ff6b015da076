"""How much memory a job may take, and which worker has so much for it. Pure.

A worker tells how much jobs with a limit may have in all: what is free on its host, and what those jobs have already.
The board takes off the limits of those that it has leased there. Both are sums that the other side's delay can't
falsify: a lease that the worker has not heard of yet is counted here already, and one that has ended no more.
"""

from __future__ import annotations

from cluster.core.job import Job, WorkerHeld

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def limit_of(job: Job) -> int:
    """Bytes that the job's next attempt may take; 0: as many as it likes."""
    steps = job.spec.options.memory
    return steps[min(job.outgrown, len(steps) - 1)] if steps else 0


def room_of(worker: WorkerHeld) -> int:
    """Bytes that this worker could promise one more job."""
    return max(0, worker.memory_room - worker.promised)


def size_text(size: int) -> str:
    """Bytes for people, in the units that limits are written in."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
