"""Wait for jobs, and print a job's output as it grows."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cluster.client.job import Job  # it loads cloudpickle, and a master is started by this command line too

# Python loses a Ctrl-C that comes in the instant before a thread goes to sleep; it is noticed when the slice is over.
SLICE_SECONDS = 1.0


def wait_all(jobs: Sequence[Job[Any]], timeout: float | None) -> bool:
    """Wait until all jobs are done; False if the time ran out."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = SLICE_SECONDS if deadline is None else min(SLICE_SECONDS, max(0.0, deadline - time.monotonic()))
        _, pending = concurrent.futures.wait(jobs, left)
        if not pending:
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


def follow(job: Job[Any]) -> None:
    """Print what the job prints; returns when it has ended. Leaves its result alone."""
    for piece in job.logs(follow=True):
        typer.echo(piece, nl=False)
