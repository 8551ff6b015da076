"""Where jobs of a worker process start: a folder that is empty at each job's beginning, and removed with its child.

    SCRATCH/lab-1-x7f3q2/           one worker process; locked by it, so that the next one knows a dead one's
        child-4711/                 one child; its jobs' working directory, one after the other

A child empties its folder between two jobs, so that most jobs, which write nothing, pay for one look. What a killed child
leaves the supervisor removes, in a thread of its own, for a job may have left a million files. What a killed worker
leaves the next worker of that name removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

_LOCK = ".lock"
# A worker locks its folder at once. One without a lock for so long was made again by the child of a dead worker, which
# found it removed.
UNLOCKED_SECONDS = 60.0


def folder_of(base: str, pid: int) -> str:
    """The folder of one child."""
    return f"{base}/child-{pid}"


def enter(base: str) -> str:
    """Make this process's folder and go there; its path."""
    folder = folder_of(base, os.getpid())
    os.mkdir(folder, mode=0o700)  # noqa: PTH102 - a nursery is ready the sooner for what it need not load
    os.chdir(folder)
    return folder


def empty(folder: str) -> bool:
    """Remove what is in it; False if the folder itself is not there any more, and a new one was made."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    import shutil

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108 - as fast as it gets, between two jobs
    except OSError:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        return False
    return True


def discard(base: str, pid: int) -> None:
    """Remove a dead child's folder; returns at once."""
    folder = folder_of(base, pid)
    with contextlib.suppress(OSError):
        os.rmdir(folder)  # noqa: PTH106 - empty in most cases, and then this is all
        return
    if os.path.exists(folder):  # noqa: PTH110
        import shutil

        threading.Thread(target=shutil.rmtree, args=(folder, True), name="cluster-scratch", daemon=True).start()


@contextlib.contextmanager
def scratch_folder(parent: str, name: str) -> Iterator[str]:
    """A folder for one worker process, as long as the block lasts; those of dead ones of its name are removed first."""
    import shutil
    import tempfile
    from pathlib import Path

    Path(parent).mkdir(parents=True, exist_ok=True, mode=0o700)
    if Path(parent).stat().st_uid != os.getuid():
        raise Refused(f"folder {parent} belongs to another user; name a folder of your own for what jobs write")
    for old in Path(parent).glob(f"{name}-*"):
        _remove_if_dead(old)
    base = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    with (base / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield str(base)
        finally:
            shutil.rmtree(base, ignore_errors=True)


def _remove_if_dead(folder: Path) -> None:
    import shutil

    try:
        with (folder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # removed by another worker meanwhile
            if time.time() - folder.stat().st_mtime > UNLOCKED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # it lives
