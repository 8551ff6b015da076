"""A round trip, stage by stage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.fresh import PROJECT
from benchmarks.milestones import LAST, MILESTONES
from benchmarks.trip import spans

FIRST, SECOND = MILESTONES[0][0], MILESTONES[1][0]


def test_a_span_is_the_time_from_the_milestone_before() -> None:
    found = spans([(100, 200)], [(FIRST, 110), (SECOND, 150)])

    assert (found[FIRST], found[SECOND], found[LAST]) == ([10], [40], [50])


def test_a_milestone_that_was_passed_before_its_predecessor_was_another_s() -> None:
    found = spans([(100, 200)], [(SECOND, 105), (FIRST, 110), (SECOND, 150)])

    assert found[SECOND] == [40]


def test_one_that_is_not_passed_on_a_trip_is_left_out_there() -> None:
    found = spans([(100, 200), (300, 400)], [(FIRST, 110), (FIRST, 320), (SECOND, 350)])

    assert (found[FIRST], found[SECOND], found[LAST]) == ([10, 20], [30], [90, 50])


@pytest.mark.parametrize(
    ("side", "missing"), [("memory", {"master: its commit begins", "master: its commit is durable"}), ("tcp", set())]
)
def test_a_small_trip_tells_every_stage(side: str, missing: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "trip", "--side", side, "--trips", "50"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = {line.strip().split("  ", 1)[1] for line in done.stdout.splitlines()[1:]}
    assert told == {name for name, *_ in MILESTONES} - missing | {LAST}
