"""`python -m benchmarks profile --side memory|sqlite|tcp`: the cpu time of one job, room by room.

The throughput workload, with every process of ours that runs no jobs sampled from inside (`watch.py`); of the children,
and of the nursery that they come from, the kernel's own account is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plan import WORKERS
from benchmarks.processes import children_cpu, lab
from benchmarks.profiled import package_folder
from benchmarks.rooms import CHILD, ORDER
from benchmarks.tasks import echo
from benchmarks.watch import Watch

if TYPE_CHECKING:
    from cluster import Cluster

SIDES = ("memory", "sqlite", "tcp")
JOBS = 30_000
WARM_UP_JOBS = 1_000

Accounts = dict[str, dict[str, float]]  # process -> room -> cpu seconds


@contextmanager
def opened(side: str, folder: Path, watch: Watch) -> Iterator[tuple[Cluster, Callable[[str], Accounts]]]:
    """A cluster, and how to ask its processes."""
    import cluster

    with ExitStack() as stack:
        if side != "tcp":
            store = "memory:" if side == "memory" else "sqlite:///" + str(folder / "jobs.db")
            local = stack.enter_context(cluster.local(slots=WORKERS, store=store))
            yield local, lambda command: {"program": look(watch, command) | {CHILD: children_cpu(os.getpid())}}
            return
        made = stack.enter_context(lab(folder, is_sampled=True))
        master = made.master()
        workers = {f"worker {number + 1}": made.worker(f"worker{number + 1}") for number in range(WORKERS)}
        connected = stack.enter_context(cluster.connect(made.address, made.key("client")))

        def ask(command: str) -> Accounts:
            return {
                "client": look(watch, command),
                "master": rooms_of(master.ask(command)),
                **{
                    name: rooms_of(part.ask(command)) | {CHILD: part.child_cpu_seconds}
                    for name, part in workers.items()
                },
            }

        yield connected, ask


def look(watch: Watch, command: str) -> dict[str, float]:
    """This process's own account."""
    if command == "reset":
        watch.reset()
    return rooms_of(watch.read())


def rooms_of(answer: dict[str, Any]) -> dict[str, float]:
    return dict(answer["rooms"])


def profile_side(side: str, jobs: int) -> tuple[Accounts, float]:
    """Cpu microseconds a job by process and room, and the wall time of a job."""
    watch = Watch(package_folder())
    watch.start_sampling()
    # The folder's name goes into those of sockets, which must be short.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, opened(side, Path(folder), watch) as (cluster, ask):
        run(cluster, WARM_UP_JOBS)
        before = ask("reset")
        began = time.perf_counter()
        run(cluster, jobs)
        seconds = time.perf_counter() - began
        after = ask("read")
    return per_job(before, after, jobs), seconds * 1e6 / jobs


def run(cluster: Cluster, jobs: int) -> None:
    submitted = [cluster.submit(echo, (number,)) for number in range(jobs)]
    if [job.result() for job in submitted] != list(range(jobs)):
        raise AssertionError("results were lost or mixed up")


def per_job(before: Accounts, after: Accounts, jobs: int) -> Accounts:
    """Microseconds a job. What is sampled began at zero; the kernel's account of the children did not."""
    return {
        process: {
            room: (seconds - (before[process].get(room, 0.0) if room == CHILD else 0.0)) * 1e6 / jobs
            for room, seconds in rooms.items()
        }
        for process, rooms in after.items()
    }


def table(accounts: Accounts) -> list[tuple[str, ...]]:
    """Headings, one row for each room, and the sums."""
    processes = list(accounts)
    total: Counter[str] = Counter()
    for rooms in accounts.values():
        total.update(rooms)
    rows: list[tuple[str, ...]] = [("room", *processes, "all")]
    rows += [
        (room, *(cell(accounts[process].get(room, 0.0)) for process in processes), cell(total[room]))
        for room in ORDER
        if total[room] > 0
    ]
    sums = [sum(accounts[process].values()) for process in processes]
    return [*rows, ("all", *map(cell, sums), cell(sum(sums)))]


def cell(microseconds: float) -> str:
    return f"{microseconds:.1f}" if microseconds >= 0.05 else ""


def main(arguments: list[str]) -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks profile", description="Cpu time of a job, room by room.")
    made.add_argument("--side", choices=SIDES, default="memory")
    made.add_argument("--jobs", type=int, default=JOBS, metavar="N", help=f"(default {JOBS:,})")
    made.add_argument("--json", type=Path, metavar="FILE")
    options = made.parse_args(arguments)

    accounts, wall = profile_side(options.side, options.jobs)

    rows = table(accounts)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"{options.side}, {options.jobs:,} jobs: {wall:.1f} µs of wall time a job (sampled); cpu µs a job:")
    for row in rows:
        print(
            "  "
            + "  ".join(
                text.ljust(widths[0]) if text is row[0] else text.rjust(width)
                for text, width in zip(row, widths, strict=True)
            )
        )
    if options.json:
        found = {"side": options.side, "jobs": options.jobs, "wall_us": wall, "cpu_us": accounts}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
