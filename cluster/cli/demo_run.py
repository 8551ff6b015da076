"""One run of the demo's jobs: submit them, count what ends, say how it stands, and audit the store at the end.

The caller's thread submits and watches. `Watch` counts in the done-callbacks of the jobs, which the client runs in a
thread of its own; a condition guards the counts and wakes the watching thread at the marks it waits for. If that thread
leaves (Ctrl-C), the callbacks go on counting until the cluster is closed, and nobody minds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct

import cluster
from cluster.cli.demo_tasks import FileReport, PackageReport, analyse_file, package_of, source_files, summarise_package
from cluster.core.states import TERMINAL

REFRESH_SECONDS = 0.1
PACKAGE_TAG = "package"
# Errors that mean "nobody knows what became of it", as opposed to "it failed".
LOST = (cluster.Detached, cluster.UnknownJob, cluster.MasterUnavailable, cluster.StoreTampered)

AnyJob: TypeAlias = cluster.Job[Any]


class Slot(Struct, frozen=True, kw_only=True):
    """One slot as the view shows it."""

    worker: str
    number: int
    pid: int
    job: str = ""  # the job's name; empty while the slot is idle
    memory: int = 0  # resident bytes
    cpu_percent: float = 0.0


class Snapshot(Struct, frozen=True, kw_only=True):
    """How a run stands."""

    total: int
    done: int = 0
    rerun: int = 0  # attempts beyond the first, over all jobs
    failed: int = 0
    lost: int = 0
    seconds: float = 0.0
    slots: tuple[Slot, ...] = ()

    @property
    def jobs_per_second(self) -> float:
        """The run's mean so far."""
        return self.done / self.seconds if self.seconds else 0.0


class Audit(Struct, frozen=True, kw_only=True):
    """What the store says of the jobs that it had acknowledged."""

    acknowledged: int
    done: int  # completed
    rerun: int
    lost: tuple[str, ...]  # acknowledged, and without an outcome
    doubled: tuple[str, ...]  # with more than one
    failed: tuple[str, ...]  # with an outcome that is no result

    @property
    def is_clean(self) -> bool:
        """Whether every acknowledged job completed, once."""
        return not (self.lost or self.doubled or self.failed) and self.done == self.acknowledged


class Watch:
    """Counts the jobs of one run as they end."""

    def __init__(self, c: cluster.Cluster, jobs: Sequence[AnyJob], *, seconds_before: float = 0.0) -> None:
        self._cluster = c
        self._jobs = jobs
        self._names = {job.id: job.name for job in jobs}
        self._began = time.monotonic() - seconds_before
        self._changed = threading.Condition()
        self._done = 0  # this and the next three: written by callbacks only, under `_changed`
        self._failed = 0
        self._lost = 0
        self._last_pid = 0
        self._mark = len(jobs)  # the callbacks wake the watching thread when so many are done
        for job in jobs:
            job.add_done_callback(self._on_done)

    @property
    def last_pid(self) -> int:
        """The process that analysed the file whose report came last; 0 before the first one."""
        return self._last_pid

    def until(self, mark: int, show: Callable[[Snapshot], None]) -> Snapshot:
        """Wait until `mark` jobs have ended, showing how it stands on the way.

        Returns:
            How it stood when the mark was passed.
        """
        while True:
            with self._changed:
                self._mark = mark
                is_there = self._changed.wait_for(lambda: self._done >= mark, timeout=REFRESH_SECONDS)
            snapshot = self.snapshot()
            show(snapshot)
            if is_there:
                return snapshot

    def snapshot(self) -> Snapshot:
        """How it stands now."""
        return Snapshot(
            total=len(self._jobs),
            done=self._done,
            rerun=sum(max(job.attempts - 1, 0) for job in self._jobs),
            failed=self._failed,
            lost=self._lost,
            seconds=time.monotonic() - self._began,
            slots=slots_of(self._cluster, self._names),
        )

    def _on_done(self, job: Future[Any]) -> None:
        # A cancelled future raises instead of telling; nobody cancels here, but an uncounted job would be waited for.
        error = cluster.ClusterError("cancelled") if job.cancelled() else job.exception()
        with self._changed:
            if error is None:
                report = job.result()
                if isinstance(report, FileReport):
                    self._last_pid = report.pid
            elif isinstance(error, LOST):
                self._lost += 1
            else:
                self._failed += 1
            self._done += 1
            if self._done >= self._mark:
                self._changed.notify_all()


def submit_analysis(c: cluster.Cluster, root: Path) -> list[AnyJob]:
    """Submit a job for each source file below `root`, and one for each package that depends on its files' jobs."""
    jobs: list[AnyJob] = []
    by_package = sorted(source_files(root), key=lambda path: package_of(path, root))
    for package, paths in groupby(by_package, key=lambda path: package_of(path, root)):
        files = [c.submit(analyse_file, (str(path),), name=str(path.relative_to(root))) for path in paths]
        summary = c.submit(summarise_package, (package, *files), name=package, tags=(PACKAGE_TAG,))
        jobs += [*files, summary]
    return jobs


def slots_of(c: cluster.Cluster, names: dict[str, str]) -> tuple[Slot, ...]:
    """What each slot is at, as the worker last said."""
    return tuple(
        Slot(
            worker=worker.name,
            number=slot.slot,
            pid=slot.pid,
            job=names.get(slot.job, slot.job),
            memory=slot.memory,
            cpu_percent=slot.cpu_percent,
        )
        for worker in c.workers()
        if worker.state != "lost"
        for slot in worker.health.slots
    )


def packages_of(c: cluster.Cluster) -> Iterator[PackageReport]:
    """The results of the package jobs, from the store, in the order of their names."""
    found = sorted(c.jobs(tag=PACKAGE_TAG), key=lambda info: info.name)
    return (c.job(info.id).result() for info in found)


def audit(c: cluster.Cluster, acknowledged: Iterable[str]) -> Audit:
    """Compare the jobs that were acknowledged with what the store holds of them."""
    expected = set(acknowledged)
    listed = [info for info in c.jobs() if info.id in expected]
    times = Counter(info.id for info in listed)
    ended = {info.id for info in listed if info.state in TERMINAL}
    completed = {info.id for info in listed if info.state is cluster.JobState.COMPLETED}
    return Audit(
        acknowledged=len(expected),
        done=len(completed),
        rerun=sum(max(info.attempts - 1, 0) for info in listed),
        lost=tuple(sorted(expected - ended)),
        doubled=tuple(sorted(job for job, count in times.items() if count > 1)),
        failed=tuple(sorted(ended - completed)),
    )
