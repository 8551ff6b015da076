"""`python -m benchmarks [--quick] [--repeat N] [--all] [--peers ...] [--json FILE] [--markdown] [--plot] [workload ...]`.

`python -m benchmarks profile --side ...` and `... trip --side ...` are other measurements: see `profile.py` and `trip.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.peers.environments import prepare
from benchmarks.plan import EXTRAS, FULL, LONG, QUICK, Side, Workload
from benchmarks.report import as_json, markdown, print_tables
from benchmarks.rounds import run_rounds

DEFAULT_ROUNDS = 5
PLOT = Path(__file__).parent.parent / "docs" / "images" / "benchmarks.svg"


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; a missed goal is shown, but only a failed measurement fails."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["profile"]:
        from benchmarks.profile import main as profile

        return profile(given[1:])
    if given[:1] == ["trip"]:
        from benchmarks.trip import main as trip

        return trip(given[1:])
    options = parser().parse_args(given)
    if options.plot:
        from benchmarks.plot import require_matplotlib

        require_matplotlib()
    asked = options.workloads or [one for one in Workload if options.all or one not in LONG]
    workloads = [workload for workload in Workload if workload in asked]
    size = QUICK if options.quick else FULL
    rounds = options.repeat or (1 if options.quick else DEFAULT_ROUNDS)
    extras = {side: prepare(side) for side in options.peers}

    record = run_rounds(workloads, size, rounds, lambda line: print(line, file=sys.stderr, flush=True), extras)

    if options.json:
        options.json.write_text(json.dumps(as_json(record, size), indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        print(markdown(record, size))
    else:
        print_tables(record, size)
    if options.plot:
        from benchmarks.plot import plot_ratios

        plot_ratios(as_json(record, size), options.plot)
    return 1 if record.failures else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The kit against the pools and queues others use, in one run."
    )
    made.add_argument(
        "workloads",
        nargs="*",
        type=Workload,
        metavar="workload",
        help=f"{', '.join(Workload)}; if none is named, all but {' and '.join(LONG)}",
    )
    made.add_argument("--all", action="store_true", help=f"{' and '.join(LONG)} too, which take minutes")
    made.add_argument("--quick", action="store_true", help="small sizes, one round: shows that it runs, not how fast")
    made.add_argument("--repeat", type=positive, metavar="N", help=f"rounds (default {DEFAULT_ROUNDS})")
    made.add_argument(
        "--peers",
        type=peers,
        default=(),
        metavar="NAMES",
        help=f"some of {','.join(EXTRAS)} as well; each is installed into a folder of the cache first",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything, raw samples included")
    made.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    made.add_argument(
        "--plot", type=Path, nargs="?", const=PLOT, metavar="FILE", help="draw the ratios (default docs/images)"
    )
    return made


def positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} rounds can't be run; at least 1")
    return count


def peers(text: str) -> tuple[Side, ...]:
    """The sides that a list of names means."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in EXTRAS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no peer is called {unknown[0]!r}; there are {', '.join(EXTRAS)}")
    return tuple(EXTRAS[name] for name in dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
