"""A backup of a store, made while a cluster works on it or while none does.

A backup is a store itself (`copying.py`): `TARGET` and `TARGET.key`. What it lacks is the witness of epochs, so a cluster
that opens it, wherever that is, begins far above all fences that were given out since.

It reads through one more connection that can't write, beside the cluster's own two, instead of asking the cluster: it
works where the master does not answer, and there is nothing in the master that a large copy could hold up. The log grows
meanwhile, for it can't be begun anew under a reader.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec import Struct

from cluster.errors import Refused, StoreError
from cluster.store.copying import copy_database, put_in_place
from cluster.store.epochs import sync_folder, write_private
from cluster.store.files import StoreFiles
from cluster.store.inspection import inspect, open_to_read, reading


class Backup(Struct, frozen=True):
    """What was made."""

    path: Path
    counts: dict[str, int]
    findings: tuple[str, ...]  # of single records that were altered: they are so in the store too


def back_up(store: str, files: StoreFiles, target: Path, *, may_replace: bool) -> Backup:
    """Make a backup and check it.

    Args:
        store: the URL, for what is told.
        files: the store's.
        target: where to; the folder must be there.
        may_replace: an earlier backup of that name, once the new one is whole.

    Raises:
        Refused: there is a file of that name.
        StoreError: the store can't be read, or the copy is not sound; nothing of it is left.
    """
    kept = StoreFiles(str(target), target)
    taken = [path for path in (kept.database, kept.key_file) if path.exists()]
    if target == files.database or target in files.parts():
        raise Refused(f"{target} is the store itself; name another file")
    if taken and not may_replace:
        raise Refused(f"{taken[0]} is there already; name another file, or write --force to replace it")
    if not target.parent.is_dir():
        raise Refused(f"there is no folder {target.parent}; make it first (mkdir -p)")
    new = target.with_name(target.name + ".unchecked")
    try:
        with reading(store, files) as (connection, key):
            new.unlink(missing_ok=True)
            copy_database(store, connection, new)
        with contextlib.closing(open_to_read(StoreFiles(str(new), new), is_alone=True)) as connection:
            found = inspect(connection, key, StoreFiles(str(new), new))
        if not found.is_usable:
            raise StoreError(store, f"the backup is not sound, so the store may not be: {found.findings[0]}")
        _place(kept, new, key, may_replace=may_replace)
    except OSError as error:
        raise StoreError(store, f"the backup can't be written: {error}") from error
    finally:
        new.unlink(missing_ok=True)
    return Backup(target, found.counts, found.findings)


def _place(kept: StoreFiles, new: Path, key: bytes, *, may_replace: bool) -> None:
    """Give both files their names. Killed at any moment, it leaves no database with a key that is not its own."""
    if not may_replace:
        write_private(kept.key_file, key)
        try:
            put_in_place(new, kept.database)
        except BaseException:
            kept.key_file.unlink()
            raise
        return
    if not kept.key_file.exists() or kept.key_file.read_bytes() != key:
        kept.database.unlink(missing_ok=True)
        new_key = kept.key_file.with_name(kept.key_file.name + ".new")
        new_key.unlink(missing_ok=True)
        write_private(new_key, key)
        new_key.replace(kept.key_file)
    new.replace(kept.database)
    sync_folder(kept.database.parent)
