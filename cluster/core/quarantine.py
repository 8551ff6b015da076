"""A worker on whose host everything fails at once: it is given one job at a time, to try whether it is well again.

Such a host is the fastest of all, so it draws the whole queue, and spends every job's budget. What tells it from a job
that fails anywhere:

- attempts that ended *at once* by the surroundings' fault: the child died, or the task could not be loaded;
  A crash that comes later says nothing either way;
- of so many *different* jobs, each at its first attempt (a job that comes again has failed before, and may be to blame
  itself), with nothing in between that ran: neither a success, nor an exception of the task, nor a timeout;
- of tasks that *work*: here in earlier life or on another worker; or, of tasks of several kinds, while others did well.

A quarantined worker keeps what it holds. It is leased one job (a *probe*) after a pause that grows with each probe that
fails; it is let off as soon as something succeeds, or a probe is seen to run. So a cluster of one worker goes on too.

Only unsuccessful reports come here, and what a worker says while it is under suspicion.
"""

from __future__ import annotations

from cluster.core.board import Board
from cluster.core.effects import Announced, Effect, Wake
from cluster.core.job import LeaseHeld, Suspicion, WorkerHeld
from cluster.core.records import Ending, JobId, Now, Report
from cluster.core.states import JobState

# What is missing on a host is missed within milliseconds. But on one with ten times more to do than it can, a child that
# dies at once was seen to take 1.6 s, its start included.
QUICK_SECONDS = 5.0
# One poison job in a hundred makes five in a row once in 10^10 jobs; a broken host costs five jobs one re-run each.
MIN_JOBS = 5
# So many different tasks can't all be wrong, if others do well meanwhile.
MIN_TASKS = 3
# Evidence that is kept. More would not change the judgement.
MAX_JOBS = 32
# A mount that was late is there a second later; an operator takes minutes, and must not wait long once it is mended.
FIRST_PROBE_SECONDS = 1.0
MAX_PROBE_SECONDS = 30.0

_SUSPICIOUS = frozenset({Ending.CRASHED, Ending.ENVIRONMENT, Ending.UNPICKLABLE})


def judge(board: Board, lease: LeaseHeld, report: Report, now: Now, effects: list[Effect]) -> None:
    """Note what a report says of its worker; to be called before the report is settled."""
    worker = board.workers[lease.worker]
    if report.ending in _SUSPICIOUS and report.seconds >= QUICK_SECONDS:
        return  # neither: it ran, or its host is too slow to say
    if not _is_suspicious(report):
        if report.ending is Ending.SUCCEEDED:
            worker.last_good = lease.job.spec.function
        _trust(worker, effects)
        return
    job, suspicion = lease.job, worker.suspicion
    if not job.failures and not job.crashes:
        if suspicion is None:
            suspicion = worker.suspicion = Suspicion(board.counters.completed, {})
        if len(suspicion.jobs) < MAX_JOBS:
            suspicion.jobs[job.spec.id] = job.spec.function
        suspicion.reason = report.certificate.reason if report.certificate else report.ending.name.lower()
    if suspicion is None:
        return
    if suspicion.is_quarantined:
        if lease.fence > suspicion.first_probe:
            suspicion.probes += 1
            suspicion.probe_at = now.mono + _pause(suspicion.probes)
    elif _is_guilty(board, suspicion):
        suspicion.first_probe = board.issue_fence()
        suspicion.probe_at = now.mono + _pause(0)
        effects.append(
            Announced(
                f"worker {worker.id} is quarantined: its first attempts at {len(suspicion.jobs)} different jobs in a "
                f"row all failed at once, and their tasks run elsewhere; the last one: {suspicion.reason}"
            )
        )


def most(worker: WorkerHeld, capacity: int, now: Now) -> int:
    """How many jobs a worker under suspicion may be leased, of those that it asks for."""
    suspicion = worker.suspicion
    if suspicion is None or not suspicion.is_quarantined:
        return capacity
    if now.mono < suspicion.probe_at or any(fence > suspicion.first_probe for fence in worker.leases):
        return 0
    return min(capacity, 1)


def hear(board: Board, worker: WorkerHeld, running: tuple[JobId, ...], effects: list[Effect]) -> None:
    """A heartbeat of a worker under suspicion, before it is noted: a probe that ran at the last one too is well."""
    suspicion = worker.suspicion
    if suspicion is not None and suspicion.is_quarantined:
        held = [job for name in running if (job := board.jobs.get(name)) is not None and job.fence in worker.leases]
        if any(job.fence > suspicion.first_probe and job.state is JobState.RUNNING for job in held):
            _trust(worker, effects)
        else:
            effects.append(Wake(worker.id))  # a probe may be due that nobody has reported the end of the last one of


def _is_suspicious(report: Report) -> bool:
    # Of a chunk, one item that went well shows that the host is.
    return report.ending in _SUSPICIOUS and all(segment.certificate is not None for segment in report.segments)


def _is_guilty(board: Board, suspicion: Suspicion) -> bool:
    tasks = list(suspicion.jobs.values())
    if len(tasks) < MIN_JOBS:
        return False
    good = {worker.last_good for worker in board.workers.values()}
    if sum(task in good for task in tasks) >= MIN_JOBS:
        return True
    # A success of its own would have ended the suspicion, so these were others'.
    return board.counters.completed - suspicion.completed >= MIN_JOBS and len(set(tasks)) >= MIN_TASKS


def _trust(worker: WorkerHeld, effects: list[Effect]) -> None:
    suspicion, worker.suspicion = worker.suspicion, None
    if suspicion is not None and suspicion.is_quarantined:
        effects += [Announced(f"worker {worker.id} is well again: its quarantine is lifted"), Wake(worker.id)]


def _pause(probes: int) -> float:
    return min(FIRST_PROBE_SECONDS * 2.0**probes, MAX_PROBE_SECONDS)
