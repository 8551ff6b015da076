"""What a job costs as things grow: sizes, the board's experiment, and a small run over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fresh import PROJECT
from benchmarks.scaling.__main__ import Experiment, Point, sizes_of, tables
from benchmarks.scaling.board import measure_board, specifications
from benchmarks.scaling.queued import depths


def test_sizes_go_up_to_a_bound() -> None:
    assert sizes_of(Experiment.SLOTS, 8) == [1, 2, 4, 8]
    assert sizes_of(Experiment.SLOTS, None)[-1] == 64
    assert sizes_of(Experiment.QUEUED, 5_000) == [5_000]


def test_the_queue_is_looked_at_in_steps_of_ten_and_when_full() -> None:
    assert depths(1_000_000) == [1_000, 10_000, 100_000, 1_000_000]
    assert depths(25_000) == [1_000, 10_000, 25_000]


@pytest.mark.parametrize("is_dependent", [False, True])
def test_the_board_ends_every_job_and_each_step_took_time(is_dependent: bool) -> None:
    found = measure_board(500, is_dependent=is_dependent)

    assert found.keys() == {"submit, µs", "lease, µs", "report, µs", "forget, µs", "jobs/s"}
    assert all(value > 0 for value in found.values())


def test_each_second_job_depends_on_the_one_before_it() -> None:
    plain = list(specifications(4, is_dependent=False))
    dependent = list(specifications(4, is_dependent=True))

    assert [spec.after for spec in plain] == [()] * 4
    assert [spec.after for spec in dependent] == [(), ("job-0",), (), ("job-2",)]


def test_an_experiment_s_points_are_rows_of_one_table() -> None:
    points = [Point(Experiment.SLOTS, size, {"cpu, µs a job": 40.0 + size}) for size in (1, 2)]

    lines = tables(points)

    assert lines[:4] == ["### slots", "", "| n | cpu, µs a job |", "| ---: | ---: |"]
    assert lines[4:6] == ["| 1 | 41 |", "| 2 | 42 |"]


def test_a_quick_run_over_real_sockets_has_a_point_for_each_size(tmp_path: Path) -> None:
    file = tmp_path / "growth.json"

    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.scaling", "--quick", "--json", str(file)),
            *("board", "local-dependent", "slots", "workers"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    told = json.loads(file.read_text(encoding="utf-8"))
    assert (done.returncode, told["failures"]) == (0, []), done.stderr
    assert [(point["experiment"], point["size"]) for point in told["points"]] == [
        ("board", 1_000),
        ("board", 10_000),
        ("local-dependent", 1_000),
        ("slots", 1),
        ("slots", 2),
        ("slots", 4),
        ("workers", 1),
        ("workers", 10),
    ]
    assert all(value >= 0 for point in told["points"] for value in point["values"].values())
