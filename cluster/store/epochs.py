"""The witness beside a store: how far its epochs have come, and whether its log must be there.

`runs.db.epoch` says what the database can't, because a restored database knows nothing of its own later life:

- the highest epoch that any opening was given. It is written before the opening issues its first fence, and is not part
  of a backup, so it survives the database being put back. An opening goes beyond both; where the witness is missing, is
  another store's or is older than the database, nobody knows how far a later life came, and the epoch jumps.
- whether the write-ahead log holds commits that the database lacks. An opening that finds so, and no log, refuses.
- the number of a commit that was told. An opening that finds the log in use, and no commit so late, refuses: the log was
  cut, or altered so that SQLite reads it no further. It is written after each commit and not synced: what a power failure
  leaves of it is an earlier number, which asks for less.

The file has a fixed size and is overwritten in place: a full disk must not keep a store from being closed.
"""

from __future__ import annotations

import contextlib
import os
from _blake2 import blake2b  # as in `core.digests`
from pathlib import Path

import msgspec
from msgspec import Struct

from cluster.errors import StoreError

# How far an epoch jumps where no witness is: more openings than a life that nobody remembers can have had, unless it
# was opened once a minute for a month and a half.
JUMP = 1 << 16
# A fence is 40 bits of number above its epoch (core/board.py), and SQLite's integers have 63.
MAX_EPOCH = (1 << 23) - 1
FILE_BYTES = 128


class Witness(Struct, frozen=True):
    """What the file says."""

    epoch: int
    store: str  # which store's, by its key
    is_log_needed: bool
    entry: int = 0  # of the journal: it and all before it were committed


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Witness).decode


class EpochFile:
    """The witness of one store. Used under the store's lock."""

    def __init__(self, store: str, path: Path) -> None:
        self._store = store
        self._path = path
        self._said = Witness(0, "", is_log_needed=False)
        self._descriptor = -1  # for `note`

    def read(self, key: bytes) -> Witness | None:
        """What it says of the store with this key; None if nothing, or nothing that can be read."""
        try:
            witness = _decode(self._path.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        return witness if witness.store == _name_of(key) else None

    def next_epoch(self, key: bytes, stored: int) -> int:
        """The epoch of an opening that finds `stored` in the database. Not durable yet: `write` it before its use."""
        witness = self.read(key)
        if witness is not None and witness.epoch >= stored:
            epoch = witness.epoch + 1
        else:
            epoch = stored + (JUMP if stored else 1)
        if epoch > MAX_EPOCH:
            raise StoreError(
                self._store,
                f"it has no epochs left (this opening would be {epoch:,} of {MAX_EPOCH:,}); begin a new store",
            )
        return epoch

    def write(self, key: bytes, epoch: int, *, is_log_needed: bool) -> None:
        """Say so, durably."""
        self._said = Witness(epoch, _name_of(key), is_log_needed)
        text = _encode(self._said).ljust(FILE_BYTES)
        self.close()
        try:
            if not self._overwrite(text):
                self._create(text)
        except OSError as error:
            raise StoreError(self._store, f"{self._path} can't be written: {error}") from error

    def note(self, entry: int) -> None:
        """The log has the commit of this number. By the thread that commits, after each: one write, and no sync."""
        said = self._said
        with contextlib.suppress(OSError):  # then an earlier number stands there, and asks for less
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            text = _encode(Witness(said.epoch, said.store, said.is_log_needed, entry)).ljust(FILE_BYTES)
            os.pwrite(self._descriptor, text, 0)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def require_entry(self, key: bytes, last: int, log: Path) -> None:
        """Refuse to go on without commits that were told.

        Args:
            key: the store's.
            last: the latest commit that database and log have together.
            log: for what is told.
        """
        witness = self.read(key)
        if witness is not None and witness.is_log_needed and last < witness.entry:
            raise StoreError(
                self._store,
                f"its log {log} was cut or altered since its last cluster died: commits that were acknowledged are gone "
                f"({last:,} is the latest, {witness.entry:,} was there); put the log back, or restore a backup (to go on "
                f"without them: `rm {self._path}`)",
            )

    def log_merged(self, key: bytes) -> None:
        """The database has all that the log had."""
        self._say_of_log(key, is_needed=False)

    def log_begun(self, key: bytes) -> None:
        """From now on the log may hold what the database lacks."""
        self._say_of_log(key, is_needed=True)

    def require_log(self, key: bytes, log: Path) -> None:
        """Refuse to go on without a log that had commits: they would be lost without a word."""
        witness = self.read(key)
        if witness is not None and witness.is_log_needed and not log.exists():
            raise StoreError(
                self._store,
                f"its last cluster did not close it, and its log {log} is gone, with commits that the database lacks; "
                f"put the log back, or restore a backup (if another program has merged the log: `rm {self._path}`)",
            )

    def _say_of_log(self, key: bytes, *, is_needed: bool) -> None:
        witness = self.read(key)
        if witness is not None and witness.is_log_needed != is_needed:
            self.write(key, witness.epoch, is_log_needed=is_needed)

    def _overwrite(self, text: bytes) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(descriptor).st_size != len(text):
                return False
            os.pwrite(descriptor, text, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _create(self, text: bytes) -> None:
        new = self._path.with_name(self._path.name + ".new")
        new.unlink(missing_ok=True)
        try:
            write_private(new, text)
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(self._path.parent)


def write_private(path: Path, content: bytes) -> None:
    """Make a file that only we can read, and have it on the disk. Raises `FileExistsError`."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Have the content of a file on the disk that others have written. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the new names themselves durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some file systems can't; the names then reach the disk when they do.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_of(key: bytes) -> str:
    return blake2b(b"which store", key=key, digest_size=8).hexdigest()
