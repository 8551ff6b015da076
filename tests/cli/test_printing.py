"""Tables, texts and documents."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence

import pytest

from cluster.cli.printing import Column, ago, duration_text, echo, moment_text, print_fields, print_table

STYLE = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS = (Column("job"), Column("name", may_shrink=True), Column("try", is_number=True))
LONG = "a name that is much longer than any terminal is wide, " * 3
ROWS = [("j-1", LONG, "1"), ("j-22", "short", "12")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, rows: Sequence[Sequence[str]]) -> list[str]:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(COLUMNS, rows)
    return STYLE.sub("", screen.getvalue()).splitlines()


def test_a_program_gets_everything_in_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["job", "j-1", "j-22"]
    assert LONG.strip() in lines[1]
    assert len(set(map(len, lines))) == 1  # the last column is a number, and stands right


@pytest.mark.parametrize("width", [80, 40])
def test_a_table_fits_its_terminal_and_keeps_what_names_things(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = on_a_terminal(monkeypatch, width, ROWS)

    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines] == ["job", "j-1", "j-22"]
    assert [line.split()[-1] for line in lines] == ["try", "1", "12"]
    assert "…" in lines[1]


def test_a_name_can_neither_break_a_line_nor_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("j-1", "two\nlines \x1b[2J", "1")])

    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "\x1b" not in out


def test_markup_in_a_name_is_only_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = on_a_terminal(monkeypatch, 80, [("j-1", "[red]x[/]", "1")])

    assert "[red]x[/]" in lines[1]


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("job", "j-1"), ("worker", ""), ("state", "queued")])

    assert capsys.readouterr().out == "job    j-1\nstate  queued\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (42.0, "42 s"),
        (300.0, "5 min"),
        (7200.0, "2 h"),
        (864000.0, "10 d"),
    ],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_what_has_not_happened_has_no_time() -> None:
    assert ago(0.0) == ""
    assert moment_text(0.0) is None
    assert moment_text(1.5) == "1970-01-01T00:00:01.500+00:00"


def test_nothing_that_is_told_moves_the_cursor_or_begins_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;title\x07\x1b[2J\nstate  completed"

    print_fields([("name", evil), ("state", "queued")])
    echo(f"{evil}\n\tindented, Grüße")

    assert capsys.readouterr().out.splitlines() == [
        r"name   a\x1b]0;title\x07\x1b[2J\nstate  completed",
        "state  queued",
        r"a\x1b]0;title\x07\x1b[2J",
        "state  completed",
        "        indented, Grüße",
    ]
