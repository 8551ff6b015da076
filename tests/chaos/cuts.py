"""What can be done to a line that is a fault proxy, one thing at a time."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos.proxy import Fault, FaultProxy, Passing, Way


def cut_proxy(line: FaultProxy, chance: random.Random) -> tuple[str, Callable[[], None]]:
    """One of the proxy's faults; its name, and how it ends."""
    way = chance.choice(list(Way))
    faults: list[tuple[str, Callable[[], None]]] = [
        ("partition", line.partition),
        ("partition and drop", lambda: both(line.partition, line.drop)),
        ("one way held", lambda: line.set_fault(Fault(Passing.HELD), way)),
        ("half-open", lambda: line.half_open(way)),
        ("drop", line.drop),
        ("reset", line.reset),
        ("refuse and reset", lambda: both(line.refuse, line.reset)),
        ("timeout", lambda: line.set_fault(Fault(timeout_seconds=chance.uniform(0.1, 2.0)))),
        ("slow", lambda: line.set_fault(Fault(bandwidth=chance.choice([8_000, 100_000])), way)),
        ("latency", lambda: line.set_fault(Fault(latency_seconds=0.3, jitter_seconds=0.3))),
        ("slices", lambda: line.set_fault(Fault(slice_bytes=chance.choice([1, 7, 100])))),
    ]
    kind, begin = chance.choice(faults)
    begin()
    return kind, line.heal


def both(first: Callable[[], None], second: Callable[[], None]) -> None:
    """One after the other."""
    first()
    second()
