"""What is measured, on which sides, and what is hoped for.

The goals are those of the design's section 10, as a ratio to a peer that ran in the same rounds wherever there is one:
absolute numbers of a shared machine differed by up to 2.7 times within an hour. A goal may have a first stage, which an
early version is to reach on its way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

# The same for every side: the design's budgets are stated for two slots on a two-core machine.
WORKERS = 2


class Workload(StrEnum):
    """One kind of measurement."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    MAP = "map"
    COLD = "cold"
    LIMITS = "limits"  # what the machine can do at all
    IDLE = "idle"
    DEATH = "death"  # of one child
    QUEUED = "queued"  # many jobs wait
    CONNECTED = "connected"  # many workers are there


class Side(StrEnum):
    """Who is measured."""

    MEMORY = "cluster, memory"
    SQLITE = "cluster, SQLite"
    TCP = "cluster, TCP, SQLite"  # a master and two workers as processes of their own
    TLS = "cluster, TCP+TLS, SQLite"
    BARE = "bare shape"  # without any promise: what the machine allows
    BARE_SQLITE = "bare shape, SQLite"
    EXECUTOR = "ProcessPoolExecutor"
    POOL = "multiprocessing.Pool"
    LOKY = "joblib/loky"
    DASK = "dask.distributed"
    RAY = "Ray"
    CELERY = "Celery, Redis"
    HYPERQUEUE = "HyperQueue"
    IMPORT = "import cluster"  # runs no jobs; a cold start alone
    MACHINE = "the machine"


OURS = (Side.MEMORY, Side.SQLITE, Side.TCP, Side.TLS)
PEERS = (Side.EXECUTOR, Side.POOL, Side.LOKY)
# On request, each in an environment of its own; by their names on the command line.
EXTRAS = {"dask": Side.DASK, "ray": Side.RAY, "celery": Side.CELERY, "hyperqueue": Side.HYPERQUEUE}


@dataclass(frozen=True, slots=True)
class Contender:
    """One side in one of its ways to start processes; measured in a process of its own."""

    side: Side
    start_method: str = ""

    def __str__(self) -> str:
        return f"{self.side} ({self.start_method})" if self.start_method else str(self.side)


# Ours and theirs by turns, so that no kind of side always runs on what the other one left of the machine's moods.
CONTENDERS = (
    Contender(Side.MEMORY),
    Contender(Side.EXECUTOR, "fork"),
    Contender(Side.SQLITE),
    Contender(Side.EXECUTOR, "forkserver"),
    Contender(Side.TCP),
    Contender(Side.POOL, "fork"),
    Contender(Side.TLS),
    Contender(Side.LOKY),
)
# What has no start of its own, and no map.
BARE = (Contender(Side.BARE), Contender(Side.BARE_SQLITE))
COLD_CONTENDERS = (
    # Those over TCP are started long before they are used.
    *(one for one in CONTENDERS if one.side not in {Side.TCP, Side.TLS}),
    Contender(Side.IMPORT),
)
ALONE = {
    Workload.LIMITS: (Contender(Side.MACHINE),),
    Workload.IDLE: (Contender(Side.TCP),),
    Workload.DEATH: (Contender(Side.MEMORY),),
    Workload.QUEUED: (Contender(Side.TCP),),
    Workload.CONNECTED: (Contender(Side.TCP),),
}
# They take minutes at their full size, and mean nothing at a smaller one: run on request, and in the first round only.
LONG = (Workload.QUEUED, Workload.CONNECTED)


