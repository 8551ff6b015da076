"""Workers take jobs, give them back, and confirm that stopped ones are gone."""

from __future__ import annotations

from cluster.core import events, memory, quarantine, settlement
from cluster.core.board import Board
from cluster.core.effects import Effect, GivenBack, Leased, LeasedJob, TellGranted
from cluster.core.job import Job, LeaseHeld, WorkerHeld
from cluster.core.records import Certificate, Ending, Fence, Lease, Now, Report
from cluster.core.states import Cause

_LEASE = Cause.LEASE  # a look at an enum's class costs as much as making a record, on Python 3.11
_STOPPED_IN_VAIN = "its worker stopped it by an order of a master that died before that was durable"


def on_poll(board: Board, event: events.Poll, now: Now, effects: list[Effect]) -> None:
    """Lease the next jobs. The shell hands out those whose lease `is_granted`; the others follow once durable."""
    worker = board.workers.get(event.worker)
    if worker is None:
        return
    if worker.is_draining or event.capacity <= 0:
        board.waking.forget(worker.id)
        return
    capacity = event.capacity if worker.suspicion is None else quarantine.most(worker, event.capacity, now)
    leased = [_lease(board, worker, job, now) for job in board.placement.pop(worker, capacity)]
    board.waking.on_polled(worker.id, capacity - len(leased))
    if not leased:
        return
    effects.append(Leased(worker.id, tuple(leased)))
    held = board.leases
    effects.extend([TellGranted(worker.id, job.fence) for job in leased if not held[job.fence].is_granted])


def on_lease_durable(board: Board, event: events.LeaseDurable, _now: Now, _effects: list[Effect]) -> None:
    """The worker may have it now, unless it was cancelled meanwhile."""
    lease = board.current_lease(event.worker, event.fence)
    if lease is not None:
        lease.is_granted = True


def on_give_back(board: Board, event: events.GiveBack, _now: Now, effects: list[Effect]) -> None:
    """Queue the jobs again, before their equals; no attempt is spent."""
    leases = [board.leases.get(fence) for fence in dict.fromkeys(event.fences)]
    give_back(board, [lease for lease in leases if lease is not None and lease.worker == event.worker], effects)


def on_stopped(board: Board, event: events.Stopped, now: Now, effects: list[Effect]) -> None:
    """Attempts that were ordered to stop are gone."""
    for fence in event.fences:
        lease = board.leases.get(fence)
        if lease is None or lease.worker != event.worker:
            continue
        if lease.is_revoked:
            board.release(lease)
            continue
        # The order went out before what it was for was durable, and died with an earlier master.
        certificate = Certificate(ending=Ending.WORKER_LOST, reason=_STOPPED_IN_VAIN)
        certificate = settlement.dated(certificate, lease.job, now)
        report = Report(fence, Ending.WORKER_LOST, certificate=certificate)
        settlement.settle(board, lease, report, now, effects)


def give_back(board: Board, leases: list[LeaseHeld], effects: list[Effect]) -> None:
    """End these claims without an attempt spent."""
    fences: list[Fence] = []
    # Backwards, because each goes before the others: in the end they stand as they stood.
    for lease in reversed(leases):
        board.release(lease)
        if lease.is_revoked:
            continue
        fences.append(lease.fence)
        lease.job.attempts -= 1
        board.enqueue(lease.job, Cause.GIVE_BACK, first=True)
    if fences:
        effects.append(GivenBack(tuple(reversed(fences))))


def describe(held: LeaseHeld) -> Lease:
    """The lease as its worker gets it; the payloads of its `inputs` are the shell's to fill in."""
    fence, job, spec = held.fence, held.job, held.job.spec
    inputs = tuple((dependency, b"") for dependency in spec.inputs) if spec.inputs else ()
    if not spec.items and not held.memory:
        return Lease(fence, spec.id, held.run, held.attempt, spec.function, spec.args, spec.options, inputs)
    ranges: tuple[tuple[int, int], ...] = ()
    if spec.items:
        ranges = tuple(job.chunk.pending) if job.chunk else ((0, spec.items),)
    return Lease(
        fence=fence,
        job=spec.id,
        run=held.run,
        attempt=held.attempt,
        function=spec.function,
        args=spec.args,
        options=spec.options,
        inputs=inputs,
        ranges=ranges,
        careful=job.chunk.careful if job.chunk else False,
        memory=held.memory,
    )


def _lease(board: Board, worker: WorkerHeld, job: Job, now: Now) -> LeasedJob:
    board.move(job, _LEASE)
    job.fence = fence = board.issue_fence()
    job.attempts = attempt = job.attempts + 1
    job.started = now.wall
    job.worker = name = worker.id
    run = job.run
    lease = LeaseHeld(fence, job, name, run, attempt, not job.must_be_durable)
    if job.spec.options.memory:
        lease.memory = memory.limit_of(job)
        worker.promised += lease.memory
    board.leases[fence] = worker.leases[fence] = lease
    return LeasedJob(fence, job.seq, run, attempt)
