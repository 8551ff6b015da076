"""The board and the store: what the board forgets once the store has it, and how a board is made again from one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from cluster.core import events, settlement
from cluster.core.admission import await_dependencies, place
from cluster.core.board import Board
from cluster.core.chunks import decode_progress
from cluster.core.effects import Effect, StoredJob
from cluster.core.job import Job, LeaseHeld, WorkerHeld
from cluster.core.kinds import Kinds
from cluster.core.memory import limit_of
from cluster.core.policy import MAX_CRASH_BACKOFF_SECONDS
from cluster.core.records import FunctionBlob, JobId, Now
from cluster.core.states import Cause, JobState
from cluster.core.timers import Timer


def on_outcomes_durable(board: Board, event: events.OutcomesDurable, _now: Now, _effects: list[Effect]) -> None:
    """Forget ended jobs, but for those of which an attempt may still be alive."""
    find = board.jobs.get
    for job_id, run in event.jobs:
        job = find(job_id)
        if job is not None and job.run == run and not job.is_settled:
            job.is_settled = True
            board.release_inputs(job)
            board.forget_if_settled(job)


def restore(
    board: Board,
    stored: Iterable[StoredJob],
    functions: Iterable[FunctionBlob],
    settled: Mapping[JobId, JobState],
    now: Now,
    *,
    grace_seconds: float,
) -> list[Effect]:
    """Put the store's live jobs on an empty board.

    A job under a lease stays leased to a worker that is known by name only: it may come back within `grace_seconds`
    and be adopted, else `Tick` finds it lost.

    Args:
        board: a new board, its epoch higher than that of any fence in the store.
        stored: live jobs in order of admission.
        functions: the tasks they refer to; a job whose task is missing is left out, and what depends on it fails.
        settled: states of jobs that are named in `after` and live no more: of those with a result, completed.
        now: the time of the restart; what was due or expired meanwhile falls due at once.
        grace_seconds: 0 where no worker can have survived, because it died with its master.
    """
    blobs = list(functions)
    for blob in blobs:
        board.shelf.offer(blob)
        board.shelf.acquire(blob.digest)  # held until all jobs are in, for more may come than stay on an idle shelf
    effects = _seat_all(board, stored, dict(settled), now, grace_seconds)
    for blob in blobs:
        board.shelf.release(blob.digest)
    return effects


def _seat_all(
    board: Board, stored: Iterable[StoredJob], ended: dict[JobId, JobState], now: Now, grace_seconds: float
) -> list[Effect]:
    effects: list[Effect] = []
    on_shelf = board.shelf.blobs
    tried: list[tuple[float, int, Job]] = []  # a heap, by when they fell due
    kinds = Kinds()
    for record in stored:
        spec = record.spec
        kinds.share(spec)
        if spec.function not in on_shelf:
            # The store has named it as tampered with; it stays there, and is not run.
            ended[spec.id] = JobState.DEAD_LETTER
            continue
        job = _seat(board, record, now)
        for dependency in spec.after:
            if dependency not in board.jobs:
                # What the store has no more has completed, and its retention is over: had it failed, so had this job.
                ended.setdefault(dependency, JobState.COMPLETED)
        # What has been leased in this run had all that it waited for; a requeue has perhaps set that running since.
        is_waiting = bool(spec.after) and not record.attempts
        failed = await_dependencies(board, job, ended) if is_waiting else ""
        if failed:
            settlement.fail_for_dependency(board, job, failed, now, effects)
        elif record.fence:
            _hold(board, job, record, now.mono + grace_seconds)
        elif record.failures or record.crashes:
            heapq.heappush(tried, (record.due, record.seq, job))
        else:
            while tried and tried[0][0] <= record.submitted:
                place(board, heapq.heappop(tried)[2], now)
            place(board, job, now)
    # A retry stands where it stood: behind what had come when it fell due, or else a job that kills its master would
    # always be first; and before what came later, or else a master that is restarted often would never get to it.
    while tried:
        place(board, heapq.heappop(tried)[2], now)
    return effects


def _seat(board: Board, record: StoredJob, now: Now) -> Job:
    """Put one stored job on the board, as if just admitted."""
    is_first_run = record.run == 1
    job = Job(
        record.seq,
        record.spec,
        record.submitted,
        run=record.run,
        attempts=record.attempts,
        failures=record.failures,
        crashes=record.crashes,
        outgrown=record.outgrown,
    )
    job.chunk = decode_progress(record.progress) if record.progress else None
    if record.due > now.wall and (is_first_run or record.failures or record.crashes):
        job.due_mono = now.mono + min(record.due - now.wall, _longest_delay(record))
    if record.expires and is_first_run:
        left = min(record.expires - now.wall, record.spec.expires or 0.0)
        job.expires_mono = now.mono + max(0.0, left)
        board.timers.add(job.expires_mono, Timer.EXPIRE, job)
    board.jobs[record.spec.id] = job
    board.counts[job.state] += 1
    board.adopt(job)
    return job


def _longest_delay(record: StoredJob) -> float:
    """What a job can have been told to wait at most: the wall clock may have been set back since it was."""
    if record.failures or record.crashes:
        return max(record.spec.options.retry.max_delay, MAX_CRASH_BACKOFF_SECONDS)
    return record.spec.delay if record.spec.at is None else float("inf")


def _hold(board: Board, job: Job, record: StoredJob, deadline: float) -> None:
    """Leave a job with the worker that had it before the restart, until that worker speaks up or is lost."""
    worker = board.workers.get(record.worker)
    if worker is None:
        worker = WorkerHeld(record.worker, deadline, free={}, labels=frozenset(), leases={})
        board.workers[record.worker] = worker
    board.move(job, Cause.ADMIT_QUEUED)  # but into no lane: the one that has it takes it at once
    board.move(job, Cause.LEASE)
    job.fence = record.fence
    job.worker = record.worker
    lease = LeaseHeld(record.fence, job, record.worker, record.run, record.attempts, memory=limit_of(job))
    worker.promised += lease.memory
    board.leases[record.fence] = worker.leases[record.fence] = lease
