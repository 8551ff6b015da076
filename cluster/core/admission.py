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
    Wake,
)
from cluster.core.job import Job
from cluster.core.records import Ending, JobId, JobSpec, Now
from cluster.core.states import Cause, JobState
from cluster.core.timers import Timer


def on_submit(board: Board, event: events.Submit, now: Now, effects: list[Effect]) -> None:
    """Admit each job or refuse it, in order; a job that is here already is answered as before."""
    functions = {blob.digest: blob for blob in event.functions}
    for spec in event.jobs:
        blob = functions.get(spec.function)
        if blob is not None:
            # Only now, before the first job that holds it: a batch may bring more than stay on an idle shelf.
            board.shelf.offer(blob)
        existing = board.jobs.get(spec.id)
        if existing is not None:
            effects.append(_answer_again(event.owner, existing, spec))
            continue
        refusal = _objection(board, spec, event)
        if refusal:
            effects.append(TellRefused(event.owner, spec.id, "store" if board.refusing else "refused", refusal))
            continue
        _admit(board, spec, event, now, effects)
    effects.append(Wake())


def on_admissions_durable(board: Board, event: events.AdmissionsDurable, now: Now, effects: list[Effect]) -> None:
    """Jobs that had to wait for their own admission may start."""
    for job_id in event.jobs:
        job = board.jobs.get(job_id)
        if job is not None and job.state is JobState.SUBMITTED:
            place(board, job, now)
    effects.append(Wake())


def on_admissions_failed(board: Board, event: events.AdmissionsFailed, _now: Now, effects: list[Effect]) -> None:
    """Undo admissions that nobody was told of, as if they had never been."""
    for job_id in event.jobs:
        job = board.jobs.get(job_id)
        if job is not None:
            _undo(board, job, effects)
            effects.append(TellRefused(job.admitted.owner, job_id, "store", event.reason))


def on_store_failed(board: Board, event: events.StoreFailed, _now: Now, _effects: list[Effect]) -> None:
    """Admit nothing until the store is well; what is here goes on."""
    board.refusing = event.reason


def on_store_healed(board: Board, _event: events.StoreHealed, _now: Now, effects: list[Effect]) -> None:
    """Admit again."""
    board.refusing = ""
    effects.append(Wake())


def place(board: Board, job: Job, now: Now) -> None:
    """Put an admitted job where it belongs: waiting, scheduled or queued."""
    if job.unmet:
        board.move(job, Cause.ADMIT_WAITING)
    elif board.schedule(job, now):
        board.move(job, Cause.ADMIT_SCHEDULED)
    else:
        board.enqueue(job, Cause.ADMIT_QUEUED)


def _admit(board: Board, spec: JobSpec, event: events.Submit, now: Now, effects: list[Effect]) -> None:
    delay = spec.delay if spec.at is None else spec.at - now.wall
    expires = spec.expires
    admitted = Admitted(
        seq=board.next_seq,
        spec=spec,
        submitted=now.wall,
        due=now.wall + delay if delay > 0 else 0.0,
        expires=0.0 if expires is None else now.wall + expires,
        owner=event.owner,
    )
    board.next_seq += 1
    job = Job(admitted, spec)
    if delay > 0:
        job.due_mono = now.mono + delay
    board.jobs[spec.id] = job
    board.counts[JobState.SUBMITTED] += 1
    board.counters.submitted += 1
    if board.adopt(job):
        blob = board.shelf.get(spec.function)
        assert blob is not None  # noqa: S101 - `_objection` refused a job whose function is unknown
        effects.append(FunctionAdded(blob))
    effects.append(admitted)
    if expires is not None:
        job.expires_mono = now.mono + expires
        board.timers.add(job.expires_mono, Timer.EXPIRE, job)
    if spec.after:
        failed = await_dependencies(board, job, event.settled)
        if failed:
            settlement.fail_for_dependency(board, job, failed, now, effects)
            return
    if job.must_be_durable:
        effects.append(TellAdmitted(spec.id))
    else:
        place(board, job, now)


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
    if spec.function not in board.shelf:
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
    board.counts[job.state] -= 1
    board.counters.submitted -= 1
    del board.jobs[job.spec.id]
