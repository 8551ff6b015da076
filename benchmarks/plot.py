"""Plots for the documentation, as SVG. Needs matplotlib, which is in the optional extra `bench`.

One look for all: no frame but what carries meaning, names beside what they name instead of a legend, text as text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plan import FIGURES, OURS, Figure, Side
from benchmarks.report import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

INK, PALE, GRID = "#1f2933", "#7b8794", "#e4e7eb"
REACHED_COLOUR, MISSED_COLOUR, NO_GOAL_COLOUR, THEIR_COLOUR = "#2c7a51", "#c05621", "#9bc4ae", "#b8c0ca"
LINE_COLOURS = (REACHED_COLOUR, MISSED_COLOUR, "#2b6cb0", PALE)
GOAL_COLOUR = "#1f2933"
LOOK = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "cluster",  # the same figures give the same file
    "text.color": INK,
    "axes.labelcolor": PALE,
    "xtick.color": PALE,
    "ytick.color": INK,
}
TITLES = {
    "throughput: jobs": "jobs a second, submitted one by one",
    "latency: p50": "round trip of one job, p50",
    "map: items": "map of 100,000 no-ops",
    "cold: first result": "first result of a cold script",
}
ROW_INCHES = 0.27


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the plot of ratios: how many times as fast as ProcessPoolExecutor."""

    label: str
    speed: float
    low: float
    high: float
    goal: float | None
    is_ours: bool
    text: str  # the figure itself

    @property
    def colour(self) -> str:
        """By whose it is, and whether it is where it should be."""
        if not self.is_ours:
            return THEIR_COLOUR
        if self.goal is None:
            return NO_GOAL_COLOUR
        return REACHED_COLOUR if self.speed >= self.goal else MISSED_COLOUR


def bars_of(found: Mapping[str, Any]) -> dict[str, list[Bar]]:
    """The rows of each group, from the record that `--json` writes; of durations the inverse ratio, so right is good."""
    medians = {(one["figure"], one["side"]): one for one in found["standings"]}
    groups: dict[str, list[Bar]] = {}
    for figure in FIGURES:
        key = f"{figure.workload}: {figure.name}"
        if key not in TITLES:
            continue
        speeds = {
            Side(one["side"]): speed_of(figure, one)
            for one in found["ratios"]
            if one["figure"] == key and one["to"] == Side.EXECUTOR
        }
        for side, (speed, low, high) in speeds.items():
            standing = medians[key, side]
            goal = goal_of(figure, side, {peer: of_peer for peer, (of_peer, _, _) in speeds.items()})
            text = f"{number(standing['median'])} {standing['unit']}"
            groups.setdefault(TITLES[key], []).append(Bar(side, speed, low, high, goal, side in OURS, text))
    return groups


def speed_of(figure: Figure, ratio: Mapping[str, float]) -> tuple[float, float, float]:
    """Median and range of a ratio, turned so that more is better."""
    if figure.is_more_better:
        return ratio["median"], ratio["low"], ratio["high"]
    return 1 / ratio["median"], 1 / ratio["high"], 1 / ratio["low"]


def goal_of(figure: Figure, side: Side, speeds: Mapping[Side, float]) -> float | None:
    """How many times as fast as ProcessPoolExecutor a side is to be: so much of the best that it is compared with."""
    for goal in figure.goals:
        if goal.side is side and Side.EXECUTOR in goal.against:
            best = max(speeds.get(peer, 1.0) for peer in goal.against)
            return best * (goal.bound if figure.is_more_better else 1 / goal.bound)
    return None


def require_matplotlib() -> None:
    """Say what is missing before anything is measured for an hour. Ends the program if it is."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("benchmarks: to draw needs matplotlib; pip install 'cluster-kit[bench]'")


def plot_ratios(found: Mapping[str, Any], file: Path) -> None:
    """Draw one row for each side of each workload; a file's ending says what it will be."""
    groups = bars_of(found)
    rows = [(title, bar) for title, bars in groups.items() for bar in bars]
    if not rows:
        raise SystemExit("nothing to draw: measure throughput, latency, map or cold, and ProcessPoolExecutor with it")
    drawing, axes = new_drawing(ROW_INCHES * (len(rows) + 1.6 * len(groups)) + 0.9)
    axes.set_xscale("log")
    place = 0.0
    places: list[tuple[float, str]] = []
    for title, bars in groups.items():
        place += 1.0
        axes.text(0.0, place, title, transform=axes.get_yaxis_transform(), fontweight="bold", va="center", ha="left")
        place += 1.0
        for bar in bars:
            draw_bar(axes, place, bar)
            places.append((place, bar.label))
            place += 1.0
        place -= 0.4
    axes.axvline(1.0, color=PALE, linewidth=0.8, zorder=1)
    finish_ratios(axes, places, place, [bar for _, bar in rows])
    save(drawing, file)


