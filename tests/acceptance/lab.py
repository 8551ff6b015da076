"""A master and workers as processes of their own, on this host's loopback interface, killed by the tests as they like."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cluster
from cluster.client.connect import connect
from tests.acceptance.programs import ROOT

DEADLINE_SECONDS = 30.0

_MASTER = """
import sys
from pathlib import Path
from cluster.master.process import MasterConfig, run_master
folder, bind, timeout, descriptor = sys.argv[1:]
sys.exit(run_master(MasterConfig(
    bind=bind, store=f"sqlite:///{folder}/lab.db", keys=Path(folder, "keys"), ready_fd=int(descriptor),
    heartbeat_timeout_seconds=float(timeout), heartbeat_interval_seconds=float(timeout) / 5,
)))
"""
_WORKER = """
import ast, sys
from cluster.worker.process import WorkerProcessConfig, run_worker
folder, address, name, options, descriptor = sys.argv[1:]
given = dict(slots=2, authkey_file=f"{folder}/keys/worker.key", scratch=f"{folder}/scratch", drain_seconds=20.0)
given |= ast.literal_eval(options)
sys.exit(run_worker(WorkerProcessConfig(address=address, name=name, ready_fd=int(descriptor), **given)))
"""


@dataclass
class Lab:
    """The processes, by name. A master that is started again has the same store and address."""

    folder: Path
    bind: str = "tcp://127.0.0.1:0"
    heartbeat_timeout_seconds: float = 5.0
    prefix: tuple[str, ...] = ()  # a program that starts each of them
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start_master(self) -> subprocess.Popen[str]:
        """Start it, and wait until it answers."""
        process, line = self._start(_MASTER, str(self.folder), self.bind, str(self.heartbeat_timeout_seconds))
        self.bind = line.split()[1]
        return process

    def start_worker(self, name: str = "w", **options: object) -> subprocess.Popen[str]:
        """Start it, and wait until it takes jobs."""
        return self._start(_WORKER, str(self.folder), self.bind, name, repr(options))[0]

    def run_worker(self, name: str = "w", **options: object) -> subprocess.CompletedProcess[str]:
        """Run a worker that ends by itself, to its end."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-W", "error", "-c", _WORKER, str(self.folder), self.bind, name, repr(options), "2"],
            capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False, env=_environment(),
        )  # fmt: skip

    def connect(self) -> cluster.Cluster:
        """A client."""
        return connect(self.bind, self.folder / "keys" / "client.key")

    def log(self) -> str:
        """What all of them have logged."""
        return (self.folder / "log").read_text()

    def _start(self, source: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        reader, writer = os.pipe()
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                [*self.prefix, sys.executable, "-W", "error", "-c", source, *arguments, str(writer)],
                pass_fds=(writer,), stdout=log, stderr=log, text=True, env=_environment(),
            )  # fmt: skip
        self.processes.append(process)
        os.close(writer)
        with open(reader, encoding="utf-8") as lines:  # noqa: PTH123 - a descriptor
            assert select.select([lines], [], [], DEADLINE_SECONDS)[0], self.log()
            line = lines.readline()
        assert line.startswith("ready "), self.log()
        return process, line


@contextlib.contextmanager
def a_lab(folder: Path, **fields: object) -> Iterator[Lab]:
    """A lab with a master; afterwards nothing of it runs, and nothing went wrong that nobody noticed."""
    lab = Lab(folder, **fields)  # type: ignore[arg-type]
    lab.start_master()
    try:
        yield lab
    finally:
        for process in reversed(lab.processes):  # workers first
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
    assert "Traceback" not in lab.log(), lab.log()


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths}
