"""What operators and callers order: cancel, requeue, pause."""

from __future__ import annotations

from msgspec import structs

from cluster.core import events, policy, settlement
from cluster.core.admission import admission_of, await_dependencies
from cluster.core.board import Board, EndOfRun
from cluster.core.effects import Effect, FunctionAdded, QueuePaused, Rebudgeted, Requeued, StoredJob
from cluster.core.job import Job
from cluster.core.records import SAME_BUDGET, Budget, Certificate, Ending, Now
from cluster.core.states import Cause, JobState


def on_cancel(board: Board, event: events.Cancel, now: Now, effects: list[Effect]) -> None:
    """End every named job that has no outcome yet, and have its running code stopped."""
    for job_id in event.jobs:
        job = board.jobs.get(job_id)
        if job is not None and not job.is_terminal:
            stop(board, job, Ending.CANCELLED, now, effects)


def stop(board: Board, job: Job, ending: Ending, now: Now, effects: list[Effect]) -> None:
    """End a live job as cancelled or expired, whatever it is doing."""
    fence = job.fence
    lease = board.leases.get(fence)
    if lease is not None:
        board.revoke(job, ending, effects)
    if ending is Ending.CANCELLED:
        board.move(job, Cause.CANCEL)
        reason = "it was cancelled"
    else:
        board.move(job, Cause.EXPIRE)
        reason = "its time to live was over before it had an outcome"
    certificate = Certificate(ending=ending, reason=reason, attempt=job.attempts)
    if lease is not None:
        certificate = settlement.dated(settlement.signed(board, certificate, lease), job, now)
    settlement.bury(board, job, EndOfRun(fence, b"", certificate), now, effects)


def on_requeue(board: Board, event: events.Requeue, now: Now, effects: list[Effect]) -> None:
    """Start a new run of each job, with fresh budgets, without the delay or expiry that its first run had.

    A budget that is new stays the job's for later runs too.

    The shell has checked that every job has ended (`objection_to_requeue`), under the same lock.
    """
    for stored in event.stored:
        if stored.spec.id not in board.jobs:
            board.jobs[stored.spec.id] = _revive(stored)
            board.counts[board.jobs[stored.spec.id].state] += 1
    # In order of admission, so that a job comes before those that depend on it.
    for job in sorted((board.jobs[job_id] for job_id in event.jobs), key=lambda job: job.seq):
        _start_run(board, job, event, now, effects)


def objection_to_requeue(board: Board, event: events.Requeue) -> str:
    """Why these jobs can't have a new run; empty if they can."""
    stored = {job.spec.id: job for job in event.stored}
    for job_id in event.jobs:
        job = board.jobs.get(job_id)
        if job is not None and not job.is_terminal:
            return f"job {job_id} is {job.state.name.lower()}; only an ended job can be requeued"
        if job is None and stored[job_id].outcome is None:
            return f"job {job_id} has not ended, and its function is not in the store, so it can't run; submit it anew"
        spec = job.spec if job is not None else stored[job_id].spec
        if spec.function not in board.shelf and all(blob.digest != spec.function for blob in event.functions):
            return f"the function of job {job_id} is no longer in the store; submit the job anew"
        for dependency in spec.after:
            other = board.jobs.get(dependency)
            state = event.settled.get(dependency) if other is None else other.state
            if dependency in event.jobs or state is JobState.COMPLETED:
                continue
            if other is None or other.is_terminal:
                return f"job {job_id} depends on job {dependency}, which has no result; requeue that one too"
    return ""


def on_pause_queue(board: Board, event: events.PauseQueue, _now: Now, effects: list[Effect]) -> None:
    """Stop, or begin again, to lease a queue's jobs."""
    if event.paused:
        board.placement.paused.add(event.queue)
    else:
        board.placement.paused.discard(event.queue)
        board.waking.resume(event.queue)
    effects.append(QueuePaused(event.queue, event.paused))


def _start_run(board: Board, job: Job, event: events.Requeue, now: Now, effects: list[Effect]) -> None:
    if not job.is_settled:
        board.release_inputs(job)  # of the run before, whose end nobody has called durable yet
    job.run += 1
    job.attempts = job.failures = job.crashes = job.outgrown = 0
    job.chunk = None
    job.is_settled = False
    job.due_mono = job.expires_mono = 0.0
    effects.append(Requeued(job.seq, job.spec.id, job.run, now.wall))
    if event.budget != SAME_BUDGET:
        _change_budget(job, event.budget, effects)
    for offered in event.functions:
        if offered.digest == job.spec.function:  # one at a time, as at admission
            board.shelf.offer(offered)
    if board.adopt(job):
        blob = board.shelf.get(job.spec.function)
        assert blob is not None  # noqa: S101 - `objection_to_requeue` has looked
        effects.append(FunctionAdded(blob))
    await_dependencies(board, job, event.settled)
    if job.unmet:
        board.move(job, Cause.REQUEUE_WAITING)
    else:
        board.enqueue(job, Cause.REQUEUE)


def _change_budget(job: Job, budget: Budget, effects: list[Effect]) -> None:
    options = policy.with_budget(job.spec.options, budget)
    if options is not job.spec.options:
        job.spec = structs.replace(job.spec, options=options)
        effects.append(Rebudgeted(job.seq, admission_of(job)))


def _revive(stored: StoredJob) -> Job:
    outcome = stored.outcome
    assert outcome is not None  # noqa: S101 - a stored job that the board has forgotten has ended
    return Job(stored.seq, stored.spec, stored.submitted, state=outcome.state, run=stored.run, is_settled=True)
