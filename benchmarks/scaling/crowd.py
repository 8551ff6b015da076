"""Processes full of simulated workers, started, asked and ended from here."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.fresh import PROJECT, environment
from benchmarks.processes import Lab

# Each agent has two threads; a process with many hundreds would be slower than the master that it is to load.
AGENTS_A_PROCESS = 125
END_SECONDS = 30.0


class Crowd:
    """So many workers."""

    def __init__(self, lab: Lab, count: int) -> None:
        """Start them; returns once all are registered. Raises `RuntimeError` if some are not."""
        raise_descriptor_limit()
        sizes = [AGENTS_A_PROCESS] * (count // AGENTS_A_PROCESS)
        if count % AGENTS_A_PROCESS:
            sizes.append(count % AGENTS_A_PROCESS)
        self._processes: list[subprocess.Popen[str]] = []
        try:
            for number, size in enumerate(sizes):
                self._start(lab, f"agents{number}", size)
            for process in self._processes:
                self._read(process, "ready")
        except BaseException:
            self.end()
            raise

    def take(self) -> dict[str, Any]:
        """What all of them have found since the last time."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("tell\n")
            process.stdin.flush()
        found: dict[str, Any] = {"lease": [], "beat": [], "late": 0, "refused": 0}
        for process in self._processes:
            for name, value in json.loads(self._read(process, "{")).items():
                found[name] += value
        return found

    def end(self) -> None:
        """Returns when all are gone."""
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):
                process.communicate(timeout=END_SECONDS)
            process.kill()
            process.wait()

    def _start(self, lab: Lab, name: str, size: int) -> None:
        with (lab.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "benchmarks.scaling.agents"),
                        *(lab.address, str(lab.key("worker")), str(size), name),
                    ],
                    cwd=PROJECT,
                    env=environment(PROJECT),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            )

    @staticmethod
    def _read(process: subprocess.Popen[str], begin: str) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith(begin):
            status = process.wait(END_SECONDS)
            raise RuntimeError(f"a process of simulated workers ended early with status {status}: {line!r}")
        return line


@contextlib.contextmanager
def crowd(lab: Lab, count: int) -> Iterator[Crowd]:
    """So many workers for a while."""
    made = Crowd(lab, count)
    try:
        yield made
    finally:
        made.end()


def raise_descriptor_limit() -> None:
    """Each agent has two connections, and this limit is handed on to those who make them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
