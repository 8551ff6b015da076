"""Copies of a store: complete, consistent, checked, private, and never in the place of another file.

A copy is a store itself: a database in one file, without a log, and its key beside it. It is made by SQLite's backup
from within one read transaction, so it is the state of one instant, and goes to a name of its own until it is whole.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from cluster.errors import StoreError
from cluster.store.connection import COMPLAINTS
from cluster.store.epochs import sync_folder, write_private


def copy_database(store: str, source: sqlite3.Connection, target: Path) -> None:
    """Copy a database to `target`, which must not be there."""
    new = target.with_name(target.name + ".new")
    for left_by_a_crash in (new, new.with_name(new.name + "-journal")):
        left_by_a_crash.unlink(missing_ok=True)
    try:
        write_private(new, b"")
        _copy(store, source, new)
        put_in_place(new, target)
    except (OSError, *COMPLAINTS) as error:
        raise StoreError(store, f"a copy of it can't be made at {target}: {error}") from error
    finally:
        new.unlink(missing_ok=True)
        new.with_name(new.name + "-journal").unlink(missing_ok=True)


def put_in_place(new: Path, target: Path) -> None:
    """Give a finished file its name. Raises `FileExistsError` if that is taken, even since a moment ago."""
    write_private(target, b"")  # whoever makes it first has it
    new.replace(target)
    sync_folder(target.parent)


def copy_key(key_file: Path, copy: Path) -> None:
    """Put a store's key beside a copy of it."""
    write_private(copy.with_name(copy.name + ".key"), key_file.read_bytes())


def unused_name(path: Path, what: str) -> Path:
    """A name beside a file, for a copy of it, that tells what that is and of when: `runs.db.replaced-20261124-073000`."""
    base = f"{path.name}.{what}-{time.strftime('%Y%m%d-%H%M%S')}"
    for count in range(1, 1000):
        name = path.with_name(base if count == 1 else f"{base}-{count}")
        if not name.exists() and not name.with_name(name.name + ".key").exists():
            return name
    raise FileExistsError(f"{path.with_name(base)} is there a thousand times")


def _copy(store: str, source: sqlite3.Connection, new: Path) -> None:
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as target:
        source.execute("BEGIN")
        try:
            # This begins the read; without it a busy writer would make the backup begin again and again.
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(target)
        finally:
            source.execute("ROLLBACK")
        # The copied header asks for a log; a copy is to be one file.
        target.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = target.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(store, f"the copy is damaged ({verdict}), so the store may be: run `cluster store check`")
    descriptor = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
