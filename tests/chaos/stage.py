"""What a chaos run is played on: real processes, started again when they die, and the lines between them.

    client-0 ──line──┐                       ┌──line── worker-0 ── nursery ── children
    client-1 ──line──┴── master ── store ────┴──line── worker-1 ── ...

Each process is an `Actor` with a folder of files; each line is a fault proxy of its own, so that one party at a time can
be cut off. `Stage` is the loopback variant: all on this host's loopback interface. The harness is the keeper here: its
restarter starts again what died, after a moment. `hosts` has the variant in network namespaces.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from tests.acceptance.programs import ROOT, wait_until
from tests.chaos.cuts import cut_proxy
from tests.chaos.proxy import FaultProxy

LOOK_SECONDS = 0.05
STOP_SECONDS = 30.0
MARK_VARIABLE = "CHAOS_RUN"


@dataclass(frozen=True)
class Setting:
    """The size of a stage."""

    workers: int = 3
    slots: int = 2
    clients: int = 2
    heartbeat_timeout_seconds: float = 2.0
    heartbeat_interval_seconds: float = 0.4


@dataclass
class Actor:
    """One process that is started again when it dies. `command` is asked anew for each life."""

    name: str
    kind: str  # master, supervisor, client
    command: Callable[[], Sequence[str]]
    folder: Path
    mark: str
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0
    may_live: bool = True
    is_over: bool = False  # a client that ended by itself

    @property
    def log(self) -> Path:
        """What all its lives have said."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Its process; 0: none."""
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def start(self) -> None:
        """Begin a life. Returns at once."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK_VARIABLE: self.mark}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.lives += 1

    def signal(self, number: int) -> bool:
        """Send a signal; False if there is no process."""
        if not self.pid or self.process is None:
            return False
        self.process.send_signal(number)
        return True

    def look(self) -> None:
        """Start it again if it died."""
        if self.process is None or self.process.poll() is None or not self.may_live or self.is_over:
            return
        if self.kind == "client" and self.process.returncode == 0:
            self.is_over = True
        else:
            self.start()

    def stop(self) -> int:
        """Have it drain; its exit status."""
        self.may_live = False
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return -9


@dataclass
class Line:
    """A way to the master that can be cut."""

    name: str  # of the actor that uses it
    address: str
    proxy: FaultProxy | None = None


@dataclass
class Stage:
    """The loopback variant. A context manager: it ends with nothing of it running."""

    folder: Path
    setting: Setting = field(default_factory=Setting)
    seed: int = 0
    mark: str = field(default_factory=lambda: os.urandom(8).hex())

    def __post_init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.lines: dict[str, Line] = {}
        self.port = free_port()
        self._restarting = threading.Thread(target=self._restart, name="chaos-restarter", daemon=True)
        self._is_over = threading.Event()

    # --- coming and going ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._set_up()
            master = self.add_actor("master", "master", self.master_command)
            master.start()
            wait_until((self.folder / "keys" / "client.key").exists, 30.0)
            for number in range(self.setting.workers):
                self.add_line(f"worker-{number}", number)
                self.add_actor(f"worker-{number}", "supervisor", self._worker_command(f"worker-{number}")).start()
            for number in range(self.setting.clients):
                self.add_line(f"client-{number}", self.setting.workers + number)
            self._restarting.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end_restarts()
        for actor in reversed(self.actors.values()):
            if actor.pid:
                actor.signal(signal.SIGCONT)
                actor.signal(signal.SIGKILL)
                if actor.process is not None:
                    actor.process.wait()
        for line in self.lines.values():
            if line.proxy is not None:
                line.proxy.stop()
        self._tear_down()

    def _set_up(self) -> None:
        """Whatever must be there before the first process."""

    def _tear_down(self) -> None:
        """Undo it."""

    def end_restarts(self) -> None:
        """Let what dies be dead."""
        self._is_over.set()
        if self._restarting.is_alive():
            self._restarting.join()

    def stop(self) -> dict[str, int]:
        """Have everything end in good order, clients first; exit statuses by name."""
        self.end_restarts()
        order = ("client", "supervisor", "master", "keeper", "forwarder")
        actors = sorted(self.actors.values(), key=lambda actor: order.index(actor.kind))
        statuses = {actor.name: actor.stop() for actor in actors}
        # A forwarder is the harness's own, and ends by the signal.
        return {name: status for name, status in statuses.items() if self.actors[name].kind != "forwarder"}

    # --- the cast -----------------------------------------------------------------------------------------------------

    @property
    def store(self) -> str:
        """The store's URL."""
        return f"sqlite:///{self.folder / 'chaos.db'}"

    @property
    def address(self) -> str:
        """The master's, past all lines: for the harness itself."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def bind(self) -> str:
        """Where the master listens."""
        return self.address

    @property
    def client_key(self) -> Path:
        """The key that the master made."""
        return self.folder / "keys" / "client.key"

    def records(self, host: str) -> Path:
        """Where the jobs of a host write."""
        return self.folder / f"{host}.executions"

    def add_actor(self, name: str, kind: str, command: Callable[[], Sequence[str]]) -> Actor:
        """Put an actor under the restarter's eyes. Not started yet."""
        actor = Actor(name, kind, command, self.folder, self.mark)
        self.actors[name] = actor
        return actor

    def add_line(self, name: str, number: int) -> Line:
        """A line of its own for an actor."""
        proxy = FaultProxy(("127.0.0.1", self.port), seed=self.seed + number).start()
        self.lines[name] = Line(name, f"tcp://127.0.0.1:{proxy.address[1]}", proxy)
        return self.lines[name]

    def inside(self, _name: str) -> list[str]:
        """What stands before the command of an actor, to put it onto its host."""
        return []

    def master_command(self) -> list[str]:
        """How the master is started."""
        setting = self.setting
        return [
            *self.inside("master"), sys.executable, "-m", "cluster", "master", "--bind", self.bind,
            "--store", self.store, "--keys", str(self.folder / "keys"),
            "--heartbeat-interval", f"{setting.heartbeat_interval_seconds}s",
            "--heartbeat-timeout", f"{setting.heartbeat_timeout_seconds}s",
        ]  # fmt: skip

    def _worker_command(self, name: str) -> Callable[[], list[str]]:
        return lambda: [
            *self.inside(name), sys.executable, "-m", "cluster", "worker", self.lines[name].address, "--name", name,
            "--slots", str(self.setting.slots), "--authkey-file", str(self.folder / "keys" / "worker.key"),
            "--scratch", str(self.folder / "scratch"), "--drain-timeout", "10s",
            "--env", f"CHAOS_RECORDS={self.records(name)}",
        ]  # fmt: skip

    def of_kind(self, kind: str) -> list[Actor]:
        """Those of them that run."""
        return [actor for actor in self.actors.values() if actor.kind == kind and actor.pid]

    def nursery(self, worker: Actor) -> psutil.Process | None:
        """A worker's nursery, if it has one at the moment."""
        return next(iter(_children(worker.pid)), None)

    def children(self, worker: Actor) -> list[psutil.Process]:
        """A worker's children."""
        nursery = self.nursery(worker)
        return _children(nursery.pid) if nursery is not None else []

    def cut(self, name: str, chance: random.Random) -> tuple[str, Callable[[], None]]:
        """Break a line; what was done to it, and how to heal it."""
        line = self.lines[name].proxy
        assert line is not None
        return cut_proxy(line, chance)

    def left(self) -> list[psutil.Process]:
        """Processes of this run that are alive."""
        return marked(self.mark)

    def _restart(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            for actor in list(self.actors.values()):
                actor.look()


def marked(mark: str) -> list[psutil.Process]:
    """Every living process that carries a run's mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children() if pid else []
    return []


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
