"""One child dies: how long until its slot runs again, and what its neighbour notices of it."""

from __future__ import annotations

import os
import signal
import time
from statistics import median

WATCH_SECONDS = 0.6
# The neighbour is watched as long before anything dies, for what the machine does to it by itself.
BEFORE_SECONDS = 0.3
STEP_SECONDS = 0.001


def die(file: str) -> float:
    """Note the moment, and be killed; the next attempt says when it runs."""
    if os.path.exists(file):  # noqa: PTH110 - as little as can be around the end
        return time.monotonic()
    with open(file, "w", encoding="ascii") as moment:  # noqa: PTH123
        moment.write(repr(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody outlives that signal")


def now() -> float:
    return time.monotonic()


def longest_stalls(seconds: float) -> list[float]:
    """Run for so long; the moments, and how long they kept us, at which we were not let run for a while."""
    stalls: list[float] = []
    end = time.monotonic() + seconds
    last = time.monotonic()
    while last < end:
        current = time.monotonic()
        if current - last > STEP_SECONDS:
            stalls += [last, current - last]
        last = current
    return stalls


def measure_deaths(deaths: int) -> dict[str, float]:
    """Milliseconds: medians over so many deaths, except for the neighbour's, which is the longest of all."""
    import tempfile

    import cluster

    gaps: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        cluster.local(slots=1, store="memory:") as one,
    ):
        one.submit(now).result()
        for number in range(deaths):
            file = os.path.join(folder, str(number))  # noqa: PTH118 - text is what the job takes
            # Both are queued before it dies, so the slot has something to run as soon as it can.
            victim, following = one.submit(die, (file,)), one.submit(now)
            ran = min(victim.result(), following.result())
            with open(file, encoding="ascii") as moment:  # noqa: PTH123
                gaps.append((ran - float(moment.read())) * 1e3)
    before, during = neighbours_stalls(deaths)
    return {
        "slot runs again": median(gaps),
        "slot runs again, slowest": max(gaps),
        "neighbour's longest stall": max(during, default=0.0),
        "neighbour's longest stall, nobody dying": max(before, default=0.0),
    }


def neighbours_stalls(deaths: int) -> tuple[list[float], list[float]]:
    """The longest stall, in milliseconds, of a job that runs beside each death, before and from then on."""
    import tempfile

    import cluster

    before: list[float] = []
    during: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, cluster.local(slots=2, store="memory:") as two:
        for number in range(deaths):
            file = os.path.join(folder, str(number))  # noqa: PTH118
            neighbour = two.submit(longest_stalls, (BEFORE_SECONDS + WATCH_SECONDS,))
            time.sleep(BEFORE_SECONDS)
            two.submit(die, (file,)).result()
            stalls = neighbour.result()
            with open(file, encoding="ascii") as moment:  # noqa: PTH123
                died = float(moment.read())
            for at, seconds in zip(stalls[::2], stalls[1::2], strict=True):
                (before if at + seconds < died else during).append(seconds * 1e3)
    return before, during
