"""What processes weigh: the memory that only their end, or swap, can free.

That is anonymous memory, shared memory, and both where swapped out. Not mapped files, of whose pages the kernel drops as
many as it likes: a job may map a file of any size.
"""

from __future__ import annotations

import contextlib
import os

# Of a process that never ran a job.
FRESH_BYTES = 32 * 10**6
# A child that has kept more than this part of a job's limit from earlier jobs is too full for it.
LEFTOVER_PART = 8
MAX_PROCESSES = 1000

_ROUGH = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_EXACT = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")


def weigh(pid: int) -> int:
    """Bytes of a process and its descendants, at most: what they share counts for each."""
    return sum(_sum(f"/proc/{process}/status", _ROUGH) for process in _tree(pid))


def weigh_exactly(pid: int) -> int:
    """The same, with what is shared shared out."""
    return sum(_exact(process) for process in _tree(pid))


def is_too_full(limit: int) -> bool:
    """Whether this process has kept so much from earlier jobs that one with this limit should not begin in it."""
    return _sum("/proc/self/status", _ROUGH) > FRESH_BYTES + limit // LEFTOVER_PART


def _tree(pid: int) -> list[int]:
    """A process and its descendants; each child is the subreaper of its own, so none gets away."""
    found = [pid]
    for process in found:
        if len(found) >= MAX_PROCESSES:
            break
        with contextlib.suppress(OSError):  # ended meanwhile
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208 - many times a second
                with open(f"/proc/{process}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                    found += [int(word) for word in file.read().split()]
    return found


def _exact(pid: int) -> int:
    try:
        return _read(f"/proc/{pid}/smaps_rollup", _EXACT)
    except PermissionError:
        # Of a job that hides itself, or of another user's where root has no CAP_SYS_PTRACE. Better too much than nothing:
        # else such a job would have no limit.
        return _sum(f"/proc/{pid}/status", _ROUGH)
    except OSError:  # ended meanwhile
        return 0


def _sum(path: str, wanted: tuple[bytes, ...]) -> int:
    with contextlib.suppress(OSError):
        return _read(path, wanted)
    return 0


def _read(path: str, wanted: tuple[bytes, ...]) -> int:
    kilobytes = 0
    with open(path, "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(wanted):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024
