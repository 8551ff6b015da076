"""How commands print: tables that fit a terminal, the same as plain columns for programs, and JSON.

Standard output carries the data, and nothing else; what is said about it goes to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import typer

from cluster.core.records import Certificate, JobInfo
from cluster.core.states import JobState
from cluster.log_lines import in_one_line
from cluster.wire.messages import Health

GAP = "  "
MIN_SHRUNK_WIDTH = 8  # of a column: less says nothing
MEBIBYTE = 1 << 20

STATE_STYLES = {
    "running": "cyan",
    "assigned": "cyan",
    "completed": "green",
    "ready": "green",
    "dead_letter": "red",
    "lost": "red",
    "refusing": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "draining": "yellow",
    "paused": "yellow",
    "retry_queued": "yellow",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. One that may shrink loses its end where the terminal is too narrow."""

    title: str
    is_number: bool = False
    may_shrink: bool = False


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def echo(text: str, *, err: bool = False) -> None:
    """Lines of text, of which names, reasons and tracebacks may be anybody's: nothing in them moves the cursor."""
    typer.echo("\n".join(in_one_line(line) for line in text.expandtabs().split("\n")), err=err)


def say(text: str) -> None:
    """A sentence for the person, on standard error."""
    echo(text, err=True)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table: drawn by rich on a terminal, else columns of text of which nothing is cut off."""
    table = [[_one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, table)
        return
    widths = [max([len(column.title), *(len(row[place]) for row in table)]) for place, column in enumerate(columns)]
    for row in ([column.title for column in columns], *table):
        cells = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        typer.echo(GAP.join(cells).rstrip())


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    told = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in told), default=0)
    for name, value in told:
        echo(f"{name.ljust(width)}{GAP}{in_one_line(value)}")


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, len(GAP), 0, 0), header_style="dim", pad_edge=False)
    widest = [max([len(column.title), *(cell_len(row[place]) for row in rows)]) for place, column in enumerate(columns)]
    # Widths are given, because rich would take from every column, ids and numbers too.
    for column, width in zip(columns, fit(columns, widest, console.width), strict=True):
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=width,
        )
    for row in rows:
        # As text, because names and reasons are the users' and may look like rich's markup.
        table.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def fit(columns: Sequence[Column], widest: Sequence[int], total: int) -> list[int]:
    """Widths that fit into `total`: the widest column that may shrink gives way first."""
    widths = list(widest)
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - total
    while excess > 0:
        places = [
            place for place, column in enumerate(columns) if column.may_shrink and widths[place] > MIN_SHRUNK_WIDTH
        ]
        if not places:
            break  # no terminal is that narrow; rich cuts the lines off
        widths[max(places, key=lambda place: widths[place])] -= 1
        excess -= 1
    return widths


def _one_line(text: str) -> str:
    # A name or an error may hold anything; what moves the cursor must not reach the terminal.
    return "".join(character if character.isprintable() else " " for character in text)


# --- values ---------------------------------------------------------------------------------------------------------


def duration_text(seconds: float) -> str:
    """A duration in at most seven characters."""
    for limit, divisor, unit in ((1.0, 0.001, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.1f} s" if unit == "s" and seconds < 10 else f"{seconds / divisor:.0f} {unit}"  # noqa: PLR2004 - below it a decimal says something
    return f"{seconds / 86400.0:.0f} d"


def ago(moment: float, now: float | None = None) -> str:
    """How long ago; nothing for a moment that has not come."""
    return f"{duration_text(max(0.0, (now or time.time()) - moment))} ago" if moment else ""


def moment_text(moment: float) -> str | None:
    """Wall time as ISO 8601 in UTC; None where it has not happened."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds") if moment else None


def local_time(moment: float) -> str:
    """Wall time as people here write it, with how long ago that is."""
    if not moment:
        return ""
    shown = datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"{shown} ({ago(moment)})"


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / MEBIBYTE:,.0f} MiB" if size >= MEBIBYTE else f"{size:,.0f} B"


def memory_text(health: Health) -> str:
    """How much of a host's memory is taken; empty where nobody has said."""
    if not health.memory_total:
        return ""
    return f"{100 * (health.memory_total - health.memory_available) / health.memory_total:.0f} %"


def state_name(state: JobState) -> str:
    """The state as users write it."""
    return state.name.lower()


# --- records as JSON --------------------------------------------------------------------------------------------------


def job_document(info: JobInfo) -> dict[str, Any]:
    """A job as `--json` prints it."""
    document: dict[str, Any] = msgspec.to_builtins(info)
    for name in ("submitted", "started", "ended"):
        document[name] = moment_text(document[name])
    document["state"] = state_name(info.state)
    document["certificate"] = certificate_document(info.certificate) if info.certificate else None
    return document


def certificate_document(certificate: Certificate) -> dict[str, Any]:
    """A death certificate as `--json` prints it."""
    document = {name: getattr(certificate, name) for name in certificate.__struct_fields__}
    document["ending"] = certificate.ending.name.lower()
    document["started"] = moment_text(certificate.started)
    return document