def contenders_of(workload: Workload, extras: tuple[Side, ...] = ()) -> tuple[Contender, ...]:
    """Who takes part in a workload."""
    if workload in ALONE:
        return ALONE[workload]
    if workload is Workload.COLD:
        return COLD_CONTENDERS
    if workload is Workload.MAP:  # of the extras none has a map that takes plain items to chunks of its own choice
        return CONTENDERS
    return (*CONTENDERS, *BARE, *map(Contender, extras))


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each workload one measurement does."""

    throughput_jobs: int = 10_000
    latency_round_trips: int = 1_000
    map_items: int = 100_000
    # The peers' chunk sizes are tuned by hand: each of these is tried, and the best one counts.
    map_chunksizes: tuple[int, ...] = (250, 1_000, 5_000, 25_000)
    warm_up_jobs: int = 200
    limit_seconds: float = 0.5  # for each of the machine's limits
    idle_seconds: float = 10.0
    deaths: int = 20
    queued_jobs: int = 1_000_000
    connected_workers: int = 1_000
    connected_seconds: float = 30.0


FULL = Size()
QUICK = Size(
    throughput_jobs=300,
    latency_round_trips=50,
    map_items=2_000,
    map_chunksizes=(250, 1_000),
    warm_up_jobs=20,
    limit_seconds=0.02,
    idle_seconds=1.0,
    deaths=2,
    queued_jobs=5_000,
    connected_workers=10,
    connected_seconds=3.0,
)

# Some peers take seconds for what others do in a blink; their rates do not depend on how many jobs there are.
MOST_JOBS = {Side.DASK: 2_000, Side.RAY: 4_000, Side.CELERY: 1_000, Side.HYPERQUEUE: 40}
MOST_ROUND_TRIPS = {Side.DASK: 200, Side.RAY: 400, Side.CELERY: 200, Side.HYPERQUEUE: 5}


def sized(size: Size, side: Side) -> Size:
    """As much as a side can be asked for."""
    jobs = min(size.throughput_jobs, MOST_JOBS.get(side, size.throughput_jobs))
    return replace(
        size,
        throughput_jobs=jobs,
        latency_round_trips=min(size.latency_round_trips, MOST_ROUND_TRIPS.get(side, size.latency_round_trips)),
        warm_up_jobs=min(size.warm_up_jobs, jobs),
    )


def count_of(workload: Workload, size: Size, side: Side) -> int:
    """How many of its things one measurement did: the n of the tables; 0 where it is no matter of counting."""
    size = sized(size, side)
    return {
        Workload.THROUGHPUT: size.throughput_jobs,
        Workload.LATENCY: size.latency_round_trips,
        Workload.MAP: size.map_items,
        Workload.DEATH: size.deaths,
        Workload.QUEUED: size.queued_jobs,
        Workload.CONNECTED: size.connected_workers,
    }.get(workload, 0)


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


def plain(name: str, unit: str, workload: Workload, side: Side, bound: float | None = None) -> Figure:
    """A figure of which less is better, and perhaps not more than so much."""
    goals = () if bound is None else (Goal(side, (), bound),)
    return Figure(workload, name, unit, is_more_better=False, goals=goals)


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
            Goal(Side.TCP, (Side.DASK,), 50.0),
            Goal(Side.TCP, (Side.RAY,), 15.0),
            Goal(Side.TCP, (Side.CELERY,), 40.0),
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
            Goal(Side.TLS, (Side.EXECUTOR,), 3.0),
        ),
    ),
    Figure(Workload.LATENCY, "p99", "ms", is_more_better=False),
    Figure(
        Workload.MAP,
        "items",
        "items/s",
        is_more_better=True,
        goals=(
            Goal(Side.MEMORY, (Side.EXECUTOR, Side.POOL), 1.0),
            Goal(Side.SQLITE, (Side.EXECUTOR, Side.POOL), 1.0),
            Goal(Side.TCP, (Side.EXECUTOR, Side.POOL), 0.5),
        ),
    ),
    Figure(
        Workload.COLD,
        "first result",
        "ms",
        is_more_better=False,
        goals=(Goal(Side.MEMORY, (Side.EXECUTOR,), 2.5), Goal(Side.SQLITE, (Side.EXECUTOR,), 2.5)),
    ),
    plain("exit", "ms", Workload.COLD, Side.MEMORY),
    plain("import over bare", "ms", Workload.COLD, Side.IMPORT, 60.0),
    plain("memory per queued job", "bytes", Workload.QUEUED, Side.TCP, 600.0),
    plain("longest collector pause", "ms", Workload.QUEUED, Side.TCP, 50.0),
    # "Flat": the lease that is slower by half with a thousand times as many jobs before it would still be told.
    plain("lease p50 when full / at 1,000", "x", Workload.QUEUED, Side.TCP, 1.5),
    plain("restart to first lease", "s", Workload.QUEUED, Side.TCP, 10.0),
    plain("master + worker, cpu", "% of a core", Workload.IDLE, Side.TCP, 1.0),
    plain("heartbeats too late", "", Workload.CONNECTED, Side.TCP, 0.0),
    # An interval: the worker that hears of its lease later than it would have said that it lives is not kept busy.
    plain("lease after submit, p99", "ms", Workload.CONNECTED, Side.TCP, 2_000.0),
    plain("master, resident", "MB", Workload.CONNECTED, Side.TCP, 300.0),
    plain("master, cpu", "% of a core", Workload.CONNECTED, Side.TCP, 30.0),
    plain("slot runs again", "ms", Workload.DEATH, Side.MEMORY, 150.0),
    plain("neighbour's longest stall", "ms", Workload.DEATH, Side.MEMORY),
    *(
        Figure(Workload.LIMITS, name, unit, is_more_better=True)
        for name, unit in (
            ("pipe ping-pong, 100 B", "round trips/s"),
            ("pipe ping-pong, 20 kB", "round trips/s"),
            ("TCP ping-pong, 100 B, NODELAY", "round trips/s"),
            ("TCP ping-pong, 20 kB, NODELAY", "round trips/s"),
            ("loopback bandwidth", "MB/s"),
            ("pickle dumps", "jobs/s"),
            ("pickle loads", "jobs/s"),
            ("append + fsync", "per s"),
            ("SQLite WAL FULL, 1 row a commit", "commits/s"),
            ("SQLite WAL FULL, 1,000 rows a commit", "rows/s"),
        )
    ),
)
