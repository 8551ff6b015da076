"""The `cluster` command itself: version, mistakes, exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_version_is_one_line() -> None:
    done = run_cluster("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cluster ")
    assert done.stdout.count("\n") == 1


def test_version_needs_neither_rich_nor_the_demo() -> None:
    code = (
        "import sys, cluster.cli.main; print(sorted({'rich.live', 'cluster.cli.demo', 'sqlite3'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_an_unknown_command_is_a_mistake_of_the_caller() -> None:
    done = run_cluster("dmeo")

    assert done.returncode == 2
    assert "dmeo" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_the_state_of_an_earlier_demo_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "first.db").write_text("precious")

    done = run_cluster("demo", "--state", str(tmp_path))

    assert done.returncode == 2
    assert "name another folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("first.db", "precious")]
