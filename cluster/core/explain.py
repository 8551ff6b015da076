"""Why a job is where it is, in sentences for people."""

from __future__ import annotations

from cluster.core.board import Board
from cluster.core.job import Job
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
            reason = _queued(board, job)
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


def _queued(board: Board, job: Job) -> str:
    options = job.spec.options
    if options.queue in board.placement.paused:
        return f"waits because queue {options.queue!r} is paused; resume it with c.queue({options.queue!r}).resume()"
    if job.stopping:
        return "waits until an earlier attempt of it, which was ordered to stop, is known to be gone"
    if not board.workers:
        return "waits because no worker is registered"
    if all(worker.is_draining for worker in board.workers.values()):
        return "waits because every registered worker is draining; undrain one, or start another"
    if not any(_could_run(board, job, worker) for worker in board.workers):
        wants = ", ".join(f"{name}={amount}" for name, amount in (*options.resources, *options.labels))
        return f"waits because no registered worker offers {wants}"
    ahead = board.placement.depth().get(options.queue, 0) - 1
    return f"waits for a free slot; {ahead} other job(s) are queued in {options.queue!r}"


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
