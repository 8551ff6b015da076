"""`python -m benchmarks trip --side memory|sqlite|tcp`: where the time of one job's round trip goes.

Nothing else is in flight. Each stage's figure is the median time from the stage before it, over all round trips; the sum
of medians is not quite the median of sums, which is given too. Marking costs some microseconds of the whole.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import milestones
from benchmarks.milestones import LAST, MILESTONES, Marks
from benchmarks.plan import WORKERS
from benchmarks.processes import lab
from benchmarks.tasks import echo

if TYPE_CHECKING:
    from cluster import Cluster

SIDES = ("memory", "sqlite", "tcp")
TRIPS = 2_000
WARM_UP_TRIPS = 200

Trip = tuple[int, int]  # nanoseconds: the call of submit, the return of result


@contextmanager
def opened(side: str, folder: Path) -> Iterator[tuple[Cluster, Callable[[], Marks]]]:
    """A cluster, and how to get all marks that were made since they were last asked for."""
    import cluster

    marks: Marks = []
    milestones.install(marks)
    with ExitStack() as stack:
        if side != "tcp":
            store = "memory:" if side == "memory" else "sqlite:///" + str(folder / "jobs.db")
            yield stack.enter_context(cluster.local(slots=WORKERS, store=store)), lambda: _emptied(marks)
            return
        made = stack.enter_context(lab(folder, is_marked=True))
        parts = [made.master(), *(made.worker(f"worker{number + 1}") for number in range(WORKERS))]
        connected = stack.enter_context(cluster.connect(made.address, made.key("client")))

        def collect() -> Marks:
            found = _emptied(marks)
            for part in parts:
                found += part.ask("read")["marks"]
                part.ask("reset")
            return found

        yield connected, collect


def _emptied(marks: Marks) -> Marks:
    found = list(marks)
    marks.clear()
    return found


def travel(cluster: Cluster, trips: int) -> list[Trip]:
    """So many round trips, one after the other."""
    made: list[Trip] = []
    for _ in range(trips):
        began = time.perf_counter_ns()
        if cluster.submit(echo, (1,)).result() != 1:
            raise AssertionError("a result was lost or mixed up")
        made.append((began, time.perf_counter_ns()))
    return made


def spans(trips: list[Trip], marks: Marks) -> dict[str, list[int]]:
    """Nanoseconds from each milestone's predecessor to it, for each trip that passed it.

    A milestone counts if it was passed after the one before it: what else goes by there meanwhile is not this job's.
    """
    times: dict[str, list[int]] = {name: [] for name, *_ in MILESTONES}
    for name, at in marks:
        times[name].append(at)
    for found in times.values():
        found.sort()
    place = dict.fromkeys(times, 0)
    taken: dict[str, list[int]] = {name: [] for name in (*times, LAST)}
    for began, ended in trips:
        last = began
        for name, found in times.items():
            index = place[name]
            while index < len(found) and found[index] < last:
                index += 1
            place[name] = index
            if index < len(found) and found[index] <= ended:
                taken[name].append(found[index] - last)
                last = found[index]
        taken[LAST].append(ended - last)
    return taken


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks trip", description="One job's round trip, stage by stage."
    )
    made.add_argument("--side", choices=SIDES, default="memory")
    made.add_argument("--trips", type=int, default=TRIPS, metavar="N", help=f"(default {TRIPS:,})")
    options = made.parse_args(arguments)

    # The folder's name goes into those of sockets, which must be short.
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        opened(options.side, Path(folder)) as (cluster, collect),
    ):
        travel(cluster, WARM_UP_TRIPS)
        collect()
        trips = travel(cluster, options.trips)
        marks = collect()

    whole = statistics.median(ended - began for began, ended in trips) / 1e3
    print(f"{options.side}, {options.trips:,} round trips, median {whole:.0f} µs; µs from stage to stage (medians):")
    for name, found in spans(trips, marks).items():
        if len(found) > len(trips) / 2:
            print(f"  {statistics.median(found) / 1e3:7.1f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
