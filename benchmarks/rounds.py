"""Runs the measurements: round after round, each side in turn, each in a process of its own.

A shared machine drifts: it is fast for a minute and slow the next. So a round measures all sides close together, the
next round begins with another side, and a ratio is always taken within one round (`figures.py`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.cold_start import measure_cold
from benchmarks.fresh import TIMEOUT_SECONDS, RunFailed, run_python
from benchmarks.measuring import Reading, Request
from benchmarks.peers.environments import Peer, Unavailable
from benchmarks.plan import LONG, Contender, Side, Size, Workload, contenders_of

# A million jobs submitted, looked at, and read back by a master that starts anew; on a slow disk.
LONG_TIMEOUT_SECONDS = 1_800.0

T = TypeVar("T")


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
    peers: dict[Side, Peer] = field(default_factory=dict)  # the extras that could be had
    absent: dict[Side, str] = field(default_factory=dict)  # those that couldn't, and why


def run_rounds(
    workloads: Iterable[Workload],
    size: Size,
    rounds: int,
    tell: Callable[[str], None],
    extras: Mapping[Side, Peer | Unavailable] | None = None,
) -> Record:
    """Measure everything `rounds` times; a failed measurement is noted and the others go on."""
    record = Record()
    for side, prepared in (extras or {}).items():
        if isinstance(prepared, Unavailable):
            record.absent[side] = str(prepared)
        else:
            record.peers[side] = prepared
    chosen = tuple(workloads)
    for number in range(rounds):
        record.loads.append(os.getloadavg())
        for workload in chosen:
            if workload in LONG and number > 0:
                continue
            for contender in rotated(contenders_of(workload, tuple(record.peers)), number):
                tell(f"round {number + 1} of {rounds}: {workload}, {contender}")
                peer = record.peers.get(contender.side)
                try:
                    readings = measure_one(contender, workload, size, sys.executable if peer is None else peer.python)
                except RunFailed as error:
                    record.failures.append(f"{workload}, {contender}: {error}")
                    continue
                record.samples += [Sample(number, workload, contender, reading) for reading in readings]
    return record


def rotated(turns: tuple[T, ...], by: int) -> tuple[T, ...]:
    """The same turns, beginning with another one each round, so that each leads once in a while."""
    start = by % len(turns)
    return turns[start:] + turns[:start]


def measure_one(contender: Contender, workload: Workload, size: Size, python: str = sys.executable) -> list[Reading]:
    """One measurement in a fresh process."""
    if workload is Workload.COLD:
        return measure_cold(contender)
    request = Request(contender, workload, size).to_json()
    seconds = LONG_TIMEOUT_SECONDS if workload in LONG else TIMEOUT_SECONDS
    run = run_python("-m", "benchmarks.measuring", request, timeout_seconds=seconds, python=python)
    # A peer's own words may come before ours.
    return [Reading(**fields) for fields in json.loads(run.output.splitlines()[-1])]
