"""The pure board at full speed: one thread, no clock, no I/O. The ceiling of what any master built on it can decide."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence

from cluster.core import events
from cluster.core.effects import Effect, Ended, Leased
from cluster.core.handlers import Board, Settings
from cluster.core.records import Ending, FunctionBlob, JobId, JobSpec, Now, Report

# What a busy client's and worker's turns carry.
BATCH = 100
WORKER = "worker#1"
OWNER = 1
TASK = FunctionBlob(b"digest", b"body", "3.11", "3.0", "nobody.task")
START = Now(1000.0, 1_700_000_000.0)


def measure_board(jobs: int, *, is_dependent: bool) -> dict[str, float]:
    """Microseconds a job for each of its steps, with so many of them on the board at once.

    Args:
        jobs: all are submitted before the first is leased.
        is_dependent: each second job waits for the one before it.
    """
    board = Board(Settings(max_live_jobs=jobs + 1), epoch=1)
    board.handle(events.Register(WORKER), START)
    spent: dict[str, float] = {}
    specs = list(specifications(jobs, is_dependent=is_dependent))
    gc.collect()
    gc.freeze()  # the jobs' specifications are the caller's, and not for the board's collections to go through

    began = time.perf_counter()
    for batch in batches(specs):
        board.handle(events.Submit(OWNER, batch, (TASK,)), START)
    spent["submit"] = time.perf_counter() - began

    ended = 0
    lease_seconds = report_seconds = forget_seconds = 0.0
    while ended < jobs:
        began = time.perf_counter()
        effects = board.handle(events.Poll(WORKER, BATCH), START)
        leased = time.perf_counter()
        reports = tuple(
            Report(one.fence, Ending.SUCCEEDED, b"N.") for found in of_leases(effects) for one in found.jobs
        )
        if not reports:
            raise AssertionError(f"{ended:,} of {jobs:,} jobs have ended, and nothing is to be had")
        told = time.perf_counter()
        effects = board.handle(events.Reported(WORKER, reports), START)
        reported = time.perf_counter()
        done = outcomes(effects)
        counted = time.perf_counter()
        board.handle(events.OutcomesDurable(done), START)
        lease_seconds += leased - began
        report_seconds += reported - told
        forget_seconds += time.perf_counter() - counted
        ended += len(done)
    gc.unfreeze()
    spent |= {"lease": lease_seconds, "report": report_seconds, "forget": forget_seconds}
    return {f"{step}, µs": seconds * 1e6 / jobs for step, seconds in spent.items()} | {
        "jobs/s": jobs / sum(spent.values())
    }


def specifications(jobs: int, *, is_dependent: bool) -> Iterator[JobSpec]:
    for number in range(jobs):
        after = (f"job-{number - 1}",) if is_dependent and number % 2 else ()
        yield JobSpec(f"job-{number}", TASK.digest, b"args", after=after)


def batches(specs: Sequence[JobSpec]) -> Iterator[tuple[JobSpec, ...]]:
    for first in range(0, len(specs), BATCH):
        yield tuple(specs[first : first + BATCH])


def of_leases(effects: Sequence[Effect]) -> list[Leased]:
    return [effect for effect in effects if isinstance(effect, Leased)]


def outcomes(effects: Sequence[Effect]) -> tuple[tuple[JobId, int], ...]:
    return tuple((effect.outcome.job, effect.outcome.run) for effect in effects if isinstance(effect, Ended))
