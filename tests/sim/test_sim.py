from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.sim.__main__ import report
from tests.sim.run import Result, run
from tests.sim.world import SIZES, Size, draw_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 100
# A pass of the suite tries other seeds each time; a failure names its seed, which replays it.
FRESH = random.SystemRandom().randrange(1 << 30)


@pytest.mark.parametrize("first", [*range(0, 400, BLOCK), *range(FRESH, FRESH + 400, BLOCK)])
def test_every_promise_is_kept_whatever_goes_wrong(first: int) -> None:
    failures = [
        f"seed {result.seed}: {result.failure}\n{result.tail}\nreplay: python -m tests.sim --seed {result.seed} -v"
        for result in map(run, range(first, first + BLOCK))
        if result.failure
    ]

    assert not failures, "\n\n".join(failures)


def test_a_seed_replays_exactly() -> None:
    first = [run(seed) for seed in range(20)]

    second = [run(seed) for seed in range(20)]

    assert first == second


def test_a_replay_does_not_depend_on_the_order_of_hashes() -> None:
    command = [sys.executable, "-m", "tests.sim", "--seed", "7"]

    told = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        for seed in ("1", "2")
    ]

    assert "digest" in told[0].stdout
    assert told[0].stdout == told[1].stdout


def seeds_of(size: Size) -> Iterator[int]:
    return (seed for seed in itertools.count() if draw_plan(random.Random(seed)).size is size)


def test_worlds_of_every_size_are_eventful() -> None:
    kinds: set[str] = set()

    for size, worlds, least in zip(SIZES, (200, 30, 10), (7, 25, 200), strict=True):
        results = [run(seed) for seed in itertools.islice(seeds_of(size), worlds)]

        operations = sum(result.counts.get("operations", 0) for result in results)
        assert operations >= least * worlds
        assert sum(result.counts.get("faults", 0) for result in results) >= operations
        kinds.update(kind for result in results for kind in result.counts)
    assert kinds >= {
        "answer lost", "client killed", "clock stepped", "commit failed", "given up, and arrives",
        "master crashed in a commit", "master frozen", "master killed", "message cut off", "message doubled",
        "message dropped", "message late", "network cut", "session broken", "worker frozen", "worker killed",
    }  # fmt: skip


def test_a_failure_names_its_seed_and_how_to_replay_it(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(seed=4711, failure="lost: a1 was acknowledged", tail="", digest=0, counts={}, seconds=1.0)

    status = report(result)

    told = capsys.readouterr().out
    assert status == 1
    assert "seed 4711 FAILED: lost: a1 was acknowledged" in told
    assert "python -m tests.sim --seed 4711 -v" in told
