"""Limits of the system on each process that runs jobs (setrlimit(2)), set in a child before it sees a job.

Both the soft and the hard limit are set, so that no job raises them again, unless it runs as root; what a job starts
inherits them. They count per process, except `nproc`, which counts all processes of the user, and never holds for root.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from cluster.errors import Refused

Limits = tuple[tuple[str, int], ...]

_KINDS = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
}
NAMES = tuple(_KINDS)
# Written as sizes ("1GB"); the others are plain numbers.
SIZES = frozenset({"as", "core", "fsize"})
# Below these no child could start, or none could tell a result.
LEAST = {"as": 256 << 20, "core": 0, "cpu": 1, "fsize": 1 << 20, "nofile": 32, "nproc": 8}
# A core file holds all of a job's memory, and nobody asked for it.
DEFAULTS: Mapping[str, int] = {"core": 0}


def read_limits(given: Mapping[str, int]) -> Limits:
    """The limits of a worker: what is given, and the defaults for the rest.

    Raises:
        Refused: no such limit, or a value with which no child could start.
    """
    for name, value in given.items():
        if name not in _KINDS:
            raise Refused(f"no limit is called {name!r}; there are {', '.join(NAMES)}")
        if value < LEAST[name]:
            raise Refused(f"limit {name} must be at least {LEAST[name]}, not {value}: no job could run")
    return tuple(sorted({**DEFAULTS, **given}.items()))


def require_possible(limits: Limits) -> None:
    """Refuse what this process has no right to set."""
    for name, value in limits:
        _, hard = resource.getrlimit(_KINDS[name])
        if os.geteuid() != 0 and hard != resource.RLIM_INFINITY and value > hard:
            raise Refused(f"limit {name} can't be {value}: the system lets this user have {hard} at most")


def apply_limits(limits: Limits) -> None:
    """Set them for this process."""
    for name, value in limits:
        resource.setrlimit(_KINDS[name], (value, value))
