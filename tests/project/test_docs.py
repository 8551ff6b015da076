"""The documentation is run: every ```python block alone, in a fresh process and an empty folder, warnings as errors.

A block whose fence says `python no-run` is only compiled: it shows a part of something, or what is to come.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cluster.core import states
from tests.project import ROOT
from tests.project.scripts import assert_runs

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").rglob("*.md")])
FENCE = re.compile(r"^(?P<indent> *)```python(?P<flags>[^\n]*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"\bmake ([a-z]+)\b(?=[ `\n]|$)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    body: str
    is_run: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path, text: str) -> list[Block]:
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 2,
            textwrap.dedent(found["body"]),
            is_run="no-run" not in found["flags"].split(),
        )
        for found in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page, page.read_text())]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_run], ids=str)
def test_a_sample_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "sample.py"
    script.write_text(block.body)

    assert_runs(script, tmp_path)


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.is_run], ids=str)
def test_a_sample_that_is_not_run_is_python_at_least(block: Block) -> None:
    compile(block.body, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_another_page_leads_there(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]

    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_make_command_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = " \n".join(re.findall(r"`[^`\n]+`|^    .*$|^```.*?^```", page.read_text(), re.MULTILINE | re.DOTALL))

    assert set(MAKE.findall(code)) <= targets


def test_a_drawn_life_of_a_job_is_the_table_s() -> None:
    drawings = [
        (page, drawn)
        for page in PAGES
        for drawn in re.findall(r"```mermaid\n(stateDiagram.*?)\n```", page.read_text(), re.DOTALL)
    ]

    assert {page.name for page, _ in drawings} == {"states.md", "concepts.md"}
    assert [page.name for page, drawn in drawings if drawn != states.mermaid()] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    docs = ROOT / "docs"
    seen: set[Path] = set()
    frontier = [docs / "index.md"]
    while frontier:
        page = frontier.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        frontier += [(page.parent / link).resolve() for link in LINK.findall(page.read_text())]

    assert set(docs.rglob("*.md")) <= seen


def test_blocks_are_found_with_their_flags_and_lines() -> None:
    text = "# A\n\n```python\nx = 1\n```\n\n- b\n\n  ```python no-run\n  y = 2\n  ```\n\n```sh\nmake test\n```\n"

    found = blocks_of(ROOT / "README.md", text)

    assert [(block.line, block.body, block.is_run) for block in found] == [(4, "x = 1\n", True), (10, "y = 2\n", False)]
