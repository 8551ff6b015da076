"""`python -m benchmarks [--quick] [--repeat N] [--json FILE] [--markdown] [workload ...]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.plan import FULL, QUICK, Workload
from benchmarks.report import as_json, markdown, print_tables
from benchmarks.rounds import run_rounds

DEFAULT_ROUNDS = 5


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; a missed goal is shown, but only a failed measurement fails."""
    options = parser().parse_args(arguments)
    workloads = [workload for workload in Workload if not options.workloads or workload in options.workloads]
    size = QUICK if options.quick else FULL
    rounds = options.repeat or (1 if options.quick else DEFAULT_ROUNDS)

    record = run_rounds(workloads, size, rounds, lambda line: print(line, file=sys.stderr, flush=True))

    if options.json:
        options.json.write_text(json.dumps(as_json(record, size), indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        print(markdown(record))
    else:
        print_tables(record)
    return 1 if record.failures else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The kit against the standard library's pools, in one run."
    )
    made.add_argument(
        "workloads", nargs="*", type=Workload, metavar="workload", help=f"{', '.join(Workload)}; all when none is named"
    )
    made.add_argument("--quick", action="store_true", help="small sizes, one round: shows that it runs, not how fast")
    made.add_argument("--repeat", type=positive, metavar="N", help=f"rounds (default {DEFAULT_ROUNDS})")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything, raw samples included")
    made.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return made


def positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} rounds can't be run; at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())
