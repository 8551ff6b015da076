"""A cluster of stand-ins: real processes with the same ways to start, get ready and die as a master and workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.deploy import lifecycle
from cluster.deploy.load import load_config
from cluster.deploy.processes import marked_processes
from cluster.deploy.runtime import PartRecord, Runtime
from cluster.deploy.schema import Config
from tests.acceptance.programs import wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Lab:
    """A configuration in a folder of its own, and what runs of it."""

    folder: Path

    def config(self, text: str = "") -> Config:
        file = self.folder / "lab.yaml"
        file.write_text(
            f"name: lab\nmaster: {{bind: 'tcp://127.0.0.1:0'}}\ndrain: {{timeout: 2s}}\n{text or 'workers: [{}, {}]'}\n"
        )
        return load_config(file, environment={})

    def wish(self, part: str, what: str) -> None:
        (self.folder / f"{part}.wish").write_text(what)

    @property
    def runtime(self) -> Runtime:
        return Runtime(self.folder / "state" / "run" / "lab")

    def record(self, part: str) -> PartRecord:
        record = self.runtime.part(part)
        assert record is not None, f"no record of {part}"
        return record

    def pid(self, part: str) -> int:
        return self.keeper_pid() if part == "keeper" else self.record(part).process.pid

    def keeper_pid(self) -> int:
        keeper = self.runtime.keeper()
        assert keeper is not None
        return keeper.pid

    def kill(self, part: str) -> int:
        """SIGKILL it, and wait until it is gone."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        return pid

    def wait_state(self, part: str, state: str, *, other_than: int = -1) -> PartRecord:
        def is_so() -> bool:
            record = self.runtime.part(part)
            return record is not None and record.state == state and record.process.pid != other_than

        wait_until(is_so)
        return self.record(part)

    def log(self, part: str) -> str:
        return (self.folder / "state" / "logs" / f"{part}.log").read_text()

    def left(self) -> list[list[str]]:
        return [command for _, command in marked_processes(self.runtime.mark)]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """`python -m cluster` is a stand-in here; everything else of the kit is itself."""
    package = tmp_path / "package" / "cluster"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'cluster')!r})\n")
    shutil.copy(Path(__file__).with_name("stand_in.py"), package / "__main__.py")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    folder = tmp_path / "lab"
    folder.mkdir()
    made = Lab(folder)

    yield made

    lifecycle.down(made.config(), now=True)
