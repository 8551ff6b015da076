"""`python -m tests.sim --seeds N [--base B | --fresh] [--jobs 2] [--log FILE]`, or `--seed ONE -v` to replay one run.

With `--log` the seeds are run in ranges, and each range that has passed is a line of that file; called again, it goes on
after the last one. A seed that fails is a line too, and ends it; once it is mended, the same command goes on there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from tests.sim.run import Result, run

ROOT = Path(__file__).resolve().parents[2]
RANGE_SEEDS = 1000


class Passed(Struct, frozen=True):
    """What some seeds came to."""

    failure: Result | None
    counts: Counter[str]
    simulated_seconds: float


def main() -> int:
    """Run seeds until one fails or all have passed; the exit status says which."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--base", type=int, default=0, help="the first of them")
    parser.add_argument("--fresh", action="store_true", help="begin where nobody has been, and say where")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--log", type=Path, default=None, help="where finished ranges are written down")
    parser.add_argument("--seed", type=int, default=None, help="replay this one")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: print the whole event log")
    given = parser.parse_args()
    if given.seed is not None:
        result = run(given.seed, is_verbose=given.verbose)
        print(result.tail)
        return report(result)
    base = random.SystemRandom().randrange(1 << 40) if given.fresh else given.base
    seeds = range(base, base + given.seeds)
    return run_many(seeds, given.jobs) if given.log is None else run_logged(seeds, given.jobs, given.log)


def run_many(seeds: range, jobs: int) -> int:
    """All seeds, on some processes; stops at the first that fails."""
    started = time.monotonic()
    passed = _pass(seeds, jobs)
    if passed.failure is not None:
        print(passed.failure.tail)
        return report(passed.failure)
    seconds = time.monotonic() - started
    print(
        f"{len(seeds)} seeds from {seeds.start} on kept every promise: "
        f"{passed.simulated_seconds:,.0f} simulated s in {seconds:.1f} s"
    )
    means = (f"{name} {count / len(seeds):.1f}" for name, count in sorted(passed.counts.items()))
    print(", ".join(means), "(means a seed)")
    return 0


def run_logged(seeds: range, jobs: int, log: Path) -> int:
    """What is not in the log yet, range by range."""
    commit = _commit()
    for part in left_over(seeds, log):
        started = time.monotonic()
        passed = _pass(part, jobs)
        line: dict[str, object] = {
            "from": part.start,
            "to": part.stop,
            "commit": commit,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
        }
        if passed.failure is None:
            line |= {
                "simulated_seconds": round(passed.simulated_seconds),
                "counts": dict(sorted(passed.counts.items())),
            }
        else:
            line |= {"failed": passed.failure.seed, "failure": passed.failure.failure}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if passed.failure is not None:
            print(passed.failure.tail)
            return report(passed.failure)
    print(f"seeds {seeds.start} to {seeds.stop} have all passed, see {log}")
    return 0


def left_over(seeds: range, log: Path) -> Iterator[range]:
    """Those of the seeds that no line of the log says have passed, in ranges."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {line["from"]: line["to"] for line in lines if "failed" not in line}
    at = seeds.start
    while at < seeds.stop:
        if at in done:
            at = done[at]
            continue
        end = min(at + RANGE_SEEDS, seeds.stop)
        yield range(at, end)
        at = end


def _pass(seeds: range, jobs: int) -> Passed:
    counts: Counter[str] = Counter()
    simulated_seconds = 0.0
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for result in pool.imap_unordered(run, seeds, chunksize=8):
            counts.update(result.counts)
            simulated_seconds += result.seconds
            if result.failure:
                pool.terminate()
                return Passed(result, counts, simulated_seconds)
    return Passed(None, counts, simulated_seconds)


def _commit() -> str:
    """What is tested; a star says that the files differ from it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=*", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def report(result: Result) -> int:
    """Say how it went."""
    if result.failure:
        print(f"\nseed {result.seed} FAILED: {result.failure}")
        print(f"replay it: python -m tests.sim --seed {result.seed} -v")
        return 1
    print(f"seed {result.seed} kept every promise (digest {result.digest:08x}); {result.counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
