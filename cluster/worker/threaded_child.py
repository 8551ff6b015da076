"""The process of a slot whose jobs run in threads: as many at a time as it has threads.

    main thread: takes a datagram when a thread is free ──► queue ──► thread 1 … n: run, dump, send the result
    talking thread: sends what running jobs have printed, while there is something new

It has the duties of `child` but for one: several jobs are in hand, so whatever happens to the process happens to all of
them. What belongs to a process and not to a thread is shared: the working directory, the environment, descriptors 1 and 2.
What Python code prints is told apart by thread; what C code or a subprocess prints is not, and goes to no job's output.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn, TextIO

from msgspec import structs

from cluster.core.printed import join, shares
from cluster.core.records import Fence, Report, Segment
from cluster.wire import dependency
from cluster.worker import isolation, job_context
from cluster.worker.channel import Finished, FunctionMissing, Printed, Said, Task, decoder_of_tasks
from cluster.worker.child import Child
from cluster.worker.isolation import Descriptors
from cluster.worker.job_context import JobContext
from cluster.worker.nursery_protocol import Setup
from cluster.worker.running import Ended, run_call, run_carefully, run_chunk, sum_up

# What the job of this thread has printed; None in threads that no job runs in.
_printed: ContextVar[Written | None] = ContextVar("printed", default=None)

# How often what jobs print is told, at most; the first word waits as long, so that short jobs need none.
TELL_SECONDS = 0.2
MAX_TOLD_BYTES = 64 * 1024

_decode = decoder_of_tasks()


class Written:
    """What one job has printed: a quarter of the limit from its beginning and the rest from its end. Thread-safe."""

    def __init__(self, max_bytes: int, talk: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._talk = talk  # called when there is something that the supervisor has not been told
        self._lock = threading.Lock()  # a job's `asyncio.to_thread` prints into it too
        self._beginning = b""
        self._end = b""
        self._cut = 0
        self._total = 0
        self._told = 0

    def add(self, text: str) -> None:
        """More of it."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            is_news = self._told == self._total
            self._total += len(data)
            self._end += data
            if len(self._end) > 2 * self._max_bytes:
                self._shorten()
        if is_news:
            self._talk()

    def news(self) -> tuple[bytes, int]:
        """What was printed since the last time, or the end of that, and its place."""
        with self._lock:
            count = min(self._total - self._told, len(self._end), MAX_TOLD_BYTES)
            self._told = self._total
            return self._end[len(self._end) - count :], self._total - count

    def text(self) -> bytes:
        """All of it, or both its ends."""
        with self._lock:
            if not self._cut and len(self._end) <= self._max_bytes:
                return self._end
            head, tail = shares(self._max_bytes)
            beginning, rest = (self._beginning, self._end) if self._cut else (self._end[:head], self._end[head:])
            kept = rest[-tail:]
            return join(beginning, self._cut + len(rest) - len(kept), kept)

    def _shorten(self) -> None:
        head, tail = shares(self._max_bytes)
        if not self._cut:
            self._beginning, self._end = self._end[:head], self._end[head:]
        kept = self._end[-tail:]
        self._cut += len(self._end) - len(kept)
        self._end = kept


