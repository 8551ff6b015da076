"""Jobs come in; admissions that could not be made durable go out again."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.core import events, settlement
from cluster.core.board import Board
from cluster.core.effects import (
    Admitted,
    Effect,
    FunctionAdded,
    TellAccepted,
    TellAdmitted,
    TellRefused,
    Undone,
)
from cluster.core.job import Job
from cluster.core.records import Ending, JobId, JobSpec, Now
from cluster.core.states import Cause, JobState
from cluster.core.timers import Timer

# Asked for with every job; on Python 3.11 a look at an enum's class costs as much as making a record.
_SUBMITTED, _ADMIT_QUEUED = JobState.SUBMITTED, Cause.ADMIT_QUEUED


def on_submit(board: Board, event: events.Submit, now: Now, effects: list[Effect]) -> None:
    """Admit each job or refuse it, in order; a job that is here already is answered as before."""
    offered = {blob.digest: blob for blob in event.functions}
    find, on_shelf = board.jobs.get, board.shelf.blobs
    for spec in event.jobs:
        existing = find(spec.id)
        if existing is not None:
            effects.append(_answer_again(event.owner, existing, spec))
            continue
        if spec.function not in on_shelf and spec.function in offered:
            # Only now, before the first job that holds it: a batch may bring more than stay on an idle shelf.
            board.shelf.offer(offered[spec.function])
        refusal = _objection(board, spec, event)
        if refusal:
            effects.append(TellRefused(event.owner, spec.id, "store" if board.refusing else "refused", refusal))
            continue
        _admit(board, spec, event, now, effects)


def on_admissions_durable(board: Board, event: events.AdmissionsDurable, now: Now, _effects: list[Effect]) -> None:
    """Jobs that had to wait for their own admission may start."""
    for job_id in event.jobs:
        job = board.jobs.get(job_id)
        if job is not None and job.state is JobState.SUBMITTED:
            place(board, job, now)


def on_admissions_failed(board: Board, event: events.AdmissionsFailed, _now: Now, effects: list[Effect]) -> None:
    """Undo admissions that nobody was told of, as if they had never been."""
    for job_id in event.jobs:
        job = board.jobs.get(job_id)
        if job is not None:
            _undo(board, job, effects)
            effects.append(TellRefused(job.owner, job_id, "store", event.reason))


def on_store_failed(board: Board, event: events.StoreFailed, _now: Now, _effects: list[Effect]) -> None:
    """Admit nothing until the store is well; what is here goes on."""
    board.refusing = event.reason


def on_store_healed(board: Board, _event: events.StoreHealed, _now: Now, _effects: list[Effect]) -> None:
    """Admit again."""
    board.refusing = ""


def place(board: Board, job: Job, now: Now) -> None:
    """Put an admitted job where it belongs: waiting, scheduled or queued."""
    if job.unmet:
        board.move(job, Cause.ADMIT_WAITING)
    elif board.schedule(job, now):
        board.move(job, Cause.ADMIT_SCHEDULED)
    else:
        board.enqueue(job, Cause.ADMIT_QUEUED)


def _admit(board: Board, spec: JobSpec, event: events.Submit, now: Now, effects: list[Effect]) -> None:
    seq = board.next_seq
    board.next_seq = seq + 1
    job = Job(seq, spec, now.wall, event.owner)
    admitted = admission_of(job)
    if admitted.due:
        job.due_mono = now.mono + _delay_of(job)
    board.jobs[spec.id] = job
    board.counts[_SUBMITTED] += 1
    board.counters.submitted += 1
    if board.adopt(job):
        effects.append(FunctionAdded(board.shelf.blobs[spec.function]))  # there: else `_objection` had refused it
    effects.append(admitted)
    if spec.expires is not None:
        job.expires_mono = now.mono + spec.expires
        board.timers.add(job.expires_mono, Timer.EXPIRE, job)
    if spec.after:
        failed = await_dependencies(board, job, event.settled)
        if failed:
            settlement.fail_for_dependency(board, job, failed, now, effects)
            return
    if job.must_be_durable:
        effects.append(TellAdmitted(spec.id))
    elif spec.after or admitted.due:
        place(board, job, now)
    else:
        board.enqueue(job, _ADMIT_QUEUED)


def admission_of(job: Job) -> Admitted:
    """The record of a job's admission; so small is what it says besides the job itself that nobody keeps it."""
    spec, wall = job.spec, job.submitted
    delay, expires = _delay_of(job), spec.expires
    return Admitted(
        job.seq, spec, wall, wall + delay if delay > 0 else 0.0, 0.0 if expires is None else wall + expires, job.owner
    )


def _delay_of(job: Job) -> float:
    spec = job.spec
    return spec.delay if spec.at is None else spec.at - job.submitted


def await_dependencies(board: Board, job: Job, settled: Mapping[JobId, JobState]) -> JobId:
    """Count what the job waits for; the id of a dependency that has failed already, if there is one."""
    for dependency in job.spec.after:
        other = board.jobs.get(dependency)
        state = settled.get(dependency) if other is None else other.state
        if state is JobState.COMPLETED:
            continue
        if other is None or other.is_terminal:
            return dependency
        board.wait_for(job, dependency)
    return ""


def _objection(board: Board, spec: JobSpec, event: events.Submit) -> str:
    """Why the job can't be admitted; empty if it can."""
    if board.refusing:
        return f"the store takes no new jobs now ({board.refusing}); submit again later"
    if len(board.jobs) >= board.settings.max_live_jobs:
        return f"{board.settings.max_live_jobs:,} jobs are waiting, which is the limit; submit again once some are done"
    if spec.function not in board.shelf.blobs:
        return f"the function of job {spec.id} is not here; send it with the job"
    for dependency in spec.after:
        if dependency not in board.jobs and dependency not in event.settled:
            return f"job {spec.id} depends on {dependency!r}, which is not in this cluster; submit that one first"
    return ""


def _answer_again(owner: int, existing: Job, spec: JobSpec) -> Effect:
    if existing.spec.function != spec.function:
        kind = "key" if spec.key else "refused"
        return TellRefused(owner, spec.id, kind, f"job {spec.id} is another job already", other=existing.spec.id)
    return TellAccepted(owner, spec.id)


def _undo(board: Board, job: Job, effects: list[Effect]) -> None:
    """Take a job off the board as if it had never come."""
    effects.append(Undone(job.seq))
    if job.fence:
        board.revoke(job, Ending.ADMISSION, effects)
    if not job.is_terminal:
        board.move(job, Cause.CANCEL)  # lanes, timers and dependencies let go of it as of any cancelled job
        board.retire(job)
    board.release_inputs(job)
    board.counts[job.state] -= 1
    board.counters.submitted -= 1
    del board.jobs[job.spec.id]
