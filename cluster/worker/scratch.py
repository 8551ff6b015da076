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
import stat
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.worker.identity import Identity

_LOCK = ".lock"
# A worker locks its folder at once. One without a lock for so long was made again by the child of a dead worker, which
# found it removed.
UNLOCKED_SECONDS = 60.0


def folder_of(base: str, pid: int) -> str:
    """The folder of one child."""
    return f"{base}/child-{pid}"


def enter(base: str, owner: Identity | None = None) -> str:
    """Make this process's folder and go there; its path."""
    folder = folder_of(base, os.getpid())
    os.mkdir(folder, mode=0o700)  # noqa: PTH102 - a nursery is ready the sooner for what it need not load
    if owner is not None:
        # Nobody but us may write where it lies, so the name can't have come to mean anything else.
        os.chown(folder, owner.uid, owner.gid, follow_symlinks=False)
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
def scratch_folder(parent: str, name: str, *, is_shared: bool = False) -> Iterator[str]:
    """A folder for one worker process, as long as the block lasts; those of dead ones of its name are removed first.

    Args:
        parent: made if it is not there; refused if others could put something into it.
        name: the worker's.
        is_shared: children are of another user: it can go through the folders to its own, and neither list nor change them.
    """
    import shutil
    import tempfile
    from pathlib import Path

    Path(parent).mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_ours(parent)
    for old in Path(parent).glob(f"{name}-*"):
        _remove_if_dead(old)
    base = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    if is_shared:
        for folder in (Path(parent), base):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXGRP | stat.S_IXOTH)
    descriptor = os.open(base / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as lock:  # noqa: PTH123 - a descriptor
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield str(base)
        finally:
            shutil.rmtree(base, ignore_errors=True)


def _require_ours(folder: str) -> None:
    """Refuse a folder into which others could put something, or that somebody else has put in our way.

    By the name itself: behind a link that another user made first may lie a folder of ours, in which things of ours would
    be taken for a dead worker's, and removed.
    """
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{folder} is a symbolic link or no folder; remove it, or name a folder of your own (--scratch)")
    if status.st_uid != os.geteuid():
        raise Refused(f"folder {folder} belongs to another user; name a folder of your own for what jobs write")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(f"other users can write into folder {folder}; run `chmod go-w {folder}`")


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
