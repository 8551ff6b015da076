"""Imports point down only. The floors, the closed doors between rooms, and what `core` may know, each checked by
reading the source: imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.project import ROOT

CLUSTER = ROOT / "cluster"

FLOORS = [
    {"errors", "core", "log_lines"},
    {"store", "wire"},
    {"master", "worker", "client"},
    {"embedded", "deploy", "web", "engines", "integrations"},
    # The public names stand above the rooms they come from, and below the command that uses them like any user does:
    # so `import cluster` can never load the command line.
    {"__init__"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Rooms of one floor that must not know each other; they meet at wire messages and core records.
STRANGERS = [{"store", "wire"}, {"master", "worker", "client"}]

# All that the pure core may import. Nothing here reads a clock, a file, a socket, or chance.
PURE = {
    "__future__", "_blake2", "abc", "array", "bisect", "collections", "collections.abc", "dataclasses", "enum", "functools",
    "graphlib", "hashlib", "heapq", "itertools", "math", "msgspec", "operator", "re", "struct", "types", "typing",
    "zlib",
}  # fmt: skip
# Built-ins that reach outside, or differ from one process to the next (`hash` of a string), which would make a seed of
# the simulator replay another run.
IMPURE_CALLS = {"open", "print", "input", "eval", "exec", "compile", "hash", "__import__"}
PICKLERS = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "copyreg"}
MAY_PICKLE = {"client", "worker", "wire.dependency"}


def room_of(module: str) -> str:
    """`cluster.core.states` -> `core`; the package itself and its `__main__` are rooms of their own, on top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_by(module: str, tree: ast.AST, *, is_package: bool = False) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of everything that a module imports, by statement or by constant string."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = node.level - 1 if is_package else node.level
                base = ".".join([*parts[: len(parts) - up], *([base] if base else [])])
            # Of these two, what is imported is the module: `from cluster import core`.
            whole = base in {"cluster", "multiprocessing"}
            found += [(node.lineno, f"{base}.{alias.name}" if whole else base) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                found.append((node.lineno, node.args[0].value))
    return found


def fault_of(module: str, name: str) -> str:
    """Why `module` must not import `name`, or nothing."""
    here = room_of(module)
    short = module.removeprefix("cluster.")
    if name.split(".", maxsplit=1)[0] == "cluster":
        there = room_of(name)
        if there not in FLOOR_OF:
            # A public name: `from cluster import submit`.
            there = "__init__"
        if FLOOR_OF[there] > FLOOR_OF[here]:
            return f"{here} is below {there}"
        for strangers in STRANGERS:
            if here != there and {here, there} <= strangers:
                return f"{here} and {there} must not know each other"
        return ""
    if here == "core" and name not in PURE:
        return "core is pure: see PURE"
    if name.startswith("multiprocessing") and "managers" in name and here != "wire":
        return "multiprocessing.managers is imported in wire only"
    if name.split(".", maxsplit=1)[0] in PICKLERS and not {here, short} & MAY_PICKLE:
        return "only clients and a worker's children touch pickles"
    return ""


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """One sentence for each import, or impure call, that breaks the rules of the house."""
    if module.count(".") and room_of(module) not in FLOOR_OF:
        return [f"{module}: this room has no floor; give it one in FLOORS"]
    tree = ast.parse(source)
    told = [
        f"{module}:{line}: imports {name}: {fault}"
        for line, name in dict.fromkeys(imported_by(module, tree, is_package=is_package))
        if (fault := fault_of(module, name))
    ]
    if room_of(module) == "core":
        told += [
            f"{module}:{node.lineno}: calls {node.func.id}: core is pure"
            for node in ast.walk(without_main_block(tree))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
        ]
    return told


def without_main_block(tree: ast.Module) -> ast.Module:
    """The module as others import it: a closing `if __name__ == "__main__":` may print."""
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'")
    ]
    return ast.Module(body=kept, type_ignores=[])


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(CLUSTER.rglob("*.py")):
        parts = ["cluster", *path.relative_to(CLUSTER).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_a_module_imports_only_what_lies_below_it(module: str, path: Path) -> None:
    assert not faults(module, path.read_text(), is_package=path.name == "__init__.py")


def test_every_room_of_the_house_is_read() -> None:
    rooms = {room_of(module) for module, _ in modules()}

    assert rooms >= {"errors", "core", "store", "wire", "master", "worker", "client", "embedded", "cli"}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("cluster.core.board", "import cluster.store.port", "core is below store"),
        ("cluster.core.board", "from cluster.wire.messages import Hello", "core is below wire"),
        ("cluster.core.board", "from cluster import submit", "core is below __init__"),
        ("cluster.store.sqlite", "import cluster", "store is below __init__"),
        ("cluster.store.sqlite", "from cluster import master", "store is below master"),
        ("cluster.store.sqlite", "from cluster.wire import messages", "must not know each other"),
        ("cluster.wire.codec", "from cluster.store.port import Store", "must not know each other"),
        ("cluster.worker.child", "from cluster.client.job import Job", "must not know each other"),
        ("cluster.client.job", "from cluster.master import desk", "must not know each other"),
        ("cluster.client.job", "from ..master import desk", "must not know each other"),
        ("cluster.client", "from ..embedded import local", "client is below embedded"),
        ("cluster.master.desk", "def late():\n    from cluster.worker import child", "must not know each other"),
        ("cluster.master.desk", "if TYPE_CHECKING:\n    import cluster.cli.main", "master is below cli"),
        ("cluster.master.desk", "importlib.import_module('cluster.cli')", "master is below cli"),
        ("cluster.embedded.local", "from cluster.cli.main import main", "embedded is below cli"),
        ("cluster", "import cluster.cli.main", "__init__ is below cli"),
        ("cluster.core.board", "import time", "core is pure"),
        ("cluster.core.board", "def late():\n    import random", "core is pure"),
        ("cluster.core.board", "from datetime import datetime", "core is pure"),
        ("cluster.core.board", "import collections, threading", "core is pure"),
        ("cluster.core.board", "order = hash(job)", "calls hash"),
        ("cluster.core.board", "def save():\n    return open('x')", "calls open"),
        ("cluster.worker.child", "from multiprocessing import managers", "in wire only"),
        ("cluster.worker.child", "import multiprocessing.managers", "in wire only"),
        ("cluster.worker.child", "from multiprocessing.managers import BaseManager", "in wire only"),
        ("cluster.master.desk", "import pickle", "touch pickles"),
        ("cluster.store.sqlite", "from cloudpickle import dumps", "touch pickles"),
        ("cluster.wire.codec", "import pickle", "touch pickles"),
        ("cluster.helpers.misc", "", "has no floor"),
    ],
)
def test_a_fault_is_found_wherever_it_hides(module: str, source: str, fault: str) -> None:
    is_package = module == "cluster.client"

    told = faults(module, source, is_package=is_package)

    assert len(told) == 1
    assert fault in told[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cluster", "from cluster.client.handle import Cluster\nfrom cluster.embedded import local"),
        ("cluster.__main__", "from cluster.cli.main import main"),
        ("cluster.cli.demo", "import cluster, cluster.embedded, cluster.core.states"),
        ("cluster.master.desk", "from cluster.store.port import Store\nfrom cluster.wire.desks import JobsDesk"),
        ("cluster.core.board", "from __future__ import annotations\nimport heapq\nfrom msgspec import Struct"),
        ("cluster.core.states", "if __name__ == '__main__':\n    print(mermaid())"),
        ("cluster.errors", "if TYPE_CHECKING:\n    from cluster.core.records import Certificate"),
        ("cluster.client.payload", "import pickle, cloudpickle"),
        ("cluster.wire.dependency", "import pickle"),
        ("cluster.wire.manager", "from multiprocessing.managers import BaseManager"),
        ("cluster.worker.child", "from multiprocessing.connection import Connection"),
    ],
)
def test_what_the_rules_allow_is_left_alone(module: str, source: str) -> None:
    assert not faults(module, source)
