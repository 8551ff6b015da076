from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.worker.config import WorkerConfig


def test_surroundings_are_the_program_s_own_unless_given() -> None:
    config = WorkerConfig(name="w", slots=1)

    assert config.directory == str(Path.cwd())
    assert config.sys_path == tuple(sys.path)


def test_a_worker_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="at least one slot, not 0"):
        WorkerConfig(name="w", slots=0)


@pytest.mark.parametrize("name", ["", "a#b"])
def test_a_name_must_leave_room_for_the_incarnation(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        WorkerConfig(name=name, slots=1)
