"""The slope test: a leak is found, and a warm-up, noise and short lives are none."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos.samples import LEAST_SECONDS, WARM_UP_SECONDS, Growth, Sample, growths

LIFE_SECONDS = 120.0


def a_life(memory: Callable[[float], float], *, seconds: float = LIFE_SECONDS, descriptors: int = 20) -> list[Sample]:
    """A sample each half second."""
    times = [number / 2 for number in range(int(seconds * 2))]
    return [Sample("master", 7, 1000 + at, int(memory(at)), descriptors, 9) for at in times]


def of_memory(found: list[Growth]) -> Growth:
    (growth,) = [each for each in found if each.figure == "memory"]
    return growth


def test_a_steady_leak_is_clear_even_through_noise() -> None:
    chance = random.Random(1)

    growth = of_memory(growths(a_life(lambda at: 40e6 + at * 100_000 + chance.uniform(-1e6, 1e6))))

    assert growth.is_clear
    assert 5e6 < growth.per_minute < 7e6


def test_noise_and_a_single_step_are_no_growth() -> None:
    chance = random.Random(2)

    noisy = growths(a_life(lambda at: 40e6 + chance.uniform(-3e6, 3e6)))
    stepped = growths(a_life(lambda at: 40e6 + (8e6 if at > 100 else 0)))

    assert not of_memory(noisy).is_clear
    assert not of_memory(stepped).is_clear


def test_what_grows_at_the_beginning_only_is_a_warm_up() -> None:
    found = growths(a_life(lambda at: 40e6 + min(at, WARM_UP_SECONDS) * 2e6))

    assert not of_memory(found).is_clear


def test_descriptors_that_pile_up_are_found() -> None:
    life = [
        Sample(each.name, each.pid, each.at, each.memory, 20 + int(each.at - 1000) // 10, each.threads)
        for each in a_life(lambda at: 40e6)
    ]

    assert [each.figure for each in growths(life) if each.is_clear] == ["descriptors"]


def test_each_life_is_looked_at_by_itself_and_short_ones_not_at_all() -> None:
    short = a_life(lambda at: 40e6 + at * 1e6, seconds=WARM_UP_SECONDS + LEAST_SECONDS - 1)
    another = [Sample(each.name, 8, each.at + 500, 90_000_000, 20, 9) for each in a_life(lambda at: 0)]

    found = growths([*short, *another])

    assert {each.first for each in found if each.figure == "memory"} == {90_000_000.0}
    assert not any(each.is_clear for each in found)
