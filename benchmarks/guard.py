"""`python -m benchmarks.guard OLD NEW [--rounds N]`: is one commit slower than another? Exit status 1 if it is.

Both commits are checked out into a temporary folder, with these very benchmarks put beside their kit, and measured by
turns. The old one is measured twice in each round, as if it were two: how much those differ is the noise of this machine
at this time, and a loss that could be noise is none.

    r = ln(old / old again)             each round; its true value is 0, so its mean square is the noise, s squared
    d = ln(new / mean of both old)      each round; if nothing has changed its variance is 3/4 s squared
    the median of d over n rounds has a standard error of about 1.25 s sqrt(3/4 / n)

A loss is a median worse than three of these errors, and than two per cent, which nobody would look for.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import median

from benchmarks.drivers import driver_of
from benchmarks.fresh import PROJECT, RunFailed, run_python
from benchmarks.measuring import Request, measure_driver
from benchmarks.plan import FULL, Contender, Side, Size, Workload
from benchmarks.rounds import rotated

UNMEASURED_STATUS = 2
POINT = "--point"
ROUNDS = 7
SIZE = replace(FULL, throughput_jobs=3_000, latency_round_trips=300, warm_up_jobs=100)
QUICK_SIZE = replace(FULL, throughput_jobs=200, latency_round_trips=30, warm_up_jobs=20)
SIDES = {"memory": Side.MEMORY, "sqlite": Side.SQLITE, "tcp": Side.TCP}
FIGURES = {Workload.THROUGHPUT: "jobs", Workload.LATENCY: "p50"}
ERRORS = 3.0  # six figures are judged at once
MIN_LOSS = 0.02
# Past this the machine is too busy to say anything about a change of some per cent.
MUCH_NOISE = 0.10


class Turn(StrEnum):
    """Who is measured."""

    OLD = "old"
    AGAIN = "old again"
    NEW = "new"


class Verdict(StrEnum):
    """What a figure says."""

    LOSS = "LOSS"
    GAIN = "gain"
    SAME = "no difference beyond noise"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both commits."""

    side: Side
    workload: Workload
    old: float
    new: float
    change: float  # + is better, as a fraction
    noise: float  # as a fraction: less is no difference
    verdict: Verdict


def compare(side: Side, workload: Workload, found: dict[Turn, Sequence[float]]) -> Comparison:
    """Judge one figure by its values of each round, in order."""
    old, again, new = (found[turn] for turn in (Turn.OLD, Turn.AGAIN, Turn.NEW))
    sign = 1.0 if workload is Workload.THROUGHPUT else -1.0
    between = [math.log(first / second) for first, second in zip(old, again, strict=True)]
    changes = [
        sign * math.log(value / math.sqrt(first * second)) for value, first, second in zip(new, old, again, strict=True)
    ]
    rounds = len(changes)
    spread = math.sqrt(sum(one * one for one in between) / rounds)
    noise = max(MIN_LOSS, math.expm1(ERRORS * 1.25 * spread * math.sqrt(0.75 / rounds)))
    change = math.expm1(median(changes))
    verdict = Verdict.SAME
    # A rate that is halved is as far from its old value as one that is doubled.
    if abs(median(changes)) > math.log1p(noise):
        verdict = Verdict.GAIN if change > 0 else Verdict.LOSS
    return Comparison(side, workload, median([*old, *again]), median(new), change, noise, verdict)


def measure(project: Path, side: Side, size: Size) -> dict[Workload, float]:
    """Both figures of one side of the kit in this folder, from a fresh process. Raises `RunFailed`."""
    said = Request(Contender(side), Workload.THROUGHPUT, size).to_json()
    run = run_python("-m", "benchmarks.guard", POINT, said, project=project)
    return {Workload(name): value for name, value in json.loads(run.output.splitlines()[-1]).items()}


def measure_here(request: Request) -> dict[Workload, float]:
    """Both figures, of one cluster: to start and stop one takes longer than to measure it."""
    found: dict[Workload, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="cluster-guard-") as scratch,
        driver_of(request.contender, Path(scratch)) as driver,
    ):
        for workload, name in FIGURES.items():
            readings = measure_driver(driver, workload, request.size)
            found[workload] = next(reading.value for reading in readings if reading.figure == name)
    return found


