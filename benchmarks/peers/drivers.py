"""The extra peers as drivers. Imported only in a process of the peer's own environment.

Each with its defaults, two worker processes of one slot, on the loopback interface, in a folder of its own; and each
stopped again by whoever started it. What stays behind all the same `benchmarks.fresh` finds by its mark.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fresh import PROJECT
from benchmarks.peers.environments import redis_server
from benchmarks.plan import WORKERS, Side, Size
from benchmarks.tasks import echo

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class DaskDriver:
    """dask.distributed: a scheduler and workers as processes of their own."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def one_by_one(self, jobs: int) -> list[int]:
        # `pure` would let it answer the same call from memory.
        submitted = [self._client.submit(echo, number, pure=False) for number in range(jobs)]
        results: list[int] = self._client.gather(submitted)
        return results

    def round_trip(self) -> int:
        result: int = self._client.submit(echo, 1, pure=False).result()
        return result

    def map_ways(self, size: Size) -> dict[str, Any]:
        del size
        return {}


class RayDriver:
    """Ray, on this machine alone."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._echo = ray.remote(echo)

    def one_by_one(self, jobs: int) -> list[int]:
        results: list[int] = self._ray.get([self._echo.remote(number) for number in range(jobs)])
        return results

    def round_trip(self) -> int:
        result: int = self._ray.get(self._echo.remote(1))
        return result

    def map_ways(self, size: Size) -> dict[str, Any]:
        del size
        return {}


class CeleryDriver:
    """Celery, prefork workers, Redis as broker and for results."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def one_by_one(self, jobs: int) -> list[int]:
        submitted = [self._task.delay(number) for number in range(jobs)]
        return [pending.get() for pending in submitted]

    def round_trip(self) -> int:
        result: int = self._task.delay(1).get()
        return result

    def map_ways(self, size: Size) -> dict[str, Any]:
        del size
        return {}


@contextmanager
def peer_driver(side: Side, scratch: Path) -> Iterator[DaskDriver | RayDriver | CeleryDriver]:
    """Start a peer, and stop it."""
    match side:
        case Side.DASK:
            from distributed import Client, LocalCluster

            with (
                LocalCluster(
                    n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=str(scratch)
                ) as made,
                Client(made) as client,
            ):
                yield DaskDriver(client)
        case Side.RAY:
            import ray

            ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=str(scratch))
            try:
                yield RayDriver(ray)
            finally:
                ray.shutdown()
        case Side.CELERY:
            with redis_running(scratch) as url:
                os.environ["BENCHMARK_REDIS"] = url
                with celery_running(scratch) as task:
                    yield CeleryDriver(task)
        case _:
            raise ValueError(f"there is no driver of {side}")


@contextmanager
def redis_running(scratch: Path) -> Iterator[str]:
    """A server with its own folder on a free port of the loopback interface; its address."""
    program, needed = redis_server()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(scratch)]
    with running(command, scratch / "redis.log", os.environ | needed):
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(7) == b"+PONG\r\n":
                    break
            if time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not answer in {READY_SECONDS:.0f} s")
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def celery_running(scratch: Path) -> Iterator[Any]:
    """A worker with two processes; the task, once it has run."""
    from benchmarks.peers.celery_app import task

    command = [
        *(sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_app", "worker"),
        *("--concurrency", str(WORKERS), "--loglevel", "WARNING"),
    ]
    with running(command, scratch / "celery.log", dict(os.environ)):
        task.delay(1).get(timeout=READY_SECONDS)
        yield task


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process for so long."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
