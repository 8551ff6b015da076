"""Records for tests of the store, with as little said as each test allows."""

from __future__ import annotations

from cluster.core.effects import Admitted, AttemptFailed, Ended, FunctionAdded, Leased, LeasedJob, Requeued
from cluster.core.records import Certificate, Ending, FunctionBlob, JobSpec, Outcome
from cluster.core.states import JobState

DIGEST = b"f" * 32
FUNCTION = FunctionAdded(FunctionBlob(DIGEST, b"code of f", "3.11", "3.0.0", "here.f", reusable=True))


def admitted(seq: int, *, key: str = "", args: bytes = b"args", function: bytes = DIGEST) -> Admitted:
    return Admitted(seq, JobSpec(f"job{seq}", function, args, key=key), submitted=100.0 + seq)


def leased(worker: str, *jobs: tuple[int, int], run: int = 1, attempt: int = 1) -> Leased:
    return Leased(worker, tuple(LeasedJob(fence, seq, run, attempt) for fence, seq in jobs))


def died(reason: str, attempt: int = 1) -> Certificate:
    return Certificate(ending=Ending.CRASHED, reason=reason, attempt=attempt, worker="w#1", signal=11)


def failed(
    seq: int, fence: int, *, run: int = 1, crashes: int = 1, output: bytes = b"", due: float = 0.0
) -> AttemptFailed:
    certificate = died(f"attempt under {fence} died")
    # Ran out of memory each time but one, so that neither count passes for the other.
    outgrown = crashes - 1
    return AttemptFailed(seq, f"job{seq}", run, fence, certificate, 0, crashes, due, b"progress", output, outgrown)


def ended(
    seq: int,
    fence: int = 0,
    *,
    run: int = 1,
    payload: bytes = b"result",
    keep_until: float = 1000.0,
    output: bytes = b"",
    state: JobState = JobState.COMPLETED,
    at: float = 200.0,
) -> Ended:
    certificate = None if state is JobState.COMPLETED else died(f"run {run} is given up")
    outcome = Outcome(f"job{seq}", run, state, at, payload, certificate, attempts=1, worker="w#1")
    return Ended(seq, fence, outcome, keep_until, output=output)


def requeued(seq: int, run: int) -> Requeued:
    return Requeued(seq, f"job{seq}", run, 300.0)