class ThreadStream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`, told apart by thread."""

    def __init__(self, shared: TextIO) -> None:
        self._shared = shared

    def write(self, text: str) -> int:
        """Into this thread's job's output; else where all of the process goes."""
        printed = _printed.get()
        if printed is None:
            return self._shared.write(text)
        printed.add(text)
        return len(text)

    def flush(self) -> None:
        """As the process's own."""
        self._shared.flush()

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The process's own."""
        return self._shared.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The process's own."""
        return self._shared.encoding

    @property
    def buffer(self) -> Any:
        """The process's own: bytes written there belong to no job."""
        return self._shared.buffer


class ThreadedChild(Child):
    """What a forked child with threads does for the rest of its life."""

    def __init__(self, setup: Setup, kept: Descriptors) -> None:
        super().__init__(setup, kept)
        self._tasks: queue.SimpleQueue[tuple[Fence, Task]] = queue.SimpleQueue()
        self._free = threading.Semaphore(setup.threads)
        self._inputs: Counter[str] = Counter()  # how many running jobs want this result
        self._lock = threading.Lock()  # guards `_inputs` and `dependency.current`
        self._started = 0
        self._writing: dict[Fence, Written] = {}  # of the running jobs; each key is set and deleted by its own thread
        self._has_news = threading.Event()

    def serve(self) -> NoReturn:
        """Run jobs until the supervisor is gone."""
        sys.stdout, sys.stderr = ThreadStream(self._streams[0]), ThreadStream(self._streams[1])
        threading.Thread(target=self._talk, name="cluster-talk", daemon=True).start()
        while True:
            # Before a datagram is taken: one that lies in the socket can be taken back.
            self._free.acquire()
            try:
                received = self._channel.receive()
            except (EOFError, ConnectionError):
                isolation.vanish()
            if received is None:  # not on a blocking socket, unless a job has meddled with it
                self._channel.socket.settimeout(None)
                self._free.release()
                continue
            fence, task = received[0], _decode(received[1])
            del received
            if not self._functions.keep(task):
                self._send(fence, FunctionMissing(task.function))
                self._free.release()
                continue
            # With its function, which may be gone from the shelf by the time that the thread looks for it.
            self._hand_over(fence, structs.replace(task, body=self._functions.body_of(task.function)))

    def _hand_over(self, fence: Fence, task: Task) -> None:
        self._tasks.put((fence, task))
        # Started when they are needed, one for each job until all are there.
        if self._started < self._setup.threads:
            self._started += 1
            threading.Thread(target=self._work, name=f"cluster-job-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            fence, task = self._tasks.get()
            self._attempt(fence, task)
            del task
            self._free.release()

    def _attempt(self, fence: Fence, task: Task) -> None:
        printed = Written(self._setup.max_output_bytes, self._has_news.set)
        _printed.set(printed)
        self._writing[fence] = printed
        started, clock, cpu = time.time(), time.perf_counter(), time.thread_time()
        self._begin(fence, task, started)
        ended = self._run(fence, task)
        if os.getpid() != self._pid:
            isolation.vanish()  # the job forked, and this is the copy
        seconds = time.perf_counter() - clock
        job_context.of_thread.set(job_context.OUTSIDE)
        _printed.set(None)
        del self._writing[fence]
        self._forget_inputs(task)
        text = printed.text()
        certificate, segments = ended.certificate, ended.segments
        if certificate is not None:
            used = time.thread_time() - cpu
            certificate = self._complete(certificate, task, (started, seconds, used), text)
            segments = tuple(self._signed(segment, task) for segment in segments)
        report = Report(fence, ended.ending, ended.payload, certificate, text, segments, seconds)
        self._send(fence, Finished(report, 0.0))

    def _talk(self) -> None:
        """Tell the supervisor what running jobs print. What comes after a job's result is dropped there."""
        while True:
            self._has_news.wait()
            time.sleep(TELL_SECONDS)
            self._has_news.clear()
            for fence, written in list(self._writing.items()):
                text, offset = written.news()
                try:
                    if text:
                        self._send(fence, Printed(text, offset))
                except OSError:  # the supervisor is gone: the main thread finds that out, and ends us
                    return

    def _begin(self, fence: Fence, task: Task, started: float) -> None:
        with self._lock:
            for name, payload in task.inputs:
                self._inputs[name] += 1
                dependency.current[name] = payload

        def say(done: float, total: float, note: str) -> None:
            self._send(fence, Said(done, total, note))

        deadline = started + task.timeout if task.timeout is not None else None
        context = JobContext(task.job, run=task.run, attempt=task.attempt, fence=fence, deadline=deadline, say=say)
        job_context.of_thread.set(context)

    def _run(self, _fence: Fence, task: Task) -> Ended:
        limit = self._setup.max_result_bytes
        if not task.ranges:
            return run_call(self._functions, task, limit)
        if not task.careful:
            return run_chunk(self._functions, task, limit)
        # Item by item, so that one bad item is an error of its own; but nobody hears of each, see `threads`.
        segments: list[Segment] = []
        ended = run_carefully(self._functions, task, lambda _: None, segments.append)
        return sum_up(tuple(segments), segments) if segments else ended

    def _forget_inputs(self, task: Task) -> None:
        with self._lock:
            for name, _ in task.inputs:
                self._inputs[name] -= 1
                if not self._inputs[name]:
                    del self._inputs[name]
                    dependency.current.pop(name, None)
