"""How each side is told to do the same work: the loop a user would write for it, and nothing between.

Every driver checks what came back. The cluster is imported only by its own driver, so that the peers' processes hold
nothing of it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks.plan import WORKERS, Contender, Side, Size
from benchmarks.tasks import echo

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from cluster import Cluster

CONFIG = f"""\
name: benchmark
master: {{{{bind: "tcp://127.0.0.1:0", store: "sqlite:///jobs.db", keys: keys{{tls}}}}}}
log: {{{{dir: logs}}}}
workers: [{", ".join(f"{{{{name: worker{number}, slots: 1}}}}" for number in range(WORKERS))}]
"""

MapWay = Callable[[int], list[int]]  # number of items -> their results


class Driver(Protocol):
    """One side, open and ready."""

    def one_by_one(self, jobs: int) -> list[int]:
        """Submit so many jobs, each by its own call, then collect all results in order."""

    def round_trip(self) -> int:
        """Submit one job and wait for it."""

    def map_ways(self, size: Size) -> dict[str, MapWay]:
        """Each way to map that is to be tried, by a name for the report."""


class ClusterDriver:
    """The kit, embedded or over TCP."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def one_by_one(self, jobs: int) -> list[int]:
        submitted = [self._cluster.submit(echo, (number,)) for number in range(jobs)]
        return [job.result() for job in submitted]

    def round_trip(self) -> int:
        return self._cluster.submit(echo, (1,)).result()

    def map_ways(self, size: Size) -> dict[str, MapWay]:
        del size  # nothing to tune by hand
        return {"automatic chunks": lambda items: list(self._cluster.map(echo, range(items)))}


class ExecutorDriver:
    """concurrent.futures.ProcessPoolExecutor, or what has the same interface."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def one_by_one(self, jobs: int) -> list[int]:
        submitted = [self._executor.submit(echo, number) for number in range(jobs)]
        return [future.result() for future in submitted]

    def round_trip(self) -> int:
        return self._executor.submit(echo, 1).result()

    def map_ways(self, size: Size) -> dict[str, MapWay]:
        def way(chunksize: int) -> MapWay:
            return lambda items: list(self._executor.map(echo, range(items), chunksize=chunksize))

        return {f"map, chunksize {chunksize}": way(chunksize) for chunksize in size.map_chunksizes}


class PoolDriver:
    """multiprocessing.Pool: `apply_async` for single jobs, `map` and `imap` for many."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def one_by_one(self, jobs: int) -> list[int]:
        submitted = [self._pool.apply_async(echo, (number,)) for number in range(jobs)]
        return [pending.get() for pending in submitted]

    def round_trip(self) -> int:
        return self._pool.apply_async(echo, (1,)).get()

    def map_ways(self, size: Size) -> dict[str, MapWay]:
        def by_map(chunksize: int) -> MapWay:
            return lambda items: self._pool.map(echo, range(items), chunksize=chunksize)

        def by_imap(chunksize: int) -> MapWay:
            return lambda items: list(self._pool.imap(echo, range(items), chunksize=chunksize))

        ways = {f"map, chunksize {chunksize}": by_map(chunksize) for chunksize in size.map_chunksizes}
        return ways | {f"imap, chunksize {chunksize}": by_imap(chunksize) for chunksize in size.map_chunksizes}


@contextmanager
def driver_of(contender: Contender, scratch: Path) -> Iterator[Driver]:
    """Open one side with its workers; whatever it writes goes below `scratch`."""
    match contender.side:
        case Side.MEMORY | Side.SQLITE:
            import cluster

            store = "memory:" if contender.side is Side.MEMORY else f"sqlite:///{scratch / 'benchmark.db'}"
            with cluster.local(slots=WORKERS, store=store) as opened:
                yield ClusterDriver(opened)
        case Side.TCP | Side.TLS:
            import cluster

            config = scratch / "cluster.yaml"
            config.write_text(CONFIG.format(tls=", tls: auto" if contender.side is Side.TLS else ""))
            with cluster.launch(config) as launched:
                yield ClusterDriver(launched)
        case Side.EXECUTOR:
            context = multiprocessing.get_context(contender.start_method)
            with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
                yield ExecutorDriver(executor)
        case Side.POOL:
            with multiprocessing.get_context(contender.start_method).Pool(WORKERS) as pool:
                yield PoolDriver(pool)
        case Side.LOKY:
            from joblib.externals.loky import ProcessPoolExecutor as LokyExecutor

            with LokyExecutor(WORKERS) as executor:
                yield ExecutorDriver(executor)
        case Side.BARE | Side.BARE_SQLITE:
            from benchmarks.bare import bare_driver

            with bare_driver(scratch / "bare.db" if contender.side is Side.BARE_SQLITE else None) as driver:
                yield driver
        case Side.DASK | Side.RAY | Side.CELERY | Side.HYPERQUEUE:
            from benchmarks.peers.drivers import peer_driver

            with peer_driver(contender.side, scratch) as driver:
                yield driver
        case Side.IMPORT | Side.MACHINE:
            raise ValueError(f"{contender.side} runs no jobs")
