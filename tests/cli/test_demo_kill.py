"""The demo's kills, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from cluster.cli.demo_kill import kill_child, kill_with_descendants

# A process whose child leads a session of its own, as a nursery does; both wait until their input ends.
FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
input()
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_every_group_of_a_family_is_killed(family: tuple[subprocess.Popen[bytes], int]) -> None:
    process, child = family
    assert os.getpgid(child) != os.getpgid(process.pid)

    killed = kill_with_descendants(process.pid)

    assert killed == 2
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert process.wait(timeout=10) == -9


def test_killing_what_is_gone_already_kills_nobody(family: tuple[subprocess.Popen[bytes], int]) -> None:
    process, _ = family
    kill_with_descendants(process.pid)
    process.wait(timeout=10)

    killed = kill_with_descendants(process.pid)

    assert killed == 0


def test_a_child_of_this_process_is_killed(family: tuple[subprocess.Popen[bytes], int]) -> None:
    process, _ = family

    was_killed = kill_child(process.pid)

    assert was_killed
    assert process.wait(timeout=10) == -9


def test_a_process_that_is_not_below_this_one_is_left_alone() -> None:
    stranger = os.getppid()

    was_killed = kill_child(stranger)

    assert not was_killed
    assert psutil.pid_exists(stranger)
