"""Folders for what is nobody else's business: made so that only we get in, refused where others could put things in.

Whoever may write into a folder may put another file in a file's place, whatever the mode of that file. The exception are
folders like /tmp, where the sticky bit keeps each file with its owner.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cluster.errors import Refused

EVERYBODY = stat.S_IWOTH
OTHERS = stat.S_IWOTH | stat.S_IWGRP


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for us alone, whatever the umask. Raises `OSError`."""
    for missing in [*reversed(folder.parents), folder]:
        # `mkdir(parents=True)` would leave the mode of parents to the umask.
        if not missing.exists():
            missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # complains if it is something else


def require_unshared(folder: Path, writers: int = OTHERS) -> None:
    """Refuse a folder that another user owns, or into which `writers` may put things. Raises `OSError` if it is not there."""
    status = folder.stat()
    if status.st_uid not in {os.geteuid(), 0}:
        raise Refused(
            f"folder {folder} belongs to user {status.st_uid}; run `sudo chown {os.geteuid()} {folder}` if it is yours"
        )
    if status.st_mode & writers and not status.st_mode & stat.S_ISVTX:
        raise Refused(f"other users can put files into {folder}; run `chmod go-w {folder}`")
