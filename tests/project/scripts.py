"""Run a script as a reader would: a fresh interpreter, an empty folder, warnings as errors."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.project import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_SECONDS = 60


def assert_runs(script: Path, folder: Path) -> str:
    """What the script printed; fails if it failed, or if anything went wrong aloud."""
    # The source tree first, so that the tests need no installation.
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.stdout
