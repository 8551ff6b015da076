"""A real notebook, in a real kernel: by-value functions, changed globals, awaited jobs, no guard of any kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.project import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CELLS = [
    "import cluster\nc = cluster.local(slots=2)",
    "factor = 3\n\ndef scale(n):\n    return n * factor",
    "c.submit(scale, (14,)).result()",
    "factor = 5\nawait c.submit(scale, (14,))",
    "def scale(n):\n    return -n",
    "list(c.map(scale, range(3)))",
    "c.close()",
]
# In a process of its own: the kernel's client libraries have warnings of their own, which are none of ours.
RUNNER = """
import json
import sys

import nbformat
from nbclient import NotebookClient

cells = [nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)]
notebook = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=60, kernel_name="python3").execute()
shown = [output["data"]["text/plain"] for cell in notebook.cells for output in cell.outputs if "data" in output]
print(json.dumps(shown))
"""


def test_a_notebook_s_functions_run_as_they_are_when_submitted(tmp_path: Path) -> None:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    ran = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(CELLS),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "HOME": str(tmp_path)},  # kernels write where HOME points
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == ["42", "70", "[0, -1, -2]"]
