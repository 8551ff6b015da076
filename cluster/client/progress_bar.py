"""The progress bar of `map(progress=True)`, on standard error.

On a terminal, and in a notebook, a bar that rich draws. Anywhere else (a log file, a pipe) plain lines: one every ten
seconds and one at the end, so that nothing is garbled and a log still tells how far it was.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

_DRAW_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class Standing(Protocol):
    """How far a map is; `cluster.client.batch.BatchProgress`."""

    @property
    def done(self) -> int:
        """Items with a result or an error."""

    @property
    def failed(self) -> int:
        """Items with an error."""

    @property
    def total(self) -> int | None:
        """Items of the input, where that is known."""

    @property
    def seconds(self) -> float:
        """Since the map began."""


class Watched(Protocol):
    """What a bar needs of a batch."""

    def progress(self) -> Standing:
        """How far it is."""

    def wait_changed(self, timeout: float) -> bool:
        """Wait a while; True once it is over."""


def show_progress(batch: Watched, name: str) -> None:
    """Show how far a batch is, until it is over. Blocks; meant for a thread of its own."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        _draw(batch, name, console)
        return
    while not batch.wait_changed(_PLAIN_SECONDS):
        print(line(name, batch.progress()), file=sys.stderr, flush=True)  # noqa: T201 - it is asked for
    print(line(name, batch.progress()), file=sys.stderr, flush=True)  # noqa: T201


def line(name: str, now: Standing) -> str:
    """How far it is, in one line of text."""
    total = "?" if now.total is None else f"{now.total:,}"
    failed = f", {now.failed:,} failed" if now.failed else ""
    return f"{name}: {now.done:,}/{total} items{failed}, {_rate(now):,.0f}/s, {now.seconds:.1f} s"


def _rate(now: Standing) -> float:
    return now.done / now.seconds if now.seconds > 0 else 0.0


def _draw(batch: Watched, name: str, console: Console) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
    )
    # Drawn by this thread only: another one would be one more to end with the program.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        shown = bar.add_task(name, total=None, rate="", failed="")
        is_over = False
        while not is_over:
            is_over = batch.wait_changed(_DRAW_SECONDS)
            now = batch.progress()
            failed = f"{now.failed:,} failed" if now.failed else ""
            bar.update(shown, completed=now.done, total=now.total, rate=f"{_rate(now):,.0f}/s", failed=failed)
            bar.refresh()
