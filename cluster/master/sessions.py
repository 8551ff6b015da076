"""The clients that are being told things: their sinks, and who else watches a job."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence

from cluster.core.records import JobId, Outcome
from cluster.wire.desks import Sink
from cluster.wire.messages import Progress, Refusal

LOG = logging.getLogger("cluster.master")


class Sessions:
    """Sinks by session number. Session 0 is nobody: the owner of jobs from before a restart."""

    def __init__(self) -> None:
        self._sinks: dict[int, Sink] = {}
        self._watchers: dict[JobId, dict[int, int]] = {}  # by job: session and the run that it waits for
        self._lock = threading.Lock()  # guards `_watchers`
        self.is_watched = self._watchers.__contains__  # somebody besides its owner waits for the job
        self._numbers = itertools.count(1)

    def open(self, sink: Sink) -> int:
        """A new session."""
        session = next(self._numbers)
        self._sinks[session] = sink
        return session

    def close(self, session: int) -> None:
        """Tell it nothing more."""
        self._sinks.pop(session, None)
        with self._lock:
            for job in [job for job, watchers in self._watchers.items() if session in watchers]:
                self._unwatch(job, session)

    def watch(self, session: int, job: JobId, run: int) -> None:
        """Have the session told of this run, or a later one, of a job that it did not submit."""
        with self._lock:
            self._watchers.setdefault(job, {})[session] = run

    def unwatch(self, session: int, job: JobId, run: int) -> None:
        """Undo `watch` of this run or an earlier one; whoever waits for a later one still does."""
        if job not in self._watchers:
            return
        with self._lock:
            if self._watchers.get(job, {}).get(session, run) <= run:
                self._unwatch(job, session)

    def interested(self, owner: int, job: JobId, run: int) -> tuple[int, ...]:
        """Whom to tell of the run's outcome; their watching ends with that."""
        if job not in self._watchers:
            return (owner,)
        with self._lock:
            # Whoever waits for a later run must not be served, and then forgotten, with this one.
            told = [session for session, wanted in self._watchers.get(job, {}).items() if wanted <= run]
            for session in told:
                self._unwatch(job, session)
        return (owner, *(session for session in told if session != owner))

    def audience(self, owner: int, job: JobId) -> tuple[int, ...]:
        """Whom to tell of the job's progress."""
        if job not in self._watchers:
            return (owner,)
        with self._lock:
            return (owner, *(session for session in self._watchers.get(job, {}) if session != owner))

    def accepted(self, session: int, jobs: Sequence[JobId]) -> None:
        """These jobs are durable."""
        self._call(session, lambda sink: sink.accepted(jobs))

    def refused(self, session: int, refusals: Sequence[Refusal]) -> None:
        """These are not admitted."""
        self._call(session, lambda sink: sink.refused(refusals))

    def ended(self, session: int, outcomes: Sequence[Outcome]) -> None:
        """These have their outcome."""
        self._call(session, lambda sink: sink.ended(outcomes))

    def progressed(self, session: int, job: JobId, progress: Progress) -> None:
        """This one says how far it is."""
        self._call(session, lambda sink: sink.progressed(job, progress))

    def printed(self, session: int, job: JobId) -> None:
        """This one, which is to be echoed, has printed something."""
        self._call(session, lambda sink: sink.printed(job))

    def _call(self, session: int, tell: Callable[[Sink], None]) -> None:
        sink = self._sinks.get(session)
        if sink is None:
            return
        try:
            tell(sink)
        except Exception:
            LOG.exception("session %d: its sink failed; others are told all the same", session)

    def _unwatch(self, job: JobId, session: int) -> None:
        watchers = self._watchers.get(job, {})
        watchers.pop(session, None)
        if not watchers:
            self._watchers.pop(job, None)
