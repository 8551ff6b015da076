"""Attempts end: the run has its outcome, or the job is tried again, or it is given up. Dependants follow."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import structs

from cluster.core import chunks, events, policy, quarantine
from cluster.core.board import Board, EndOfRun
from cluster.core.effects import AttemptFailed, Effect, FencedOff
from cluster.core.job import Job, LeaseHeld
from cluster.core.policy import Spent
from cluster.core.records import Certificate, Ending, JobId, Now, Report
from cluster.core.states import Cause, JobState
from cluster.core.timers import Timer

# Asked for with every job; on Python 3.11 a look at an enum's class costs as much as making a record.
_ASSIGNED, _START, _SUCCEED, _SUCCEEDED = JobState.ASSIGNED, Cause.START, Cause.SUCCEED, Ending.SUCCEEDED
_NOBODY: Mapping[JobId, Job] = MappingProxyType({})


def on_reported(board: Board, event: events.Reported, now: Now, effects: list[Effect]) -> None:
    """Take each report by its fence; late, repeated and foreign ones change nothing and are counted."""
    current_lease = board.current_lease
    for report in event.reports:
        lease = current_lease(event.worker, report.fence)
        if lease is None:
            effects.append(_fence_off(board, event, report))
            continue
        worker = board.workers[event.worker]  # whoever has a current lease is here
        if report.ending is _SUCCEEDED and worker.suspicion is None:
            worker.last_good = lease.job.spec.function
        else:
            quarantine.judge(board, lease, report, now, effects)
        settle(board, lease, report, now, effects)


def settle(board: Board, lease: LeaseHeld, report: Report, now: Now, effects: list[Effect]) -> None:
    """End a lease's attempt as the report says."""
    job = lease.job
    board.release(lease)
    if job.state is _ASSIGNED:
        board.move(job, _START)
    if report.ending is _SUCCEEDED and not job.spec.items:
        if report.certificate is None:
            complete(board, job, report, now, effects)
        else:  # a success has nothing to certify
            complete(board, job, EndOfRun(report.fence, report.payload, None, report.output), now, effects)
        return
    given = report.certificate or Certificate(ending=report.ending, reason="its worker gave no reason")
    certificate = signed(board, given, lease)
    job.outgrown += report.ending is Ending.OUT_OF_MEMORY
    if job.spec.items:
        _settle_chunk(board, job, (report, certificate), now, effects)
        return
    board.counters.failed_attempts += 1
    spent = policy.spend(Spent(job.failures, job.crashes), report.ending)
    job.failures, job.crashes = spent.failures, spent.crashes
    verdict = policy.decide(job.spec.options, report.ending, spent, error_types=certificate.error_types, salt=job.seq)
    if verdict.retry:
        _retry(board, job, (report, certificate, verdict.delay_seconds), now, effects)
    else:
        give_up(board, job, EndOfRun(report.fence, report.payload, certificate, report.output), now, effects)


def complete(board: Board, job: Job, ended: EndOfRun | Report, now: Now, effects: list[Effect]) -> None:
    """The run succeeded: record it, and release the jobs that waited for it."""
    board.move(job, _SUCCEED)
    board.counters.completed += 1
    board.end(job, ended, now, effects)
    for dependant in board.dependants.pop(job.spec.id, _NOBODY).values():
        dependant.unmet -= 1
        if dependant.unmet or dependant.state is JobState.SUBMITTED:
            continue
        if board.schedule(dependant, now):
            board.move(dependant, Cause.NOT_DUE)
        else:
            board.enqueue(dependant, Cause.DEPENDENCIES_MET)


def give_up(board: Board, job: Job, ended: EndOfRun, now: Now, effects: list[Effect]) -> None:
    """The running job's attempt was its last."""
    board.move(job, Cause.FAIL)
    board.move(job, Cause.GIVE_UP)
    bury(board, job, ended, now, effects)


def bury(board: Board, job: Job, ended: EndOfRun, now: Now, effects: list[Effect]) -> None:
    """Record that a run ended without a result; the jobs that waited for it fail too, and theirs, at once."""
    grave: list[tuple[Job, EndOfRun]] = [(job, ended)]
    # A list and not recursion: a chain of 100,000 jobs may hang on this one.
    while grave:
        dead, how = grave.pop()
        if dead.state is JobState.DEAD_LETTER:
            board.counters.dead += 1
        board.end(dead, how, now, effects)
        for dependant in board.dependants.pop(dead.spec.id, {}).values():
            board.move(dependant, Cause.DEPENDENCY_FAILED)
            grave.append((dependant, _dependency_end(dead.spec.id, dead.state)))


