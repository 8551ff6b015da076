"""The log's word on every attempt that came to nothing, and on every job that ended without a result.

What failed, where and why, a line for each, once that is durable: the same certificate that the job, its error and the
command line have. A job that fails a hundred thousand times, or a hundred thousand that fail once, must not be a hundred
thousand lines; beyond `MAX_LINES` in a while only their number is told, and the store has the rest.

At level INFO: a failing job is its owner's trouble, not the master's.

A report that came too late, and changed nothing, gets its line too: it explains what a worker did in vain.

`write` is called by the thread that commits, one at a time; `write_late` by any.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from cluster.core.effects import AttemptFailed, Ended, FencedOff
from cluster.core.records import Certificate, JobId

LOG = logging.getLogger("cluster.master")

MAX_LINES = 20
WHILE_SECONDS = 1.0
MAX_REASON_CHARACTERS = 300
_FIELDS = "job=%s run=%d attempt=%d ending=%s worker=%s host=%s pid=%d"
_FAILED = f"attempt failed: {_FIELDS} again_in=%.1f s: %s"
_LATE = "late report was refused: job=%s attempt=%d worker=%s fence=%d ending=%s: it changes nothing"
_MORE_FAILED = "%d more attempts or jobs failed; `cluster dead list` has those given up"
_MORE_LATE = "%d more late reports were refused"
_ENDED = f"job ended without a result: {_FIELDS} state=%s: %s"


class Obituaries:
    """Writes them. What is left out is told with the next that is not."""

    def __init__(self, mono: Callable[[], float]) -> None:
        self._failed = _Room(mono, _MORE_FAILED)
        self._late = _Room(mono, _MORE_LATE)

    def write(self, failed: Sequence[AttemptFailed | Ended], wall: float) -> None:
        """Log these, or as many of them as there is room for.

        Args:
            failed: attempts that will be tried again, and ends of jobs that have a certificate.
            wall: the time of day.
        """
        if not LOG.isEnabledFor(logging.INFO):
            return
        for one in failed:
            if not self._failed.take():
                continue
            if isinstance(one, AttemptFailed):
                why = one.certificate
                delay = max(0.0, one.due - wall)
                LOG.info(_FAILED, *_fields(one.job, one.run, why), delay, _one_line(why.reason))
                continue
            outcome = one.outcome
            if outcome.certificate is not None:
                why = outcome.certificate
                fields = _fields(outcome.job, outcome.run, why)
                LOG.info(_ENDED, *fields, outcome.state.name.lower(), _one_line(why.reason))

    def write_late(self, report: FencedOff) -> None:
        """Log a report that was fenced off, if there is room."""
        if LOG.isEnabledFor(logging.INFO) and self._late.take():
            job = report.job or "unknown"
            LOG.info(_LATE, job, report.attempt, report.worker, report.fence, report.ending.name.lower())


class _Room:
    """For lines of one kind: `MAX_LINES` in a while. Thread-safe."""

    def __init__(self, mono: Callable[[], float], more: str) -> None:
        self._mono = mono
        self._more = more
        self._lock = threading.Lock()  # guards the rest
        self._since = float("-inf")
        self._lines = 0

    def take(self) -> bool:
        """Whether one more line may be written. What was left out is told first, once there is room again."""
        now, left_out = self._mono(), 0
        with self._lock:
            if now - self._since >= WHILE_SECONDS:
                left_out = self._lines - MAX_LINES
                self._since, self._lines = now, 0
            self._lines += 1
            has_room = self._lines <= MAX_LINES
        if left_out > 0:
            LOG.info(self._more, left_out)
        return has_room


def _fields(job: JobId, run: int, why: Certificate) -> tuple[object, ...]:
    return job, run, why.attempt, why.ending.name.lower(), why.worker or "none", why.host or "unknown", why.pid


def _one_line(text: str) -> str:
    """A reason may quote anything that a task wrote; in a log it is one line and moves no cursor."""
    short = text[:MAX_REASON_CHARACTERS]
    return "".join(character if character.isprintable() else " " for character in short)
