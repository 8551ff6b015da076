"""What a worker is told when it starts."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from cluster.worker.identity import Identity
    from cluster.worker.limits import Limits

MAX_SLACK_SECONDS = 0.0005


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """One worker: its name, its slots, and the surroundings of its jobs.

    `directory` and `sys_path` are what a job finds as its working directory and module path; by default those of the
    process that makes this record.
    """

    name: str
    slots: int
    resources: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    heartbeat_interval_seconds: float = 2.0
    # Without an accepted heartbeat for so long, the master may have given our leases to others: what runs is killed.
    # Must not exceed the master's own heartbeat timeout.
    lease_seconds: float = 10.0
    directory: str = field(default_factory=os.getcwd)
    sys_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    max_output_bytes: int = 65536  # of what one job prints: a quarter from its beginning, the rest from its end
    max_result_bytes: int = 1 << 30
    max_jobs_per_child: int = 0  # a child that has run so many is replaced by a fresh one; 0: never
    env: tuple[tuple[str, str], ...] = ()  # what jobs find in their environment besides ours
    # A turn waits so long at most for results to gather (see `Slots.slack`). 0 where telling one costs nothing but time of
    # the processor, because it need not be written to a disk or sent.
    max_slack_seconds: float = MAX_SLACK_SECONDS
    scratch: str = ""  # each job starts in an empty folder below this one; empty: in `directory`
    identity: Identity | None = None  # who jobs run as; None: whoever the worker is
    limits: Limits = ()  # of each child (see `limits`)
    group: str = ""  # folder of the cgroup that children are in (see `groups`); empty: the worker's own
    threads: int = 0  # > 0: instead of processes, so many threads of one process; `slots` is the same number then

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"a worker needs at least one slot, not {self.slots}")
        if self.max_jobs_per_child < 0:
            raise ValueError(f"max_jobs_per_child must not be negative, which {self.max_jobs_per_child} is; 0 is never")
        if self.threads and self.threads != self.slots:
            raise ValueError(f"a worker of {self.threads} threads has as many slots, not {self.slots}")
        if not self.name or "#" in self.name:
            raise ValueError(f"a worker's name must not be empty or hold '#', which {self.name!r} does")
