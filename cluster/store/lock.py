"""Sole possession of a store: one cluster at a time, told by name.

The holder has a POSIX lock on `<store>.lock`, a file that says who it is. The kernel drops the lock with the process,
however that dies, so a file left behind is simply taken over. POSIX locks have three habits that shape this module:

- A forked child does not inherit them. Good: a nursery or a user's fork can't keep a dead cluster's store.
- They don't conflict within one process. So a table of what this process holds stands beside them.
- Closing *any* descriptor of the file drops the process's lock. So a file that this process holds is never opened again
  by it: the table is asked first.

A process that waits for nothing may lock a file that its holder is just deleting; whoever gets the lock therefore looks
whether the path still leads to the file that it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from cluster.errors import StoreError, StoreInUse, StoreUnsafe

# Each turn of the loop means that another holder came and went in between.
_MAX_RACES = 100


class Holder(Struct, frozen=True):
    """Who has a store open, as the lock file tells it."""

    pid: int
    host: str
    program: str
    since: float  # wall time

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} ({self.program}) on {self.host} has had it open since {since}"


# What this process holds, by device and inode of the lock file. Written under `_mutex`; an entry with another pid is a
# parent's, from before a fork.
_held: dict[tuple[int, int], Holder] = {}
_mutex = threading.Lock()


class Possession:
    """The lock on one store. `release` may be called twice, or before `acquire`."""

    def __init__(self, store: str, path: Path) -> None:
        self._store = store
        self._path = path
        self._descriptor = -1
        self._pid = 0

    def acquire(self) -> None:
        """Take the lock, or raise `StoreInUse` with the name of who has it."""
        with _mutex:
            for _ in range(_MAX_RACES):
                self._refuse_if_held_here()
                if self._take():
                    return
        raise StoreError(self._store, f"{self._path} is made and deleted by others all the time; who uses this store?")

    def refuse_own(self) -> None:
        """Raise `StoreInUse` if this very process has the store: to open a file of it here would drop SQLite's locks."""
        with _mutex:
            self._refuse_if_held_here()

    def release(self) -> None:
        """Give the lock up. In a forked child, only forget it: it is the parent's."""
        with _mutex:
            if self._descriptor < 0:
                return
            descriptor, self._descriptor = self._descriptor, -1
            status = os.fstat(descriptor)
            _held.pop((status.st_dev, status.st_ino), None)
            if self._pid == os.getpid():
                # Before the lock is dropped: afterwards the path may be the next holder's.
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()
            os.close(descriptor)

    def _refuse_if_held_here(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = self._path.lstat()
            holder = _held.get((status.st_dev, status.st_ino))
            if holder and holder.pid == os.getpid():
                raise StoreInUse(self._store, f"{holder}, and that is this very process; close that cluster first")

    def _take(self) -> bool:
        """Lock the file that the path leads to now; False if it was gone before the lock was there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise StoreUnsafe(self._store, f"its lock file can't be opened: {error}") from error
        taken = False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = self._is_at_path(descriptor)
        except (BlockingIOError, PermissionError) as error:
            raise StoreInUse(
                self._store, f"{_read(descriptor)}; close that one first, or open another store"
            ) from error
        except OSError as error:
            raise StoreError(self._store, f"its folder can't lock files ({error}); use a local one") from error
        finally:
            if not taken:
                os.close(descriptor)
        if taken:
            self._sign(descriptor)
        return taken

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _sign(self, descriptor: int) -> None:
        holder = Holder(os.getpid(), os.uname().nodename, _this_program(), time.time())
        text = msgspec.json.encode(holder)
        # A full disk must not keep a store from being opened: the lock is what counts, the text is a courtesy.
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
        self._descriptor = descriptor
        self._pid = holder.pid
        status = os.fstat(descriptor)
        _held[status.st_dev, status.st_ino] = holder


def _this_program() -> str:
    path = Path(sys.argv[0] if sys.argv else "")
    # Of `python -m cluster master` the file is cluster/__main__.py: the folder is what somebody would know it by.
    return (path.parent.name if path.name == "__main__.py" else path.name) or "python"


def _read(descriptor: int) -> str:
    try:
        return str(msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Holder))
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
        return "another process has it open"
