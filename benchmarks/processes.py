"""A master and workers as processes of their own, started by their commands, watched, and ended by whoever started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fresh import PROJECT, environment
from benchmarks.profiled import MARK_VARIABLE, SAMPLE_VARIABLE, SOCKET_VARIABLE
from benchmarks.watch import ask

STOP_SECONDS = 30.0
_PROCESS_CPU = 2
LOCAL = "tcp://127.0.0.1:0"


class Part:
    """One process of a cluster."""

    def __init__(self, folder: Path, name: str, *, extras: tuple[str, ...], arguments: tuple[str, ...]) -> None:
        """Start `cluster ...`; returns once it is ready. Raises `RuntimeError` with its last words if it never is."""
        # A path of a socket may have some hundred bytes only, and a restarted part needs another one.
        self._socket = folder / f"{name}{len(list(folder.glob(name + '*.log')))}.sock"
        log = folder / f"{self._socket.stem}.log"
        reading, writing = os.pipe()
        watching = {SOCKET_VARIABLE: str(self._socket)} | dict.fromkeys(extras, "1")
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*(sys.executable, "-m", "benchmarks.profiled", "cluster"), *arguments, "--ready-fd", str(writing)],
                cwd=folder,
                # Jobs are the benchmarks' own functions.
                env=environment(PROJECT) | watching,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
            )
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:  # noqa: PTH123 - a descriptor
            said = pipe.read().split()
        if not said:
            self.process.wait(STOP_SECONDS)
            raise RuntimeError(f"{name} did not start: {log.read_text(encoding='utf-8').strip().splitlines()[-1:]}")
        self.said = said

    def ask(self, command: str) -> dict[str, Any]:
        """See `watch`."""
        return ask(self._socket, command)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        found: int = psutil.Process(self.process.pid).memory_info().rss
        return found

    @property
    def cpu_seconds(self) -> float:
        """Of this process alone."""
        return cpu_of(self.process.pid)

    @property
    def child_cpu_seconds(self) -> float:
        """Of all that it has started and that lives still."""
        return children_cpu(self.process.pid)

    def end(self, signum: int = signal.SIGTERM) -> None:
        """Send a signal; returns when the process is gone, killed if it won't go."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Lab:
    """A folder with a store and keys, and the processes that live on it."""

    def __init__(self, folder: Path, *, store: str = "sqlite:///jobs.db", extras: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.address = LOCAL
        self._store = store
        self._extras = extras
        self._parts: list[Part] = []

    def master(self) -> Part:
        """Start one; after the first it is at the same address."""
        arguments = (
            *("master", "--bind", self.address, "--store", self._store, "--keys", "keys"),
            *("--drain-timeout", "1s"),
        )
        part = self._start("master", arguments)
        self.address = part.said[1]
        return part

    def worker(self, name: str, slots: int = 1) -> Part:
        """Start one."""
        key = str(self.key("worker"))
        return self._start(name, ("worker", self.address, "--name", name, "--slots", str(slots), "--authkey-file", key))

    def key(self, role: str) -> Path:
        """The file of a role's key."""
        return self.folder / "keys" / f"{role}.key"

    def stop(self) -> None:
        """End all of them, the master last."""
        for part in reversed(self._parts):
            part.end()

    def _start(self, name: str, arguments: tuple[str, ...]) -> Part:
        part = Part(self.folder, name, extras=self._extras, arguments=arguments)
        self._parts.append(part)
        return part


@contextlib.contextmanager
def lab(
    folder: Path, *, store: str = "sqlite:///jobs.db", is_sampled: bool = False, is_marked: bool = False
) -> Iterator[Lab]:
    """A lab whose processes are gone at the end."""
    extras = (SAMPLE_VARIABLE,) * is_sampled + (MARK_VARIABLE,) * is_marked
    made = Lab(folder, store=store, extras=extras)
    try:
        yield made
    finally:
        made.stop()


def cpu_of(pid: int) -> float:
    """A process's cpu time; Linux's clock of it (MAKE_PROCESS_CPUCLOCK) is finer than the ticks in /proc."""
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CPU)
    except OSError:
        raise psutil.NoSuchProcess(pid) from None


def children_cpu(pid: int) -> float:
    """Cpu seconds of a process's children and theirs."""
    total = 0.0
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += cpu_of(child.pid)
    return total
