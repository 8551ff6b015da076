"""`python -m benchmarks.scaling [--quick] [--json FILE] [--plot FILE] [experiment ...]`: what a job costs as things grow.

Each point is measured in a process of its own. `--most` bounds the largest of each experiment's points, for a look at a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.fresh import RunFailed, run_python
from benchmarks.report import machine_facts, markdown_row, number
from benchmarks.rounds import LONG_TIMEOUT_SECONDS

POINT = "--point"


class Experiment(StrEnum):
    """What grows."""

    BOARD = "board"  # jobs on the pure board
    BOARD_DEPENDENT = "board-dependent"  # of which each second one waits for another
    QUEUED = "queued"  # jobs in a real master
    LOCAL = "local"  # jobs through an embedded cluster of two slots
    LOCAL_DEPENDENT = "local-dependent"
    SLOTS = "slots"  # of an embedded cluster
    WORKERS = "workers"  # simulated, at a real master


SIZES = {
    Experiment.BOARD: (1_000, 10_000, 100_000, 1_000_000),
    Experiment.BOARD_DEPENDENT: (1_000, 10_000, 100_000, 1_000_000),
    Experiment.QUEUED: (1_000_000,),  # it passes the smaller ones on its way
    Experiment.LOCAL: (1_000, 10_000, 100_000),
    Experiment.LOCAL_DEPENDENT: (1_000, 10_000, 100_000),
    Experiment.SLOTS: (1, 2, 4, 8, 16, 32, 64),
    Experiment.WORKERS: (1, 10, 100, 1_000),
}
QUICK_MOST = {
    Experiment.BOARD: 10_000,
    Experiment.BOARD_DEPENDENT: 10_000,
    Experiment.QUEUED: 5_000,
    Experiment.LOCAL: 1_000,
    Experiment.LOCAL_DEPENDENT: 1_000,
    Experiment.SLOTS: 4,
    Experiment.WORKERS: 10,
}
SLOTS_JOBS = 20_000
WORKERS_JOBS = 20_000
QUICK_JOBS = 500


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one size."""

    experiment: Experiment
    size: int
    values: dict[str, float]


def main(arguments: list[str] | None = None) -> int:
    """Measure every point of what was asked for; 1 if one could not be."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [POINT]:
        print(json.dumps(measure(Experiment(given[1]), int(given[2]), int(given[3]))))
        return 0
    options = parser().parse_args(given)
    if options.plot:
        from benchmarks.plot import require_matplotlib

        require_matplotlib()
    points: list[Point] = []
    failures: list[str] = []
    for experiment in options.experiments or list(Experiment):
        for size in sizes_of(experiment, options.most or (QUICK_MOST[experiment] if options.quick else None)):
            print(f"{experiment}: {size:,}", file=sys.stderr, flush=True)
            try:
                points.append(Point(experiment, size, measured(experiment, size, is_quick=options.quick)))
            except RunFailed as error:
                failures.append(f"{experiment}, {size:,}: {error}")
    if options.json:
        found = {"machine": machine_facts(), "points": [asdict(point) for point in points], "failures": failures}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*tables(points), *(f"- FAILED {failure}" for failure in failures)]))
    if options.plot:
        from benchmarks.plot import plot_growth

        plot_growth([asdict(point) for point in points], options.plot)
    return 1 if failures else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="What a job costs as things grow.")
    made.add_argument(
        "experiments", nargs="*", type=Experiment, metavar="experiment", help=f"{', '.join(Experiment)}; default: all"
    )
    made.add_argument("--most", type=int, metavar="N", help="no point above this size")
    made.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    made.add_argument("--json", type=Path, metavar="FILE")
    made.add_argument("--plot", type=Path, metavar="FILE")
    return made


def sizes_of(experiment: Experiment, most: int | None) -> list[int]:
    """The sizes up to a bound; the bound itself where all are above it."""
    if most is None:
        return list(SIZES[experiment])
    return [size for size in SIZES[experiment] if size <= most] or [most]


def measured(experiment: Experiment, size: int, *, is_quick: bool) -> dict[str, float]:
    """One point, in a process of its own."""
    jobs = (
        QUICK_JOBS if is_quick else {Experiment.SLOTS: SLOTS_JOBS, Experiment.WORKERS: WORKERS_JOBS}.get(experiment, 0)
    )
    arguments = ("-m", "benchmarks.scaling", POINT, experiment, str(size), str(jobs))
    run = run_python(*arguments, timeout_seconds=LONG_TIMEOUT_SECONDS)
    values: dict[str, float] = json.loads(run.output.splitlines()[-1])
    return values


def measure(experiment: Experiment, size: int, jobs: int) -> dict[str, float]:
    """One point, in this process."""
    from benchmarks.scaling.board import measure_board
    from benchmarks.scaling.connected import cost_of_a_job
    from benchmarks.scaling.queued import measure_queued
    from benchmarks.scaling.slots import measure_local

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        match experiment:
            case Experiment.BOARD | Experiment.BOARD_DEPENDENT:
                return measure_board(size, is_dependent=experiment is Experiment.BOARD_DEPENDENT)
            case Experiment.QUEUED:
                return measure_queued(size, folder)
            case Experiment.LOCAL | Experiment.LOCAL_DEPENDENT:
                return measure_local(2, size, folder, is_dependent=experiment is Experiment.LOCAL_DEPENDENT)
            case Experiment.SLOTS:
                return measure_local(size, jobs, folder)
            case Experiment.WORKERS:
                return cost_of_a_job(size, jobs, folder)


def tables(points: list[Point]) -> list[str]:
    """Markdown: a table for each experiment, a row for each of its points."""
    lines: list[str] = []
    for experiment in dict.fromkeys(point.experiment for point in points):
        here = [point for point in points if point.experiment is experiment]
        lines += [f"### {experiment}", ""]
        if experiment is Experiment.QUEUED:
            lines += [markdown_row(("figure", "value")), markdown_row(("---", "---:"))]
            lines += [markdown_row((name, number(value))) for point in here for name, value in point.values.items()]
        else:
            names = list(here[0].values)
            lines += [markdown_row(("n", *names)), markdown_row(("---:",) * (len(names) + 1))]
            lines += [
                markdown_row((f"{point.size:,}", *(number(point.values[name]) for name in names))) for point in here
            ]
        lines.append("")
    return lines


if __name__ == "__main__":
    sys.exit(main())
