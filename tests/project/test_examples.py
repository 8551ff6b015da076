"""Each example runs as a reader would run it: `python examples/NAME.py`, in any folder, and checks its own answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.project import ROOT
from tests.project.scripts import assert_runs

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_its_answer_holds(example: Path, tmp_path: Path) -> None:
    assert_runs(example, tmp_path)


def test_there_are_examples() -> None:
    assert EXAMPLES
