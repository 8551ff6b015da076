"""A strict jobs desk in memory: it runs the jobs in threads of this process, and keeps account of what it was told.

It stands in for the master in tests of the client alone. Every submitted job is accepted and run once, in order of
submission, by one thread per slot. Closing the gate holds the jobs back. `check` fails if a sink ever raised, or if a
job was submitted twice.
"""

from __future__ import annotations

import importlib
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from cluster.core import chunks
from cluster.core.printed import Piece, Place
from cluster.core.records import (
    DEFAULT_OPTIONS,
    SAME_BUDGET,
    Budget,
    Certificate,
    Digest,
    Ending,
    FunctionBlob,
    JobId,
    JobInfo,
    JobSpec,
    Outcome,
    Segment,
)
from cluster.core.states import JobState
from cluster.errors import Refused, UnknownJob
from cluster.wire import dependency
from cluster.wire.desks import Sink
from cluster.wire.messages import JobHistory, JobParts, Progress, Refusal, Stats, WorkerInfo

DEADLINE_SECONDS = 10.0


class Record:
    def __init__(self, spec: JobSpec, session: int) -> None:
        self.spec = spec
        self.run = 1
        self.state = JobState.QUEUED
        self.outcome: Outcome | None = None
        self.listeners = {session}
        self.submitted = time.time()


