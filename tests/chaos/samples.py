"""Whether something grows: memory, descriptors and threads of the long-lived processes, sampled while all else breaks.

A process that is killed every few seconds shows nothing, so each life is looked at by itself, and only lives that were
long enough count. The first part of a life is left out: imports, first jobs and caches are no leak. The slope is the
median of all slopes between two samples (Theil and Sen's), which a few outliers don't move.
"""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations

import psutil

from tests.chaos.history import now

INTERVAL_SECONDS = 0.5
WARM_UP_SECONDS = 15.0
# Of what follows the warm-up. Shorter lives tell nothing.
LEAST_SECONDS = 45.0
MAX_COMPARED = 200
# A minute's growth that is called clear. Memory: a leak of 100 bytes for each of 5,000 jobs a minute would be 0.5 MB.
MAX_GROWTH = {"memory": 3_000_000.0, "descriptors": 2.0, "threads": 2.0}


@dataclass(frozen=True)
class Sample:
    """One look at one process."""

    name: str
    pid: int
    at: float
    memory: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Growth:
    """How one figure of one life went on."""

    name: str
    figure: str
    seconds: float
    first: float
    last: float
    per_minute: float

    @property
    def is_clear(self) -> bool:
        """Too much to be noise."""
        return self.per_minute > MAX_GROWTH[self.figure]

    def __str__(self) -> str:
        return f"{self.name}: {self.figure} {self.first:,.0f} -> {self.last:,.0f} in {self.seconds:.0f} s ({self.per_minute:+,.1f} a minute)"


def growths(samples: Iterable[Sample]) -> list[Growth]:
    """The growth of every figure of every life that was long enough."""
    lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.name, sample.pid].append(sample)
    found = []
    for (name, _), life in lives.items():
        begin = life[0].at + WARM_UP_SECONDS
        counted = [sample for sample in life if sample.at >= begin]
        if not counted or counted[-1].at - counted[0].at < LEAST_SECONDS:
            continue
        seconds = counted[-1].at - counted[0].at
        kept = counted[:: max(1, len(counted) // MAX_COMPARED)]
        for figure in MAX_GROWTH:
            points = [(sample.at, float(getattr(sample, figure))) for sample in kept]
            slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0])
            found.append(Growth(name, figure, seconds, points[0][1], points[-1][1], slope * 60))
    return found


class Sampler:
    """A thread that looks at processes."""

    def __init__(self, pids: Callable[[], dict[str, int]]) -> None:
        self.samples: list[Sample] = []
        self._pids = pids
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(INTERVAL_SECONDS):
            for name, pid in self._pids().items():
                try:
                    process = psutil.Process(pid)
                    with process.oneshot():
                        seen = process.memory_info().rss, process.num_fds(), process.num_threads()
                    self.samples.append(Sample(name, pid, now(), *seen))
                except psutil.Error:  # it died meanwhile
                    continue
