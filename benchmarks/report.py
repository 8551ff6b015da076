"""What a run of the benchmarks says: a table for people, Markdown for documents, JSON for later comparison."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Judgement, Spread, Standing, Verdict, judgements, key_of, ratios, standings
from benchmarks.plan import FULL, WORKERS, Side, Size, count_of
from benchmarks.rounds import Record

SCHEMA = 2
PACKAGES = ("cluster-kit", "cloudpickle", "cryptography", "joblib", "msgspec", "psutil")
RATIO_TO = (Side.EXECUTOR, Side.POOL)

Row = tuple[str, ...]

FIGURE_HEADINGS: Row = ("figure", "side", "n", "median", "low - high", "/ PPE", "/ Pool")
GOAL_HEADINGS: Row = ("goal", "side", "ours", "theirs", "against", "wanted", "measured", "low - high", "verdict")
# Columns of numbers, which stand to the right.
NUMBERS = {"n", "median", "low - high", "/ PPE", "/ Pool", "ours", "theirs", "measured"}


def figure_rows(record: Record, size: Size = FULL) -> list[Row]:
    """One row for each figure of each side."""
    all_standings = standings(record.samples)
    against = ratios(all_standings, RATIO_TO)
    rows: list[Row] = []
    for standing in all_standings:
        key = key_of(standing.figure)
        to_peers = [against.get((key, standing.side, peer)) for peer in RATIO_TO]
        count = count_of(standing.figure.workload, size, standing.side)
        rows.append(
            (
                ", ".join(filter(None, [key, standing.figure.unit])),
                f"{standing.side} ({standing.way})" if standing.way else str(standing.side),
                f"{count:,}" if count else "",
                number(standing.spread.median),
                range_of(standing.spread),
                *(number(spread.median) if spread else "" for spread in to_peers),
            )
        )
    return rows


def goal_rows(record: Record) -> list[Row]:
    """One row for each goal that could be judged."""
    return [goal_row(judged) for judged in judgements(standings(record.samples))]


def goal_row(judged: Judgement) -> Row:
    sign = ">=" if judged.figure.is_more_better else "<="
    unit = " x" if judged.goal.against else f" {judged.figure.unit}".rstrip()
    stage = judged.goal.first_stage
    wanted = f"{sign} {judged.goal.bound:g}{unit}" + (f" (first {stage:g})" if stage is not None else "")
    against = " or ".join(map(str, judged.goal.against)) if judged.peer is None else str(judged.peer)
    return (
        key_of(judged.figure),
        str(judged.goal.side),
        figure_text(judged.ours, judged.figure.unit),
        figure_text(judged.theirs, judged.figure.unit),
        against,
        wanted,
        number(judged.spread.median) + unit if judged.spread else "",
        range_of(judged.spread) if judged.spread else "",
        str(judged.verdict),
    )


def figure_text(spread: Spread | None, unit: str) -> str:
    return f"{number(spread.median)} {unit}".rstrip() if spread else ""


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def range_of(spread: Spread) -> str:
    return f"{number(spread.low)} - {number(spread.high)}"


def print_tables(record: Record, size: Size) -> None:
    """The tables on a terminal."""
    from rich.console import Console
    from rich.table import Table

    # The columns need this much; a narrow window scrolls rather than breaks them.
    console = Console(width=max(Console().width, 190))
    for title, headings, rows in sections(record, size):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="right" if heading in NUMBERS else "left")
        for row in rows:
            table.add_row(*row, style="bold red" if row[-1] == Verdict.MISSED else None)
        console.print(table)
    for side, reason in record.absent.items():
        console.print(f"not measured: {side}: {reason}", markup=False)
    for failure in record.failures:
        console.print(f"FAILED  {failure}", style="bold red", markup=False)


def markdown(record: Record, size: Size = FULL) -> str:
    """The same tables, and the machine, for a document."""
    lines: list[str] = [*machine_lines(record), ""]
    for title, headings, rows in sections(record, size):
        lines += [f"### {title}", "", markdown_row(headings), markdown_row(("---",) * len(headings))]
        lines += [*map(markdown_row, rows), ""]
    lines += [f"- Not measured: {side}: {reason}." for side, reason in record.absent.items()]
    lines += [f"- FAILED {failure}" for failure in record.failures]
    return "\n".join(lines)


def sections(record: Record, size: Size) -> list[tuple[str, Row, list[Row]]]:
    """Title, headings and rows of each table."""
    return [
        (
            "Figures (medians over rounds; ratios are medians of each round's ratio)",
            FIGURE_HEADINGS,
            figure_rows(record, size),
        ),
        ("Goals", GOAL_HEADINGS, goal_rows(record)),
    ]


def markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine_lines(record: Record) -> list[str]:
    """Where and how the figures came about."""
    machine = machine_facts()
    loads = ", ".join(f"{load[0]:.2f}" for load in record.loads)
    return [
        (
            f"{machine['cpu']}, {machine['usable_cpus']} usable cpus, {machine['system']}; "
            f"{WORKERS} workers on every side, {len(record.loads)} rounds."
        ),
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions(record).items())}.",
        f"Load average at the start of each round: {loads}.",
    ]


def as_json(record: Record, size: Size) -> dict[str, Any]:
    """Everything, raw samples included, so that other summaries can be made of it later."""
    all_standings = standings(record.samples)
    return {
        "schema": SCHEMA,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "versions": versions(record),
        "workers": WORKERS,
        "size": asdict(size),
        "rounds": len(record.loads),
        "load_averages": record.loads,
        "standings": [standing_fields(standing) for standing in all_standings],
        "goals": [dict(zip(GOAL_HEADINGS, row, strict=True)) for row in goal_rows(record)],
        "ratios": [
            {"figure": figure, "side": side, "to": peer, **asdict(spread)}
            for (figure, side, peer), spread in ratios(all_standings, RATIO_TO).items()
        ],
        "samples": [asdict(sample) for sample in record.samples],
        "absent": record.absent,
        "failures": record.failures,
    }


def standing_fields(standing: Standing) -> dict[str, Any]:
    return {
        "figure": key_of(standing.figure),
        "unit": standing.figure.unit,
        "side": standing.side,
        "way": standing.way,
        **asdict(standing.spread),
    }


def machine_facts() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """The processor's own name for itself, where the system tells it."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(record: Record) -> dict[str, str]:
    """Of all that was measured, and of what it stands on."""
    found = {"Python": sys.version.split()[0], "SQLite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"  # run from a checkout
    return found | {str(side): peer.version for side, peer in record.peers.items()}
