"""From samples to figures: medians, spreads, ratios, goals.

A side may have tried several ways (start methods, chunk sizes); the way with the best median stands for it, so the peers
are shown at their best. Ratios are taken round by round and the median of those is reported: the machine's drift then
hits both sides alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from benchmarks.plan import FIGURES, Figure, Goal, Side
from benchmarks.rounds import Sample


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over rounds, and the range it comes from."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        return cls(median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True, slots=True)
class Standing:
    """One side's figure, in the best of the ways that it tried."""

    figure: Figure
    side: Side
    way: str
    by_round: dict[int, float]
    spread: Spread


class Verdict(StrEnum):
    """How a goal stands."""

    REACHED = "reached"
    FIRST_STAGE = "first stage reached"
    MISSED = "MISSED"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One goal, and what was measured for it."""

    figure: Figure
    goal: Goal
    verdict: Verdict
    ours: Spread | None = None  # the figures themselves
    theirs: Spread | None = None
    peer: Side | None = None  # whom the ratio is to
    spread: Spread | None = None  # what the goal is about: the ratio, or our figure where there is no peer


def standings(samples: Sequence[Sample]) -> list[Standing]:
    """Every figure of every side that was measured, in the order of the plan."""
    found: list[Standing] = []
    for figure in FIGURES:
        ways: dict[Side, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for sample in samples:
            if sample.workload is figure.workload and sample.reading.figure == figure.name:
                way = ", ".join(filter(None, [sample.contender.start_method, sample.reading.way]))
                ways[sample.contender.side][way][sample.round] = sample.reading.value
        found += [best_way(figure, side, ways[side]) for side in Side if side in ways]
    return found


def best_way(figure: Figure, side: Side, ways: dict[str, dict[int, float]]) -> Standing:
    """The way with the best median; one that failed in some round must not win by having run in the fast ones only."""
    most_rounds = max(len(values) for values in ways.values())
    complete = {way: values for way, values in ways.items() if len(values) == most_rounds}
    choose = max if figure.is_more_better else min
    way = choose(complete, key=lambda name: median(complete[name].values()))
    return Standing(figure, side, way, complete[way], Spread.of(complete[way].values()))


def ratio(ours: Standing, peer: Standing) -> Spread | None:
    """Ours to the peer's, over the rounds in which both were measured."""
    shared = ours.by_round.keys() & peer.by_round.keys()
    return Spread.of(ours.by_round[number] / peer.by_round[number] for number in shared) if shared else None


def ratios(all_standings: Sequence[Standing], peers: Sequence[Side]) -> dict[tuple[str, Side, Side], Spread]:
    """Ratio by (figure, side, peer), of each side to each of these peers."""
    found: dict[tuple[str, Side, Side], Spread] = {}
    for one in all_standings:
        for peer in all_standings:
            if peer.side in peers and peer.side is not one.side and peer.figure == one.figure:
                against = ratio(one, peer)
                if against is not None:
                    found[key_of(one.figure), one.side, peer.side] = against
    return found


def key_of(figure: Figure) -> str:
    """A figure's name, unique over the workloads."""
    return f"{figure.workload}: {figure.name}"


def judgements(all_standings: Sequence[Standing]) -> list[Judgement]:
    """Every goal, those too for which too little was measured."""
    found: list[Judgement] = []
    for figure in FIGURES:
        here = {standing.side: standing for standing in all_standings if standing.figure == figure}
        found += [judge(figure, goal, here) for goal in figure.goals]
    return found


def judge(figure: Figure, goal: Goal, here: dict[Side, Standing]) -> Judgement:
    """One goal, by what was measured."""
    ours = here.get(goal.side)
    if ours is None:
        return Judgement(figure, goal, Verdict.UNMEASURED)
    if not goal.against:
        verdict = verdict_of(figure, goal, ours.spread.median)
        return Judgement(figure, goal, verdict, ours=ours.spread, spread=ours.spread)
    peers = [here[side] for side in goal.against if side in here]
    if len(peers) < len(goal.against):
        return Judgement(figure, goal, Verdict.UNMEASURED, ours=ours.spread)
    choose = max if figure.is_more_better else min
    best = choose(peers, key=lambda standing: standing.spread.median)
    against = ratio(ours, best)
    if against is None:
        return Judgement(figure, goal, Verdict.UNMEASURED, ours=ours.spread, theirs=best.spread, peer=best.side)
    return Judgement(
        figure,
        goal,
        verdict_of(figure, goal, against.median),
        ours=ours.spread,
        theirs=best.spread,
        peer=best.side,
        spread=against,
    )


def verdict_of(figure: Figure, goal: Goal, value: float) -> Verdict:
    """Whether a value is on the right side of the goal's bound, or at least of its first stage."""

    def reaches(bound: float) -> bool:
        return value >= bound if figure.is_more_better else value <= bound

    if reaches(goal.bound):
        return Verdict.REACHED
    if goal.first_stage is not None and reaches(goal.first_stage):
        return Verdict.FIRST_STAGE
    return Verdict.MISSED