def draw_bar(axes: Axes, place: float, bar: Bar) -> None:
    axes.barh(place, bar.speed - 1.0, left=1.0, height=0.62, color=bar.colour, zorder=2)
    axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=0.8, alpha=0.55, zorder=3)
    if bar.goal is not None:
        axes.plot([bar.goal, bar.goal], [place - 0.42, place + 0.42], color=GOAL_COLOUR, linewidth=2.2, zorder=4)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "color": INK}
    axes.text(1.09, place, f"{number(bar.speed)} x", ha="right", **beside)
    axes.text(1.11, place, bar.text, ha="left", **beside)


def finish_ratios(axes: Axes, places: Sequence[tuple[float, str]], end: float, bars: Iterable[Bar]) -> None:
    """Ticks, limits and the words around."""
    values = [value for bar in bars for value in (bar.low, bar.high, bar.goal, 1.0) if value is not None]
    low, high = min(values) / 1.25, max(values) * 1.25
    axes.set_xlim(low, high)
    axes.set_ylim(end, 0.2)
    axes.set_yticks([place for place, _ in places], [label for _, label in places])
    steps = [step for step in (0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 100) if low <= step <= high]
    axes.set_xticks(steps, ["1 = PPE" if step == 1 else f"{step:g} x" for step in steps])
    axes.minorticks_off()
    axes.set_title(
        "Speed relative to ProcessPoolExecutor (right: faster; log scale; thin line: range over the rounds)\n"
        "black mark: the goal; green: reached, orange: not, pale: ours without a goal, grey: the others",
        loc="left",
        fontsize=9.5,
        color=PALE,
        pad=10,
    )


def plot_growth(points: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw what a job costs over what grows: one small panel for each experiment."""
    series = growth_series(points)
    if not series:
        raise SystemExit("nothing to draw: no point was measured")
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(LOOK):
        drawing = Canvas(figsize=(9.0, 2.6 * ((len(series) + 1) // 2)), layout="constrained")
        for index, (title, lines) in enumerate(series.items()):
            axes = drawing.add_subplot((len(series) + 1) // 2, 2, index + 1)
            bare(axes)
            axes.set_xscale("log")
            axes.set_title(title, loc="left", fontsize=9.5, color=INK)
            for shade, (name, pairs) in zip(LINE_COLOURS, lines.items(), strict=False):
                xs, ys = zip(*pairs, strict=True)
                axes.plot(xs, ys, marker="o", markersize=3.5, color=shade, linewidth=1.6)
                beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(name, (xs[-1], ys[-1]), color=shade, **beside)
            ticks = sorted({x for pairs in lines.values() for x, _ in pairs})
            axes.set_xticks(ticks, [short(x) for x in ticks])
            axes.minorticks_off()
            axes.margins(x=0.05, y=0.12)
            axes.set_ylim(bottom=0.0)
        save(drawing, file)


def growth_series(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Panels, their lines, and the pairs of each."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def add(panel: str, line: str, at: float, value: float) -> None:
        series.setdefault(panel, {}).setdefault(line, []).append((at, value))

    for point in points:
        size, values = float(point["size"]), point["values"]
        match point["experiment"]:
            case "board" | "board-dependent" as name:
                line = "plain" if name == "board" else "dependent"
                add("pure board, µs a job, by jobs on it", line, size, 1e6 / values["jobs/s"])
            case "local" | "local-dependent" as name:
                line = "plain" if name == "local" else "dependent"
                add("embedded, durable, 2 slots: cpu µs a job, by jobs", line, size, values["cpu, µs a job"])
            case "slots":
                add("embedded, durable: µs a job, by slots", "wall", size, values["wall, µs a job"])
                add("embedded, durable: µs a job, by slots", "cpu", size, values["cpu, µs a job"])
            case "workers":
                add("master's cpu µs a job, by connected workers", "all", size, values["master cpu, µs a job"])
            case "queued":
                for name, value in values.items():
                    figure, _, depth = name.rpartition(" at ")
                    if figure in {"lease p50", "lease p99"} and "/" not in figure:
                        at = float(depth.replace(",", ""))
                        add("lease latency, ms, by queued jobs", figure.removeprefix("lease "), at, value)
    return series


def short(count: float) -> str:
    """1000 as "1k"."""
    if count >= 1e6:
        return f"{count / 1e6:g}M"
    return f"{count / 1e3:g}k" if count >= 1e3 else f"{count:g}"


def new_drawing(height: float) -> tuple[Drawing, Axes]:
    from matplotlib import rcParams
    from matplotlib.figure import Figure as Canvas

    rcParams.update(LOOK)
    drawing = Canvas(figsize=(9.5, height), layout="constrained")
    axes = drawing.add_subplot()
    bare(axes)
    return drawing, axes


def bare(axes: Axes) -> None:
    """Nothing but a pale grid."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)


def save(drawing: Drawing, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {"metadata": {"Date": None}} if file.suffix == ".svg" else {"dpi": 110}
    drawing.savefig(file, facecolor="white", **plain)
