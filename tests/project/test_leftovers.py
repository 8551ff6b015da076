"""The check in `tests/conftest.py` that no module leaves a process behind does find one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.project import ROOT

# A grandchild in a session of its own, whose parent is gone: only its environment says where it came from.
LEAVER = """
import subprocess
import tests.conftest

tests.conftest.GRACE_SECONDS = 0.1


def test_leaves_a_daemon() -> None:
    script = "setsid sleep 600 > /dev/null 2>&1 & echo $! > pid"
    subprocess.run(["sh", "-c", script], check=True)
"""
TIDY = """
import subprocess


def test_leaves_nothing() -> None:
    subprocess.run(["sleep", "0"], check=True)
"""


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), "-p", "tests.conftest"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_module_that_leaves_a_daemon_behind_fails_and_the_daemon_is_killed(tmp_path: Path) -> None:
    ran = run(tmp_path, LEAVER)

    assert ran.returncode == 1
    assert "left running by this module" in ran.stdout
    assert "sleep 600" in ran.stdout
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_module_that_leaves_nothing_passes(tmp_path: Path) -> None:
    ran = run(tmp_path, TIDY)

    assert ran.returncode == 0, ran.stdout
