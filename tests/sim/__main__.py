"""`python -m tests.sim --seeds N [--base B | --fresh] [--jobs 2]`, or `--seed ONE -v` to replay a single run."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter

from tests.sim.run import Result, run


def main() -> int:
    """Run seeds until one fails or all have passed; the exit status says which."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--base", type=int, default=0, help="the first of them")
    parser.add_argument("--fresh", action="store_true", help="begin where nobody has been, and say where")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, default=None, help="replay this one")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: print the whole event log")
    given = parser.parse_args()
    if given.seed is not None:
        result = run(given.seed, is_verbose=given.verbose)
        print(result.tail)
        return report(result)
    base = random.SystemRandom().randrange(1 << 40) if given.fresh else given.base
    return run_many(range(base, base + given.seeds), given.jobs)


def run_many(seeds: range, jobs: int) -> int:
    """All seeds, on some processes; stops at the first that fails."""
    started = time.monotonic()
    counts: Counter[str] = Counter()
    simulated = 0.0
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for result in pool.imap_unordered(run, seeds, chunksize=8):
            counts.update(result.counts)
            simulated += result.seconds
            if result.failure:
                pool.terminate()
                print(result.tail)
                return report(result)
    seconds = time.monotonic() - started
    print(
        f"{len(seeds)} seeds from {seeds.start} on kept every promise: {simulated:,.0f} simulated s in {seconds:.1f} s"
    )
    print(", ".join(f"{name} {count / len(seeds):.1f}" for name, count in sorted(counts.items())), "(means a seed)")
    return 0


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
