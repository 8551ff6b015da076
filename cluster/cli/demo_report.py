"""What the demo says at its beginning and end, of a run in this process or on a cluster alike."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import cluster
from cluster.cli.demo_run import Audit
from cluster.cli.demo_tasks import PackageReport, most_complex
from cluster.cli.demo_view import print_functions


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to."""

    title: str
    audit: Audit
    packages: tuple[PackageReport, ...]
    seconds: float


def state_folder(state: Path | None, stores: Sequence[str]) -> Path:
    """Where the stores go. Stores of an earlier demo are not touched: they would mix two stories."""
    if state is None:
        return Path(tempfile.mkdtemp(prefix="cluster-demo-"))
    state.mkdir(parents=True, exist_ok=True)
    for name in stores:
        if (state / name).exists():
            raise cluster.Refused(f"{state} holds the state of an earlier demo ({name}); name another folder")
    return state.resolve()


def store_url(folder: Path, name: str) -> str:
    """The address of a store in the state folder."""
    return f"sqlite:///{folder / name}"


def print_results(console: Console, results: Sequence[Result]) -> None:
    """One line for each run."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run")
    for heading in ("acknowledged", "done", "re-run", "lost", "seconds", "jobs/s"):
        table.add_column(heading, justify="right")
    for number, result in enumerate(results, start=1):
        told = result.audit
        table.add_row(
            f"{number}. {result.title}",
            f"{told.acknowledged:,}",
            f"{told.done:,}",
            str(told.rerun),
            str(len(told.lost)),
            f"{result.seconds:.1f}",
            f"{told.done / result.seconds:,.0f}",
        )
    console.print(table)


def print_complaints(console: Console, results: Sequence[Result]) -> None:
    """A line for each job that did not end as it should have."""
    for result in results:
        for word in ("lost", "doubled", "failed"):
            for job in getattr(result.audit, word):
                console.print(f"{word}: job {job} of run '{result.title}'", style="bold red")


def print_most_complex(console: Console, packages: Sequence[PackageReport], root: Path) -> None:
    """The ten most complex functions of all packages."""
    console.print("\n[bold]The ten most complex functions[/]")
    print_functions(console, most_complex(found for one in packages for found in one.most_complex), root)


def files_in(result: Result) -> str:
    """What was analysed, in words."""
    files = sum(package.files for package in result.packages)
    functions = sum(package.functions for package in result.packages)
    unparsable = sum(package.unparsable for package in result.packages)
    return f"{functions:,} functions in {files:,} files ({unparsable} can't be parsed)"
