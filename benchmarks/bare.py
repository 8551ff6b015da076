"""The bare shape of the kit: what is left of it when every promise is taken away. It shows what the machine allows.

    submit ──► deque ──► one thread with a selector ──► two children on socket pairs, jobs in batches
                                   ▲─────────── results ───────┘

No fence, lease, retry, limit, timeout, cancel, output, listing, heartbeat or Ctrl-C; a child that dies takes its batch along.
With a file, jobs and results are written by one thread in groups, and results are told after that. The room between this
and the kit is the price of the promises (`docs/explanation/performance.md`).
"""

from __future__ import annotations

import os
import select
import socket
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import dumps, loads
from typing import Any

from benchmarks.drivers import MapWay
from benchmarks.plan import WORKERS, Size
from benchmarks.tasks import echo

MAX_BATCH = 64
MAX_BATCH_BYTES = 1 << 20

Results = list[tuple[int, bytes]]  # numbers of jobs, and what they returned, pickled


class BarePool:
    """Children, and the thread that keeps them busy."""

    def __init__(self, keep: Callable[[Results], None] | None, admit: Callable[[int, bytes], None] | None) -> None:
        """Start them.

        Args:
            keep: what is done with results before they are told, and by whom; None: they are told at once.
            admit: what is done with each job before it runs.
        """
        self._keep = keep or self.tell
        self._admit = admit
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._futures: dict[int, Future[Any]] = {}
        self._number = 0
        self._is_rung = False
        self._ends = [_start_child() for _ in range(WORKERS)]
        self._bell, self._rope = socket.socketpair()  # after the children, which would keep it open
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], *args: object) -> Future[Any]:
        """One job."""
        future: Future[Any] = Future()
        number = self._number = self._number + 1
        self._futures[number] = future
        job = dumps((function, args))
        if self._admit is not None:
            self._admit(number, job)
        self._waiting.append((number, job))
        if not self._is_rung:
            self._is_rung = True
            self._rope.send(b".")
        return future

    def tell(self, results: Results) -> None:
        """Resolve futures."""
        for number, result in results:
            self._futures.pop(number).set_result(loads(result))  # noqa: S301 - of our own children

    def close(self) -> None:
        """End the children and the thread."""
        self._rope.close()
        self._thread.join()
        for end in self._ends:
            end.close()
        for _ in self._ends:
            os.wait()
        self._bell.close()

    def _run(self) -> None:
        poll = select.epoll()
        ends = {end.fileno(): end for end in self._ends}
        idle = set(ends)
        for descriptor in (self._bell.fileno(), *ends):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._bell.fileno():
                    if not self._bell.recv(64):
                        poll.close()
                        return
                    self._is_rung = False
                    continue
                self._keep(loads(ends[descriptor].recv(MAX_BATCH_BYTES)))  # noqa: S301 - as above
                idle.add(descriptor)
            while idle and self._waiting:
                waiting = self._waiting
                count = min(MAX_BATCH, max(1, len(waiting) // WORKERS))
                ends[idle.pop()].send(dumps([waiting.popleft() for _ in range(count)]))


def _start_child() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        with suppress(OSError):
            while batch := theirs.recv(MAX_BATCH_BYTES):
                done = []
                for number, job in loads(batch):  # noqa: S301 - of our own parent
                    function, args = loads(job)  # noqa: S301
                    done.append((number, dumps(function(*args))))
                theirs.send(dumps(done))
        os._exit(0)
    theirs.close()
    return ours


class BareFile:
    """Jobs and results in SQLite, written in groups by one thread: whatever has gathered during the last write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: list[tuple[int, bytes]] = []
        self._results: Results = []
        self._lock = threading.Lock()
        self._is_wanted = threading.Event()
        self._is_over = False
        self.pool = BarePool(self._keep, self._admit)  # forks, so the thread comes after it
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and end."""
        self.pool.close()
        self._is_over = True
        self._is_wanted.set()
        self._thread.join()

    def _admit(self, number: int, job: bytes) -> None:
        with self._lock:
            self._jobs.append((number, job))
        self._is_wanted.set()

    def _keep(self, results: Results) -> None:
        with self._lock:
            self._results += results
        self._is_wanted.set()

    def _run(self) -> None:
        file = sqlite3.connect(self._path, isolation_level=None)
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=FULL")
        file.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, job BLOB)")
        file.execute("CREATE TABLE results (id INTEGER PRIMARY KEY, result BLOB)")
        while not self._is_over:
            self._is_wanted.wait()
            self._is_wanted.clear()
            with self._lock:
                jobs, self._jobs = self._jobs, []
                results, self._results = self._results, []
            file.execute("BEGIN")
            file.executemany("INSERT INTO jobs VALUES (?, ?)", jobs)
            file.executemany("INSERT INTO results VALUES (?, ?)", results)
            file.execute("COMMIT")
            self.pool.tell(results)
        file.close()


class BareDriver:
    """See `benchmarks.drivers.Driver`."""

    def __init__(self, pool: BarePool) -> None:
        self._pool = pool

    def one_by_one(self, jobs: int) -> list[int]:
        submitted = [self._pool.submit(echo, number) for number in range(jobs)]
        return [future.result() for future in submitted]

    def round_trip(self) -> int:
        result: int = self._pool.submit(echo, 1).result()
        return result

    def map_ways(self, size: Size) -> dict[str, MapWay]:
        del size  # it has no map
        return {}


@contextmanager
def bare_driver(path: Path | None) -> Iterator[BareDriver]:
    """The bare shape, with a file at `path` or without one."""
    if path is None:
        pool = BarePool(None, None)
        try:
            yield BareDriver(pool)
        finally:
            pool.close()
    else:
        file = BareFile(path)
        try:
            yield BareDriver(file.pool)
        finally:
            file.close()
