"""One measurement: one contender, one workload, in this process, which has done nothing else before.

Run by `rounds.py` as `python -m benchmarks.measuring`, with the request as one JSON argument; the readings come out as
one line of JSON. A fresh process each time keeps the sides from sharing warm caches, garbage and leftover threads.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.drivers import Driver, driver_of
from benchmarks.limits import measure_limits
from benchmarks.plan import ALONE, Contender, Side, Size, Workload, sized

MAP_REPEATS = 3  # one run takes a few tens of milliseconds, so a single one would measure the scheduler's mood


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one figure. `way` tells apart what a side tried, such as its chunk sizes."""

    figure: str
    value: float
    way: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure."""

    contender: Contender
    workload: Workload
    size: Size

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        fields = json.loads(text)
        size = fields["size"] | {"map_chunksizes": tuple(fields["size"]["map_chunksizes"])}
        contender = Contender(Side(fields["contender"]["side"]), fields["contender"]["start_method"])
        return cls(contender, Workload(fields["workload"]), Size(**size))


def measure(request: Request) -> list[Reading]:
    """Measure in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cluster-benchmark-") as scratch:
        if request.workload in ALONE:
            return measure_alone(request.workload, request.size, Path(scratch))
        with driver_of(request.contender, Path(scratch)) as driver:
            return measure_driver(driver, request.workload, sized(request.size, request.contender.side))


def measure_driver(driver: Driver, workload: Workload, size: Size) -> list[Reading]:
    """Warm an open side up, and measure it."""
    check(driver.one_by_one(size.warm_up_jobs), size.warm_up_jobs)
    match workload:
        case Workload.THROUGHPUT:
            return throughput(driver, size)
        case Workload.LATENCY:
            return latency(driver, size)
        case Workload.MAP:
            return mapping(driver, size)
        case _:
            raise ValueError(f"{workload} is not measured through a driver")


def measure_alone(workload: Workload, size: Size, scratch: Path) -> list[Reading]:
    """What has no peer."""
    match workload:
        case Workload.LIMITS:
            found = measure_limits(size.limit_seconds, scratch)
        case Workload.IDLE:
            from benchmarks.scaling.idle import measure_idle

            found = measure_idle(size.idle_seconds, scratch)
        case Workload.DEATH:
            from benchmarks.scaling.death import measure_deaths

            found = measure_deaths(size.deaths)
        case Workload.QUEUED:
            from benchmarks.scaling.queued import measure_queued

            found = measure_queued(size.queued_jobs, scratch)
        case Workload.CONNECTED:
            from benchmarks.scaling.connected import measure_connected

            found = measure_connected(size.connected_workers, size.connected_seconds, scratch)
        case _:
            raise ValueError(f"{workload} has peers")
    return [Reading(name, value) for name, value in found.items()]


def throughput(driver: Driver, size: Size) -> list[Reading]:
    """Jobs per second, from the first submit to the last result."""
    began = time.perf_counter()
    results = driver.one_by_one(size.throughput_jobs)
    seconds = time.perf_counter() - began

    check(results, size.throughput_jobs)
    return [Reading("jobs", size.throughput_jobs / seconds)]


def latency(driver: Driver, size: Size) -> list[Reading]:
    """Milliseconds for one job there and back, with nothing else in flight."""
    trips: list[float] = []
    for _ in range(size.latency_round_trips):
        began = time.perf_counter()
        driver.round_trip()
        trips.append((time.perf_counter() - began) * 1e3)
    return [Reading("p50", percentile(trips, 50)), Reading("p99", percentile(trips, 99))]


def mapping(driver: Driver, size: Size) -> list[Reading]:
    """Items per second, for each way to map."""
    readings: list[Reading] = []
    for way, run in driver.map_ways(size).items():
        rates: list[float] = []
        for _ in range(MAP_REPEATS):
            began = time.perf_counter()
            results = run(size.map_items)
            rates.append(size.map_items / (time.perf_counter() - began))
            check(results, size.map_items)
        readings.append(Reading("items", median(rates), way))
    return readings


def check(results: list[int], count: int) -> None:
    """A side that is fast because it loses jobs is not fast."""
    if results != list(range(count)):
        raise AssertionError(f"{count} jobs were asked for; {len(results)} results came, or others than were due")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    # Ceiling division on the rank keeps p99 of 100 values at the 99th, not at the maximum.
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def main() -> None:
    """Measure what the first argument asks for."""
    readings = measure(Request.from_json(sys.argv[1]))
    sys.stdout.write(json.dumps([asdict(reading) for reading in readings]) + "\n")


# The peers' forkserver imports this module again in its children.
if __name__ == "__main__":
    main()
