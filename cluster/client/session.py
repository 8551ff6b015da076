"""`Session`: between the user's threads and the jobs desk. It books what was submitted and hears what the desk tells.

The master is authoritative; everything here is a queue in front of it or an echo of it.

    user's threads                                        threads of the master, after each commit
      submit() ──► books + outbox ──► desk.submit           accepted / refused / ended / progressed
                                     (see `outbox`)             │  (the `Sink`: never blocks, never raises)
                                                                ▼
      result(), await, wait() ◄──────── futures, by id ◄────────┴───► done-callbacks (see `callbacks`)

**Books.** `_mine` has the pending jobs that were submitted here: these are what a `with` block waits for. `_watched`
has those of others that were asked for by id. A future leaves the books when it is done.

**Locks.** `_lock` guards the books and the outbox, and Ctrl-C can't break it (see `gate`). It is never held while the desk is called or a job's gate is taken,
because the desk may answer in the very call of `submit` (a memory store commits in the appending thread).

**Who dies.** The master raises: the jobs of that batch end with the reason, and after anything but a refusal, so does
every later submit. A fork: the child may use nothing of this (see `forks`). The handle closes: what is pending ends
with `Detached`.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

from cluster.client import forks
from cluster.client.callbacks import Callbacks
from cluster.client.echo import Echo
from cluster.client.gate import Gate
from cluster.client.job import (
    Job,
    accept_all,
    attached,
    detach,
    has_been_accepted,
    note_progress,
    refuse,
    settle_all,
)
from cluster.client.outbox import Lend, Outbox
from cluster.client.refusals import UnreadRefusal, error_of
from cluster.core.records import DEFAULT_OPTIONS, FunctionBlob, JobId, JobSpec, Options, Outcome
from cluster.errors import ClusterError, Detached, KeyConflict, MasterUnavailable, QueueFull, Refused
from cluster.wire.desks import JobsDesk
from cluster.wire.messages import Progress, Refusal

R = TypeVar("R")

_LOG = logging.getLogger("cluster")

MAX_UNACKNOWLEDGED = 10_000
SUBMIT_TIMEOUT_SECONDS = 30.0


class Session:
    """One client's conversation with a jobs desk. Thread-safe; implements `cluster.wire.desks.Sink`."""

    def __init__(
        self,
        desk: JobsDesk,
        *,
        max_unacknowledged: int = MAX_UNACKNOWLEDGED,
        submit_timeout_seconds: float = SUBMIT_TIMEOUT_SECONDS,
        lend: Lend | None = None,
    ) -> None:
        self.name = base64.b32encode(os.urandom(10)).decode().lower()[:10]
        self._desk = desk
        self._generation = forks.generation
        self.max_unacknowledged = max_unacknowledged
        # What jobs get that say nothing themselves. Exchanged by `opened`, whole, from the desk's thread.
        self.defaults = DEFAULT_OPTIONS
        self._submit_timeout_seconds = submit_timeout_seconds
        self._numbers = itertools.count(1)
        self._lock = Gate()
        # The same under another name, where it is notified that there may be room for a submit again, or less to wait
        # for.
        self._changed = self._lock
        # Guarded by `_lock`.
        self._mine: dict[JobId, Job[Any]] = {}
        self._watched: dict[JobId, Job[Any]] = {}
        self._acknowledged = 0  # or refused
        self._feeding: set[threading.Thread] = set()  # they will submit more: maps that still read their input
        self._failure: ClusterError | None = None  # once set, nothing is submitted any more
        self._closing: ClusterError | None = None  # once set, only by what is waited for: maps and callbacks
        self._refusals: weakref.WeakValueDictionary[JobId, UnreadRefusal] = weakref.WeakValueDictionary()
        self._callbacks = Callbacks(self._wake_waiting)
        self._echo: Echo | None = None  # made for the first job that is to be echoed
        self._number = desk.open(self)
        self._outbox = Outbox(self._lock, self._mine, self._send, lend)
        self.pass_on = self._outbox.pass_on
        self.hurry = self._outbox.hurry
        self.call_back = self._callbacks.call
        self.start_calling_back = self._callbacks.start

    # --- submitting -----------------------------------------------------------------------------------------------

    def new_id(self) -> JobId:
        """An id that no other job has."""
        return f"{self.name}-{next(self._numbers)}"

    def submit(self, job: Job[R], spec: JobSpec, blob: FunctionBlob) -> Job[R]:
        """Put a job into the outbox. Blocks only while too many are unacknowledged.

        Returns:
            The job; of a `key` that is pending here already, the future that is.
        """
        if forks.generation != self._generation:
            raise forks.forked_error()
        outbox = self._outbox
        if outbox.total - self._acknowledged >= self.max_unacknowledged:
            self._wait_for_room()
        with self._lock:
            failure = self._failure or (self._closing and self._outsider_error())
            known = self._mine.get(spec.id) if spec.key else None
            if known is None and failure is None:
                outbox.put(job, spec, blob)
        if failure is not None:
            raise failure
        if known is not None:
            return known if known.function == spec.function else _conflicting(job, spec)
        outbox.look_after()
        return job

    def echo(self, job: JobId) -> None:
        """Have what this job prints written to standard output; said before it is submitted."""
        with self._lock:
            if self._echo is None:
                self._echo = Echo(self._desk.read_output)
        self._echo.add(job)

    def reach(self) -> JobsDesk:
        """The desk, for a question or an order: everything submitted before has been passed to it."""
        self.check_usable()
        self._outbox.pass_all()
        return self._desk

    def flush(self, timeout: float | None) -> None:
        """Wait until every job submitted so far is durable; raise the first refusal that nobody read.

        Raises:
            TimeoutError: some are not acknowledged yet.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.reach()
        with self._lock:
            pending = list(self._mine.values())
        for job in pending:
            _ = job.accepted(None if deadline is None else max(0.0, deadline - time.monotonic()))
        for notice in list(self._refusals.values()):
            if not notice.is_read:
                notice.is_read = True
                raise notice.error

    # --- attaching --------------------------------------------------------------------------------------------------

    def attach(self, job_id: JobId) -> Job[Any]:
        """The future of a job of this cluster, whoever submitted it. Raises `UnknownJob`."""
        desk = self.reach()
        with self._lock:
            known = self._mine.get(job_id) or self._watched.get(job_id)
        if known is not None:
            return known
        return self._watch(attached(self, desk.info(job_id)), self._watched)

    def requeue(self, job: Job[R]) -> Job[R]:
        """Start a new run of an ended job; the future of that run."""
        (info,) = self.reach().requeue([job.id])
        return self._watch(attached(self, info), self._mine)

    def _watch(self, job: Job[Any], books: dict[JobId, Job[Any]]) -> Job[Any]:
        try:
            with self._lock:
                known = books.setdefault(job.id, job)
            if known is job:
                self._desk.watch(self._number, job.id)
        except BaseException:  # Ctrl-C too: a future that nobody is told of must not be found by the next who asks
            self._forget(job)
            raise
        return known

    # --- what the desk tells (the Sink) -------------------------------------------------------------------------------

    def opened(self, defaults: Options) -> None:
        """The master, a restarted one perhaps, has these defaults."""
        self.defaults = DEFAULT_OPTIONS if defaults == DEFAULT_OPTIONS else defaults

    def accepted(self, jobs: Sequence[JobId]) -> None:
        """These jobs are durable."""
        find = self._mine.get
        self._acknowledge(accept_all([job for job in map(find, jobs) if job is not None]))

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """These jobs have their committed outcome."""
        fresh = 0
        for books in (self._mine, self._watched):
            settled, count = settle_all(books, outcomes) if books else ((), 0)
            fresh += count
            if settled and self._echo is not None:
                self._echo.ended([job.id for job in settled])
            # Forgotten only now: `wait_ended` must not find nothing pending before the futures are done.
            for job in settled:
                if books.get(job.id) is job:
                    del books[job.id]
        self._acknowledge(fresh)

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """These jobs were not admitted."""
        count = 0
        for refusal in refusals:
            for books in (self._mine, self._watched):
                job = books.get(refusal.job)
                if job is not None and not job.done():
                    count += books is self._mine and not has_been_accepted(job)
                    self._refuse(job, error_of(refusal, job.key))
        self._acknowledge(count)

    def progressed(self, job: JobId, progress: Progress) -> None:
        """A running job said how far it is."""
        for books in (self._mine, self._watched):
            future = books.get(job)
            if future is not None:
                note_progress(future, progress)

    def printed(self, job: JobId) -> None:
        """A running job that is to be echoed has printed something."""
        if self._echo is not None:
            self._echo.printed(job)

    # --- the end --------------------------------------------------------------------------------------------------------

    def begin_feeding(self, thread: threading.Thread) -> None:
        """Announce a thread that will submit more jobs, so that `wait_ended` waits for it as long as it lives."""
        self.check_usable()
        if self._closing is not None and (error := self._outsider_error()) is not None:
            raise error
        with self._lock:
            self._feeding.add(thread)

    def end_feeding(self, thread: threading.Thread) -> None:
        """That thread submits no more."""
        with self._lock:
            self._feeding.discard(thread)
            self._changed.notify_all()

    def begin_closing(self, reason: ClusterError) -> None:
        """From here on only maps and callbacks submit; else other threads could keep `wait_ended` waiting for ever."""
        self._closing = reason

    def wait_ended(self, timeout: float | None = None) -> bool:
        """Wait until every job submitted here is done, and every map and callback; False if time ran out."""
        self.check_here()
        self._outbox.pass_on()
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_busy() or self._failure is not None, timeout)

    def cancel_all(self, timeout: float) -> None:
        """Order every pending job of this session to be cancelled, and wait for the verdicts."""
        with self._lock:
            pending = list(self._mine)
        if pending:
            self.reach().cancel(pending, timeout)

    def finish_echo(self) -> None:
        """Write what jobs have printed, as far as this handle has heard; bounded."""
        if self._echo is not None:
            self._echo.close()

    def stop_submitting(self, reason: ClusterError) -> None:
        """From here on nothing is submitted; what waits in the outbox is passed to the desk."""
        with self._lock:
            self._failure = self._failure or reason
            self._changed.notify_all()
        self._outbox.pass_all()

    def wait_acknowledged(self, timeout: float) -> None:
        """Wait, no longer than that, until nothing that was submitted is unacknowledged."""
        with self._changed:
            self._changed.wait_for(lambda: self._outbox.total <= self._acknowledged, timeout)

    def close(self) -> None:
        """Leave the desk and end every pending future with `Detached`. The jobs themselves go on, if they can."""
        with contextlib.suppress(ClusterError):  # a master that is gone has forgotten the session already
            self._desk.close(self._number)
        with self._lock:
            pending = [*self._mine.values(), *self._watched.values()]
            self._mine.clear()
            self._watched.clear()
        for job in pending:
            detach(job, Detached(job.id))
        for notice in list(self._refusals.values()):
            notice.tell()
        self._outbox.close()
        self._callbacks.close()

    # --- whether it may be used -------------------------------------------------------------------------------------------

    def is_here(self) -> bool:
        """False in a forked child of the process that made this session."""
        return forks.generation == self._generation

    def check_here(self) -> None:
        """Raise in a forked child."""
        if forks.generation != self._generation:
            raise forks.forked_error()

    def check_usable(self) -> None:
        """Raise where nothing can be asked or submitted any more."""
        self.check_here()
        if self._failure is not None:
            raise self._failure

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _outsider_error(self) -> ClusterError | None:
        is_ours = threading.current_thread() in self._feeding or self._callbacks.is_here()
        return None if is_ours else self._closing

    def _is_busy(self) -> bool:
        # A feeder that Ctrl-C kept from starting is no reason to wait.
        return bool(self._mine) or self._callbacks.is_busy() or any(thread.is_alive() for thread in self._feeding)

    def _wait_for_room(self) -> None:
        self._outbox.pass_on()
        with self._changed:
            has_room = self._changed.wait_for(
                lambda: self._outbox.total - self._acknowledged < self.max_unacknowledged or self._failure is not None,
                self._submit_timeout_seconds,
            )
        self.check_usable()
        if not has_room:
            raise QueueFull(
                f"{self.max_unacknowledged:,} submitted jobs are not acknowledged, and waiting "
                f"{self._submit_timeout_seconds:g} s brought no room; submit again later"
            )

    def _send(self, specs: list[JobSpec], blobs: tuple[FunctionBlob, ...]) -> None:
        try:
            self._desk.submit(self._number, specs, blobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs of this batch must hear of it
            self._fail(specs, error)

    def _fail(self, specs: Sequence[JobSpec], error: Exception) -> None:
        """The desk did not take a batch: its jobs end with the reason, and unless it was a refusal, so does all else."""
        reason = error if isinstance(error, ClusterError) else MasterUnavailable(f"the master failed: {error!r}")
        if not isinstance(error, Refused):
            if not isinstance(error, ClusterError):
                _LOG.error("the jobs desk failed", exc_info=error)
            with self._lock:
                self._failure = self._failure or reason
        count = 0
        for spec in specs:
            job = self._mine.get(spec.id)
            if job is not None:
                count += not has_been_accepted(job)
                self._refuse(job, reason)
        self._acknowledge(count)

    def _refuse(self, job: Job[Any], error: Exception) -> None:
        notice = UnreadRefusal(job.id, error)
        self._refusals[job.id] = notice
        refuse(job, error, notice)
        self._forget(job)
        if self._echo is not None:
            self._echo.ended([job.id])

    def _forget(self, job: Job[Any]) -> None:
        for books in (self._mine, self._watched):
            if books.get(job.id) is job:
                del books[job.id]

    def _acknowledge(self, count: int) -> None:
        with self._lock:
            self._acknowledged += count
            self._changed.notify_all()

    def _wake_waiting(self) -> None:
        with self._lock:
            self._changed.notify_all()


def _conflicting(job: Job[R], spec: JobSpec) -> Job[R]:
    """A job whose key is pending here with another function: refused, as the desk would."""
    error = KeyConflict(spec.key, spec.id)
    refuse(job, error, UnreadRefusal(job.id, error))
    return job
