"""No flag of the interpreter's, no locale, no seed and no folder's name changes what the kit does or whom it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.programs import ROOT

PROGRAM = Path(__file__).with_name("flags_program.py")
NO_TEXT = "in a folder whose name is no text"
WAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    "as usual": ([], {}),
    NO_TEXT: ([], {}),
    "-O": (["-O"], {}),
    "-OO": (["-OO"], {}),
    "-I": (["-I"], {}),
    "-X dev": (["-X", "dev"], {}),
    "seed 0, C locale": ([], {"PYTHONHASHSEED": "0", "LC_ALL": "C", "LANG": "C"}),
    "seed 4242, ASCII": (
        [],
        {"PYTHONHASHSEED": "4242", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
}
USED = {
    "result": "NÉgrößer", "input": 8, "map": [3, 2, 1, 0, 1, 2], "logs": "heard né\n",
    "error": "ValueError: on purpose",
}  # fmt: skip


def told(folder: Path, way: str) -> dict[str, Any]:
    """What the program says, and that it says nothing else."""
    flags, variables = WAYS[way]
    environment = {**os.environ, **variables}
    if "-I" not in flags:
        environment["PYTHONPATH"] = str(ROOT)
    ran = subprocess.run(
        [sys.executable, *flags, str(PROGRAM), str(folder), *flags],
        cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=110, check=False,
    )  # fmt: skip
    log = (folder / "log").read_text(encoding="utf-8") if (folder / "log").exists() else ""
    assert ran.returncode == 0, ran.stderr + log
    assert "Warning" not in ran.stderr + log, ran.stderr + log
    assert "Traceback" not in log, log
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("way", WAYS)
def test_the_same_jobs_end_alike_and_the_same_roles_are_refused(tmp_path: Path, way: str) -> None:
    name = os.fsdecode(b"a folder, gr\xf6\xdfer") if way is NO_TEXT else "a folder, größer ☃"
    (folder := tmp_path / name).mkdir()

    said = told(folder, way)

    assert said["embedded"] == USED
    assert said["connected"] == USED
    assert said["ends"] == [0, 0]
    roles = said["roles"]
    assert {call for call, what in roles.items() if what == "allowed"} == {
        "client jobs",
        "worker work",
        "admin jobs",
        "admin admin",
    }
    assert set(roles.values()) == {"allowed", "refused"}
