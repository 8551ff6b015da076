"""Processes that are not our children, told apart for certain: by pid and birth, never by pid alone.

A pid is used again. The moment of birth, in the kernel's own ticks since this boot, is not: the two together name one
process. Before a signal is sent the process is pinned by a pidfd and its birth is looked at again, so that a signal can
never reach somebody else.

Whatever is started for a cluster carries `--run <folder>` in its command line. That is how those are found whose record was
never written, because whoever started them died in that instant. (Not in the environment: a process that holds keys hides
it, from others of its user too.)
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from msgspec import Struct

MARK = "--run"
_POLL_SECONDS = 0.01
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 22 - 3  # of /proc/PID/stat, counted behind the command's name (proc(5))


class ProcessName(Struct, frozen=True):
    """One process, among all that ever had its pid; `NOBODY` is none."""

    pid: int
    birth: str

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return bool(self.birth) and birth_of(self.pid) == self.birth

    def signal(self, number: int) -> bool:
        """Send it a signal; False if it is gone, or not ours to signal."""
        if not self.birth:  # pid 0 is no process, and the kernel refuses to pin it with another error
            return False
        try:
            with contextlib.closing(_Pin(self.pid)) as pin:
                if not self.is_alive():
                    return False
                pin.send(number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


class _Pin:
    """A pid that can't be used again while this is open, where the system has pidfds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1

    def send(self, number: int) -> None:
        if self._descriptor >= 0:
            signal.pidfd_send_signal(self._descriptor, number)
        else:
            os.kill(self._pid, number)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


NOBODY = ProcessName(0, "")


def birth_of(pid: int) -> str:
    """When a living process was born; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else _birth_without_proc(pid)
    # The command's name may hold anything, brackets too; the state is the first field behind it.
    fields = text.rpartition(b")")[2].split()
    if fields[0] in {b"Z", b"X"}:
        return ""
    return f"{_boot()}:{fields[_START_FIELD].decode()}"


@functools.cache
def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _birth_without_proc(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


def name_process(pid: int) -> ProcessName:
    """The name of a process that lives now."""
    return ProcessName(pid, birth_of(pid))


def marked_processes(mark: str) -> Iterator[tuple[ProcessName, list[str]]]:
    """Every living process of this user that carries the mark, and its command line."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # Anybody may write anything on a command line: those of other users don't count.
            if process.pid != os.getpid() and process.uids().real == os.getuid():
                command = process.cmdline()
                name = name_process(process.pid)
                if name.birth and (MARK, mark) in itertools.pairwise(command):
                    yield name, command


def wait_gone(names: Iterable[ProcessName], timeout_seconds: float) -> list[ProcessName]:
    """Wait until none of them runs, at most so long; those that still do."""
    deadline = time.monotonic() + timeout_seconds
    left = [name for name in names if name.is_alive()]
    while left and time.monotonic() < deadline:
        # sleeps because they are not our children, and not every system has a descriptor for a process
        time.sleep(_POLL_SECONDS)
        left = [name for name in left if name.is_alive()]
    return left
