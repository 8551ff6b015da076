"""Files that must be whole, ours and nobody else's: written in one move, looked at before they are believed.

A file appears under its name when its bytes are on the disk, or not at all: it is written beside as NAME.new, synced,
and moved. Whoever writes several files holds the lock of their folder, which the kernel drops with the process; what a
process that was killed left as NAME.new is for the next holder to finish or to drop.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import ClusterError, Refused

NEW = ".new"
SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
FOLDER_MODE = 0o700
LOCK_SECONDS = 30.0
# Ten thousand certificates and their ledger take two; more than this is another file.
MAX_FILE_BYTES = 16 << 20

_LOCK_POLL_SECONDS = 0.02
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def staged(path: Path) -> Path:
    """Where a file is written before it has its name."""
    return path.with_name(path.name + NEW)


def stage(path: Path, data: bytes, mode: int) -> None:
    """Write what is to become `path`, to the disk; after an error nothing of it is left."""
    new = staged(path)
    try:
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET_MODE)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(data)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ClusterError(f"{path} can't be written: {error.strerror}; nothing was changed") from error


def settle(path: Path) -> None:
    """Give what was staged its name."""
    staged(path).replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Replace a file by another one, or leave it as it is."""
    stage(path, data, mode)
    settle(path)


def sync_folder(folder: Path) -> None:
    """Have the disk know the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checked(path: Path, *, is_secret: bool) -> bytes:
    """What a file holds that only we (or root) can have written, and if it is a secret, that nobody else can read.

    Raises:
        Refused: it is not there, or others could get at it; the sentence has the command that mends it.
    """
    try:
        # Checked on the open file: between a check by name and an open, the name may come to mean another file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Refused(f"there is no file {path}") from None
    except OSError as error:
        if path.is_symlink():
            raise Refused(f"{path} is a symbolic link; put the file itself there") from None
        raise Refused(f"{path} can't be read: {error.strerror}") from error
    try:
        _require_ours(path, os.fstat(descriptor), is_secret=is_secret)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"{path} is larger than {MAX_FILE_BYTES} bytes; that is another file")
    return data


def require_private_folder(folder: Path) -> None:
    """Refuse a folder that others could look into, or put files into."""
    try:
        status = folder.stat()
    except OSError as error:
        raise Refused(f"the folder {folder} can't be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{folder} is no folder")
    if status.st_uid != os.geteuid():
        raise Refused(
            f"{folder} belongs to user {status.st_uid}; run `sudo chown -R {os.geteuid()} {folder}` if it is yours"
        )
    if status.st_mode & _OTHERS:
        raise Refused(f"other users can look into {folder}; run `chmod 700 {folder}`")


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Be the only one at work in a folder; waits for another at most half a minute."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"the folder {folder} can't be opened: {error.strerror}") from error
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise Refused(f"another command has been at work in {folder} for {LOCK_SECONDS:g} s; wait for it")
            # sleeps because there is no bounded wait for a file lock
            time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _require_ours(path: Path, status: os.stat_result, *, is_secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{path} is no plain file")
    owners = {os.geteuid()} if is_secret else {os.geteuid(), 0}
    if status.st_uid not in owners:
        raise Refused(f"{path} belongs to user {status.st_uid}; run `sudo chown {os.geteuid()} {path}` if it is yours")
    if is_secret and status.st_mode & _OTHERS:
        raise Refused(f"other users can read or write {path}; run `chmod 600 {path}`")
    if status.st_mode & _OTHERS_WRITE:
        raise Refused(f"other users can write {path}; run `chmod 644 {path}`")
