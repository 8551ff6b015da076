"""Programs that the tests start: fresh interpreters with the source tree on their path, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import is_alive

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0


@dataclass
class Program:
    """A command in a folder; every process that comes of it, however far away, carries its mark."""

    command: Sequence[str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": paths, "TESTS_PROGRAM": self.mark, **self.environment}

    def run(self, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command, cwd=self.folder, env=self._environment(), input=text, capture_output=True, text=True,
            timeout=DEADLINE_SECONDS, check=False,
        )  # fmt: skip

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Start it; killed at the end of the block if it still runs."""
        with subprocess.Popen(
            self.command, cwd=self.folder, env=self._environment(), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def left(self) -> list[psutil.Process]:
        """Its processes that still run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("TESTS_PROGRAM") == self.mark and is_alive(process):
                    found.append(process)
        return found

    def is_gone(self, seconds: float = 10.0) -> bool:
        """Whether nothing of it runs any more, at the latest after so long."""
        return not psutil.wait_procs(self.left(), timeout=seconds)[1]


def python(source: str, folder: Path, *arguments: str, name: str = "program.py", **environment: str) -> Program:
    """A program with this text, warnings being errors."""
    script = folder / name
    script.write_text(source)
    return Program([sys.executable, "-W", "error", str(script), *arguments], folder, environment)


def wait_until(is_true: Callable[[], object], seconds: float = 20.0) -> None:
    """For conditions of other processes that send no signal: look until it is so, or fail."""
    # sleeps because there is nothing to wait on: the caller looks at /proc, a file, or the cluster's own listing
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.002)  # sleeps because there is nothing to wait on


def is_gone(pid: int) -> bool:
    """No such process, or only its exit status is left."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
