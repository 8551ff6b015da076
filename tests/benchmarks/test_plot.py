"""What is drawn, and where its marks are; not the drawing itself, which needs matplotlib."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.fresh import PROJECT
from benchmarks.measuring import Reading
from benchmarks.plan import FULL, Contender, Side, Workload
from benchmarks.plot import MISSED_COLOUR, NO_GOAL_COLOUR, REACHED_COLOUR, THEIR_COLOUR, Bar, bars_of, growth_series
from benchmarks.report import as_json
from benchmarks.rounds import Record, Sample


def record(workload: Workload, figure: str, **values: float) -> Record:
    """One round's value of each side, by the name of the side."""
    samples = [Sample(0, workload, Contender(Side[side]), Reading(figure, value)) for side, value in values.items()]
    return Record(samples=samples, loads=[(0.0, 0.0, 0.0)])


def bars(made: Record) -> dict[str, Bar]:
    (group,) = bars_of(as_json(made, FULL)).values()
    return {bar.label: bar for bar in group}


def test_a_bar_is_as_long_as_its_ratio_to_the_standard_library_s_pool() -> None:
    found = bars(record(Workload.THROUGHPUT, "jobs", MEMORY=900.0, SQLITE=500.0, TLS=300.0, EXECUTOR=100.0, POOL=200.0))

    assert {label: bar.speed for label, bar in found.items()} == {
        Side.MEMORY: 9.0,
        Side.SQLITE: 5.0,
        Side.TLS: 3.0,
        Side.POOL: 2.0,
    }
    assert [found[side].colour for side in (Side.MEMORY, Side.SQLITE, Side.TLS, Side.POOL)] == [
        REACHED_COLOUR,
        MISSED_COLOUR,
        NO_GOAL_COLOUR,
        THEIR_COLOUR,
    ]


def test_of_durations_the_shorter_one_is_the_longer_bar() -> None:
    found = bars(record(Workload.LATENCY, "p50", MEMORY=0.5, EXECUTOR=1.0))

    assert (found[Side.MEMORY].speed, found[Side.MEMORY].colour) == (2.0, REACHED_COLOUR)


def test_the_mark_of_a_goal_against_the_better_of_two_stands_at_the_better_one() -> None:
    found = bars(record(Workload.MAP, "items", MEMORY=200.0, TCP=200.0, EXECUTOR=100.0, POOL=300.0))

    assert (found[Side.MEMORY].goal, found[Side.MEMORY].colour) == (3.0, MISSED_COLOUR)
    assert (found[Side.TCP].goal, found[Side.TCP].colour) == (1.5, REACHED_COLOUR)


def test_growth_has_a_line_for_each_kind_of_point() -> None:
    points = [
        {"experiment": "board", "size": 1_000, "values": {"jobs/s": 100_000.0}},
        {"experiment": "board-dependent", "size": 1_000, "values": {"jobs/s": 50_000.0}},
        {"experiment": "queued", "size": 10_000, "values": {"lease p50 at 1,000": 0.2, "lease p50 at 10,000": 0.3}},
    ]

    series = growth_series(points)

    assert series["pure board, µs a job, by jobs on it"] == {"plain": [(1_000.0, 10.0)], "dependent": [(1_000.0, 20.0)]}
    assert series["lease latency, ms, by queued jobs"] == {"p50": [(1_000.0, 0.2), (10_000.0, 0.3)]}


def test_without_matplotlib_one_is_told_before_anything_is_measured() -> None:
    hidden = "import sys; sys.modules['matplotlib'] = None; import importlib.util as u; u.find_spec = lambda _: None;"

    done = subprocess.run(
        [sys.executable, "-c", f"{hidden} from benchmarks.__main__ import main; main(['--plot', 'x.svg'])"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == "benchmarks: to draw needs matplotlib; pip install 'cluster-kit[bench]'\n"
