"""A strict work desk in memory: each lease that it hands out must end exactly once, and by a worker that it knows."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from msgspec import structs

from cluster.core.records import (
    Digest,
    Ending,
    Fence,
    FunctionBlob,
    Lease,
    Options,
    Payload,
    Report,
    Stop,
    WorkerId,
)
from cluster.errors import Refused
from cluster.wire.messages import Health, Hello, Poll, Progress
from cluster.worker.blobs import PICKLER, PYTHON
from cluster.worker.config import WorkerConfig
from cluster.worker.supervisor import Supervisor

DEADLINE_SECONDS = 20.0


class RecordingDesk:
    """Queues leases, hands them out, and notes what is said of each. Given-back leases are queued again if `requeue`."""

    def __init__(self, *, requeue: bool = True) -> None:
        self.requeue = requeue
        self.reports: dict[Fence, Report] = {}
        self.gave_back: list[Fence] = []
        self.confirmed: list[Fence] = []
        self.heard: list[Progress] = []
        self.begun_fences: list[Fence] = []
        self.health: list[Health] = []
        self.hellos: list[Hello] = []
        self.left: list[WorkerId] = []
        self.violations: list[str] = []
        self.refuses = False  # forget every worker
        self._blobs: dict[Digest, FunctionBlob] = {}
        self._queue: deque[Lease] = deque()
        self._held: dict[Fence, Lease] = {}
        self._stops: list[Stop] = []
        self._revoked: set[Fence] = set()
        self._fence = 0
        self._changed = threading.Condition()
        self._wake: Callable[[], None] = lambda: None
        self._known: set[WorkerId] = set()

    # --- for the tests --------------------------------------------------------------------------------------------

    def function(self, func: Any, *, reusable: bool = False, python: str = PYTHON) -> Digest:
        body = cloudpickle.dumps(func, protocol=5)
        digest = b"%d" % (len(self._blobs) + 1)
        self._blobs[digest] = FunctionBlob(digest, body, python, PICKLER, getattr(func, "__name__", "f"), reusable)
        return digest

    def put(self, func: Any, *args: Any, kwargs: dict[str, Any] | None = None, **fields: Any) -> Fence:
        """Queue one call; `fields` are a lease's own, or `timeout`."""
        payload = fields.pop("payload", None)
        if payload is None:
            payload = cloudpickle.dumps((args, kwargs or {}), protocol=5)
        return self.put_leases([self.lease(func, payload, **fields)])[0]

    def put_chunk(self, func: Any, items: list[Any], **fields: Any) -> Fence:
        fields.setdefault("ranges", ((0, len(items)),))
        return self.put_leases([self.lease(func, cloudpickle.dumps(items, protocol=5), **fields)])[0]

    def lease(self, func: Any, payload: Payload, **fields: Any) -> Lease:
        digest = func if isinstance(func, bytes) else self.function(func)
        options = fields.pop("options", None) or Options(timeout=fields.pop("timeout", None))
        with self._changed:
            self._fence += 1
            fence = self._fence
        lease = Lease(fence, f"job-{fence}", 1, 1, digest, payload, options)
        return structs.replace(lease, **fields) if fields else lease

    def put_leases(self, leases: Sequence[Lease]) -> list[Fence]:
        with self._changed:
            self._queue.extend(leases)
        self._wake()
        return [lease.fence for lease in leases]

    def order_stop(self, fence: Fence, ending: Ending = Ending.CANCELLED) -> None:
        """As the board does it: what waits here never starts, what a worker holds is revoked and must be confirmed."""
        with self._changed:
            queued = next((lease for lease in self._queue if lease.fence == fence), None)
            if queued is not None:
                self._queue.remove(queued)
                self.confirmed.append(fence)
                self._changed.notify_all()
                return
            self._revoked.add(fence)
            self._stops.append(Stop(fence, ending))
        self._wake()

    def wait(self, condition: Callable[[], object], what: str = "it", seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until something said to this desk makes the condition true."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"{what} did not happen in {seconds} s"

    def wait_leased(self, fence: Fence) -> None:
        self.wait(lambda: fence in self._held or fence in self.reports, f"a lease of {fence}")

    def report_of(self, fence: Fence, seconds: float = DEADLINE_SECONDS) -> Report:
        self.wait(lambda: fence in self.reports, f"a report of {fence}", seconds)
        return self.reports[fence]

    def result_of(self, fence: Fence) -> Any:
        report = self.report_of(fence)
        assert report.ending is Ending.SUCCEEDED, report.certificate
        return pickle.loads(report.payload)

    def is_held(self, fence: Fence) -> bool:
        return fence in self._held

    @property
    def waiting(self) -> int:
        return len(self._queue)

    # --- the desk -------------------------------------------------------------------------------------------------

    def register(self, hello: Hello, wake: Callable[[], None]) -> None:
        with self._changed:
            self.hellos.append(hello)
            self._known.add(hello.worker)
            self._wake = wake
            self._changed.notify_all()

    def poll(self, worker: WorkerId, capacity: int) -> Poll:
        with self._changed:
            self._check(worker)
            leases = [self._queue.popleft() for _ in range(min(capacity, len(self._queue)))]
            for lease in leases:
                self._held[lease.fence] = lease
            stops, self._stops = self._stops, []
            if leases:
                self._changed.notify_all()
            return Poll(tuple(leases), tuple(stops))

    def fetch_function(self, digest: Digest) -> FunctionBlob:
        return self._blobs[digest]

    def report(self, worker: WorkerId, reports: Sequence[Report]) -> None:
        with self._changed:
            self._check(worker)
            for report in reports:
                self._end(report.fence, "report")
                self.reports[report.fence] = report
            self._changed.notify_all()

    def give_back(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        with self._changed:
            self._check(worker)
            leases = [self._end(fence, "give back") for fence in fences]
            self.gave_back.extend(fences)
            self.confirmed.extend(self._revoked.intersection(fences))
            if self.requeue:
                kept = [lease for lease in leases if lease is not None and lease.fence not in self._revoked]
                self._queue.extendleft(reversed(kept))
            self._changed.notify_all()
        self._wake()

    def stopped(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        with self._changed:
            self._check(worker)
            for fence in fences:
                # A late stop finds its target reported or given back: the one case where two words are said of a lease.
                if fence not in self.reports and fence not in self.gave_back:
                    self._end(fence, "stopped")
            self.confirmed.extend(fences)
            self._changed.notify_all()

    def progress(self, worker: WorkerId, progress: Sequence[Progress]) -> None:
        with self._changed:
            self._check(worker)
            self.heard.extend(progress)
            self._changed.notify_all()

    def begun(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        with self._changed:
            self._check(worker)
            self.begun_fences.extend(fences)
            self._changed.notify_all()

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        with self._changed:
            self._check(worker)
            self.health.append(health)
            self._changed.notify_all()

    def leave(self, worker: WorkerId) -> None:
        with self._changed:
            self._check(worker)
            self.left.append(worker)
            if self._held:
                self.violations.append(f"left with {sorted(self._held)} in hand")
            self._changed.notify_all()

    def forget_workers(self) -> None:
        with self._changed:
            self._known.clear()
            self._queue.extendleft(reversed([structs.replace(lease) for lease in self._held.values()]))
            self._held.clear()
        self._wake()

    def _check(self, worker: WorkerId) -> None:
        if worker not in self._known:
            raise Refused(f"no worker {worker!r} here")

    def _end(self, fence: Fence, word: str) -> Lease | None:
        lease = self._held.pop(fence, None)
        if lease is None:
            self.violations.append(f"{word} of {fence}, which is not held")
        return lease


@contextlib.contextmanager
def a_worker(
    slots: int = 2, desk: RecordingDesk | None = None, **config: Any
) -> Iterator[tuple[RecordingDesk, Supervisor]]:
    """A running worker and its desk; afterwards nothing is left, and nothing was said wrongly."""
    desk = desk or RecordingDesk()
    supervisor = Supervisor(WorkerConfig(name="w", slots=slots, **config))
    supervisor.start(desk)
    try:
        yield desk, supervisor
    finally:
        nursery = supervisor.statistics().nursery_pid
        pids = [pid for pid in [nursery, *supervisor.slot_pids()] if pid]
        supervisor.stop()
        assert not [pid for pid in pids if is_alive(pid)], "processes left"
    assert desk.violations == [], desk.violations
    assert bool(desk.left) == bool(desk.hellos)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except OSError:
        return False


def wait_gone(pid: int, seconds: float = 5.0) -> bool:
    """Wait for the end of a process, which need not be our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)