def fail_for_dependency(board: Board, job: Job, dependency: JobId, now: Now, effects: list[Effect]) -> None:
    """A job was admitted that waits for one that has failed already."""
    board.move(job, Cause.DEPENDENCY_FAILED)
    other = board.jobs.get(dependency)
    bury(board, job, _dependency_end(dependency, other.state if other else None), now, effects)


def dated(certificate: Certificate, job: Job, now: Now) -> Certificate:
    """With the times of the job's last lease: of an attempt of which nobody but the board can tell."""
    if not job.started:  # leased by an earlier master, which alone knew since when
        return certificate
    # The wall clock may have been set back meanwhile.
    return structs.replace(certificate, started=job.started, seconds=max(0.0, now.wall - job.started))


def on_inputs_missing(board: Board, event: events.InputsMissing, now: Now, effects: list[Effect]) -> None:
    """A leased job can't be given its arguments; it is told so and given up."""
    lease = board.current_lease(event.worker, event.fence)
    if lease is None:
        return
    board.release(lease)
    reason = f"the result of job {event.missing}, an argument, is no longer in the store"
    certificate = Certificate(ending=Ending.DEPENDENCY, reason=reason)
    give_up(board, lease.job, EndOfRun(event.fence, b"", certificate), now, effects)


def _settle_chunk(board: Board, job: Job, told: tuple[Report, Certificate], now: Now, effects: list[Effect]) -> None:
    report, certificate = told
    if job.chunk is None:
        job.chunk = chunks.start(job.spec.items)
    judgement = chunks.absorb(job.chunk, report, job.spec.options, salt=job.seq)
    spent = list(job.chunk.spent.values())
    job.failures = sum(item.failures for item in spent)
    job.crashes = sum(item.crashes for item in spent) + job.chunk.blind
    if not judgement.is_done:
        board.counters.failed_attempts += 1
        _retry(board, job, (report, certificate, judgement.delay_seconds), now, effects)
        return
    payload = chunks.encode(job.chunk.segments)
    ended = EndOfRun(report.fence, payload, judgement.certificate, report.output)
    if judgement.certificate is None:
        complete(board, job, ended, now, effects)
    else:
        board.counters.failed_attempts += 1
        give_up(board, job, ended, now, effects)


def _retry(board: Board, job: Job, told: tuple[Report, Certificate, float], now: Now, effects: list[Effect]) -> None:
    report, certificate, delay = told
    board.move(job, Cause.FAIL)
    board.move(job, Cause.RETRY)
    board.counters.retried += 1
    job.due_mono = now.mono + delay
    effects.append(
        AttemptFailed(
            seq=job.seq,
            job=job.spec.id,
            run=job.run,
            fence=report.fence,
            certificate=certificate,
            failures=job.failures,
            crashes=job.crashes,
            due=now.wall + delay,
            progress=chunks.encode_progress(job.chunk) if job.chunk else b"",
            output=report.output,
            outgrown=job.outgrown,
        )
    )
    if delay > 0:
        board.timers.add(job.due_mono, Timer.DUE, job)
    else:
        board.enqueue(job, Cause.DUE)


def signed(board: Board, certificate: Certificate, lease: LeaseHeld) -> Certificate:
    """With what the board knows better than the worker, and what it knows where nobody else can tell any more."""
    holder = board.workers.get(lease.worker)
    return structs.replace(
        certificate,
        attempt=lease.attempt,
        worker=lease.worker,
        host=certificate.host or (holder.host if holder is not None else ""),
        pid=certificate.pid or lease.pid,
    )


def _fence_off(board: Board, event: events.Reported, report: Report) -> FencedOff:
    """Refuse a report; if it is of an attempt that was ordered to stop, then it is over now."""
    board.counters.fenced += 1
    lease = board.leases.get(report.fence)
    job, attempt = board.lapsed.get(report.fence, ("", 0)) if lease is None else (lease.job.spec.id, lease.attempt)
    if lease is not None and lease.is_revoked and lease.worker == event.worker:
        board.release(lease)
    return FencedOff(event.worker, report.fence, report.ending, job, attempt)


def _dependency_end(dependency: JobId, state: JobState | None) -> EndOfRun:
    how = f" ({state.name.lower()})" if state else ""
    reason = f"it waited for job {dependency}, which ended without a result{how}"
    return EndOfRun(0, b"", Certificate(ending=Ending.DEPENDENCY, reason=reason))
