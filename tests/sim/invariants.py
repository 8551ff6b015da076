"""What must hold of a board between any two events, whoever drives it: the simulator and the Hypothesis machine.

Each check compares two places where the board keeps the same truth. The last one compares the board with its store:
once nothing is left in the commit log, a master that died now would restore exactly this board.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cluster.core.board import Board
from cluster.core.chunks import decode_progress
from cluster.core.job import Job
from cluster.core.memory import limit_of
from cluster.core.states import HELD, JobState
from cluster.core.timers import Timer
from tests.sim.world import Violation

if TYPE_CHECKING:
    from cluster.store.port import Store


def check_board(board: Board) -> None:
    """The board agrees with itself."""
    _check_counts(board)
    for name, job in board.jobs.items():
        _require(job.spec.id == name, f"job {name} is filed under another id")
        _check_job(board, job)
    _check_leases(board)
    _check_dependants(board)
    _check_lanes(board)
    _check_waking(board)


def check_timers(board: Board, mono: float) -> None:
    """Right after a tick nothing is overdue, and what waits for a time has a timer."""
    meant = {(when, kind, job.seq, job.run) for when, _, kind, job in board.timers._heap}
    for job in board.jobs.values():
        name = job.spec.id
        if job.state in (JobState.SCHEDULED, JobState.RETRY_QUEUED):
            _require(job.due_mono > mono, f"job {name} was due at {job.due_mono} and is still {job.state.name}")
            _require((job.due_mono, Timer.DUE, job.seq, job.run) in meant, f"job {name} has no timer to become due")
        if job.expires_mono and not job.is_terminal:
            _require(job.expires_mono > mono, f"job {name} should have expired at {job.expires_mono}")
            _require((job.expires_mono, Timer.EXPIRE, job.seq, job.run) in meant, f"job {name} has no expiry timer")
    for worker in board.workers.values():
        _require(worker.deadline > mono, f"worker {worker.id} is silent and was not found lost")


def check_empty(board: Board) -> None:
    """Everything has ended, and the board holds nothing of it."""
    _require(not board.jobs, f"left on the board: {sorted(board.jobs)}")
    _require(not board.leases, f"leases left: {sorted(board.leases)}")
    _require(not board.dependants, f"dependants left: {sorted(board.dependants)}")
    _require(not board.inputs_needed, f"inputs still needed: {board.inputs_needed}")
    _require(not board.placement._lanes, f"lanes left: {list(board.placement._lanes)}")
    _require(not any(board.counts), f"counts left: {board.counts}")
    meant = [job.spec.id for _, job in board.timers.pop_due(float("inf"))]
    _require(not meant, f"timers still meant for {meant}")
    _require(not board.shelf._users, f"tasks still in use: {board.shelf._users}")


def check_agreement(board: Board, store: Store) -> None:
    """The store would restore this board: same live jobs, same runs, same budgets, same leases."""
    stored = {record.spec.id: record for record in store.live_jobs()}
    live = {name: job for name, job in board.jobs.items() if not job.is_terminal}
    _require(
        stored.keys() == live.keys(), f"live jobs differ between board and store: {sorted(stored.keys() ^ live.keys())}"
    )
    for name, record in stored.items():
        job = live[name]
        ours = (job.seq, job.run, job.attempts, job.failures, job.crashes, job.outgrown, job.fence)
        theirs = (
            record.seq, record.run, record.attempts, record.failures, record.crashes, record.outgrown, record.fence,
        )  # fmt: skip
        _require(
            ours == theirs,
            f"job {name} is (seq, run, attempts, failures, crashes, outgrown, fence) {ours} on the board, {theirs} in the store",
        )
        if job.chunk is not None and record.progress:
            _require(
                decode_progress(record.progress) == job.chunk, f"the progress of chunk {name} differs in the store"
            )


def _check_counts(board: Board) -> None:
    counted = Counter(job.state for job in board.jobs.values())
    for state in JobState:
        _require(
            board.counts[state] == counted[state],
            f"{board.counts[state]} jobs are counted as {state.name}, there are {counted[state]}",
        )


def _check_job(board: Board, job: Job) -> None:
    name, state = job.spec.id, job.state
    _require(state is not JobState.FAILED, f"job {name} rests in FAILED")
    _require(bool(job.fence) == (state in HELD), f"job {name} is {state.name} with fence {job.fence}")
    _require(min(job.attempts, job.failures, job.crashes, job.unmet) >= 0, f"job {name} has a negative count")
    if job.fence:
        lease = board.leases.get(job.fence)
        _require(lease is not None and lease.job is job, f"job {name} holds a fence that is no lease of it")
        _require(lease is None or not lease.is_revoked, f"job {name} holds a revoked lease")
    if job.stopping:
        _require(job.stopping in board.leases, f"job {name} waits for the end of a lease that is gone")
        _require(not job.fence, f"job {name} was leased while an attempt of it has still to stop")
    if job.unmet:
        _require(state in (JobState.WAITING, JobState.SUBMITTED), f"job {name} waits for others and is {state.name}")
        waits = sum(1 for waiting in board.dependants.values() if waiting.get(name) is job)
        _require(waits == job.unmet, f"job {name} counts {job.unmet} unmet dependencies, {waits} are noted")
    elif state is JobState.WAITING:
        raise Violation(f"board: job {name} is WAITING for nothing")
    if job.is_terminal and job.is_settled:
        _require(bool(job.stopping), f"job {name} has ended, is durable and is not forgotten")


def _check_leases(board: Board) -> None:
    held = {fence: worker.id for worker in board.workers.values() for fence in worker.leases}
    _require(held.keys() == board.leases.keys(), "leases of the board and of its workers differ")
    for fence, lease in board.leases.items():
        _require(lease.fence == fence and held[fence] == lease.worker, f"lease {fence} is filed wrongly")
        mine = lease.job.stopping if lease.is_revoked else lease.job.fence
        _require(mine == fence, f"lease {fence} belongs to job {lease.job.spec.id}, which does not know it")
    for worker in board.workers.values():
        short = {name: free for name, free in worker.free.items() if free < 0}
        _require(not short, f"worker {worker.id} is overdrawn: {short}")
        promised = sum(lease.memory for lease in worker.leases.values())
        _require(promised == worker.promised, f"worker {worker.id} has promised {promised}, counted {worker.promised}")


def _check_dependants(board: Board) -> None:
    for dependency, waiting in board.dependants.items():
        _require(bool(waiting), f"an empty list of dependants of {dependency} is kept")
        other = board.jobs.get(dependency)
        _require(other is not None and not other.is_terminal, f"jobs wait for {dependency}, which will never complete")
        for name, job in waiting.items():
            _require(board.jobs.get(name) is job, f"{name} waits for {dependency} and is not on the board")
            _require(dependency in job.spec.after, f"{name} waits for {dependency}, which it did not name")
    wanted = Counter(name for job in board.jobs.values() if not job.is_settled for name in job.spec.inputs)
    _require(wanted == board.inputs_needed, f"inputs needed are {dict(wanted)}, counted {board.inputs_needed}")


def _check_lanes(board: Board) -> None:
    queued: Counter[object] = Counter()
    for job in board.jobs.values():
        if job.is_in_lane:
            options = job.spec.options
            queued[options.queue, options.resources, options.labels, limit_of(job)] += 1
    for key, lane in board.placement._lanes.items():
        _require(lane.live == queued[key], f"lane {key} counts {lane.live} jobs, there are {queued[key]}")
        _require(lane.live > 0, f"an empty lane {key} is kept")
        entries = [job for jobs in lane._by_priority.values() for job in jobs if lane._has(job)]
        # A job that was cancelled and requeued may have two entries; it is handed out once all the same.
        _require(len({job.seq for job in entries}) == lane.live, f"lane {key} has lost a job")
    _require(
        sum(queued.values()) == sum(lane.live for lane in board.placement._lanes.values()), "a queued job has no lane"
    )


def _check_waking(board: Board) -> None:
    """Nobody waits for whom there is work, unless others are on their way to it."""
    placement, waking = board.placement, board.waking
    expected: Counter[int] = Counter()
    for worker, woken in waking.woken.items():
        _require(worker in board.workers, f"worker {worker} was woken, and is gone")
        _require(min(woken.count, woken.rest) >= 0, f"worker {worker} was woken for {woken.count} of {woken.rest} jobs")
        expected[id(woken.lane)] += woken.count
    for lane in placement._lanes.values():
        _require(lane.expected == expected[id(lane)], f"lane {lane.key} expects {lane.expected} jobs to be taken")
    for worker, wanted in waking.waiting.items():
        held = board.workers.get(worker)
        _require(held is not None, f"worker {worker} waits, and is gone")
        _require(wanted > 0, f"worker {worker} waits for nothing")
        _require(worker not in waking.woken, f"worker {worker} was woken, and waits")
        _require(held is None or not held.is_draining, f"worker {worker} waits, and is drained")
        for lane in placement._lanes.values():
            if held is not None and placement.fits(lane, held):
                _require(
                    lane.expected >= lane.live,
                    f"worker {worker} waits, though {lane.live} jobs of lane {lane.key} are there, "
                    f"and those who were woken will take {lane.expected}",
                )


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise Violation(f"board: {sentence}")
