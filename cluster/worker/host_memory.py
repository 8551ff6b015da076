"""How much memory the host has left, and what that means for the work that its worker asks for.

The host is what this process may use of it: a limit of one of its control groups (a container, a service) counts like a
smaller machine. Readings are taken with each heartbeat, in the supervisor's thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from msgspec import Struct

from cluster.core.memory import size_text
from cluster.worker.slot import Slot

# What jobs must leave to the system: a twentieth, and of a large host no more than this.
RESERVED_PART = 20
MAX_RESERVED_BYTES = 512 * 10**6
# Short until half as much again is free, so that one job more or less does not turn it on and off.
RECOVERY = 1.5
# With so little of the reserve left (one part in four) even one job more may be one too many.
LAST_PART = 4

# All paths here are texts: a cold start looks at these files, and is quicker without pathlib.
_MEMINFO = "/proc/meminfo"
_OWN_GROUPS = "/proc/self/cgroup"
_V2, _V1 = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"

log = logging.getLogger("cluster.worker")


class Reading(Struct, frozen=True, gc=False):
    """Bytes, of the host or of the tightest control group around us."""

    total: int
    available: int


class HostMemory:
    """The latest reading, and what follows from it."""

    def __init__(self, *, is_limiting: bool, jobs_group: str = "") -> None:
        """`is_limiting`: jobs here can be held to a limit of their own; `jobs_group`: folder of the cgroup they are in."""
        self.reading = Reading(0, 0)
        self.room = 0  # what jobs with a limit may have in all
        self.most = 0  # the same, were the host idle; 0: none can be held to a limit, or nobody knows
        self.is_short = False
        self._is_limiting = is_limiting
        self._groups = (*find_groups(), jobs_group) if jobs_group else find_groups()

    def look(self, slots: Sequence[Slot], worker: str) -> None:
        """Take a reading. A change for the worse or the better is logged, once."""
        reading = self.reading = read(self._groups)
        reserve = reserve_of(reading.total)
        if self._is_limiting and reading.total:
            self.most = reading.total - reserve
            used = sum(slot.used for slot in slots if slot.limit and slot.outstanding)
            self.room = max(0, min(self.most, reading.available + used - reserve))
        was_short = self.is_short
        self.is_short = reading.available < reserve * (RECOVERY if was_short else 1.0)
        if self.is_short is not was_short:
            left = f"{size_text(reading.available)} of {size_text(reading.total)} are free"
            if self.is_short:
                log.warning("worker %s: its host is short of memory, %s; it takes one job at a time", worker, left)
            else:
                log.warning("worker %s: its host is no longer short of memory, %s", worker, left)

    def most_jobs(self, wanted: int, slots: Sequence[Slot]) -> int:
        """How many of `wanted` jobs to ask for on a host that is short: one at a time, or none in the last extremity."""
        is_busy = any(slot.outstanding for slot in slots)
        if is_busy or self.reading.available < reserve_of(self.reading.total) // LAST_PART:
            return 0
        return min(wanted, 1)


def reserve_of(total: int) -> int:
    """What jobs must leave of so much memory."""
    return min(total // RESERVED_PART, MAX_RESERVED_BYTES)


def read(groups: Sequence[str]) -> Reading:
    """The host as it is now; zeros where nobody says."""
    reading = _read_host()
    for group in groups:
        limited = _read_group(group)
        if limited is not None and limited.total < (reading.total or limited.total + 1):
            reading = Reading(limited.total, min(limited.available, reading.available or limited.available))
    return reading


def find_groups() -> tuple[str, ...]:
    """The control groups of this process that can have a memory limit, from its own up to the outermost visible."""
    try:
        lines = _text_of(_OWN_GROUPS).splitlines()
    except OSError:
        return ()
    found: list[str] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = _V2 if not controllers else _V1 if "memory" in controllers.split(",") else None
        if root is None:
            continue
        own = f"{root}/{path.lstrip('/')}".rstrip("/")
        # In a container the path may be the host's, and only the root be there.
        group = own if os.path.isdir(own) else root  # noqa: PTH112 - see above
        while True:
            if os.path.exists(_limit_file(group)):  # noqa: PTH110
                found.append(group)
            if group == root:
                break
            group = os.path.dirname(group)  # noqa: PTH120
    return tuple(found)


def _read_host() -> Reading:
    try:
        fields = dict(line.split(":", 1) for line in _text_of(_MEMINFO).splitlines())
        return Reading(_kilobytes(fields["MemTotal"]), _kilobytes(fields["MemAvailable"]))
    except (OSError, KeyError, ValueError):
        import psutil  # another system

        memory = psutil.virtual_memory()
        return Reading(memory.total, memory.available)


def _kilobytes(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024


def _read_group(group: str) -> Reading | None:
    """None: no limit, or it can't be read."""
    is_v1 = os.path.exists(f"{group}/memory.limit_in_bytes")  # noqa: PTH110
    usage = "memory.usage_in_bytes" if is_v1 else "memory.current"
    try:
        limit = int(_text_of(_limit_file(group)))  # "max" is no number, and no limit
        used = int(_text_of(f"{group}/{usage}"))
        stat = dict(line.split() for line in _text_of(f"{group}/memory.stat").splitlines())
        # Cached files count as used, but go when memory is wanted.
        cached = int(stat.get("total_inactive_file" if is_v1 else "inactive_file", "0"))
    except (OSError, ValueError):
        return None
    return Reading(limit, max(0, limit - used + cached))


def _limit_file(group: str) -> str:
    v1 = f"{group}/memory.limit_in_bytes"
    return v1 if os.path.exists(v1) else f"{group}/memory.max"  # noqa: PTH110


def _text_of(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()
