"""How many cpus this process may really use."""

from __future__ import annotations

import math
import os

_CGROUP_V2 = "/sys/fs/cgroup/cpu.max"
_CGROUP_V1 = "/sys/fs/cgroup/cpu"


def usable_cpus() -> int:
    """Cpus of this process's affinity mask, but no more than its cgroup's quota pays for; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _quota()
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def parse_quota(text: str) -> float | None:
    """Cpus that a `cpu.max` line ("max 100000", "150000 100000") grants; None: no limit, or not understood."""
    fields = text.split()
    try:
        quota, period = float(fields[0]), float(fields[1])
    except (IndexError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def _quota() -> float | None:
    try:
        if os.path.exists(_CGROUP_V2):  # noqa: PTH110 - a program's first moments are not for loading pathlib
            return parse_quota(_read(_CGROUP_V2))
        return parse_quota(f"{_read(f'{_CGROUP_V1}/cpu.cfs_quota_us')} {_read(f'{_CGROUP_V1}/cpu.cfs_period_us')}")
    except OSError:
        return None


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - as above
        return file.read()
