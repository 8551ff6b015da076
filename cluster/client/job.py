"""`Job`: the future of one submitted job.

Who is authoritative: the master. A `Job` only repeats what the session was told after a commit, so it ends when the
outcome is durable and not before.

    user's threads ── result(), wait(), await ──┐                       ┌── settle_all(), accept_all()
                                                ▼                       ▼
                             Job: PENDING ────────────────► FINISHED | CANCELLED_AND_NOTIFIED

**Cheap until somebody looks.** A program makes 100,000 futures and waits for a handful. What `concurrent.futures` keeps
in every future (a condition, two lists) is made by the first thread that looks, and a job that nobody looks at is
settled by one attribute. `_claim` arbitrates: it guards "is there a gate?" together with the change of state, so that
either the deliverer finds the gate, or whoever makes the gate later finds the job settled. From then on the gate rules
alone, as `concurrent.futures.wait` and `as_completed` expect: state and waiters change together under it.

**Delivery never runs the user's code.** The deliverer (a thread of the master) stores the outcome's bytes. They are
unpickled, once, by the thread that first asks for the result. Done-callbacks run in the session's callback thread.
Waiters are only woken. (One hole is the standard library's: `wait(return_when=FIRST_EXCEPTION)` asks for exceptions
while it holds the gates of all its futures.)

When the handle closes, what is pending ends with `Detached`. In a forked child a pending job raises at once.
"""
# ruff: noqa: SLF001 - the functions at the end belong to the class; they take many jobs under one lock

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, _Waiter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from cluster.client import items, payload
from cluster.client.gate import Gate
from cluster.client.reading import Following
from cluster.client.refusals import UnreadRefusal
from cluster.core.records import Certificate, Digest, JobId, JobInfo, Outcome
from cluster.core.states import JobState
from cluster.errors import ClusterError, Detached
from cluster.wire.messages import JobHistory, Progress

if TYPE_CHECKING:
    from cluster.client.session import Session

R = TypeVar("R")

MAX_CANCEL_SECONDS = 10.0

# A look at an enum's class costs as much as making a record, on Python 3.11.
_COMPLETED, _CANCELLED = JobState.COMPLETED, JobState.CANCELLED

# Held for a few instructions only, and never while another lock is taken. See the essay.
_claim = threading.Lock()


