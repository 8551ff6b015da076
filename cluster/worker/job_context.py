"""`cluster.current_job()`: what the running job can know of itself, and say.

Light on purpose: it is imported with the package. The child installs one `JobContext` per job; everywhere else
`current_job()` answers an inert stand-in with the same attributes, so that a function needs no special case for being
called directly.
"""

from __future__ import annotations

import contextvars
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

# More often than this nobody can watch it, and each one costs a message.
PROGRESS_INTERVAL_SECONDS = 0.1
MAX_NOTE_CHARACTERS = 200


class JobContext:
    """The job that runs here. Outside a job every field is empty and `progress` does nothing.

    Attributes:
        id: the job's id.
        run: which run of it, from 1.
        attempt: which attempt within the run, from 1.
        fence: the number of this attempt's lease; grows, never repeats. Hand it to systems that can refuse a late
            writer.
        deadline: wall time at which the attempt (in a map: the item) is killed, or None.
    """

    __slots__ = ("_is_done", "_last", "_say", "attempt", "deadline", "fence", "id", "run")

    def __init__(
        self,
        id: str = "",  # noqa: A002 - the attribute's name
        *,
        run: int = 0,
        attempt: int = 0,
        fence: int = 0,
        deadline: float | None = None,
        say: Callable[[float, float, str], None] | None = None,
    ) -> None:
        self.id = id
        self.run = run
        self.attempt = attempt
        self.fence = fence
        self.deadline = deadline
        self._say = say
        self._last = 0.0
        self._is_done = False

    def progress(self, done: float, total: float = 0.0, note: str = "") -> None:
        """Tell whoever watches how far this job is. Cheap: at most ten a second are sent, and the last (done = total).

        What is not a finite number says nothing, and is not sent.
        """
        if self._say is None or not (math.isfinite(done) and math.isfinite(total)):
            return
        now = time.monotonic()
        is_last = bool(total) and done >= total
        if now - self._last < PROGRESS_INTERVAL_SECONDS and (self._is_done or not is_last):
            return
        self._last = now
        self._is_done = is_last
        self._say(float(done), float(total), str(note)[:MAX_NOTE_CHARACTERS].encode(errors="backslashreplace").decode())

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines become part of the job's output. Outside a job, an ordinary one of that name."""
        import logging

        logger = logging.getLogger("cluster.job")
        if self._say is not None and not logger.handlers:
            handler = logging.StreamHandler(_Stderr())
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        return logger

    def __repr__(self) -> str:
        return f"<job {self.id} attempt {self.attempt}>" if self.id else "<no job>"


class _Stderr:
    """Whatever `sys.stderr` is when a line is written."""

    def write(self, text: str) -> None:
        import sys

        sys.stderr.write(text)

    def flush(self) -> None:
        import sys

        sys.stderr.flush()


OUTSIDE = JobContext()
# Where jobs run in threads: the one of this thread.
of_thread: contextvars.ContextVar[JobContext] = contextvars.ContextVar("job", default=OUTSIDE)
_make: Callable[[], JobContext] | None = None  # written by the child's main thread between jobs
_made: JobContext | None = None


def current_job() -> JobContext:
    """The job that runs in this process, from any of its threads; outside a job an inert stand-in."""
    global _made  # noqa: PLW0603 - one job per process
    if _make is None:
        return of_thread.get()
    if _made is None:
        _made = _make()
    return _made


def install(make: Callable[[], JobContext] | None) -> None:
    """Begin a job (made only when asked for: most jobs never do), or end it with None."""
    global _make, _made  # noqa: PLW0603 - one job per process
    _make = make
    _made = None
