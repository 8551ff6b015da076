"""The demo's two murders: one child of this process, and a whole process group with all that belongs to it.

A worker's nursery and its children lead process groups of their own, so that a kill of a job takes the job's whole tree.
"The whole process group" of the second run is therefore the groups of the victim and of every process below it. All of
them are killed by SIGKILL, which no process can see coming.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

import psutil

from cluster.errors import ClusterError

# SIGKILL takes effect within milliseconds; a process in an uninterruptible wait (a dead disk) may take for ever.
GONE_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.02


def kill_child(pid: int, *, of: int | None = None) -> bool:
    """SIGKILL one process, if it is a descendant of `of` (this process): a pid may be someone else's by now."""
    try:
        mine = {process.pid: process for process in psutil.Process(of).children(recursive=True)}
    except psutil.NoSuchProcess:
        return False
    if pid not in mine:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        mine[pid].kill()  # psutil compares the start time first
        return True
    return False


def kill_with_descendants(pid: int) -> int:
    """SIGKILL the groups of a process and of everything below it, and wait until none is left.

    Returns:
        How many processes were killed.

    Raises:
        ClusterError: if one did not end in time.
    """
    try:
        root = psutil.Process(pid)
        # The root first, so that it starts nothing in the place of what dies.
        doomed = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    own_group = os.getpgrp()
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(process.pid)
            if group != own_group:
                os.killpg(group, signal.SIGKILL)
            else:
                os.kill(process.pid, signal.SIGKILL)
    wait_until_gone(doomed)
    return len(doomed)


def wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait until every one has ended; a zombie has, whoever is to reap it."""
    deadline = time.monotonic() + GONE_TIMEOUT_SECONDS
    left = list(processes)
    while left := [process for process in left if is_alive(process)]:
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise ClusterError(
                f"still there {GONE_TIMEOUT_SECONDS:.0f} s after SIGKILL: process {pids}; look at it with ps"
            )
        # Not `psutil.wait_procs`: it would reap a child of ours behind its Popen's back and lose the exit status.
        time.sleep(POLL_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs still: neither gone, nor dead and unreaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
