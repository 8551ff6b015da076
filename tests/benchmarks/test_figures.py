"""Medians, ratios and goals of the benchmarks, from samples written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.figures import Spread, Verdict, judgements, ratio, ratios, standings
from benchmarks.measuring import Reading, percentile
from benchmarks.plan import FIGURES, Contender, Side, Workload
from benchmarks.rounds import Sample


def samples(
    side: Side,
    values: Sequence[float],
    *,
    workload: Workload = Workload.THROUGHPUT,
    figure: str = "jobs",
    way: str = "",
) -> list[Sample]:
    contender = Contender(side, way)
    return [Sample(number, workload, contender, Reading(figure, value)) for number, value in enumerate(values)]


def verdicts(all_samples: Sequence[Sample]) -> dict[tuple[Side, Side | None], Verdict]:
    """Of the goals for which something was measured."""
    return {
        (found.goal.side, found.peer): found.verdict
        for found in judgements(standings(all_samples))
        if found.verdict is not Verdict.UNMEASURED
    }


def test_a_side_stands_with_its_median_and_range() -> None:
    (standing,) = standings(samples(Side.MEMORY, [30.0, 10.0, 20.0]))

    assert standing.spread == Spread(median=20.0, low=10.0, high=30.0)


def test_the_best_way_of_a_side_stands_for_it() -> None:
    slow = samples(Side.EXECUTOR, [1.0, 9.0, 1.0], way="fork")
    fast = samples(Side.EXECUTOR, [3.0, 3.0, 3.0], way="forkserver")

    (standing,) = standings(slow + fast)

    assert (standing.way, standing.spread.median) == ("forkserver", 3.0)


def test_for_a_duration_the_best_way_is_the_shortest() -> None:
    long = samples(Side.POOL, [4.0], workload=Workload.LATENCY, figure="p50", way="spawn")
    short = samples(Side.POOL, [2.0], workload=Workload.LATENCY, figure="p50", way="fork")

    (standing,) = standings(long + short)

    assert standing.way == "fork"


def test_a_way_that_failed_in_a_round_does_not_stand_for_its_side() -> None:
    lucky = samples(Side.EXECUTOR, [100.0], way="fork")
    steady = samples(Side.EXECUTOR, [3.0, 3.0], way="forkserver")

    (standing,) = standings(lucky + steady)

    assert standing.way == "forkserver"


def test_a_ratio_is_taken_within_each_round_so_that_drift_cancels_out() -> None:
    # The machine is ten times slower in the second round, for both.
    ours, peer = standings(samples(Side.MEMORY, [800.0, 80.0, 880.0]) + samples(Side.EXECUTOR, [100.0, 10.0, 100.0]))

    against = ratio(ours, peer)

    assert against == Spread(median=8.0, low=8.0, high=8.8)


def test_sides_that_share_no_round_have_no_ratio() -> None:
    late = Sample(5, Workload.THROUGHPUT, Contender(Side.MEMORY), Reading("jobs", 1.0))

    found = ratios(standings([late, *samples(Side.EXECUTOR, [1.0])]), [Side.EXECUTOR])

    assert found == {}


@pytest.mark.parametrize(
    ("jobs", "verdict"),
    [(80.0, Verdict.REACHED), (79.0, Verdict.FIRST_STAGE), (40.0, Verdict.FIRST_STAGE), (39.0, Verdict.MISSED)],
)
def test_a_throughput_goal_is_reached_at_its_bound_and_not_below(jobs: float, verdict: Verdict) -> None:
    found = verdicts(samples(Side.MEMORY, [jobs]) + samples(Side.EXECUTOR, [10.0]))

    assert found == {(Side.MEMORY, Side.EXECUTOR): verdict}


@pytest.mark.parametrize(("milliseconds", "verdict"), [(0.65, Verdict.REACHED), (0.66, Verdict.MISSED)])
def test_a_latency_goal_is_reached_at_its_bound_and_not_above(milliseconds: float, verdict: Verdict) -> None:
    ours = samples(Side.MEMORY, [milliseconds], workload=Workload.LATENCY, figure="p50")
    peer = samples(Side.EXECUTOR, [1.0], workload=Workload.LATENCY, figure="p50")

    found = verdicts(ours + peer)

    assert found == {(Side.MEMORY, Side.EXECUTOR): verdict}


def test_a_map_goal_is_against_the_better_peer_and_waits_for_both() -> None:
    def mapped(side: Side, rate: float) -> list[Sample]:
        return samples(side, [rate], workload=Workload.MAP, figure="items")

    ours = mapped(Side.MEMORY, 15.0)

    with_both = verdicts(ours + mapped(Side.EXECUTOR, 10.0) + mapped(Side.POOL, 20.0))
    with_one = verdicts(ours + mapped(Side.EXECUTOR, 10.0))

    assert with_both == {(Side.MEMORY, Side.POOL): Verdict.MISSED}
    assert with_one == {}


def test_a_goal_for_which_too_little_was_measured_is_listed_as_such() -> None:
    found = judgements(standings(samples(Side.TCP, [20_000.0])))

    against_ray = next(one for one in found if one.goal.side is Side.TCP and one.goal.against == (Side.RAY,))
    assert against_ray.verdict is Verdict.UNMEASURED
    assert against_ray.ours == Spread(20_000.0, 20_000.0, 20_000.0)
    assert len(found) == sum(len(figure.goals) for figure in FIGURES)


def test_a_judgement_has_both_figures_beside_their_ratio() -> None:
    found = judgements(standings(samples(Side.MEMORY, [80.0]) + samples(Side.EXECUTOR, [10.0])))

    judged = next(one for one in found if one.peer is Side.EXECUTOR)
    assert judged.ours is not None
    assert judged.theirs is not None
    assert (judged.ours.median, judged.theirs.median) == (80.0, 10.0)
    assert judged.spread == Spread(8.0, 8.0, 8.0)


def test_a_plain_bound_needs_no_peer() -> None:
    found = verdicts(samples(Side.IMPORT, [59.0], workload=Workload.COLD, figure="import over bare"))

    assert found == {(Side.IMPORT, None): Verdict.REACHED}


@pytest.mark.parametrize(("percent", "value"), [(50, 50.0), (99, 99.0), (100, 100.0), (1, 1.0), (0, 1.0)])
def test_a_percentile_is_the_nearest_rank(percent: float, value: float) -> None:
    hundred = [float(number) for number in range(100, 0, -1)]

    assert percentile(hundred, percent) == value
