"""Counts the forks that this process is away from the one that imported the kit.

A handle notes the count when it is made. In a child of `os.fork()` the count differs, and then nothing of the handle
may be used: its threads are not there, and its locks are as some thread of the parent happened to hold them.
"""

from __future__ import annotations

import os

from cluster.errors import MasterUnavailable

generation = 0  # written in a forked child only, before any of its code runs


def forked_error() -> MasterUnavailable:
    """What a handle says in a forked child."""
    return MasterUnavailable(
        "this process is a fork of the one that made this cluster, and the cluster stayed there; "
        "open one of its own here (cluster.local(...)), or fork before you open any"
    )


def _count_fork() -> None:
    global generation  # noqa: PLW0603 - one counter for the process is the point
    generation += 1


os.register_at_fork(after_in_child=_count_fork)