class InlineDesk:
    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.item_seconds = 0.0  # that each item of a chunk is said to have taken
        self.sinks: dict[int, Sink] = {}
        self.jobs: dict[JobId, Record] = {}
        self.functions: dict[Digest, FunctionBlob] = {}
        self.batches: list[tuple[str, list[JobId]]] = []  # (thread that submitted, ids)
        self.paused: set[str] = set()
        self.defaults = DEFAULT_OPTIONS  # told to sessions that are opened from now on
        self.budgets: list[Budget] = []  # of each requeue
        self.cancels: list[list[JobId]] = []  # each call's jobs
        self.printed: dict[JobId, bytes] = {}
        self.reads: list[tuple[JobId, Place]] = []
        self.refuse: Callable[[JobSpec], Refusal | None] = lambda spec: None
        self.failure: Exception | None = None  # raised by the next calls of `submit`
        self.is_accepting = True  # False: jobs run, but nobody is told `accepted` before they ended
        self.is_dropping = False  # True: jobs are swallowed
        self.gate = threading.Event()
        self.gate.set()
        self.faults: list[str] = []
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._queue: list[JobId] = []
        self._is_stopped = False
        self._threads = [threading.Thread(target=self._run, name=f"desk-{n}", daemon=True) for n in range(slots)]
        for thread in self._threads:
            thread.start()

    # --- the JobsDesk -----------------------------------------------------------------------------------------------

    def open(self, sink: Sink) -> int:
        with self.lock:
            session = len(self.sinks) + 1
            self.sinks[session] = sink
            sink.opened(self.defaults)
            return session

    def close(self, session: int) -> None:
        with self.lock:
            del self.sinks[session]

    def submit(self, session: int, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        if self.failure is not None:
            raise self.failure
        accepted: list[JobId] = []
        refusals: list[Refusal] = []
        with self.lock:
            self.functions.update({blob.digest: blob for blob in functions})
            self.batches.append((threading.current_thread().name, [spec.id for spec in jobs]))
            for spec in jobs:
                if spec.function not in self.functions:
                    self.faults.append(f"{spec.id} came without its function")
                known = self.jobs.get(spec.id)
                if known is not None and not spec.key:
                    self.faults.append(f"{spec.id} was submitted twice")
                refusal = self.refuse(spec)
                if refusal is not None:
                    refusals.append(refusal)
                elif known is None:
                    self.jobs[spec.id] = Record(spec, session)
                    if not self.is_dropping:
                        self._queue.append(spec.id)
                    accepted.append(spec.id)
                else:
                    accepted.append(spec.id)
                    self.watch(session, spec.id)
            self._changed.notify_all()
        if accepted and self.is_accepting:
            self._tell(session, lambda sink: sink.accepted(accepted))
        if refusals:
            self._tell(session, lambda sink: sink.refused(refusals))

    def cancel(self, jobs: Sequence[JobId], timeout: float) -> list[bool]:
        verdicts: list[bool] = []
        self.cancels.append(list(jobs))
        for job in jobs:
            with self.lock:
                record = self.jobs.get(job)
                if record is not None and record.outcome is None:
                    certificate = Certificate(ending=Ending.CANCELLED, reason="it was cancelled")
                    self._end(record, JobState.CANCELLED, b"", certificate)
                verdicts.append(record is not None and record.state is JobState.CANCELLED)
        return verdicts

    def watch(self, session: int, job: JobId) -> JobInfo:
        with self.lock:
            record = self._record(job)
            if record.outcome is None:
                record.listeners.add(session)
            else:
                outcome = record.outcome
                self._tell(session, lambda sink: sink.ended([outcome]))
            return self.info(job)

    def info(self, job: JobId) -> JobInfo:
        with self.lock:
            record = self._record(job)
            spec = record.spec
            return JobInfo(
                id=spec.id,
                name=spec.options.name or self.functions[spec.function].name,
                state=record.state,
                queue=spec.options.queue,
                run=record.run,
                attempts=0 if record.outcome is None else 1,
                submitted=record.submitted,
                tags=spec.options.tags,
                batch=spec.batch,
                items=spec.items,
                certificate=record.outcome.certificate if record.outcome else None,
            )

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
        with self.lock:
            everything = [self.info(job) for job in self.jobs]
        page = everything[after : after + limit]
        wanted = [
            info
            for info in page
            if (state is None or info.state.name.lower() == state.lower())
            and (tag is None or tag in info.tags)
            and (batch is None or info.batch == batch)
            and (queue is None or info.queue == queue)
        ]
        return wanted, after + limit if after + limit < len(everything) else 0

    def history(self, job: JobId) -> JobHistory:
        record = self._record(job)
        certificate = record.outcome.certificate if record.outcome else None
        return JobHistory(job, record.state, () if certificate is None else ((record.run, certificate),))

    def output(self, job: JobId) -> bytes:
        return f"output of {self._record(job).spec.id}\n".encode() + b"\xff"

    def parts(self, job: JobId) -> JobParts:
        spec = self._record(job).spec
        return JobParts(spec, self.functions[spec.function])

    def result(self, job: JobId) -> Outcome | None:
        outcome = self._record(job).outcome
        return outcome if outcome is not None and outcome.state is JobState.COMPLETED else None

    def read_output(self, job: JobId, place: Place, timeout: float) -> Piece:
        """What the test has put into `printed`, as one attempt's; over once the job has ended."""
        deadline = time.monotonic() + timeout
        with self.lock:
            self.reads.append((job, place))
            record = self._record(job)
            while True:
                text = self.printed.get(job, b"")[place.seen :]
                is_over = record.outcome is not None
                left = deadline - time.monotonic()
                if text or is_over or left <= 0:
                    return Piece(text, Place(place.fence, place.seen + len(text)), is_over)
                self._changed.wait(left)

    def print(self, job: JobId, text: bytes) -> None:
        """The job prints, and whoever submitted it or watches is told."""
        with self.lock:
            self.printed[job] = self.printed.get(job, b"") + text
            self._changed.notify_all()
            listeners = list(self._record(job).listeners)
        for session in listeners:
            self._tell(session, lambda sink: sink.printed(job))

    def explain(self, job: JobId) -> str:
        return f"it is {self._record(job).state.name}"

    def requeue(self, jobs: Sequence[JobId], budget: Budget = SAME_BUDGET) -> list[JobInfo]:
        with self.lock:
            self.budgets.append(budget)
            for job in jobs:
                if self._record(job).outcome is None:
                    raise Refused(f"job {job} has not ended")
            for job in jobs:
                record = self.jobs[job]
                record.run += 1
                record.outcome = None
                record.state = JobState.QUEUED
                record.listeners.clear()
                self._queue.append(job)
            self._changed.notify_all()
            return [self.info(job) for job in jobs]

    def stats(self) -> Stats:
        return Stats(
            states={},
            queues={},
            paused=tuple(self.paused),
            submitted=len(self.jobs),
            completed=0,
            failed_attempts=0,
            retried=0,
            dead=0,
            fenced=0,
            workers=1,
            slots=self.slots,
            store="double",
        )

    def workers(self) -> list[WorkerInfo]:
        return [WorkerInfo(id="w#1", name="w", host="here", pid=1, state="ready", slots=self.slots, running=0)]

    def purge(self, jobs: Sequence[JobId]) -> int:
        with self.lock:
            for job in jobs:
                if self._record(job).state is not JobState.DEAD_LETTER:
                    raise Refused(f"job {job} is no dead letter")
            for job in jobs:
                del self.jobs[job]
            return len(jobs)

    def pause(self, queue: str) -> None:
        self.paused.add(queue)

    def resume(self, queue: str) -> None:
        self.paused.discard(queue)

    # --- for the tests ------------------------------------------------------------------------------------------------

    def progress(self, job: JobId, progress: Progress) -> None:
        for session in self.jobs[job].listeners:
            self._tell(session, lambda sink: sink.progressed(job, progress))

    def wait_for(self, is_met: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(is_met, DEADLINE_SECONDS), "the desk waited in vain"

    def stop(self) -> None:
        with self.lock:
            self._is_stopped = True
            self._changed.notify_all()
        self.gate.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def check(self) -> None:
        assert self.faults == []

    # --- inside -------------------------------------------------------------------------------------------------------

    def _record(self, job: JobId) -> Record:
        if job not in self.jobs:
            raise UnknownJob(job)
        return self.jobs[job]

    def _tell(self, session: int, tell: Callable[[Sink], None]) -> None:
        sink = self.sinks.get(session)
        if sink is None:
            return
        begun = time.monotonic()
        try:
            tell(sink)
        except BaseException:
            self.faults.append("a sink raised: " + traceback.format_exc())
        if time.monotonic() - begun > 2.0:
            self.faults.append("a sink blocked")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._next() is not None)
                if self._is_stopped:
                    return
                job = self._next()
                assert job is not None
                self._queue.remove(job)
                record = self.jobs[job]
                record.state = JobState.RUNNING
            self.gate.wait()
            if not self._is_stopped:
                self._carry_out(record)

    def _next(self) -> JobId | None:
        for job in self._queue:
            record = self.jobs[job]
            if record.outcome is None and all(self.jobs[other].outcome for other in record.spec.after):
                return job
        return None

    def _carry_out(self, record: Record) -> None:
        spec = record.spec
        failed = next((o for o in spec.after if self.jobs[o].state is not JobState.COMPLETED), None)
        if failed:
            certificate = Certificate(ending=Ending.DEPENDENCY, reason=f"job {failed}, which it depends on, failed")
            self._end(record, JobState.DEAD_LETTER, b"", certificate)
            return
        function = pickle.loads(self.functions[spec.function].body)
        if isinstance(function, str):
            module, _, name = function.partition(":")
            function = getattr(importlib.import_module(module), name)
        with self.lock:
            inputs = {other: self.jobs[other].outcome for other in spec.inputs}
            dependency.current.update({other: outcome.payload for other, outcome in inputs.items() if outcome})
            arguments = pickle.loads(spec.args)
        if spec.items:
            # A column is a tuple with the list of all values, each the one argument of its item.
            is_column = isinstance(arguments, tuple)
            self._carry_out_chunk(record, function, [(value,) for value in arguments[0]] if is_column else arguments)
            return
        try:
            result = cloudpickle.dumps(function(*arguments[0], **arguments[1]))
        except BaseException as error:
            self._end(record, JobState.DEAD_LETTER, cloudpickle.dumps(error), certificate_of(error))
            return
        self._end(record, JobState.COMPLETED, result, None)

    def _carry_out_chunk(self, record: Record, function: Callable[..., Any], items: list[Any]) -> None:
        segments: list[Segment] = []
        bad: Certificate | None = None
        for place, item in enumerate(items):
            arguments = pickle.loads(item) if isinstance(item, bytes) else item
            try:
                result = cloudpickle.dumps([function(*arguments)])
                segments.append(Segment(place, 1, result, None, self.item_seconds))
            except BaseException as error:
                certificate = certificate_of(error)
                bad = bad or certificate
                segments.append(Segment(place, 1, cloudpickle.dumps(error), certificate))
        state = JobState.COMPLETED if bad is None else JobState.DEAD_LETTER
        self._end(record, state, chunks.encode(segments), bad)

    def _end(self, record: Record, state: JobState, payload: bytes, certificate: Certificate | None) -> None:
        with self.lock:
            if record.outcome is not None:
                return  # cancelled meanwhile
            spec = record.spec
            outcome = Outcome(
                spec.id,
                record.run,
                state,
                time.time(),
                payload,
                certificate,
                attempts=1,
                worker="w#1",
                items=spec.items,
            )
            record.outcome = outcome
            record.state = state
            listeners = list(record.listeners)
            self._changed.notify_all()
        for session in listeners:
            self._tell(session, lambda sink: sink.ended([outcome]))


def certificate_of(error: BaseException) -> Certificate:
    kinds = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return Certificate(
        ending=Ending.RAISED,
        reason=f"raised {type(error).__name__}: {error}",
        error_types=kinds,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
    )
