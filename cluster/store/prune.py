"""Drop what is past its retention from a store that no cluster has open, and give the space back to the disk.

A cluster that runs drops the same by itself each minute, and uses the space again; what only this does is to make the
file smaller.
"""

from __future__ import annotations

import contextlib
import time

from msgspec import Struct

from cluster.errors import StoreError, StoreInUse
from cluster.store.connection import COMPLAINTS, open_writer, reason
from cluster.store.files import StoreFiles
from cluster.store.locate import open_store
from cluster.store.lock import Possession

# A call of `Store.prune` looks at a part of the store and says only what it dropped. So many in a row that dropped
# nothing, and one more for each part, have been all round.
IDLE_ROUNDS = 2
ROWS_PER_ROUND = 100_000
BUSY_SECONDS = 5.0


class Pruned(Struct, frozen=True):
    """What was done."""

    jobs: int
    bytes_before: int
    bytes_after: int


def prune(store: str, files: StoreFiles) -> Pruned:
    """Drop what is past its retention, and shrink the file. Raises `StoreError`."""
    before = files.size()
    try:
        jobs = _drop(store)
        _shrink(store, files)
    except StoreInUse as error:
        raise StoreInUse(
            store, f"{error.reason} (a cluster that runs prunes by itself each minute; stop it to shrink the file)"
        ) from error
    return Pruned(jobs, before, files.size())


def _drop(url: str) -> int:
    store = open_store(url)
    opening = store.open()
    try:
        needed: set[str] = set()
        for job in store.live_jobs():
            needed.add(job.spec.id)
            needed.update(job.spec.after)
        dropped = idle = 0
        while idle < IDLE_ROUNDS + opening.next_seq // ROWS_PER_ROUND:
            count = store.prune(time.time(), needed.__contains__)
            dropped += count
            idle = 0 if count else idle + 1
    finally:
        store.close()
    return dropped


def _shrink(store: str, files: StoreFiles) -> None:
    possession = Possession(store, files.lock_file)
    possession.acquire()
    try:
        files.prepare()
        with contextlib.closing(open_writer(store, files.uri("rw"), BUSY_SECONDS)) as writer:
            writer.execute("VACUUM")
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except COMPLAINTS as error:
        said = reason(error, files.database, BUSY_SECONDS)
        raise StoreError(store, f"what is over is dropped, but the file can't be made smaller: {said}") from error
    finally:
        possession.release()