class EndWaiter(_Waiter):
    """Calls `wake` once a job is done, as `concurrent.futures` wakes its own waiters: in the deliverer's thread and
    under the job's gate, so `wake` may set a flag and wake a thread, and nothing more.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        super().__init__()
        self._wake: Callable[[], object] | None = wake

    def add_result(self, future: Future[Any]) -> None:  # noqa: D102, ARG002 - the standard library's protocol
        wake, self._wake = self._wake, None  # let go of what it holds: a job's waiters live as long as the job
        if wake is not None:
            wake()

    add_exception = add_cancelled = add_result


class Job(Future[R]):
    """A submitted job: a `concurrent.futures.Future` that also knows its id, its story and how to be stopped.

    Properties make no round trip and tell what this handle has heard so far; `refresh()` asks. Thread-safe.
    """

    # Defaults on the class: a new job writes none of them. `_outcome`, `_state` and `_is_accepted` are written by the
    # deliverer, `_result`, `_exception` and `_is_decoded` by the thread that decodes (or by `_end`).
    _state: str = PENDING
    _gate: Gate | None = None
    _outcome: Outcome | None = None
    _info: JobInfo | None = None
    _progress: Progress | None = None
    _notice: UnreadRefusal | None = None
    _decoding: threading.RLock | None = None
    _is_accepted: bool = False
    _is_acceptance_awaited: bool = False  # somebody waits in `accepted`; once set, it stays
    _is_decoded: bool = False
    _result: Any = None
    _exception: BaseException | None = None
    # Set only where they matter: for a job with a key, and after a requeue (an earlier run's outcome is none of ours).
    key: str = ""
    function: Digest = b""
    _least_run: int = 1

    def __init__(self, session: Session, job_id: JobId, name: str) -> None:
        self.id = job_id
        self.name = name
        self._session = session
        self._submitted = time.time()

    # --- what is known here -------------------------------------------------------------------------------------

    @property
    def state(self) -> JobState:
        """The last state this handle heard of. A refused job never leaves SUBMITTED."""
        if self._outcome is not None:
            return self._outcome.state
        return self._info.state if self._info is not None else JobState.SUBMITTED

    @property
    def attempts(self) -> int:
        """How many attempts the current run has used, as far as this handle heard."""
        if self._outcome is not None:
            return self._outcome.attempts
        return self._info.attempts if self._info is not None else 0

    @property
    def worker(self) -> str:
        """The worker of the last attempt; empty where this handle has heard of none."""
        if self._outcome is not None:
            return self._outcome.worker
        return self._info.worker if self._info is not None else ""

    @property
    def submitted(self) -> float:
        """Wall time of the submission."""
        return self._info.submitted if self._info is not None else self._submitted

    @property
    def progress(self) -> Progress | None:
        """The last word of `current_job().progress(...)` from inside the job; None before the first."""
        return self._progress

    @property
    def certificate(self) -> Certificate | None:
        """Why the job ended without a result; None while it lives, and after a success."""
        return self._outcome.certificate if self._outcome is not None else None

    def done(self) -> bool:
        """True once the job has its outcome, was refused, or can no longer be heard of."""
        return self._state != PENDING

    def cancelled(self) -> bool:
        """True if CANCELLED was committed."""
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """True if the last that was heard is that it runs."""
        return self._state == PENDING and (
            self._progress is not None or (self._info is not None and self._info.state is JobState.RUNNING)
        )

    def __repr__(self) -> str:
        told = "refused" if self._notice is not None else self.state.name.lower()
        return f"<Job {self.id} {self.name} {told}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """As an argument of another job: its result, there. Anywhere else a TypeError that says what to do."""
        return payload.reduce_job(self.id)

    # --- waiting ------------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> R:
        """The task's result, or its exception raised; waits at most `timeout` seconds for it.

        Raises:
            TimeoutError: it has no outcome yet. The job goes on.
            JobCancelled: it was cancelled; also a `concurrent.futures.CancelledError`.
            JobError: it ended for a reason outside the task; the error carries the death certificate.
            Detached: the handle was closed before the outcome came.
        """
        if not self._is_decoded:
            if self._state == PENDING:
                self._wait_done(timeout)
            self._decode()
        if self._exception is None:
            return self._result  # type: ignore[no-any-return]
        self._mark_read()
        try:
            raise self._exception.with_traceback(None)  # else it grows with each look, and keeps every looker's frames
        finally:
            # This frame hangs on the exception's traceback, and the exception on the job: break the circle.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The task's exception, or None; waits as `result` does, and raises `JobCancelled` if it was cancelled."""
        if not self._is_decoded:
            self._wait_done(timeout)
            self._decode()
        self._mark_read()
        if self._state == CANCELLED_AND_NOTIFIED:
            try:
                raise self._exception or ClusterError("cancelled")
            finally:
                del self
        return self._exception

    def accepted(self, timeout: float | None = None) -> Job[R]:
        """This job, once its submission is durable; raises what it was refused with."""
        if not self._is_accepted:
            # Before the look at `_is_accepted` on which the wait depends: whoever sets that looks at this afterwards.
            self._is_acceptance_awaited = True
            self._wait_for(lambda: self._is_accepted or self._state != PENDING, timeout, "is not acknowledged")
        if not self._is_accepted and self._exception is not None:
            self._mark_read()
            raise self._exception.with_traceback(None)  # else it grows with each look, and keeps every looker's frames
        return self

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call `fn(job)` in the handle's callback thread once the job is done; at once, right here, if it is."""
        if self._state == PENDING:
            self._session.check_here()
            self._session.start_calling_back()
        super().add_done_callback(fn)

    def __await__(self) -> Generator[Any, None, R]:
        """Await the result. A waiter that is cancelled, or times out, leaves the job alone."""
        if self._state == PENDING:
            self._session.check_here()
            self._session.pass_on()
            yield from self._wait_in_loop().__await__()
        return self.result()

    # --- asking and ordering ------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Kill the job wherever it is, and wait (at most 10 s) for the verdict: True only if CANCELLED is committed."""
        if self._state != PENDING:
            return self.cancelled()
        deadline = time.monotonic() + MAX_CANCEL_SECONDS
        (is_cancelled,) = self._session.reach().cancel([self.id], MAX_CANCEL_SECONDS)
        if is_cancelled:
            # It is committed; this handle is told in the same breath, and `cancelled()` must agree with us.
            with contextlib.suppress(TimeoutError):
                self._wait_done(max(0.1, deadline - time.monotonic()))
        return is_cancelled

    def refresh(self) -> Job[R]:
        """This job, after asking the master how it stands."""
        self._info = self._session.reach().info(self.id)
        return self

    @overload
    def logs(self, follow: Literal[False] = False) -> str: ...  # noqa: FBT002 - the contract
    @overload
    def logs(self, follow: Literal[True]) -> Iterator[str]: ...
    @overload
    def logs(self, follow: bool) -> str | Iterator[str]: ...  # noqa: FBT001
    def logs(self, follow: bool = False) -> str | Iterator[str]:  # noqa: FBT001, FBT002 - the contract
        """What the attempts printed, oldest first, capped; bytes that are no UTF-8 are replaced.

        Args:
            follow: instead of what there is now, an iterator over pieces of it as they come, until the job has ended.
                Where it prints faster than they are fetched, a mark says how much is left out.
        """
        if follow:
            return Following(self._session, self.id)
        return self._session.reach().output(self.id).decode("utf-8", "replace")

    def explain(self) -> str:
        """Why the job is where it is, in a sentence or a few."""
        return self._session.reach().explain(self.id)

    def history(self) -> JobHistory:
        """Each unsuccessful attempt with its death certificate, over all runs."""
        return self._session.reach().history(self.id)

    def retry(self) -> Job[R]:
        """Start a new run of the ended job; a new future of the same id. This one keeps the old outcome."""
        return self._session.requeue(self)

    # --- a future that the cluster alone resolves -----------------------------------------------------------------

    def set_result(self, result: R) -> None:  # noqa: ARG002
        """Refused: only the cluster settles a job."""
        raise TypeError(f"job {self.id} is settled by the cluster; set_result is for futures of your own")

    def set_exception(self, exception: BaseException | None) -> None:  # noqa: ARG002
        """Refused: only the cluster settles a job."""
        raise TypeError(f"job {self.id} is settled by the cluster; set_exception is for futures of your own")

    def set_running_or_notify_cancel(self) -> bool:
        """Refused: only the cluster settles a job."""
        raise TypeError(f"job {self.id} is settled by the cluster; this is for executors")

    if TYPE_CHECKING:
        _condition: threading.Condition  # as typeshed has it, so that `as_completed(jobs)` type-checks
    else:

        @property
        def _condition(self) -> Gate:
            """The gate, under the name by which the standard library takes it."""
            if self._state == PENDING:
                self._session.check_here()  # nobody would ever notify it in a fork
            return self._gate or self._make_gate()

    def _make_gate(self) -> Gate:
        with _claim:
            if self._gate is None:
                self._waiters = []
                self._done_callbacks: list[Callable[[Future[Any]], object]] = []
                self._gate = Gate()
        if self._state == PENDING:
            self._session.hurry()  # whoever makes a gate is about to wait: what it waits for must be on its way
        return self._gate

    # --- inside ---------------------------------------------------------------------------------------------------

    def watch(self, waiter: EndWaiter) -> bool:
        """Have `waiter` told of the end; False if the job is done already, and then it is not."""
        with self._condition:
            if self._state != PENDING:
                return False
            self._waiters.append(waiter)
            return True

    def outcome(self) -> Outcome | BaseException:
        """Of a done job: the committed outcome as it came, or why there will be none."""
        if self._outcome is not None:
            return self._outcome
        self._mark_read()
        return self._exception or Detached(self.id)

    def _wait_done(self, timeout: float | None) -> None:
        if self._state == PENDING:
            self._wait_for(lambda: self._state != PENDING, timeout, "has no outcome")

    def _wait_for(self, is_met: Callable[[], bool], timeout: float | None, lack: str) -> None:
        self._session.check_here()
        self._session.pass_on()  # by this thread, which has nothing else to do: saves a hop to the sender
        with self._condition:
            if self._gate is not None and not self._gate.wait_for(is_met, timeout):
                raise TimeoutError(f"job {self.id} {lack} after {timeout} s of waiting; it goes on")

    async def _wait_in_loop(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be woken
                loop.call_soon_threadsafe(ended.set)

        waiter = EndWaiter(wake)
        if not self.watch(waiter):
            return
        try:
            await ended.wait()
        finally:
            with self._condition, contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def _decode(self) -> None:
        outcome = self._outcome
        if outcome is not None and outcome.state is _COMPLETED and payload.is_atom(outcome.payload):
            # Two threads that do this at once do the same; no lock is worth it. (A chunk's payload is never so short.)
            self._result = payload.load_result(outcome.payload, self.id)
            self._is_decoded = True
            return
        with _claim:
            lock = self._decoding
            if lock is None or not self._session.is_here():  # in a fork, some thread of the parent may hold it
                lock = self._decoding = threading.RLock()
        with lock:
            if self._is_decoded or self._outcome is None:
                return
            outcome = self._outcome
            if outcome.items:
                self._result, self._exception = items.gather(outcome)
            elif outcome.state is JobState.COMPLETED:
                try:
                    self._result = payload.load_result(outcome.payload, self.id)
                except ClusterError as error:
                    self._exception = error
            else:
                self._exception = payload.rebuild_error(outcome)
            self._is_decoded = True
            # A chunk's bytes are kept: its batch reads them apart, as far as it is iterated.
            if len(outcome.payload) > _MAX_KEPT_PAYLOAD and not outcome.items:
                self._outcome = _without_payload(outcome)

    def _mark_read(self) -> None:
        if self._notice is not None:
            self._notice.is_read = True

    def _settle(self, outcome: Outcome) -> None:
        """Settle a job that somebody looks at."""
        with self._condition:
            if self._state != PENDING:
                return
            self._outcome = outcome
            self._announce(CANCELLED_AND_NOTIFIED if outcome.state is _CANCELLED else FINISHED)

    def _end(self, error: BaseException, notice: UnreadRefusal | None) -> None:
        """End a job that will have no outcome."""
        with self._condition:
            if self._state != PENDING:
                return
            self._exception = error
            self._notice = notice
            self._is_decoded = True
            self._announce(FINISHED)

    def _announce(self, state: str) -> None:
        """Change the state and tell who waits, in one step for everyone who holds the gate. Never raises."""
        self._state = state
        for waiter in self._waiters:
            if state == CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(self)
            elif self._exception is not None or (self._outcome and self._outcome.state is not JobState.COMPLETED):
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
        self._condition.notify_all()
        if self._done_callbacks:
            self._session.call_back(self._invoke_callbacks)  # type: ignore[attr-defined]  # the base class's


# Below this a finished job keeps its bytes: a copy of the record without them would cost more than they weigh.
_MAX_KEPT_PAYLOAD = 512


def settle_all(books: Mapping[JobId, Job[Any]], outcomes: Iterable[Outcome]) -> tuple[list[Job[Any]], int]:
    """Deliver committed outcomes to the jobs that wait for them. Runs no user code.

    Returns:
        The jobs that are done now, and how many of them were not known as durable before.
    """
    settled: list[Job[Any]] = []
    watched: list[tuple[Job[Any], Outcome]] = []
    fresh = 0
    with _claim:
        for outcome in outcomes:
            job = books.get(outcome.job)
            if job is None or outcome.run < job._least_run:  # an earlier run than the one the future is for
                continue
            settled.append(job)
            if not job._is_accepted:
                job._is_accepted = True
                fresh += 1
            if job._gate is not None:
                watched.append((job, outcome))
            elif job._state == PENDING:
                job._outcome = outcome
                job._state = CANCELLED_AND_NOTIFIED if outcome.state is _CANCELLED else FINISHED
    for job, outcome in watched:
        job._settle(outcome)
    return settled, fresh


def accept_all(jobs: Iterable[Job[Any]]) -> int:
    """Mark jobs as durable and wake who waits for that; how many were not marked before."""
    watched: list[Gate] = []
    fresh = 0
    with _claim:
        for job in jobs:
            if not job._is_accepted:
                job._is_accepted = True
                fresh += 1
                # Who waits for the outcome is not woken for this: a wake-up costs more than all else here.
                if job._is_acceptance_awaited and job._gate is not None:
                    watched.append(job._gate)
    for gate in watched:
        with gate:
            gate.notify_all()
    return fresh


def refuse(job: Job[Any], error: Exception, notice: UnreadRefusal) -> None:
    """End a job that was not admitted."""
    job._end(error, notice)


def detach(job: Job[Any], error: BaseException) -> None:
    """End a job of which nothing more will be heard."""
    job._end(error, None)


def note_progress(job: Job[Any], told: Progress) -> None:
    """Note what a running job said of itself."""
    job._progress = told


def attached(session: Session, info: JobInfo) -> Job[Any]:
    """A future for a job that is known already, whose run must be at least the one told in `info`."""
    job: Job[Any] = Job(session, info.id, info.name)
    job._info = info
    job._is_accepted = True
    job._least_run = info.run
    return job


def has_been_accepted(job: Job[Any]) -> bool:
    """True once the submission is durable."""
    return job._is_accepted


def _without_payload(outcome: Outcome) -> Outcome:
    import msgspec

    return msgspec.structs.replace(outcome, payload=b"")


def _forget_claim() -> None:
    global _claim  # noqa: PLW0603 - in a forked child the old one may be held by a thread that isn't there
    _claim = threading.Lock()


os.register_at_fork(after_in_child=_forget_claim)
