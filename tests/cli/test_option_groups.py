"""Records as groups of options."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from cluster.cli.option_groups import INTERRUPTED_STATUS, grouped


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option()] = 3
    height: Annotated[int, typer.Option()] = 4


def test_a_record_s_fields_become_parameters_and_come_back_as_the_record() -> None:
    heard: list[tuple[str, Size]] = []

    def draw(name: str, size: Size) -> None:
        heard.append((name, size))

    command = grouped(draw)
    command(name="x", width=5, height=4)

    assert list(inspect.signature(command).parameters) == ["name", "width", "height"]
    assert heard == [("x", Size(5, 4))]


def test_defaults_stay_and_the_help_too() -> None:
    def draw(size: Size) -> None:
        """Draw it."""

    command = grouped(draw)

    assert inspect.signature(command).parameters["height"].default == 4
    assert (command.__name__, command.__doc__) == ("draw", "Draw it.")


def test_ctrl_c_ends_a_command_with_the_shell_s_status(capsys: pytest.CaptureFixture[str]) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as told:
        grouped(wait)()

    assert told.value.exit_code == INTERRUPTED_STATUS
    assert capsys.readouterr().err == "cluster: interrupted\n"
