"""Masters and workers as processes of their own, started as keepers start them and killed for real."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cluster
from tests.acceptance.programs import Program

DEADLINE_SECONDS = 30.0
HEARTBEAT_TIMEOUT_SECONDS = 5.0

_MASTER = """
import sys
from pathlib import Path
from cluster.master.process import MasterConfig, run_master
bind, store, keys, ready, drain = sys.argv[1:]
sys.exit(run_master(MasterConfig(
    bind=bind, store=store, keys=Path(keys), ready_fd=int(ready), drain_timeout_seconds=float(drain),
    heartbeat_interval_seconds=0.5, heartbeat_timeout_seconds=5.0,
)))
"""
_WORKER = """
import sys
from cluster.worker.process import WorkerProcessConfig, run_worker
address, key, name, slots, ready = sys.argv[1:]
sys.exit(run_worker(WorkerProcessConfig(
    address=address, authkey_file=key, name=name, slots=int(slots), ready_fd=int(ready),
)))
"""


class Part:
    """One process; its log is in `log`."""

    def __init__(self, folder: Path, name: str, source: str, *arguments: str) -> None:
        self.log = folder / f"{name}.log"
        reading, writing = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", source, *[text.replace("READY", str(writing)) for text in arguments]],
                cwd=folder,
                env=Program((), folder)._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
            )
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:  # noqa: PTH123 - a descriptor
            self.said = pipe.read()  # ends when it is ready, and when it died before that

    @property
    def text(self) -> str:
        return self.log.read_text()

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.process.wait(DEADLINE_SECONDS)


class Lab:
    """A folder with a store and keys, and the processes that live on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = "tcp://127.0.0.1:0"
        self.parts: list[Part] = []

    def master(self, *, bind: str = "", store: str = "sqlite:///runs.db", drain_seconds: float = 30.0) -> Part:
        part = self._start("master", _MASTER, bind or self.address, store, "keys", "READY", f"{drain_seconds:g}")
        if part.said:
            self.address = part.said.split()[1]
        return part

    def worker(self, name: str = "w1", slots: int = 2) -> Part:
        return self._start("worker", _WORKER, self.address, str(self.key("worker")), name, str(slots), "READY")

    def connect(self) -> cluster.Cluster:
        return cluster.connect(self.address, self.key("client"))

    def key(self, role: str) -> Path:
        return self.folder / "keys" / f"{role}.key"

    def _start(self, name: str, source: str, *arguments: str) -> Part:
        part = Part(self.folder, name, source, *arguments)
        self.parts.append(part)
        return part


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    made = Lab(folder)
    try:
        yield made
    finally:
        for part in reversed(made.parts):
            if part.process.poll() is None:
                part.end(signal.SIGKILL)
