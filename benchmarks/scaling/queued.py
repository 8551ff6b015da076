"""Many jobs wait in one master: what each costs in cpu and memory, what a lease costs behind them, and a restart.

The submitting side is the wire's own desk and keeps no futures, so that a million jobs fit beside whatever else is
measured; the working side is one worker that asks for one lease at a time, whose answer is the latency.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import percentile
from benchmarks.processes import Lab, Part, lab
from benchmarks.tasks import echo

if TYPE_CHECKING:
    from cluster.core.records import JobId, JobSpec, Options, Outcome
    from cluster.wire.desks import JobsDesk
    from cluster.wire.messages import Progress, Refusal
    from cluster.wire.proxy import DeskProxy

LOWEST = 1_000
STEP = 10
BATCH = 1_000
MOST_UNACCEPTED = 20_000
ACCEPT_SECONDS = 120.0
TRIPS = 300
WARM_UP_TRIPS = 10
LISTEN_SECONDS = 30.0
RESTART_SECONDS = 600.0


class Counting:
    """The submitting side's ear: how many are durable."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._accepted = 0
        self._refused = ""

    def opened(self, defaults: Options) -> None:
        pass

    def accepted(self, jobs: Sequence[JobId]) -> None:
        with self._changed:
            self._accepted += len(jobs)
            self._changed.notify_all()

    def refused(self, refusals: Sequence[Refusal]) -> None:
        with self._changed:
            self._refused = refusals[0].reason
            self._changed.notify_all()

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def progressed(self, job: JobId, progress: Progress) -> None:
        pass

    def printed(self, job: JobId) -> None:
        pass

    def wait(self, count: int) -> None:
        """Return once so many are durable."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._refused or self._accepted >= count, ACCEPT_SECONDS)
        if self._refused:
            raise AssertionError(f"the master refused a job: {self._refused}")
        if not done:
            raise AssertionError(f"{count:,} jobs were submitted, and only {self._accepted:,} are durable")


class Submitter:
    """Fills a master's queue."""

    def __init__(self, desk: JobsDesk, *, is_dependent: bool = False) -> None:
        """Jobs of one function; each second one waits for the one before it if they are to depend."""
        from cluster.client.functions import Functions

        self._desk = desk
        self._ear = Counting()
        self._session = desk.open(self._ear)
        self._function = Functions().pickle(echo)
        self._prefix = os.urandom(6).hex()
        self._is_dependent = is_dependent
        self.args = pickle.dumps(((1,), {}), 5)
        self.submitted = 0
        self.taken = 0  # by workers, as whoever lets them says here

    def fill(self, queued: int) -> None:
        """Submit until so many jobs wait; returns when all are durable."""
        count = queued + self.taken
        while self.submitted < count:
            specs = [self._spec(number) for number in range(self.submitted, min(count, self.submitted + BATCH))]
            self._desk.submit(self._session, specs, [self._function])
            self.submitted += len(specs)
            self._ear.wait(self.submitted - MOST_UNACCEPTED)
        self._ear.wait(count)

    def close(self) -> None:
        self._desk.close(self._session)

    def _spec(self, number: int) -> JobSpec:
        from cluster.core.records import JobSpec

        # As long as the client's own ids are.
        after = (self._id(number - 1),) if self._is_dependent and number % 2 else ()
        return JobSpec(self._id(number), self._function.digest, self.args, after=after)

    def _id(self, number: int) -> str:
        return f"{self._prefix}-{number:07x}"


class Taker:
    """A worker that asks for one lease, and again, and says each time that it is done."""

    def __init__(self, desk: DeskProxy) -> None:
        from cluster.wire.calls import Register
        from cluster.wire.messages import Hello

        self._desk = desk
        self._worker = f"taker#{os.urandom(4).hex()}"
        hello = Hello(worker=self._worker, name="taker", host="simulated", pid=os.getpid(), slots=1)
        desk.call("register", Register(hello))
        self._turns = itertools.count(1)
        self._seen = self._received = 0

    def take(self) -> float:
        """Seconds from asking until the lease is here. Raises `AssertionError` if there is none."""
        from cluster.core.records import Ending, Report
        from cluster.wire.calls import Tell, Work, WorkListen

        said = WorkListen(self._worker, self._seen, LISTEN_SECONDS, credit=self._received + 1, turn=next(self._turns))
        began = time.perf_counter()
        work: Work = self._desk.call("listen", said, timeout=LISTEN_SECONDS + 10.0)
        seconds = time.perf_counter() - began
        if not work.leases:
            raise AssertionError("the master has jobs, and leased none")
        self._seen = work.mark
        self._received += len(work.leases)
        reports = tuple(Report(lease.fence, Ending.SUCCEEDED, b"N.") for lease in work.leases)
        self._desk.call("tell", Tell(self._worker, reports))
        return seconds

    def leave(self) -> None:
        from cluster.wire.calls import WorkerArgs

        self._desk.call("leave", WorkerArgs(self._worker))
        self._desk.close()