def check_out(commit: str, folder: Path) -> None:
    """A worktree of a commit, with our benchmarks in place of its own."""
    git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    shutil.rmtree(folder / "benchmarks", ignore_errors=True)
    shutil.copytree(PROJECT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))


def git(*arguments: str) -> str:
    """What git prints. Ends the program with git's own words if it fails."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(f"benchmarks.guard: git {' '.join(arguments)} failed: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(UNMEASURED_STATUS)
    return done.stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Measure both commits; 1 if the new one is slower, 2 if one could not be measured."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [POINT]:
        print(json.dumps(measure_here(Request.from_json(given[1]))))
        return 0
    options = parser().parse_args(given)
    commits = {name: git("rev-parse", "--short", f"{name}^{{commit}}") for name in (options.old, options.new)}
    with tempfile.TemporaryDirectory(prefix="cluster-guard-") as folder:
        # Three folders, so that "old again" is as far from "old" on the disk as "new" is.
        projects = {turn: Path(folder) / turn.name.lower() for turn in Turn}
        try:
            for turn, project in projects.items():
                check_out(options.new if turn is Turn.NEW else options.old, project)
            found = run_rounds(projects, options.sides, options.rounds, QUICK_SIZE if options.quick else SIZE)
        except RunFailed as error:
            print(f"benchmarks.guard: {error}", file=sys.stderr)
            return UNMEASURED_STATUS
        finally:
            for project in projects.values():
                if project.exists():
                    git("worktree", "remove", "--force", str(project))
    comparisons = [compare(side, workload, values) for (side, workload), values in found.items()]
    print(f"{commits[options.new]} against {commits[options.old]}, {options.rounds} rounds")
    print("\n".join(map(line_of, comparisons)))
    return 1 if any(one.verdict is Verdict.LOSS for one in comparisons) else 0


def run_rounds(
    projects: dict[Turn, Path], sides: Sequence[Side], rounds: int, size: Size
) -> dict[tuple[Side, Workload], dict[Turn, Sequence[float]]]:
    """Values by figure and turn, in the order of the rounds."""
    values: dict[tuple[Side, Workload], dict[Turn, list[float]]] = {}
    turns = tuple(Turn)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for side in sides:
            for turn in rotated(turns, number):
                try:
                    found = measure(projects[turn], side, size)
                except RunFailed as error:
                    raise RunFailed(f"{turn}, {side}: {error}") from None
                for workload, value in found.items():
                    values.setdefault((side, workload), {one: [] for one in Turn})[turn].append(value)
    return {key: dict(by_turn) for key, by_turn in values.items()}


def line_of(one: Comparison) -> str:
    """As people read it."""
    name = f"{one.side}, {one.workload}"
    figures = f"{one.old:,.4g} -> {one.new:,.4g} {'jobs/s' if one.workload is Workload.THROUGHPUT else 'ms'}"
    too_noisy = "; a busy machine: too much noise to see a small loss" if one.noise > MUCH_NOISE else ""
    return f"  {name:<34} {figures:<28} {one.change:+6.1%} (noise {one.noise:.1%})  {one.verdict}{too_noisy}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="Is NEW slower than OLD?")
    made.add_argument("old", metavar="OLD", help="a commit, such as main")
    made.add_argument("new", metavar="NEW", help="a commit, such as HEAD")
    made.add_argument("--rounds", type=rounds_of, default=ROUNDS, metavar="N", help=f"(default {ROUNDS})")
    made.add_argument(
        "--sides", type=sides_of, default=tuple(SIDES.values()), metavar="NAMES", help=f"some of {','.join(SIDES)}"
    )
    made.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, not how fast")
    return made


def sides_of(text: str) -> tuple[Side, ...]:
    unknown = [name for name in text.split(",") if name not in SIDES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no side is called {unknown[0]!r}; there are {', '.join(SIDES)}")
    return tuple(SIDES[name] for name in text.split(","))


def rounds_of(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} rounds can't be run; at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())
