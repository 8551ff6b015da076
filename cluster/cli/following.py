"""Wait for jobs, and print a job's output as it grows."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from typing import Any

import typer

from cluster.client.job import Job

# A person watches; asking more often would only load the master.
POLL_SECONDS = 0.3
# Python loses a Ctrl-C that comes in the instant before a thread goes to sleep; it is noticed when the slice is over.
SLICE_SECONDS = 1.0


class Tail:
    """What was printed of a text that grows, and may lose its middle when it grows too long."""

    def __init__(self) -> None:
        self._seen = ""

    def rest(self, text: str, *, is_whole: bool) -> str:
        """What is new in the text; the beginning of a line only once nothing more will come."""
        if not is_whole:
            # The last bytes may be half of a character.
            text = text[: text.rfind("\n") + 1]
            if len(text) < len(self._seen):
                return ""
        known = _common(self._seen, text)
        self._seen = text
        return text[known:]


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    if other.startswith(one):  # as a rule: the text has grown
        return len(one)
    return next((place for place, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its), len(other))


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
    tail = Tail()
    while True:
        done, _ = concurrent.futures.wait([job], POLL_SECONDS)
        new = tail.rest(job.logs(), is_whole=bool(done))
        if new:
            typer.echo(new, nl=False)
        if done:
            return
