"""What the demo computes: the cyclomatic complexity of every function in a tree of Python files.

Both tasks are ordinary module-level functions, so they travel to the children by reference; nothing here knows that a
cluster runs them. `analyse_file` is one job per file. `summarise_package` is one job per directory and depends on the
jobs of its files: it is handed their jobs as arguments and gets their reports.

Complexity is McCabe's ("A Complexity Measure", 1976): one, plus one for every place where control can go two ways. That
is `if`, `for`, `while`, `except`, a conditional expression, each further operand of `and`/`or`, each `for` and `if` of a
comprehension, and each `case` that can fail to match. A nested function counts for itself, a lambda for the function
around it. `assert` does not count, since `-O` removes it.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

# Enough for the ten of the whole library, whichever files they are in.
KEPT_FUNCTIONS = 10

# Installed software, not the library itself; Debian's name for it too.
FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})

# A deeply nested file overflows the parser as RecursionError or MemoryError; a null byte is a ValueError.
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """One function and how many ways lead through it."""

    name: str  # qualified within its file: "Class.method"
    path: str
    line: int
    complexity: int


@dataclass(frozen=True, slots=True)
class FileReport:
    """What one file holds."""

    path: str
    functions: int
    branches: int  # in functions and outside of them
    most_complex: tuple[FunctionReport, ...]
    pid: int  # of the process that analysed it
    problem: str = ""  # why it could not be parsed; the standard library tests its parsers with some


@dataclass(frozen=True, slots=True)
class PackageReport:
    """The sum of a package's files."""

    name: str
    files: int
    functions: int
    branches: int
    unparsable: int
    most_complex: tuple[FunctionReport, ...]


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(root: Path) -> Iterator[Path]:
    """Every Python file below `root` that belongs to it, in a fixed order."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in FOREIGN_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


def package_of(path: Path, root: Path) -> str:
    """The dotted name of the folder that holds `path`; the root's own files are modules of no package."""
    return ".".join(path.relative_to(root).parent.parts) or "(top level)"


def analyse_file(path: str) -> FileReport:
    """Count the functions and branches of one file; one that can't be parsed is reported, not fatal."""
    source = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            # Invalid escapes and the like in someone else's source are not this job's output.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except UNPARSABLE as error:
        return FileReport(path, 0, 0, (), os.getpid(), f"{type(error).__name__}: {error}")
    functions, branches = measure(tree, path)
    return FileReport(path, len(functions), branches, most_complex(functions), os.getpid())


def summarise_package(name: str, *reports: FileReport) -> PackageReport:
    """Add up the reports of a package's files."""
    return PackageReport(
        name=name,
        files=len(reports),
        functions=sum(report.functions for report in reports),
        branches=sum(report.branches for report in reports),
        unparsable=sum(bool(report.problem) for report in reports),
        most_complex=most_complex(function for report in reports for function in report.most_complex),
    )


def most_complex(functions: Iterable[FunctionReport]) -> tuple[FunctionReport, ...]:
    """The most complex functions, worst first; equal ones in order of path and line, so that the answer is one."""
    return tuple(nsmallest(KEPT_FUNCTIONS, functions, key=lambda found: (-found.complexity, found.path, found.line)))


def measure(tree: ast.AST, path: str) -> tuple[list[FunctionReport], int]:
    """Every function below `tree`, and the number of branches in all of it."""
    functions: list[FunctionReport] = []
    branches = 0
    # Each entry is a scope still to be measured. A stack instead of recursion: generated sources nest deeply.
    scopes: list[tuple[ast.AST, str]] = [(tree, "")]
    while scopes:
        scope, name = scopes.pop()
        decisions = 0
        nodes = list(ast.iter_child_nodes(scope))
        while nodes:
            node = nodes.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                scopes.append((node, f"{name}.{node.name}".lstrip(".")))
                continue
            decisions += decisions_at(node)
            nodes.extend(ast.iter_child_nodes(node))
        branches += decisions
        if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions.append(FunctionReport(name, path, scope.lineno, decisions + 1))
    return functions, branches


def decisions_at(node: ast.AST) -> int:
    """How many times control can go two ways at this very node."""
    match node:
        case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler():
            return 1
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=conditions):
            return 1 + len(conditions)
        case ast.match_case(guard=None, pattern=ast.MatchAs(pattern=None)):
            return 0  # `case _` and `case name` always match
        case ast.match_case():
            return 1
        case _:
            return 0
