"""Counts the forks that this process is away from the one that imported the kit.

A handle notes the count when it is made. In a child of `os.fork()` the count differs, and then nothing of the handle
may be used: its threads are not there, and its locks are as some thread of the parent happened to hold them. A handle
that is connected to a master elsewhere opens another session instead; the jobs of the old one are the parent's.
"""

from __future__ import annotations

import os
import threading

from cluster.errors import MasterUnavailable

generation = 0  # written in a forked child only, before any of its code runs
reopening = threading.RLock()  # held while a handle connects anew in a forked child


def forked_error() -> MasterUnavailable:
    """What a handle says in a forked child."""
    return MasterUnavailable(
        "this process is a fork of the one that made this cluster, and the cluster stayed there; "
        "open one of its own here (cluster.local(...)), or fork before you open any; a job of a cluster that one is "
        "connected to can be attached to here: c.job(id)"
    )


def _count_fork() -> None:
    global generation, reopening  # noqa: PLW0603 - one counter for the process is the point
    generation += 1
    reopening = threading.RLock()


os.register_at_fork(after_in_child=_count_fork)
