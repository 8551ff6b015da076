"""`docs/explanation/fault-matrix.md` names a test for each fault: no test that it names may be missing, and no row."""

from __future__ import annotations

import ast
import re

import pytest

from tests.project import ROOT

PAGE = (ROOT / "docs" / "explanation" / "fault-matrix.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z_]+/test_\w+\.py)::(test_\w+)`", PAGE)))
# Of these the rest, by number, were left out of the list that we started from.
ROWS = [
    *[f"E{number}" for number in range(1, 27)],
    *[f"T{number}" for number in (2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 18, 19, 21, 22)],
    *[f"M{number}" for number in range(2, 9)],
    *[f"L{number}" for number in (3, 4, 6, 7, 8, 9, 10)],
    *[f"W{number}" for number in (2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 16)],
    *[f"S{number}" for number in (2, 3, 4, 6, 7, 8, 9)],
    *[f"X{number}" for number in range(1, 8)],
]


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_that_holds_a_row_is_there(file: str, name: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text())

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_on_the_page(row: str) -> None:
    assert re.search(rf"\b{row}\b", PAGE)


def test_a_row_has_a_test_or_says_that_it_is_not_there_yet() -> None:
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| row", "| ---", "| the", "| a task |"))
    ]

    bare = [
        line for line in rows if "::test_" not in line and not re.search(r"\*.*(not there yet|no warning yet)", line)
    ]

    assert len(rows) > 80
    assert bare == []