@contextmanager
def submitting(made: Lab, *, is_dependent: bool = False) -> Iterator[Submitter]:
    """A submitter connected to the lab's master."""
    from cluster.wire.address import parse_address
    from cluster.wire.keys import load_key
    from cluster.wire.remote_jobs import RemoteJobsDesk

    desk = RemoteJobsDesk(parse_address(made.address), load_key(made.key("client")))
    submitter = Submitter(desk, is_dependent=is_dependent)
    try:
        yield submitter
    finally:
        submitter.close()


@contextmanager
def taking(made: Lab) -> Iterator[Taker]:
    """A worker connected to the lab's master."""
    from cluster.wire.address import parse_address
    from cluster.wire.keys import Role, load_key
    from cluster.wire.proxy import connect_desk

    key = load_key(made.key("worker"))
    desk = connect_desk("work", parse_address(made.address), Role.WORKER, key, patience_seconds=RESTART_SECONDS)
    taker = Taker(desk)
    try:
        yield taker
    finally:
        taker.leave()


def depths(most: int) -> list[int]:
    """1,000, 10,000, ... and the most itself."""
    found = []
    depth = LOWEST
    while depth < most:
        found.append(depth)
        depth *= STEP
    return [*found, most]


def measure_queued(most: int, folder: Path) -> dict[str, float]:
    """Figures by name, with so many jobs queued in the end; the disk of `folder` is the store's."""
    found: dict[str, float] = {}
    with lab(folder) as made:
        master = made.master()
        with submitting(made) as submitter:
            for depth in depths(most):
                found |= fill_and_take(made, master, submitter, depth)
        found["lease p50 when full / at 1,000"] = found[f"lease p50 at {most:,}"] / found[f"lease p50 at {LOWEST:,}"]
        found["memory per queued job"] = found[f"memory per job at {most:,}"]
        found["longest collector pause"] = longest_pause(master)
        found["disk per queued job"] = disk_bytes(folder) / most
        found["restart to first lease"] = restart_seconds(made, master)
    return found


def fill_and_take(made: Lab, master: Part, submitter: Submitter, depth: int) -> dict[str, float]:
    """Fill up to a depth, and take a few leases there."""
    already = submitter.submitted - submitter.taken
    memory_before = master.memory
    cpu_before, began = master.cpu_seconds, time.monotonic()
    submitter.fill(depth)
    seconds = time.monotonic() - began
    cpu = master.cpu_seconds - cpu_before
    # The payloads are the caller's own, however they are kept.
    memory = master.memory - memory_before - (depth - already) * len(submitter.args)
    with taking(made) as taker:
        for _ in range(WARM_UP_TRIPS):
            taker.take()
        before, trips = master.cpu_seconds, [taker.take() * 1e3 for _ in range(min(TRIPS, depth // 5))]
        taking_cpu = master.cpu_seconds - before
    # Others take their place, so that the depth is what it says.
    submitter.taken += WARM_UP_TRIPS + len(trips)
    submitter.fill(depth)
    return {
        f"admission, master cpu at {depth:,}": cpu * 1e6 / (depth - already),
        f"admission, wall at {depth:,}": seconds * 1e6 / (depth - already),
        f"lease and report, master cpu at {depth:,}": taking_cpu * 1e6 / len(trips),
        f"lease p50 at {depth:,}": percentile(trips, 50),
        f"lease p99 at {depth:,}": percentile(trips, 99),
        f"memory per job at {depth:,}": memory / (depth - already),
    }


def longest_pause(master: Part) -> float:
    """Milliseconds, over the master's life."""
    pauses = [seconds for found in master.ask("read")["pauses"].values() for seconds in found]
    return max(pauses, default=0.0) * 1e3


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def restart_seconds(made: Lab, master: Part) -> float:
    """From the start of a new master, after the old one was killed, until a worker has a lease."""
    master.end(signal.SIGKILL)
    began = time.monotonic()
    made.master()
    with taking(made) as taker:
        taker.take()
        return time.monotonic() - began
