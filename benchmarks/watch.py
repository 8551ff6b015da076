"""Looks at a process from inside: the cpu time of each room, and how long the garbage collector held it up.

    sampling thread    a thousand times a second: where is each thread, and what cpu time has it used since the last look?
    answering thread   a socket in the file system: "reset" begins anew, "read" answers with what was found

Whoever computes is told from whoever waits by the kernel: a thread that used no cpu time since the last look adds none,
wherever it stands. A thread that did is put down, with just that time, to the room in which it is found.

The sampling thread gets the interpreter when another thread lets go of it, of itself or after the switch interval. That
would find everyone in front of a system call; so the interval is made shorter than the sampling one. All this costs some
per cent of the process's speed: a profile says where the time goes, and not how fast the whole is.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from multiprocessing.connection import Client, Listener
from typing import Any

from benchmarks.rooms import room_of_frame

SAMPLE_SECONDS = 0.001
SWITCH_SECONDS = 0.0002
KEY = b"of one machine, in a folder of its user"
# Linux's clock of a thread's own cpu time, from its kernel id (MAKE_THREAD_CPUCLOCK); unlike pthread_getcpuclockid it
# only fails for a thread that is gone.
_THREAD_CPU = 6


class Watch:
    """What is to be seen in this process."""

    def __init__(self, package: str) -> None:
        """Look at the package in this folder."""
        self._package = package
        self._lock = threading.Lock()  # guards what follows
        self._spent: Counter[str] = Counter()  # nanoseconds by room
        self._last: dict[int, int] = {}  # a thread's cpu time at the last look
        self._samples = 0
        self._pauses: dict[int, list[float]] = defaultdict(list)  # cpu seconds, by generation
        self.marks: list[tuple[str, int]] = []  # see `milestones`; whoever makes them appends
        self._began = 0.0
        self._own = 0
        self._cpu_began = time.process_time()
        self._is_over = threading.Event()
        self._sampling: threading.Thread | None = None

    def start_sampling(self) -> None:
        """Look at every thread, until the process ends or `stop`."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._sampling = threading.Thread(target=self._sample, name="benchmark-sampling", daemon=True)
        self._sampling.start()

    def stop(self) -> None:
        """Sample no more; returns when the thread is gone."""
        self._is_over.set()
        if self._sampling is not None:
            self._sampling.join()

    def start_timing_the_collector(self) -> None:
        """Note every pause from now on."""
        gc.callbacks.append(self._on_collection)

    def answer_at(self, path: str) -> None:
        """Have others of this user ask."""
        listener = Listener(path, "AF_UNIX", authkey=KEY)
        threading.Thread(target=self._answer, args=(listener,), name="benchmark-answering", daemon=True).start()

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self._spent.clear()
            self._samples = 0
            self._pauses.clear()
            self.marks.clear()
            self._cpu_began = time.process_time()

    def read(self) -> dict[str, Any]:
        """What was found since the last reset: times in seconds."""
        with self._lock:
            return {
                "rooms": {room: spent / 1e9 for room, spent in self._spent.items()},
                "samples": self._samples,
                "marks": list(self.marks),
                "cpu": time.process_time() - self._cpu_began,
                "pauses": {str(generation): list(seconds) for generation, seconds in self._pauses.items()},
            }

    def _sample(self) -> None:
        own = threading.get_native_id()
        while not self._is_over.wait(SAMPLE_SECONDS):
            frames = sys._current_frames()  # noqa: SLF001 - what it is for
            natives = {thread.ident: thread.native_id for thread in threading.enumerate()}
            with self._lock:
                self._samples += 1
                for ident, frame in frames.items():
                    native = natives.get(ident)
                    if native is None or native == own:
                        continue
                    try:
                        spent = time.clock_gettime_ns((~native << 3) | _THREAD_CPU)
                    except OSError:
                        continue  # gone
                    # What a thread used before it was first seen was used in this interval.
                    used = spent - self._last.get(native, 0)
                    self._last[native] = spent
                    if used > 0:
                        self._spent[room_of_frame(frame, self._package)] += used
            del frames

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        # The collector runs in whatever thread allocates, so the lock may be held by this very thread: not taken here.
        # Its own cpu time: on a machine that others use too, the clock on the wall would count what they do meanwhile.
        if phase == "start":
            self._began = time.thread_time()
        else:
            self._pauses[info["generation"]].append(time.thread_time() - self._began)

    def _answer(self, listener: Listener) -> None:
        while True:
            try:
                with listener.accept() as connection:
                    command = connection.recv()
                    if command == "reset":
                        self.reset()
                    connection.send(self.read())
            except (OSError, EOFError):
                continue  # whoever asked is gone


def ask(path: str | os.PathLike[str], command: str) -> dict[str, Any]:
    """The answer of a process that watches itself."""
    with Client(os.fspath(path), "AF_UNIX", authkey=KEY) as connection:
        connection.send(command)
        answer: dict[str, Any] = connection.recv()
        return answer
