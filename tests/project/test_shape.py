"""The house style's measures: how long a module and a function may be, and words that must not stay in the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.project import ROOT

MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60
# Whoever needs more says why: "long because ..." in the docstring, or in a comment on the line of the `def`.
REASON = re.compile(r"long because \w+", re.IGNORECASE)
# Built from pieces, so that this file does not hold them.
LEFT_TO_DO = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
MAY_SLEEP = re.compile(r"# sleeps because \w+")
NAMELESS = re.compile(r"(^|_)(utils?|helpers?|common|misc|manager2)$")

FOLDERS = ["cluster", "tests", "benchmarks", "examples"]
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = [path for path in SOURCES if path.is_relative_to(ROOT / "cluster")]
TESTS = [path for path in SOURCES if path.is_relative_to(ROOT / "tests")]
TEXTS = sorted([*SOURCES, *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "Makefile"])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def too_long_functions(source: str) -> list[str]:
    """Each function above the bound that does not say why, as `name (lines)`."""
    lines = source.splitlines()
    told = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            reason = f"{ast.get_docstring(node) or ''} {lines[node.lineno - 1]}"
            if length > MAX_FUNCTION_LINES and not REASON.search(reason):
                told.append(f"{node.name} ({length} lines)")
    return told


def sleeping_lines(source: str) -> list[int]:
    """Lines where a test waits by sleeping. A *task* under test may sleep: it then says why on its line.

    Only real calls count: the text of a script that a test starts is that script's business, unless it is code of
    this file.
    """
    lines = source.splitlines()
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"time.sleep", "sleep"}
        and not MAY_SLEEP.search(lines[node.lineno - 1])
    ]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_has_at_most_six_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_function_has_at_most_sixty_lines_or_says_why(path: Path) -> None:
    assert not too_long_functions(path.read_text())


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_no_test_waits_by_sleeping(path: Path) -> None:
    assert not sleeping_lines(path.read_text()), "wait on a signal with a deadline"


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_nothing_is_left_to_do(path: Path) -> None:
    assert not LEFT_TO_DO.findall(path.read_text())


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_no_path_of_someone_s_machine_is_in_the_tree(path: Path) -> None:
    assert not re.findall(r"/(?:home|Users|work)/\w+", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_s_name_states_a_duty(path: Path) -> None:
    assert not NAMELESS.search(path.stem)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_opens_by_saying_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_a_long_function_is_found_and_its_reason_is_heard() -> None:
    body = "\n".join(["    x = 1"] * MAX_FUNCTION_LINES)

    assert too_long_functions(f"class A:\n  async def f():\n{body}") == ["f (61 lines)"]
    assert not too_long_functions(f"def f():  # long because one table\n{body}")
    assert not too_long_functions(f'def f():\n    """Long because a table."""\n{body}')
    assert not too_long_functions(f"def f():\n{body[len('    x = 1') + 1 :]}")


def test_a_sleep_is_found_and_a_task_that_must_last_is_not() -> None:
    assert sleeping_lines("import time\ndef test_x():\n    time.sleep(1)") == [3]
    assert sleeping_lines("from time import sleep\nsleep(1)") == [2]
    assert not sleeping_lines("def task():\n    time.sleep(9)  # sleeps because the job must outlast its timeout")
    assert not sleeping_lines("SCRIPT = 'time.sleep(1)'")
