"""Keep Ctrl-C out of the board.

Python raises `KeyboardInterrupt` between any two bytecodes of the main thread. Were that thread in the middle of a
decision or a commit, the board or the log would be left half changed. Embedded, the desk is an object in the user's
process, so every call that the main thread makes of it is carried out by a thread of ours while the main thread waits;
an interrupt then hits the waiting and nothing else. (It waits in a `SimpleQueue`, which is made in C: interrupted in a
`Future` or a `Condition` it could leave their lock taken, and the thread that answers would wait for that for ever.)
Other threads are never interrupted and call the desk directly. (Connected to a master process, a call is a message, and
needs none of this.)
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from cluster.core.printed import Piece, Place
from cluster.core.records import SAME_BUDGET, Budget, FunctionBlob, JobId, JobInfo, JobSpec, Outcome
from cluster.errors import MasterUnavailable
from cluster.wire.desks import JobsDesk, Sink
from cluster.wire.messages import JobHistory, JobParts, Stats, WorkerInfo

T = TypeVar("T")

# An interrupted call goes on in our thread for so long, and the next one waits for it.
MAX_READ_SECONDS = 0.25
# What is to be called, and where its answer or its exception goes.
_Call: TypeAlias = tuple[Callable[[], Any], "queue.SimpleQueue[tuple[Any, BaseException | None]]"]


class ShieldedDesk:
    """A `JobsDesk` whose calls are never interrupted half-way."""

    def __init__(self, desk: JobsDesk) -> None:
        self._desk = desk
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of `_is_stopped`: nothing may be queued behind the end
        self._is_stopped = False
        # Started here and not when first needed: at interpreter exit no thread can be started any more.
        self._thread = threading.Thread(target=self._run, name="cluster-desk", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Carry out what is queued, and end."""
        with self._lock:
            self._is_stopped = True
            self._calls.put(None)
        self._thread.join()

    def open(self, sink: Sink) -> int:
        """See `JobsDesk.open`."""
        return self._call(lambda: self._desk.open(sink))

    def close(self, session: int) -> None:
        """See `JobsDesk.close`; also works on a stopped desk, for a handle says goodbye last."""
        if self._is_stopped:
            self._desk.close(session)
        else:
            self._call(lambda: self._desk.close(session))

    def submit(self, session: int, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        """See `JobsDesk.submit`."""
        self._call(lambda: self._desk.submit(session, jobs, functions))

    def cancel(self, jobs: Sequence[JobId], timeout: float) -> list[bool]:
        """See `JobsDesk.cancel`."""
        return self._call(lambda: self._desk.cancel(jobs, timeout))

    def watch(self, session: int, job: JobId) -> JobInfo:
        """See `JobsDesk.watch`."""
        return self._call(lambda: self._desk.watch(session, job))

    def info(self, job: JobId) -> JobInfo:
        """See `JobsDesk.info`."""
        return self._call(lambda: self._desk.info(job))

    def page(
        self,
        *,
        state: str | None = None,
        tag: str | None = None,
        batch: str | None = None,
        queue: str | None = None,
        limit: int = 1000,
        after: int = 0,
    ) -> tuple[list[JobInfo], int]:
        """See `JobsDesk.page`."""
        return self._call(
            lambda: self._desk.page(state=state, tag=tag, batch=batch, queue=queue, limit=limit, after=after)
        )

    def history(self, job: JobId) -> JobHistory:
        """See `JobsDesk.history`."""
        return self._call(lambda: self._desk.history(job))

    def output(self, job: JobId) -> bytes:
        """See `JobsDesk.output`."""
        return self._call(lambda: self._desk.output(job))

    def read_output(self, job: JobId, place: Place, timeout: float) -> Piece:
        """See `JobsDesk.read_output`; of the main thread's own waiting only a slice, so that Ctrl-C leaves none behind."""
        return self._call(lambda: self._desk.read_output(job, place, min(timeout, MAX_READ_SECONDS)))

    def explain(self, job: JobId) -> str:
        """See `JobsDesk.explain`."""
        return self._call(lambda: self._desk.explain(job))

    def parts(self, job: JobId) -> JobParts:
        """See `JobsDesk.parts`."""
        return self._call(lambda: self._desk.parts(job))

    def result(self, job: JobId) -> Outcome | None:
        """See `JobsDesk.result`."""
        return self._call(lambda: self._desk.result(job))

    def requeue(self, jobs: Sequence[JobId], budget: Budget = SAME_BUDGET) -> list[JobInfo]:
        """See `JobsDesk.requeue`."""
        return self._call(lambda: self._desk.requeue(jobs, budget))

    def purge(self, jobs: Sequence[JobId]) -> int:
        """See `JobsDesk.purge`."""
        return self._call(lambda: self._desk.purge(jobs))

    def stats(self) -> Stats:
        """See `JobsDesk.stats`."""
        return self._call(self._desk.stats)

    def workers(self) -> list[WorkerInfo]:
        """See `JobsDesk.workers`."""
        return self._call(self._desk.workers)

    def pause(self, queue: str) -> None:
        """See `JobsDesk.pause`."""
        self._call(lambda: self._desk.pause(queue))

    def resume(self, queue: str) -> None:
        """See `JobsDesk.resume`."""
        self._call(lambda: self._desk.resume(queue))

    def _call(self, call: Callable[[], T]) -> T:
        if threading.current_thread() is not threading.main_thread():
            return call()
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        with self._lock:
            if self._is_stopped:
                raise MasterUnavailable("this cluster is closed; open it again")
            self._calls.put((call, answers))
        answer, error = answers.get()
        if error is None:
            return cast("T", answer)
        try:
            raise error
        finally:
            del error  # whose traceback holds this frame

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            call, answers = work
            try:
                answers.put((call(), None))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
                answers.put((None, error))
            del work, call, answers  # a batch of submits must not live on in an idle thread
