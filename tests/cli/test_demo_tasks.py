"""The demo's analysis, on sources whose complexity is known by hand."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from cluster.cli.demo_tasks import (
    FileReport,
    FunctionReport,
    analyse_file,
    measure,
    most_complex,
    package_of,
    source_files,
    standard_library,
    summarise_package,
)


def complexities(source: str) -> dict[str, int]:
    functions, _ = measure(ast.parse(textwrap.dedent(source)), "file.py")
    return {function.name: function.complexity for function in functions}


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\nelif b: pass\nelse: pass", 3),
        ("for x in y: pass\nelse: pass", 2),
        ("while a: pass", 2),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 3),
        ("return a if b else c", 2),
        ("return a and b and c", 3),
        ("return a and b or c", 3),
        ("return [x for x in y]", 2),
        ("return {x: z for x in y if a if b for z in x}", 5),
        ("match a:\n  case 1: pass\n  case 2: pass\n  case _: pass", 3),
        ("match a:\n  case other if other > 1: pass\n  case other: pass", 2),
        ("with a: pass\nassert b", 1),
        ("return lambda x: 1 if x else 2", 2),
    ],
)
def test_a_function_has_one_way_more_than_it_has_decisions(body: str, complexity: int) -> None:
    source = "def f():\n" + textwrap.indent(body, "    ")

    found = complexities(source)

    assert found == {"f": complexity}


def test_nested_functions_and_methods_count_for_themselves() -> None:
    source = """
    if top_level: pass
    class A:
        async def method(self):
            async for x in y: pass
            def inner():
                if a: pass
                if b: pass
        class B:
            def method(self): pass
    """

    found = complexities(source)

    assert found == {"A.method": 2, "A.method.inner": 3, "A.B.method": 1}


def test_branches_outside_of_functions_count_for_the_file(tmp_path: Path) -> None:
    file = tmp_path / "branchy.py"
    file.write_text("if a: pass\nclass A:\n    if b: pass\n    def f(self):\n        if c: pass\n")

    report = analyse_file(str(file))

    assert (report.functions, report.branches, report.problem) == (1, 3, "")
    assert report.most_complex == (FunctionReport("A.f", str(file), 4, 2),)


@pytest.mark.parametrize("content", [b"def f(:", b"\xff", b"# -*- coding: klingon -*-", b"(" * 100_000])
def test_a_file_that_cannot_be_parsed_is_reported_and_not_fatal(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.py"
    file.write_bytes(content)

    report = analyse_file(str(file))

    assert report.problem
    assert (report.functions, report.branches, report.most_complex) == (0, 0, ())


def test_a_nesting_deeper_than_the_recursion_limit_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "deep.py"
    file.write_text("x = " + "+".join(["1"] * 900) + "\nif x: pass\n")

    report = analyse_file(str(file))

    assert report.problem or report.branches == 1


def test_a_package_is_the_sum_of_its_files() -> None:
    simple = FunctionReport("simple", "a.py", 1, 1)
    tangled = FunctionReport("tangled", "b.py", 5, 30)
    reports = [
        FileReport("a.py", 1, 0, (simple,), pid=1),
        FileReport("b.py", 2, 40, (tangled,), pid=2),
        FileReport("c.py", 0, 0, (), pid=1, problem="SyntaxError: no"),
    ]

    summary = summarise_package("p", *reports)

    assert (summary.files, summary.functions, summary.branches, summary.unparsable) == (3, 3, 40, 1)
    assert summary.most_complex == (tangled, simple)


def test_of_equally_complex_functions_the_first_by_path_and_line_are_kept() -> None:
    functions = [FunctionReport("f", path, line, 7) for path in ("b.py", "a.py") for line in range(8, 0, -1)]

    kept = most_complex(functions)

    assert [(found.path, found.line) for found in kept] == [("a.py", line) for line in range(1, 9)] + [
        ("b.py", 1),
        ("b.py", 2),
    ]


def test_installed_packages_are_not_part_of_the_library(tmp_path: Path) -> None:
    for name in ("one.py", "package/two.py", "package/deeper/three.py", "site-packages/four.py", "note.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    found = list(source_files(tmp_path))

    names = {str(path.relative_to(tmp_path)): package_of(path, tmp_path) for path in found}
    assert names == {"one.py": "(top level)", "package/two.py": "package", "package/deeper/three.py": "package.deeper"}


def test_the_standard_library_is_found() -> None:
    names = {path.relative_to(standard_library()).as_posix() for path in source_files(standard_library())}

    assert {"ast.py", "json/decoder.py"} <= names
