"""The process in a slot: takes one job, runs it, sends its result, takes the next.

It has one thread of ours, the main one, in which jobs run. It holds one end of a private socket pair and an output
file, and shares nothing else with anyone. Its duties to the supervisor, who reasons from them:

- it takes a job's datagram only when the job before it is over and its result is sent; so of all jobs sent to it, at
  most one is in hand, and that one is to blame for whatever happens to this process;
- it sends a result only when nothing of the job is left to crash;
- what a careful chunk does is told item by item.

When the supervisor is gone, the socket ends and so do we; when the nursery is gone, the kernel kills us.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from os import fchdir, getpid, umask  # before `surroundings` notes who calls them
from time import perf_counter
from typing import NoReturn

from msgspec import structs

from cluster.core.records import Certificate, Fence, Report, Segment
from cluster.wire import dependency
from cluster.worker import isolation, job_context, memory_file, output, scratch, weighing
from cluster.worker.channel import (
    Channel,
    Finished,
    FromChild,
    FunctionMissing,
    ItemEnded,
    ItemStarted,
    Said,
    Task,
    TooFull,
    decoder_of_tasks,
    encode,
)
from cluster.worker.functions import Functions
from cluster.worker.isolation import Descriptors
from cluster.worker.job_context import JobContext
from cluster.worker.leftovers import Leftovers
from cluster.worker.nursery_protocol import Setup
from cluster.worker.running import Ended, run_call, run_carefully, run_chunk
from cluster.worker.surroundings import Surroundings

# Jobs that took less than this together are not worth the system call that reads the cpu time; the certificate of the
# next is wrong by at most this much.
MEASURED_SECONDS = 0.001
# A job that took longer may have let C code change the working directory or the umask; of a shorter one it is enough to
# know whether Python did (see `surroundings`).
SHORT_SECONDS = 0.0001
# How many jobs pass before processes that jobs left behind, and that have ended, are reaped. Not after each job: a
# library may keep a helper process from one job to the next and want its exit status itself.
REAP_EVERY = 64
MAX_JOB_UMASK = 0o022

_decode = decoder_of_tasks()


class Child:
    """What a forked child does for the rest of its life."""

    def __init__(self, setup: Setup, kept: Descriptors) -> None:
        self._setup = setup
        self._kept = kept
        self._pid = os.getpid()
        self._channel = Channel(socket.socket(fileno=kept.socket))
        self._surroundings = Surroundings()
        self._functions = Functions(self._surroundings.take_over_imports)
        self._streams = isolation.open_streams()
        self._leftovers = Leftovers()
        self._scratch = scratch.folder_of(os.fsdecode(setup.scratch), self._pid) if setup.scratch else ""
        self._umask = umask(MAX_JOB_UMASK)
        umask(self._umask)
        self._is_astray = True  # the next job may not be where it should be, or not have the umask that it should
        self._jobs = 0
        self._hand: tuple[Fence, Task, float] | None = None  # the job in hand, and the wall time of its start
        self._cpu_seconds = 0.0  # of this process, when last read
        self._unmeasured_seconds = 0.0  # that jobs have taken since
        dependency.inside_job = True

    def serve(self) -> NoReturn:
        """Run jobs until the supervisor is gone."""
        receive = self._channel.receive
        while True:
            try:
                received = receive()
            except (EOFError, ConnectionError):
                isolation.vanish()
            if received is None:  # not on a blocking socket, unless a job has meddled with it
                self._channel.socket.settimeout(None)
                continue
            fence = received[0]
            task = _decode(received[1])
            del received  # it may be a gigabyte
            if task.memory and self._jobs and weighing.is_too_full(task.memory):
                self._send(fence, TooFull())
                isolation.vanish()
            if self._functions.keep(task):
                self._attempt(fence, task)
            else:
                self._send(fence, FunctionMissing(task.function))

    def _attempt(self, fence: Fence, task: Task) -> None:
        started = time.time()
        if self._leftovers.is_any:
            os.ftruncate(self._kept.output, 0)  # printed since the last job: nobody's
        self._begin(fence, task, started)
        clock = perf_counter()
        ended = self._run(fence, task) if task.ranges else run_call(self._functions, task, self._setup.max_result_bytes)
        seconds = perf_counter() - clock
        if getpid() != self._pid:
            isolation.vanish()  # the job forked, and this is the copy: it must not speak for us, nor take jobs
        isolation.restore_signals()
        self._is_astray = seconds > SHORT_SECONDS or self._surroundings.is_touched
        is_fit = self._surroundings.restore()
        job_context.install(None)
        if task.inputs:
            dependency.current.clear()
        if self._scratch and not scratch.empty(self._scratch):
            isolation.renew_directory(self._kept.directory, self._scratch)
            self._is_astray = True
        printed = self._collect_output()
        self._leftovers.look(self._streams)
        certificate, segments = ended.certificate, ended.segments
        self._unmeasured_seconds += seconds
        cpu_seconds = 0.0
        if self._unmeasured_seconds > MEASURED_SECONDS or certificate is not None:
            used = -self._cpu_seconds
            self._cpu_seconds = cpu_seconds = time.process_time()
            used += cpu_seconds
            self._unmeasured_seconds = 0.0
            # No shorter job has started a process.
            if self._leftovers.hold(self._kept.output):
                self._renew_output(fence)
        if certificate is not None:
            certificate = self._complete(certificate, task, (started, seconds, used), printed)
            segments = tuple(self._signed(segment, task) for segment in segments)
        report = Report(fence, ended.ending, ended.payload, certificate, printed, segments, seconds)
        self._channel.send(fence, encode(Finished(report, cpu_seconds)))  # not `_send`: whose copy this is, is known
        if not is_fit:
            isolation.vanish()  # what waits in our socket is taken back, and goes to another child

    def _begin(self, fence: Fence, task: Task, started: float) -> None:
        """What the last job left is put back: working directory, umask (the rest was before its result was sent)."""
        if self._is_astray:
            fchdir(self._kept.directory)
            umask(self._umask)
        if task.inputs:
            dependency.current.update(task.inputs)
        self._hand = fence, task, started
        job_context.install(self._make_context)
        self._jobs += 1
        if self._jobs % REAP_EVERY == 0:
            _reap()

    def _make_context(self) -> JobContext:
        """`current_job()`, when the job in hand first asks for it: most never do."""
        assert self._hand is not None  # noqa: S101 - it is installed for the time of a job only
        fence, task, started = self._hand
        deadline = started + task.timeout if task.timeout is not None else None

        def say(done: float, total: float, note: str) -> None:
            self._send(fence, Said(done, total, note))

        return JobContext(task.job, run=task.run, attempt=task.attempt, fence=fence, deadline=deadline, say=say)

    def _run(self, fence: Fence, task: Task) -> Ended:
        """Run a chunk."""
        limit = self._setup.max_result_bytes
        # A timeout counts for each item, so the supervisor must hear when each begins.
        if not task.careful and task.timeout is None:
            return run_chunk(self._functions, task, limit)

        def begin(item: int) -> None:
            # The deadline is the item's.
            self._hand = fence, task, time.time()
            job_context.install(self._make_context)
            self._send(fence, ItemStarted(item))

        def end(segment: Segment) -> None:
            self._send(fence, ItemEnded(self._signed(segment, task)))

        return run_carefully(self._functions, task, begin, end)

    def _send(self, fence: Fence, message: FromChild) -> None:
        if os.getpid() == self._pid:
            self._channel.send(fence, encode(message))

    def _collect_output(self) -> bytes:
        out, err = self._streams
        try:
            out.flush()
            err.flush()
            if sys.stdout is out and sys.stderr is err and isolation.is_output_untouched(self._kept.output):
                return b""
        except (OSError, ValueError):  # closed
            pass
        return self._take_output()

    def _take_output(self) -> bytes:
        """What is in the file; and what the job did to the streams is put right."""
        try:
            for stream in self._streams:
                stream.flush()  # raises if it is closed
            is_whole = (
                isolation.is_standard_output(self._kept.output)
                and sys.stdout is self._streams[0]
                and sys.stderr is self._streams[1]
            )
        except (OSError, ValueError):
            is_whole = False
        if not is_whole:
            isolation.restore_standard_descriptors(self._kept.output)
            self._streams = isolation.open_streams()
        size = output.size_of(self._kept.output)
        return output.take(self._kept.output, size, self._setup.max_output_bytes) if size else b""

    def _renew_output(self, fence: Fence) -> None:
        """Print into another file from now on: processes that the job left behind go on writing into this one."""
        try:
            renewed = memory_file.make_file()
        except OSError:  # no memory, no descriptors: better a stranger's words in a job's output than no job
            return
        os.dup2(renewed, self._kept.output, inheritable=False)
        isolation.restore_standard_descriptors(self._kept.output)
        self._channel.send_output(fence, renewed)
        os.close(renewed)

    def _complete(
        self, certificate: Certificate, task: Task, spent: tuple[float, float, float], printed: bytes
    ) -> Certificate:
        started, seconds, cpu_seconds = spent
        return structs.replace(
            certificate,
            started=started,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            output_tail=output.tail_text(printed),
            **self._circumstances(task),
        )

    def _signed(self, segment: Segment, task: Task) -> Segment:
        if segment.certificate is None:
            return segment
        certificate = structs.replace(segment.certificate, **self._circumstances(task))
        return structs.replace(segment, certificate=certificate)

    def _circumstances(self, task: Task) -> dict[str, object]:
        return {
            "attempt": task.attempt,
            "worker": self._setup.worker,
            "host": self._setup.host,
            "pid": self._pid,
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
