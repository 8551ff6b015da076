"""Each example runs as a reader would run it: `python examples/NAME.py`, in any folder, and checks its own answer."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.project import ROOT
from tests.project.scripts import assert_runs

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHELL_EXAMPLES = sorted((ROOT / "examples").glob("*.sh"))
DEADLINE_SECONDS = 60


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_its_answer_holds(example: Path, tmp_path: Path) -> None:
    assert_runs(example, tmp_path)


@pytest.mark.parametrize("example", SHELL_EXAMPLES, ids=lambda path: path.name)
def test_a_shell_example_runs_and_its_answer_holds(example: Path, tmp_path: Path) -> None:
    # The command of this source tree, whether or not it is installed.
    command = tmp_path / "bin" / "cluster"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cluster "$@"\n')
    command.chmod(0o700)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    ran = subprocess.run(
        ["sh", str(example)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr


def test_there_are_examples() -> None:
    assert EXAMPLES
    assert SHELL_EXAMPLES
