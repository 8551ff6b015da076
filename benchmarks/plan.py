"""What is measured, on which sides, and what is hoped for.

The goals are those of the design's section 10, always as a ratio to a peer that ran in the same rounds: absolute numbers
of a shared machine differed by up to 2.7 times within an hour. A goal may have a first stage, which an early version is
to reach on its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# The same for every side: the design's budgets are stated for two slots on a two-core machine.
WORKERS = 2


class Workload(StrEnum):
    """One kind of measurement."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    MAP = "map"
    COLD = "cold"


class Side(StrEnum):
    """Who is measured."""

    MEMORY = "cluster, memory"
    SQLITE = "cluster, SQLite"
    TCP = "cluster, TCP, SQLite"  # a master and two workers as processes of their own
    EXECUTOR = "ProcessPoolExecutor"
    POOL = "multiprocessing.Pool"
    IMPORT = "import cluster"  # runs no jobs; a cold start alone


OURS = (Side.MEMORY, Side.SQLITE, Side.TCP)
PEERS = (Side.EXECUTOR, Side.POOL)


@dataclass(frozen=True, slots=True)
class Contender:
    """One side in one of its ways to start processes; measured in a process of its own."""

    side: Side
    start_method: str = ""

    def __str__(self) -> str:
        return f"{self.side} ({self.start_method})" if self.start_method else str(self.side)


CONTENDERS = (
    Contender(Side.MEMORY),
    Contender(Side.EXECUTOR, "fork"),
    Contender(Side.SQLITE),
    Contender(Side.EXECUTOR, "forkserver"),
    Contender(Side.TCP),
    Contender(Side.POOL, "fork"),
    Contender(Side.IMPORT),
)


def contenders_of(workload: Workload) -> tuple[Contender, ...]:
    """Who takes part in a workload."""
    if workload is Workload.COLD:
        return tuple(one for one in CONTENDERS if one.side is not Side.TCP)  # it is started long before it is used
    return tuple(one for one in CONTENDERS if one.side is not Side.IMPORT)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each workload one measurement does."""

    throughput_jobs: int = 10_000
    latency_round_trips: int = 1_000
    map_items: int = 100_000
    # The peers' chunk sizes are tuned by hand: each of these is tried, and the best one counts.
    map_chunksizes: tuple[int, ...] = (250, 1_000, 5_000, 25_000)
    warm_up_jobs: int = 200


FULL = Size()
QUICK = Size(throughput_jobs=300, latency_round_trips=50, map_items=2_000, map_chunksizes=(250, 1_000), warm_up_jobs=20)


@dataclass(frozen=True, slots=True)
class Goal:
    """How one of our sides is to stand against a peer: the ratio of its figure to the peer's, or a plain bound."""

    side: Side
    against: tuple[Side, ...]  # the better one of these; none: `bound` is in the figure's own unit
    bound: float
    first_stage: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a workload yields."""

    workload: Workload
    name: str
    unit: str
    is_more_better: bool
    goals: tuple[Goal, ...] = ()


FIGURES = (
    Figure(
        Workload.THROUGHPUT,
        "jobs",
        "jobs/s",
        is_more_better=True,
        goals=(
            Goal(Side.MEMORY, (Side.EXECUTOR,), 8.0, first_stage=4.0),
            Goal(Side.SQLITE, (Side.EXECUTOR,), 6.0, first_stage=3.0),
            Goal(Side.TCP, (Side.EXECUTOR,), 4.0, first_stage=2.0),
            Goal(Side.MEMORY, (Side.POOL,), 1.0),
            Goal(Side.SQLITE, (Side.POOL,), 1.0),
        ),
    ),
    Figure(
        Workload.LATENCY,
        "p50",
        "ms",
        is_more_better=False,
        goals=(
            Goal(Side.MEMORY, (Side.EXECUTOR,), 0.65),
            Goal(Side.SQLITE, (Side.EXECUTOR,), 1.5),
            Goal(Side.TCP, (Side.EXECUTOR,), 2.5),
        ),
    ),
    Figure(Workload.LATENCY, "p99", "ms", is_more_better=False),
    Figure(
        Workload.MAP,
        "items",
        "items/s",
        is_more_better=True,
        goals=(Goal(Side.MEMORY, PEERS, 1.0), Goal(Side.SQLITE, PEERS, 1.0), Goal(Side.TCP, PEERS, 0.5)),
    ),
    Figure(
        Workload.COLD,
        "first result",
        "ms",
        is_more_better=False,
        goals=(Goal(Side.MEMORY, (Side.EXECUTOR,), 2.5), Goal(Side.SQLITE, (Side.EXECUTOR,), 2.5)),
    ),
    Figure(Workload.COLD, "exit", "ms", is_more_better=False),
    Figure(
        Workload.COLD,
        "import over bare",
        "ms",
        is_more_better=False,
        goals=(Goal(Side.IMPORT, (), 60.0),),
    ),
)
