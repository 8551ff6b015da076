"""Why a job is where it is, in sentences for people."""

from __future__ import annotations

from cluster.core.board import Board
from cluster.core.job import Job, WorkerHeld
from cluster.core.memory import limit_of, room_of, size_text
from cluster.core.placement import is_satisfiable
from cluster.core.records import JobId, Now
from cluster.core.states import JobState

MAX_NAMED_DEPENDENCIES = 5


def explain(board: Board, job_id: JobId, now: Now) -> str:
    """What the job waits for, or is doing. The job must be on the board."""
    job = board.jobs[job_id]
    match job.state:
        case JobState.SUBMITTED:
            reason = "waits until its admission is durable, because it may not run twice"
        case JobState.WAITING:
            reason = _dependencies(board, job)
        case JobState.SCHEDULED:
            reason = f"is due in {max(0.0, job.due_mono - now.mono):.1f} s"
        case JobState.QUEUED:
            reason = _queued(board, job, now)
        case JobState.RETRY_QUEUED:
            reason = f"failed and runs again in {max(0.0, job.due_mono - now.mono):.1f} s"
        case JobState.ASSIGNED | JobState.RUNNING:
            reason = f"was given to {job.worker} {max(0.0, now.wall - job.started):.1f} s ago"
        case _:
            reason = "has ended"
    return f"job {job_id} is {job.state.name.lower()}: it {reason}; {_history(job)}"


def _dependencies(board: Board, job: Job) -> str:
    unmet = [name for name in job.spec.after if job.spec.id in board.dependants.get(name, {})]
    named = ", ".join(unmet[:MAX_NAMED_DEPENDENCIES])
    more = f" and {len(unmet) - MAX_NAMED_DEPENDENCIES} more" if len(unmet) > MAX_NAMED_DEPENDENCIES else ""
    return f"waits for {len(unmet)} job(s) to complete: {named}{more}"


def _queued(board: Board, job: Job, now: Now) -> str:
    options = job.spec.options
    if options.queue in board.placement.paused:
        return f"waits because queue {options.queue!r} is paused; resume it with c.queue({options.queue!r}).resume()"
    if job.stopping:
        return "waits until an earlier attempt of it, which was ordered to stop, is known to be gone"
    if not board.workers:
        return "waits because no worker is registered"
    if all(worker.is_draining for worker in board.workers.values()):
        return "waits because every registered worker is draining; undrain one, or start another"
    fitting = [worker for worker in board.workers.values() if _could_run(board, job, worker.id)]
    if not fitting:
        wants = ", ".join(f"{name}={amount}" for name, amount in (*options.resources, *options.labels))
        return f"waits because no registered worker offers {wants}"
    obstacle = _memory(job, fitting) or _hosts(fitting, now)
    if obstacle:
        return obstacle
    ahead = board.placement.depth().get(options.queue, 0) - 1
    return f"waits for a free slot; {ahead} other job(s) are queued in {options.queue!r}"


def _memory(job: Job, fitting: list[WorkerHeld]) -> str:
    """Why no worker has the memory that the job may take; empty if one has, or the job has no limit."""
    limit = limit_of(job)
    if not limit:
        return ""
    most = max(worker.memory_most for worker in fitting)
    if not most:
        return "waits because it has a memory limit, and no worker that fits can hold a job to one; threads can't"
    if limit > most:
        return (
            f"waits because its memory limit of {size_text(limit)} is more than any worker's host has: the largest "
            f"that fits offers {size_text(most)}; submit it with a lower limit, or start a worker on a larger host"
        )
    room = max(room_of(worker) for worker in fitting)
    if limit > room:
        return (
            f"waits for memory: its limit is {size_text(limit)}, and of the workers that fit none has more than "
            f"{size_text(room)} to promise now"
        )
    return ""


def _hosts(fitting: list[WorkerHeld], now: Now) -> str:
    """Why no worker that fits may have it soon; empty if one may."""
    suspicions = [worker.suspicion for worker in fitting if worker.suspicion and worker.suspicion.is_quarantined]
    if len(suspicions) == len(fitting):
        first = min(suspicions, key=lambda suspicion: suspicion.probe_at)
        return (
            f"waits because every worker that fits is quarantined: jobs failed there at once, the last one because "
            f"{first.reason}; one job at a time is tried, the next in {max(0.0, first.probe_at - now.mono):.1f} s"
        )
    if all(worker.is_short for worker in fitting):
        return "waits because every worker that fits is on a host that is short of memory, and takes few jobs until it isn't"
    return ""


def _could_run(board: Board, job: Job, worker: str) -> bool:
    held = board.workers[worker]
    capacity = dict(held.free)
    for lease in held.leases.values():
        for name, amount in lease.job.spec.options.resources:
            capacity[name] = capacity.get(name, 0) + amount
    return is_satisfiable(job, capacity, held.labels)


def _history(job: Job) -> str:
    options = job.spec.options
    return (
        f"run {job.run}, {job.attempts} attempt(s) so far, "
        f"{job.failures} of {options.retry.max_retries} retries and {job.crashes} of {options.crash_limit} crash re-runs used"
    )
