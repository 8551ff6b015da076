"""Workers come, stay alive, leave, get lost. Time passes."""

from __future__ import annotations

from itertools import repeat

from cluster.core import control, events, leases, quarantine, settlement
from cluster.core.board import Board
from cluster.core.effects import Effect, Wake
from cluster.core.job import WorkerHeld
from cluster.core.records import Certificate, Ending, Now, Report
from cluster.core.states import Cause, JobState
from cluster.core.timers import Timer


def on_register(board: Board, event: events.Register, now: Now, effects: list[Effect]) -> None:
    """A worker joins. Its id carries a random incarnation, so one that was started anew is another one.

    An id that is here already is one that registers twice, or one that a restarted master knows by its leases only. It
    keeps those that it names, fence and all; the others never reached it, so no attempt is spent on them.
    """
    known = board.workers.get(event.worker)
    if known is not None and event.held is not None:
        named = frozenset(event.held)
        leases.give_back(board, [lease for fence, lease in known.leases.items() if fence not in named], effects)
    held = known.leases if known is not None else {}
    free = dict(event.resources)
    for lease in held.values():
        for name, amount in lease.job.spec.options.resources:
            free[name] = free.get(name, 0) - amount
    board.workers[event.worker] = WorkerHeld(
        id=event.worker,
        deadline=now.mono + board.settings.heartbeat_timeout_seconds,
        free=free,
        labels=frozenset(event.labels),
        leases=held,
        host=event.host,
        is_draining=known is not None and known.is_draining,
        memory_room=event.memory_room,
        memory_most=event.memory_most,
        promised=sum(lease.memory for lease in held.values()),
        last_good=known.last_good if known is not None else b"",
        suspicion=known.suspicion if known is not None else None,
    )
    board.waking.forget(event.worker)  # it polls at once


def on_heartbeat(board: Board, event: events.Heartbeat, now: Now, effects: list[Effect]) -> None:
    """Renew all of the worker's leases, and note which of its jobs have begun."""
    worker = board.workers.get(event.worker)
    if worker is None:
        return
    worker.deadline = now.mono + board.settings.heartbeat_timeout_seconds
    board.waking.recheck(worker.id)
    if event.memory_most:
        worker.memory_room, worker.memory_most = event.memory_room, event.memory_most
    worker.is_short = event.is_short
    if worker.suspicion is not None:
        quarantine.hear(board, worker, event.running, effects)
    for job_id, pid in zip(event.running, event.pids or repeat(0), strict=False):
        job = board.jobs.get(job_id)
        lease = worker.leases.get(job.fence) if job is not None else None
        if job is None or lease is None:
            continue
        lease.pid = pid
        # Short jobs never show as RUNNING: they are over before anyone could look, and a message for each would cost.
        # Of a longer one `on_begun` knows, as a rule, before the heartbeat.
        if job.state is JobState.ASSIGNED:
            board.move(job, Cause.START)


def on_begun(board: Board, event: events.Begun, _now: Now, _effects: list[Effect]) -> None:
    """Note that attempts run. Nobody says so of a short one, nor need it arrive: the next heartbeat says it too."""
    for fence in event.fences:
        lease = board.current_lease(event.worker, fence)
        if lease is not None and lease.job.state is JobState.ASSIGNED:
            board.move(lease.job, Cause.START)


def on_leave(board: Board, event: events.Leave, _now: Now, effects: list[Effect]) -> None:
    """A worker goes in good order: nothing of it runs any more."""
    worker = board.workers.get(event.worker)
    if worker is not None:
        leases.give_back(board, list(worker.leases.values()), effects)
        board.waking.forget(event.worker)
        del board.workers[event.worker]


def on_drain(board: Board, event: events.Drain, _now: Now, effects: list[Effect]) -> None:
    """Have a worker run empty, or take jobs again."""
    worker = board.workers.get(event.worker)
    if worker is not None:
        worker.is_draining = event.draining
        board.waking.forget(worker.id)
        if not event.draining:
            effects.append(Wake(worker.id))


def on_tick(board: Board, _event: events.Tick, now: Now, effects: list[Effect]) -> None:
    """Do what has fallen due: jobs become leasable or expire, silent workers are given up."""
    _forgive_own_sleep(board, now)
    for kind, job in board.timers.pop_due(now.mono):
        if kind is Timer.DUE:
            board.enqueue(job, Cause.DUE)
        else:
            control.stop(board, job, Ending.EXPIRED, now, effects)
    for worker in [worker for worker in board.workers.values() if worker.deadline <= now.mono]:
        _lose(board, worker, now, effects)
    for worker in board.workers.values():
        suspicion = worker.suspicion
        if suspicion is not None and suspicion.is_quarantined and suspicion.probe_at <= now.mono:
            effects.append(Wake(worker.id))


def _forgive_own_sleep(board: Board, now: Now) -> None:
    """If it was the master that slept (SIGSTOP, a suspended laptop), no worker could have renewed: give them time."""
    timeout = board.settings.heartbeat_timeout_seconds
    slept = board.last_tick is not None and now.mono - board.last_tick > timeout / 2
    board.last_tick = now.mono
    if slept:
        for worker in board.workers.values():
            worker.deadline = max(worker.deadline, now.mono + timeout)


def _lose(board: Board, worker: WorkerHeld, now: Now, effects: list[Effect]) -> None:
    """Free every job that a lost worker held; each is retried or given up by policy.

    By the time its leases are void here the worker has killed their attempts itself: it counts from when it sent its
    last heartbeat, the board from when that one arrived.
    """
    # It never heard of these, so nothing was begun; a job that may run only once is not lost with it.
    leases.give_back(board, [lease for lease in worker.leases.values() if not lease.is_granted], effects)
    board.waking.forget(worker.id)
    del board.workers[worker.id]
    for lease in list(worker.leases.values()):
        board.lapse(lease)
        if lease.is_revoked:
            board.release(lease)
            continue
        reason = f"its worker {worker.id} was lost: no heartbeat for {board.settings.heartbeat_timeout_seconds:g} s"
        certificate = settlement.dated(
            Certificate(ending=Ending.WORKER_LOST, reason=reason, host=worker.host), lease.job, now
        )
        report = Report(lease.fence, Ending.WORKER_LOST, certificate=certificate)
        settlement.settle(board, lease, report, now, effects)
