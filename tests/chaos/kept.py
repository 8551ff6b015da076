"""The stage of a real `cluster up`: the kit's own keeper starts again what dies, and is killed like everything else.

    cluster up FILE ──► keeper ──► master, worker-0, worker-1 ...          client-0 ──line── master

Nobody starts a dead keeper again until `cluster up` is said again, says the documentation, so that is what the restarter
says here. Workers have no line that could be cut: the keeper tells them the master's own address.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from cluster.deploy.processes import ProcessName
from tests.acceptance.programs import ROOT, wait_until
from tests.chaos.stage import MARK_VARIABLE, Actor, Stage

UP_SECONDS = 60.0
NAME = "chaos"


class _Record(msgspec.Struct):
    """What a keeper's record and a part's have in common."""

    process: ProcessName


@dataclass
class KeptActor(Actor):
    """A process that somebody else starts: its pid is what the keeper's records say."""

    @property
    def log(self) -> Path:
        """Its log, in the folder that the configuration names."""
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """The living process that is recorded; 0: none."""
        try:
            recorded = (self.folder / "run" / NAME / f"{self.name}.json").read_bytes()
            process = msgspec.json.decode(recorded, type=_Record).process
        except (OSError, msgspec.DecodeError):
            return 0
        if not process.is_alive():
            return 0
        if process.pid not in self._seen:
            self._seen.add(process.pid)
            self.lives = len(self._seen)
        return process.pid

    def __post_init__(self) -> None:
        self._seen: set[int] = set()

    def look(self) -> None:
        """The keeper's business."""

    def stop(self) -> int:
        """As `look`."""
        return 0


class KeptStage(Stage):
    """`cluster up`, and up again whenever the keeper is gone."""

    def __enter__(self) -> Self:
        try:
            self.file.write_text(self._configuration())
            self._cast()
            assert self._say("up") == 0, (self.folder / "say.log").read_text()
            wait_until(self.client_key.exists, UP_SECONDS)
            for number in range(self.setting.clients):
                self.add_line(f"client-{number}", number)
            self._restarting.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def file(self) -> Path:
        """The configuration."""
        return self.folder / "chaos.yaml"

    def stop(self) -> dict[str, int]:
        """Clients end, then `cluster down`."""
        statuses = super().stop()
        return {**statuses, "cluster down": self._say("down")}

    def _tear_down(self) -> None:
        for process in self.left():
            if process.pid != os.getpid():
                process.kill()

    def _cast(self) -> None:
        workers = [f"worker-{number}" for number in range(self.setting.workers)]
        for name, kind in [("keeper", "keeper"), ("master", "master"), *((name, "supervisor") for name in workers)]:
            self.actors[name] = KeptActor(name, kind, list, self.folder, self.mark)

    def _restart(self) -> None:
        # Not started by an actor's own hand: `up` adopts what runs, and starts the rest.
        up: subprocess.Popen[bytes] | None = None
        while not self._is_over.wait(0.3):
            for actor in list(self.actors.values()):
                actor.look()
            if not self.actors["keeper"].pid and (up is None or up.poll() is not None):
                up = self._start("up")
        if up is not None:
            up.wait(UP_SECONDS)

    def _say(self, word: str) -> int:
        return self._start(word).wait(UP_SECONDS)

    def _start(self, word: str) -> subprocess.Popen[bytes]:
        command: Sequence[str] = [sys.executable, "-m", "cluster", word, str(self.file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK_VARIABLE: self.mark}
        with (self.folder / "say.log").open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=environment
            )

    def _configuration(self) -> str:
        setting = self.setting
        workers = "\n".join(
            f"  - {{name: worker-{n}, host: localhost, slots: {setting.slots}, "
            f"env: {{CHAOS_RECORDS: {self.records(f'worker-{n}')}}}}}"
            for n in range(setting.workers)
        )
        return f"""
name: {NAME}
master: {{bind: "tcp://127.0.0.1:{self.port}", store: "{self.store}", keys: keys}}
heartbeat: {{interval: {setting.heartbeat_interval_seconds}s, timeout: {setting.heartbeat_timeout_seconds}s}}
drain: {{timeout: 10s}}
log: {{dir: logs}}
workers:
{workers}
"""
