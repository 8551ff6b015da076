"""Runs the measurements: round after round, each side in turn, each in a process of its own.

A shared machine drifts: it is fast for a minute and slow the next. So a round measures all sides close together, the
next round begins with another side, and a ratio is always taken within one round (`figures.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.cold_start import measure_cold
from benchmarks.fresh import RunFailed, run_python
from benchmarks.measuring import Reading, Request
from benchmarks.plan import Contender, Size, Workload, contenders_of


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading, and where it comes from."""

    round: int
    workload: Workload
    contender: Contender
    reading: Reading


@dataclass(slots=True)
class Record:
    """All that one run of the benchmarks found."""

    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    loads: list[tuple[float, float, float]] = field(default_factory=list)  # at the start of each round


def run_rounds(workloads: Iterable[Workload], size: Size, rounds: int, tell: Callable[[str], None]) -> Record:
    """Measure everything `rounds` times; a failed measurement is noted and the others go on."""
    record = Record()
    chosen = tuple(workloads)
    for number in range(rounds):
        record.loads.append(os.getloadavg())
        for workload in chosen:
            for contender in rotated(contenders_of(workload), number):
                tell(f"round {number + 1} of {rounds}: {workload}, {contender}")
                try:
                    readings = measure_one(contender, workload, size)
                except RunFailed as error:
                    record.failures.append(f"{workload}, {contender}: {error}")
                    continue
                record.samples += [Sample(number, workload, contender, reading) for reading in readings]
    return record


def rotated(contenders: tuple[Contender, ...], by: int) -> tuple[Contender, ...]:
    """The same contenders, beginning with another one each round, so that none always follows the same neighbour."""
    start = by % len(contenders)
    return contenders[start:] + contenders[:start]


def measure_one(contender: Contender, workload: Workload, size: Size) -> list[Reading]:
    """One measurement in a fresh process."""
    if workload is Workload.COLD:
        return measure_cold(contender)
    run = run_python("-m", "benchmarks.measuring", Request(contender, workload, size).to_json())
    return [Reading(**fields) for fields in json.loads(run.output)]
