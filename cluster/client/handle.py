"""`Cluster`: the handle that a program holds. It turns calls into records and leaves the talking to its `Session`.

A handle may be used by any number of threads and event loops at once. It holds no state of jobs: the desk does.
Closing it ends the conversation; whether that ends the cluster too is the business of whoever made the handle
(`on_close`). A handle that owns its workers waits, at the end of its `with` block, for the jobs it submitted.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from cluster.client import default, forks, functions, option_values, payload
from cluster.client.job import Job
from cluster.client.options import NO_OPTIONS, SubmitOptions, check_args, complete, parse_options
from cluster.client.outbox import Lend
from cluster.client.retries import RetryPolicy
from cluster.client.session import MAX_UNACKNOWLEDGED, Session
from cluster.client.submission import id_of_key, spec_of
from cluster.client.task import defaults_of
from cluster.core.records import JobId, JobInfo, JobSpec
from cluster.core.states import JobState
from cluster.errors import MasterUnavailable, UnknownJob
from cluster.wire.desks import JobsDesk
from cluster.wire.messages import Stats, WorkerInfo

if TYPE_CHECKING:
    from cluster.client.batch import Batch, MapCall  # all that maps need is loaded by the first of them

R = TypeVar("R")
Errors = Literal["raise", "return", "skip"]

_PAGE = 1000
_CANCEL_SECONDS = 30.0
_FAREWELL_SECONDS = 2.0


class Cluster:
    """A cluster to submit jobs to. Made by `cluster.local(...)` or `cluster.connect(...)`; use it as a context manager, or `close()` it."""

    def __init__(
        self,
        desk: JobsDesk,
        *,
        owns_workers: bool,
        on_close: Callable[[], None] | None = None,
        reconnect: Callable[[], JobsDesk] | None = None,
        max_unacknowledged: int = MAX_UNACKNOWLEDGED,
        lend: Lend | None = None,
    ) -> None:
        """Open a session at a desk.

        Args:
            desk: whom to talk to.
            owns_workers: whether leaving a `with` block waits for the jobs.
            on_close: ends what this handle owns.
            reconnect: makes another desk for a forked child; None where a child can't have one.
            max_unacknowledged: jobs that may be submitted and not acknowledged, before `submit` blocks.
            lend: lends a thread that passes submissions on (see `outbox`).
        """
        self.owns_workers = owns_workers
        self._opened = Session(desk, max_unacknowledged=max_unacknowledged, lend=lend)
        self._reconnect = reconnect
        self._functions = functions.Functions()
        self._on_close = on_close
        self._closing = threading.Lock()
        self._is_closed = False

    # --- submitting -----------------------------------------------------------------------------------------------

    @overload
    def submit(
        self,
        func: Callable[..., Coroutine[Any, Any, R]],
        args: tuple[Any, ...] = ...,
        kwargs: dict[str, Any] | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> Job[R]: ...
    @overload
    def submit(
        self,
        func: Callable[..., R],
        args: tuple[Any, ...] = ...,
        kwargs: dict[str, Any] | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> Job[R]: ...
    @overload
    def submit(
        self,
        func: str,
        args: tuple[Any, ...] = ...,
        kwargs: dict[str, Any] | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> Job[Any]: ...
    def submit(
        self,
        func: Callable[..., Any] | str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Job[Any]:
        """Have `func(*args, **kwargs)` run somewhere; returns at once with a future whose `.id` is valid.

        Blocks only while 10,000 jobs are not acknowledged, at most 30 seconds.

        Args:
            func: a callable, or "module:name" of one that only the workers can import. A coroutine function is run.
            args: a tuple, as for `multiprocessing.Process`. A `Job` in it is replaced by its result.
            kwargs: the function's own keyword arguments.
            options: see `SubmitOptions`.

        Raises:
            TypeError: an argument or option can't be what it is; the text says what to write.
            QueueFull: too many jobs stayed unacknowledged.
            MasterUnavailable: the handle is closed, or its master failed.
        """
        wanted = defaults_of(func)
        if options:
            wanted = parse_options(options, wanted)
        if type(args) is not tuple or kwargs is not None:
            check_args(args, kwargs, func)
        blob = self._functions.pickle(func)
        call = payload.dump_call(args, kwargs or {})
        session = self._session
        if wanted is NO_OPTIONS and not call[1]:  # the common case, kept short
            job_id = session.new_id()
            spec = JobSpec(job_id, blob.digest, call[0], session.defaults)
            return session.submit(Job(session, job_id, blob.name), spec, blob)
        wanted = complete(wanted, session.defaults)
        job_id = id_of_key(wanted.key) if wanted.key else session.new_id()
        spec = spec_of(wanted, job_id, blob.digest, call)
        job: Job[Any] = Job(session, job_id, wanted.options.name or blob.name)
        if wanted.key:
            job.key, job.function = wanted.key, blob.digest
        if wanted.options.echo:
            session.echo(job_id)
        return session.submit(job, spec, blob)

    def map(
        self,
        func: Callable[..., R] | str,
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        ordered: bool = True,
        errors: Errors = "raise",
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Batch[R]:
        """`func` of each item, as the built-in `map`, spread over the workers in chunks.

        Everything is run, whether or not somebody iterates. The iterables are read in a thread, a little ahead of the
        workers; results wait here until they are fetched.

        Args:
            func: as for `submit`.
            iterables: as many as `func` has parameters; the shortest one ends the map.
            chunksize: items per job; None: measured, so that a chunk takes about 50 ms.
            ordered: False: results come as chunks complete.
            errors: "raise" an item's error when its turn comes (which ends the iteration), "return" the exception in
                its place, or "skip" it.
            progress: show a bar on standard error.
            options: as for `submit`; `retries` and `timeout` count per item.
        """
        if not iterables:
            raise TypeError("map needs at least one iterable: write c.map(func, items)")
        shape = {"chunksize": chunksize, "ordered": ordered, "errors": errors, "progress": progress}
        call = self._map_call(func, options, is_column=len(iterables) == 1, **shape)
        inputs = iterables[0] if len(iterables) == 1 else zip(*iterables, strict=False)
        return self._start_map(call, inputs, iterables)

    def starmap(
        self,
        func: Callable[..., R] | str,
        iterable: Iterable[Iterable[Any]],
        *,
        chunksize: int | None = None,
        ordered: bool = True,
        errors: Errors = "raise",
        progress: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Batch[R]:
        """As `map`, where each item is a tuple of the arguments of one call."""
        call = self._map_call(func, options, chunksize=chunksize, ordered=ordered, errors=errors, progress=progress)
        return self._start_map(call, (tuple(item) for item in iterable), (iterable,))

    def gather(self, jobs: Iterable[Job[R]], errors: Errors = "raise") -> list[R]:
        """The results of jobs, in their order.

        Args:
            jobs: the futures to wait for.
            errors: "raise" the first failed job's exception, "return" exceptions in place, or "skip" them.
        """
        return gather_results(jobs, errors)

    def flush(self, timeout: float | None = None) -> None:
        """Return once every job submitted so far is durable; raises a refusal that nobody read, or TimeoutError."""
        self._session.flush(timeout)

    # --- looking ----------------------------------------------------------------------------------------------------

    def job(self, job_id: JobId) -> Job[Any]:
        """A future of any job of this cluster, by whomever and whenever submitted. Raises `UnknownJob`."""
        if not option_values.is_storable(job_id):
            raise UnknownJob(job_id)  # it can't even be asked for: no message or record holds such a text
        return self._session.attach(job_id)

    def batch(self, batch_id: str, *, ordered: bool = True, errors: Errors = "raise") -> Batch[Any]:
        """A map by its id: the results of all its chunks that were submitted. Raises `UnknownJob`."""
        from cluster.client.batch import Batch, check_errors

        check_errors(errors)
        return Batch.attach(self._session, batch_id, list(self.jobs(batch=batch_id)), ordered=ordered, errors=errors)

    def jobs(
        self,
        *,
        state: JobState | str | None = None,
        tag: str | None = None,
        queue: str | None = None,
        batch: str | None = None,
        limit: int | None = None,
    ) -> Iterator[JobInfo]:
        """Jobs as they are now, in order of submission, page by page.

        Args:
            state: a `JobState` or its name.
            tag: only jobs that carry it.
            queue: only jobs of it.
            batch: only chunks of this map.
            limit: stop after so many.
        """
        wanted = state.name if isinstance(state, JobState) else state
        return self._pages(limit, state=wanted, tag=tag, queue=queue, batch=batch)

    def dead_letters(self) -> list[JobInfo]:
        """The jobs that were given up, with their certificates; `requeue` starts them anew."""
        return list(self.jobs(state=JobState.DEAD_LETTER))

    def workers(self) -> list[WorkerInfo]:
        """Every registered worker with its health."""
        return self._session.reach().workers()

    def stats(self) -> Stats:
        """The master's counters, and how many jobs are in each state."""
        return self._session.reach().stats()

    # --- ordering ---------------------------------------------------------------------------------------------------

    def requeue(
        self,
        jobs: Job[Any] | JobInfo | JobId | Iterable[Job[Any] | JobInfo | JobId],
        *,
        retries: int | RetryPolicy | None = None,
        crash_limit: int | None = None,
    ) -> list[JobInfo]:
        """Start a new run of ended jobs; durable on return. All of them, or, with an error, none.

        Args:
            jobs: one, or several.
            retries: what they may spend from here on, in this run and later ones; None: as before. A number keeps
                their delays and what they retry on.
            crash_limit: likewise.
        """
        return self._session.reach().requeue(list(_ids_of(jobs)), option_values.budget(retries, crash_limit))

    def cancel(
        self, jobs: Job[Any] | JobInfo | JobId | Iterable[Job[Any] | JobInfo | JobId], timeout: float = _CANCEL_SECONDS
    ) -> int:
        """Kill jobs wherever they are; how many of them are cancelled. The others had ended, or are unknown.

        For very many, `c.cancel(c.jobs(state="queued"))` goes through them page by page.

        Args:
            jobs: one, or any number.
            timeout: seconds to wait for the verdicts of each thousand.
        """
        names = iter(_ids_of(jobs))
        count = 0
        while page := list(itertools.islice(names, _PAGE)):
            count += sum(self._session.reach().cancel(page, timeout))
        return count

    def purge(self, jobs: Job[Any] | JobInfo | JobId | Iterable[Job[Any] | JobInfo | JobId]) -> int:
        """Drop dead letters, history and all; how many there were. With an error, none is dropped."""
        return self._session.reach().purge(list(_ids_of(jobs)))

    def queue(self, name: str = "default") -> Queue:
        """A queue, to pause and resume it."""
        return Queue(self._session, option_values.text("queue", name))

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self, wait: bool = True, cancel: bool = False) -> None:  # noqa: FBT001, FBT002 - as `Executor.shutdown`
        """End the conversation, and with it whatever this handle owns. May be called twice.

        Interrupted while it waits (Ctrl-C), it stops at once.

        Args:
            wait: first wait for the jobs that were submitted through this handle, and for what its maps and
                callbacks go on to submit; other threads can submit nothing from here on.
            cancel: first cancel those that have not ended. Without either, what has not ended stays in the store,
                if that is a durable one, and its futures raise `Detached`.
        """
        if not self._opened.is_here():  # a fork owns nothing, and the lock may be held by a thread that isn't here
            return
        with self._closing:
            if self._is_closed:
                return
            try:
                if cancel:
                    self._session.cancel_all(_CANCEL_SECONDS)
                if wait:
                    self._session.begin_closing(_closed_error())
                    self._session.wait_ended()
            finally:
                self._is_closed = True
                self._shut_down()

    def __enter__(self) -> Self:
        default.push(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        default.remove(self)
        self.close(wait=self.owns_workers and kind is None)

    def __repr__(self) -> str:
        return f"<Cluster {self._opened.name}{' closed' if self._is_closed else ''}>"

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _session(self) -> Session:
        """The session of this process."""
        opened = self._opened
        if self._reconnect is None or opened.is_here() or self._is_closed:
            return opened
        with forks.reopening:
            if not self._opened.is_here():
                # The parent's desk, session and locks stay as they are: some thread of the parent may hold them.
                self._closing = threading.Lock()
                self._opened = Session(self._reconnect(), max_unacknowledged=opened.max_unacknowledged)
        return self._opened

    def _shut_down(self) -> None:
        default.remove_all(self)
        with contextlib.ExitStack() as last:
            # The workers go before the futures end: an outcome that is on its way still arrives.
            last.callback(self._session.close)
            if self._on_close is not None:
                last.callback(self._on_close)
            self._session.stop_submitting(_closed_error())
            self._session.finish_echo()
            if not self.owns_workers:
                # A program that submits and ends: what it leaves behind is to be the cluster's.
                self._session.wait_acknowledged(_FAREWELL_SECONDS)

    def _map_call(self, func: Callable[..., R] | str, options: Any, **shape: Any) -> MapCall:
        wanted = defaults_of(func)
        if options:
            wanted = parse_options(options, wanted)
        if wanted.key:
            raise TypeError("a map has no `key`: each of its chunks is a job; give the key to a job that runs the map")
        wanted = complete(wanted, self._session.defaults)
        from cluster.client.batch import MapCall

        return MapCall(function=self._functions.pickle(func), wanted=wanted, **shape)

    def _start_map(self, call: MapCall, inputs: Iterable[Any], iterables: Iterable[Iterable[Any]]) -> Batch[Any]:
        from cluster.client.feeder import start_map

        return start_map(self._session, call, inputs, _shortest(iterables))

    def _pages(self, limit: int | None, **wanted: str | None) -> Iterator[JobInfo]:
        mark = 0
        left = limit
        while left is None or left > 0:
            page, mark = self._session.reach().page(
                limit=_PAGE if left is None else min(_PAGE, left), after=mark, **wanted
            )
            yield from page
            if left is not None:
                left -= len(page)
            if not mark:
                return


class Queue:
    """A named queue of a cluster."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self._session = session

    def pause(self) -> None:
        """Start no more jobs of this queue; durable on return. Running ones go on."""
        self._session.reach().pause(self.name)

    def resume(self) -> None:
        """Start its jobs again."""
        self._session.reach().resume(self.name)

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"


def gather_results(jobs: Iterable[Job[R]], errors: Errors) -> list[R]:
    """See `Cluster.gather`."""
    from cluster.client.batch import check_errors

    check_errors(errors)
    results: list[Any] = []
    for job in jobs:
        try:
            results.append(job.result())
        except Exception as error:
            # Only the job's own end can be put in its place; what else keeps us from waiting is the caller's.
            if errors == "raise" or not job.done():
                raise
            if errors == "return":
                results.append(error)
    return results


def _closed_error() -> MasterUnavailable:
    return MasterUnavailable("this cluster handle is closed; open the cluster again to go on with it")


def _ids_of(jobs: Job[Any] | JobInfo | JobId | Iterable[Job[Any] | JobInfo | JobId]) -> Iterator[JobId]:
    several = [jobs] if isinstance(jobs, Job | JobInfo | str) else jobs
    return (job if isinstance(job, str) else job.id for job in several)


def _shortest(iterables: Iterable[Any]) -> int | None:
    """How many items the shortest iterable has, if all of them can tell."""
    try:
        return min(len(iterable) for iterable in iterables)
    except TypeError:
        return None
