from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.mutants.__main__ import deciding_modules, equivalent_mutants, key_of, mutants_of
from tests.mutants.operators import mutants
from tests.project import ROOT

DEADLINE_SECONDS = 100


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("return a < b", ["return None", "return (a <= b)", "return (not a < b)"]),
        ("return a is b", ["return None", "return (a is not b)"]),
        ("return a and b", ["return None", "return (a or b)"]),
        ("return f(a, b, key=1)", ["return None", "return f(b, a, key=1)", "return f(a, b)", "return f(a, b, key=2)"]),
        ("return min(a, b)", ["return None", "return max(a, b)"]),
        ("if a: b()", ["if (not (a)): b()", "if a: pass"]),
        ("self.a += 1", ["pass", "self.a -= 1", "self.a += 2"]),
        ("while True: break", ["while (not (True)): break", "while False: break", "while True: continue"]),
        ("raise f(not a)", ["pass", "raise f((a))"]),
        ("return [a for a in b if a]", ["return None", "return [a for a in b if (not (a))]"]),
        ("return -a * 2.0", ["return None", "return (-a / 2.0)", "return (a) * 2.0", "return -a * 3.0"]),
    ],
)
def test_each_likely_slip_of_a_line_is_a_mutant(was: str, now: list[str]) -> None:
    source = f"def function(self, a, b):\n    {was}\n"

    found = mutants("some.py", source)

    assert [one.now for one in found] == now
    assert {(one.line, one.scope, one.was) for one in found} == {(2, "function", was)}


@pytest.mark.parametrize(
    "line",
    [
        "'text'",
        "import a",
        "assert a < 1",
        "a: int",
        "return f'{a + 1}'",
        "__slots__ = (1, 2)",
        "pass",
        "a = 1e300",
        "a = f(b, b)",
    ],
)
def test_what_decides_nothing_has_none(line: str) -> None:
    assert [one.now for one in mutants("some.py", f"def function(a):\n    {line}\n") if one.now != "return None"] == []


def test_what_takes_effect_at_import_has_no_function() -> None:
    source = "LIMIT = 1\nclass A:\n    field: int = 2\n    def method(self, most=3):\n        return self.b(4)\n"

    found = [(one.scope, one.now) for one in mutants("some.py", source)]

    assert found == [
        ("", "LIMIT = 2"), ("", "field: int = 3"), ("", "def method(self, most=4):"),
        ("A.method", "return None"), ("A.method", "return self.b(5)"),
    ]  # fmt: skip


def test_every_mutant_is_a_program_and_every_one_listed_as_equivalent_exists() -> None:
    listed = equivalent_mutants()

    for path in deciding_modules():
        for one in mutants_of(path):
            compile(one.source, path, "exec")
            listed.pop(key_of(one), None)

    assert not listed


def test_a_sample_is_found_by_the_tests_of_its_module() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.mutants",
        "--module",
        "core/memory",
        "--own",
        "--every",
        "4",
        "--least",
        "100",
    ]

    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "100.0 %     7 of    7 found,   0 equivalent  in all" in run.stdout
