"""A backup into the place of a store, with what was there kept aside, and with epochs beyond any of its later life.

    copy, check        runs.db.restoring        from here on nobody opens the store until all of this is done
    move aside         runs.db, -wal, -shm, .key  ──►  runs.db.replaced-20261124-073000, ...
    the key, the witness of epochs (epochs.py)
    move into place    runs.db.restoring  ──►  runs.db

Killed before the first line is done it has changed nothing; after that, the same command once more finishes it. A worker
that outlives all this and still holds a lease of the later life is fenced off: no opening of the restored store gives out
a fence that the later life may have given out.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from msgspec import Struct

from cluster.errors import Refused, StoreError
from cluster.store import rows
from cluster.store.connection import COMPLAINTS
from cluster.store.copying import copy_database, unused_name
from cluster.store.epochs import JUMP, MAX_EPOCH, EpochFile, sync_folder, write_private
from cluster.store.files import StoreFiles
from cluster.store.inspection import inspect, open_to_read, reading
from cluster.store.lock import Possession
from cluster.store.rows import BadSealError
from cluster.store.seal import Seal


class Restored(Struct, frozen=True):
    """What was done."""

    kept: tuple[Path, ...]  # what was there before, under its new names
    counts: dict[str, int]
    findings: tuple[str, ...]  # of single records that were altered: they are left out of everything
    epoch: int  # the next opening goes beyond this


def restore(store: str, files: StoreFiles, source: Path) -> Restored:
    """Put a backup into the place of a store.

    Raises:
        Refused: the backup is the store.
        StoreInUse: a cluster has the store open.
        StoreError: the backup is not sound, or the disk does not take it.
    """
    if source == files.database or source in files.parts():
        raise Refused(f"{source} is the store itself; name a backup of it")
    files.require_folder()
    files.require_private()
    possession = Possession(store, files.lock_file)
    possession.acquire()
    try:
        return _restore(store, files, source)
    except OSError as error:
        raise StoreError(store, f"it can't be restored: {error}; run the same command again") from error
    finally:
        possession.release()


def _restore(store: str, files: StoreFiles, source: Path) -> Restored:
    backup = StoreFiles(str(source), source)
    new = files.database.with_name(files.database.name + ".restored")
    new.unlink(missing_ok=True)
    try:
        with reading(str(source), backup) as (connection, key):
            found = inspect(connection, key, backup)
            if not found.is_usable:
                raise StoreError(str(source), found.findings[0])
            stored = _epoch_in(connection, key)
            copy_database(str(source), connection, new)
        new.replace(files.restoring)
        sync_folder(files.restoring.parent)
    finally:
        new.unlink(missing_ok=True)
    epoch = _highest_epoch(files, key, stored)
    kept = _move_aside(files)
    write_private(files.key_file, key)
    EpochFile(store, files.epoch_file).write(key, epoch, is_log_needed=False)
    sync_folder(files.database.parent)
    files.restoring.replace(files.database)
    sync_folder(files.database.parent)
    return Restored(kept, found.counts, found.findings, epoch)


def _highest_epoch(files: StoreFiles, key: bytes, stored: int) -> int:
    """An epoch that is at least that of any opening of this store's life after the backup."""
    witness = EpochFile(files.database.as_posix(), files.epoch_file).read(key)
    replaced = 0
    # It may be damaged, which is why it is replaced; and it may be another store's, which says nothing of this one.
    with contextlib.suppress(StoreError, OSError, *COMPLAINTS):
        if files.database.exists() and files.key_file.read_bytes() == key:
            with contextlib.closing(open_to_read(files, is_alone=True)) as connection:
                replaced = _epoch_in(connection, key)
    known = max(stored, replaced, witness.epoch if witness else 0)
    if witness is not None and witness.epoch >= max(stored, replaced):
        return known
    return min(known + JUMP, MAX_EPOCH)


def _epoch_in(connection: sqlite3.Connection, key: bytes) -> int:
    """The epoch that a database has; 0 if it can't tell."""
    reader = rows.Reader(Seal(key))
    with contextlib.suppress(*COMPLAINTS, BadSealError, *rows.UNREADABLE):
        for row in connection.execute("SELECT name, body, mac FROM meta WHERE name = 'epoch'").fetchall():
            return int.from_bytes(reader.meta(row)[1], "big")
    return 0


def _move_aside(files: StoreFiles) -> tuple[Path, ...]:
    """What is in the place of the store now, to names that still make a store of it."""
    base = unused_name(files.database, "replaced")
    kept = []
    for path in files.parts():
        if path.exists():
            aside = base.with_name(base.name + path.name.removeprefix(files.database.name))
            path.rename(aside)
            kept.append(aside)
    sync_folder(files.database.parent)
    return tuple(kept)
