"""The whole demo, as a user runs it, and what becomes of it when the user stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.cli.demo_kill import wait_until_gone

DEADLINE_SECONDS = 60.0  # what the demo promises
MARKER = "DEMO_TEST_MARKER"


@pytest.fixture
def marker() -> Iterator[str]:
    """A value in the environment of the demo, and so of every process that it starts, however it is re-parented."""
    value = uuid.uuid4().hex
    yield value
    for process in marked(value):
        process.kill()


def marked(value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


EMBEDDED = ("--embedded", "--slots", "2")


def start_demo(state: Path, marker: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cluster", "demo", "--state", str(state), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {MARKER: marker, "COLUMNS": "80", "PYTHONUNBUFFERED": "1"},
        # As a terminal does: Ctrl-C goes to the demo's own group.
        process_group=0,
    )


def test_the_demo_on_a_cluster_loses_nothing_and_leaves_nothing_running(tmp_path: Path, marker: str) -> None:
    with start_demo(tmp_path, marker) as demo:
        output, _ = demo.communicate(timeout=DEADLINE_SECONDS)

    assert demo.returncode == 0, output
    assert re.search(r"SIGKILL to child \d+ of worker (one|two)", output)
    assert re.search(r"SIGKILL to worker (one|two) \(pid \d+\); the keeper restarts it", output)
    assert re.search(r"SIGKILL to the master \(pid \d+\); the keeper restarts it", output)
    total = re.search(r"jobs done ([\d,]+), re-run (\d+), lost 0$", output, re.MULTILINE)
    assert total is not None, output
    assert int(total[1].replace(",", "")) > 1000
    assert int(total[2]) >= 1  # the child's job at least
    assert "every acknowledged job has exactly one outcome" in output
    assert len(re.findall(r"^ +\d+ +\S+ +\S+\.py:\d+ *$", output, re.MULTILINE)) == 10
    assert (tmp_path / "demo.db").exists()
    assert marked(marker) == []


def test_ctrl_c_in_the_demo_on_a_cluster_brings_it_down(tmp_path: Path, marker: str) -> None:
    with start_demo(tmp_path, marker) as demo:
        assert demo.stdout is not None
        assert any(re.search(r"done [1-9]", line) for line in demo.stdout)
        family = marked(marker)

        os.killpg(demo.pid, signal.SIGINT)

        last_words = demo.stdout.read()
        status = demo.wait(timeout=30)
    assert len(family) > 4
    assert status == 130, last_words
    assert "interrupted" in last_words
    assert "Traceback" not in last_words
    assert marked(marker) == []


def test_the_embedded_demo_loses_nothing_and_leaves_nothing_running(tmp_path: Path, marker: str) -> None:
    with start_demo(tmp_path, marker, *EMBEDDED) as demo:
        output, _ = demo.communicate(timeout=DEADLINE_SECONDS)

    assert demo.returncode == 0, output
    assert re.search(r"SIGKILL to child \d+ after", output)
    assert re.search(r"SIGKILL to the whole process group: \d+ processes", output)
    total = re.search(r"jobs done ([\d,]+), re-run (\d+), lost 0$", output, re.MULTILINE)
    assert total is not None, output
    assert int(total[1].replace(",", "")) > 1000
    assert "every acknowledged job has exactly one outcome" in output
    assert len(re.findall(r"^ +\d+ +\S+ +\S+\.py:\d+ *$", output, re.MULTILINE)) == 10
    assert (tmp_path / "first.db").exists()
    assert (tmp_path / "second.db").exists()
    assert max(map(len, output.splitlines())) <= 80 or str(tmp_path) in output
    assert marked(marker) == []


@pytest.mark.parametrize("sentence", ["1. A durable run", "2. A second run"])
def test_ctrl_c_in_the_embedded_demo_leaves_nothing_running(tmp_path: Path, marker: str, sentence: str) -> None:
    with start_demo(tmp_path, marker, *EMBEDDED) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout)
        assert any(sentence in line for line in lines)
        assert any(re.search(r"done [1-9]", line) for line in lines)
        family = marked(marker)

        os.killpg(demo.pid, signal.SIGINT)

        last_words = demo.stdout.read()
        status = demo.wait(timeout=30)
    assert len(family) > 1
    assert status == 130, last_words
    assert "interrupted" in last_words
    assert "Traceback" not in last_words
    assert marked(marker) == []


def test_a_demo_that_is_killed_takes_its_second_process_along(tmp_path: Path, marker: str) -> None:
    with start_demo(tmp_path, marker, *EMBEDDED) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout)
        assert any("2. A second run" in line for line in lines)
        assert any("done " in line for line in lines)
        family = marked(marker)

        demo.kill()
        demo.wait(timeout=30)

    assert len(family) > 1
    wait_until_gone(family)
