"""How the demo looks: a live view on a terminal, plain lines anywhere else. Rich is loaded by who opens a view.

A view shows the snapshots of one run. Whatever else has to be said meanwhile goes through `say`, which prints above the
live part instead of into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.cli.demo_run import Slot, Snapshot
from cluster.cli.demo_tasks import FunctionReport

# A machine with 64 slots must not scroll its own progress bar off the screen.
MAX_SLOT_LINES = 8
PLAIN_STEPS = 4  # lines of progress in a log, besides the first
MEBIBYTE = 1024 * 1024


class View:
    """Shows one run. Used as a context manager by one thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next_step = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Bring the view up to date."""
        if self._live is not None:
            self._live.update(drawing(snapshot), refresh=True)
        elif snapshot.done * PLAIN_STEPS >= self._next_step * snapshot.total:
            self._next_step = snapshot.done * PLAIN_STEPS // snapshot.total + 1
            self._console.print(f"  {counters(snapshot)}", highlight=False)

    def say(self, text: str) -> None:
        """A sentence about what has just happened."""
        self._console.print(Text(f"  {text}", style="bold"))


def drawing(snapshot: Snapshot) -> RenderableType:
    """The live part of the view."""
    head = Table.grid(padding=(0, 1), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    percent = 100 * snapshot.done // snapshot.total if snapshot.total else 100
    head.add_row(
        ProgressBar(total=snapshot.total, completed=snapshot.done), f"{percent:3} %  {snapshot.seconds:4.1f} s"
    )
    return Group(head, slot_table(snapshot.slots), Text(counters(snapshot)))


def slot_table(slots: Sequence[Slot]) -> RenderableType:
    """A line for each slot: its process, its job, and what that costs."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
    table.add_column("slot", no_wrap=True, min_width=6)
    table.add_column("pid", justify="right", width=8)
    table.add_column("job at the last heartbeat", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("cpu", justify="right", width=6)
    table.add_column("memory", justify="right", width=9)
    for slot in slots[:MAX_SLOT_LINES]:
        table.add_row(
            f"{slot.worker} {slot.number}",
            str(slot.pid),
            Text(slot.job or "-"),
            f"{slot.cpu_percent:.0f} %",
            f"{slot.memory / MEBIBYTE:.0f} MiB",
        )
    if len(slots) > MAX_SLOT_LINES:
        table.add_row("", "", f"and {len(slots) - MAX_SLOT_LINES} more", "", "")
    return table


def counters(snapshot: Snapshot) -> str:
    """The numbers of a run in one line."""
    return (
        f"done {snapshot.done:,} of {snapshot.total:,} · re-run {snapshot.rerun} · lost {snapshot.lost} · "
        f"{snapshot.jobs_per_second:,.0f} jobs/s"
    )


def print_functions(console: Console, functions: Iterable[FunctionReport], root: Path) -> None:
    """The most complex functions, worst first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("complexity", justify="right")
    table.add_column("function", overflow="fold")
    table.add_column("where", overflow="fold")
    for found in functions:
        table.add_row(
            str(found.complexity), Text(found.name), Text(f"{Path(found.path).relative_to(root)}:{found.line}")
        )
    console.print(table)
