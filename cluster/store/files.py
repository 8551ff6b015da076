"""The files of a SQLite store: that they are ours, private, whole, and made so that no crash leaves half a store.

    runs.db        the database          runs.db.key    what seals its rows (seal.py)
    runs.db-wal    its write-ahead log   runs.db-shm    the log's index        (both SQLite's, both with the mode of runs.db)
    runs.db.lock   who has it open (lock.py)                 runs.db.epoch  what a restored database can't know (epochs.py)
    runs.db.restoring   a restored database about to be moved into place (restore.py); until it is, nobody opens the store

Everything here happens under the store's lock. Nothing that is not a store of ours is ever written to; its header is read
before SQLite gets to see the file.

How a store is made, so that a kill or a power failure at any instant leaves either none or a whole one:
1. `runs.db.key.new` is written and synced, then named `runs.db.key`. A key without a database is used by the next try.
2. `runs.db.new` is filled. Without a journal and without a sync: a crash leaves a file that the next try deletes. Once
   closed, it is the whole database, its log merged and gone, and is synced as such.
3. The folder is synced. From here on a power failure leaves the key: its name must not come to the disk after that of
   the database, for a database without its key is refused.
4. `runs.db.new` is named `runs.db`, and the folder is synced. Nothing was acknowledged before that.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from cluster.errors import StoreError, StoreUnsafe
from cluster.store import sql
from cluster.store.epochs import sync_file, sync_folder, write_private
from cluster.store.seal import KEY_BYTES

APPLICATION_ID = 0x434C5553  # "CLUS", as `file` and other programs see it
SCHEMA_VERSION = 2
OLDEST_SCHEMA_VERSION = 1  # from which migrations.py leads up

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_FORMATS = {1, 2}  # SQLite's, to write and to read it: with a rollback journal, with a log
_WAL_HEADER_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class StoreFiles:
    """The files of one store, by the path of its database."""

    def __init__(self, store: str, path: Path) -> None:
        self._store = store
        self.database = path
        self.key_file = path.with_name(path.name + ".key")
        self.lock_file = path.with_name(path.name + ".lock")
        self.epoch_file = path.with_name(path.name + ".epoch")
        self.restoring = path.with_name(path.name + ".restoring")
        self.wal = path.with_name(path.name + "-wal")
        self._others = [path.with_name(path.name + end) for end in ("-shm", "-journal")]
        # What the names led to when the store was opened, by `remember`.
        self._in_use: dict[Path, tuple[int, int]] = {}

    def require_folder(self) -> None:
        """Refuse a store in a folder that is not there: a typing error must not make one."""
        if not self.database.parent.is_dir():
            raise StoreError(self._store, f"there is no folder {self.database.parent}; make it first (mkdir -p)")

    def prepare(self) -> bytes:
        """Make the store if it is not there, refuse what is not a sound one, and hand over its key."""
        self.require_private()
        if self.restoring.exists():
            raise StoreError(
                self._store,
                f"a restore was interrupted, and {self.restoring} is still to be moved into place; "
                "run the same `cluster store restore` again",
            )
        try:
            if not self.database.exists() or not self.database.stat().st_size:
                return self._create()
            self._identify()
            return self._read_key()
        except OSError as error:
            raise StoreError(self._store, f"its files can't be read or made: {error}") from error

    def parts(self) -> list[Path]:
        """The files that are the store, by the names that they may have; the database first."""
        return [self.database, self.wal, *self._others, self.key_file]

    def require_private(self) -> None:
        """Refuse files that others can use, or that are not ours."""
        for path in (self.database, self.key_file, self.epoch_file, self.restoring, self.wal, *self._others):
            self._require_private(path)

    def identify(self) -> bytes:
        """Refuse what is not there or is no store that this version may read; else its key. Changes nothing."""
        self.require_private()
        try:
            if not self.database.exists() or not self.database.stat().st_size:
                raise StoreError(self._store, f"there is no store at {self.database}; look for a typing error")
            self._identify()
            return self._read_key()
        except OSError as error:
            raise StoreError(self._store, f"its files can't be read: {error}") from error

    def uri(self, mode: str) -> str:
        """What SQLite is told to open; it never creates."""
        return f"{self.database.as_uri()}?mode={mode}"

    def remember(self) -> None:
        """Note which files are in use from now on."""
        self._in_use = {path: _identity(path.stat()) for path in (self.database, self.wal, self._others[0])}

    def moved(self) -> list[Path]:
        """The files in use that their names no longer lead to: what is written to them now is lost when we close."""
        found = []
        for path, name in self._in_use.items():
            try:
                if _identity(path.stat()) != name:
                    found.append(path)
            except FileNotFoundError:
                found.append(path)
        return found

    def size(self) -> int:
        """Bytes on disk. By stat: to open and close the file here would drop SQLite's own locks on it."""
        total = 0
        for path in (self.database, self.wal):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    # --- an existing store --------------------------------------------------------------------------------------

    def _require_private(self, path: Path) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode):
            raise StoreUnsafe(self._store, f"{path} is a symbolic link or no plain file; give the file's own path")
        if status.st_uid != os.geteuid():
            raise StoreUnsafe(
                self._store,
                f"{path} belongs to user {status.st_uid}; `sudo chown {os.geteuid()} {path}` if it is yours",
            )
        if status.st_mode & _OTHERS:
            raise StoreUnsafe(self._store, f"other users can read or write {path}; run `chmod 600 {path}`")

    def _identify(self) -> None:
        with self.database.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        if not header.startswith(_MAGIC) or len(header) < _HEADER_BYTES:
            raise StoreError(self._store, "it is not a cluster store, nor any SQLite file; it was left as it is")
        # https://www.sqlite.org/fileformat.html#the_database_header
        pages, version, application = (int.from_bytes(header[at : at + 4], "big") for at in (28, 60, 68))
        if application != APPLICATION_ID:
            raise StoreError(self._store, "it is not a cluster store but another program's SQLite file; left as it is")
        if version > SCHEMA_VERSION:
            raise StoreError(
                self._store,
                f"it was written by a newer version of cluster (schema {version}, this one knows {SCHEMA_VERSION}); "
                "upgrade with `pip install -U cluster-kit`",
            )
        if version < OLDEST_SCHEMA_VERSION:
            raise StoreError(self._store, f"its schema version {version} never was; restore the file from a backup")
        if not {*header[18:20]} <= _FORMATS:  # or SQLite opens it to be read only
            raise StoreError(self._store, "the file is damaged: its header is no known version's; restore it")
        # A crash while the log was being written back may leave a short file, which the log then mends.
        size = pages * int.from_bytes(header[16:18], "big")
        if self.database.stat().st_size < size and not self.wal.exists():
            raise StoreError(self._store, f"the file is damaged: of its {size} bytes some are missing; restore it")

    def _read_key(self) -> bytes:
        try:
            key = self.key_file.read_bytes()
        except FileNotFoundError as error:
            raise StoreError(
                self._store,
                f"its key {self.key_file} is missing, so nothing in it can be trusted; restore the key from a backup, "
                "or move the store away and begin a new one",
            ) from error
        if len(key) != KEY_BYTES:
            raise StoreError(self._store, f"its key {self.key_file} is damaged; restore it from a backup")
        return key

    # --- a new one ----------------------------------------------------------------------------------------------

    def _create(self) -> bytes:
        for path in (self.wal, *self._others):
            if path.exists() and path.stat().st_size > _WAL_HEADER_BYTES:
                # SQLite would replay it into whatever is called runs.db now.
                raise StoreError(
                    self._store, f"{path} is there, but its database is not; restore the database, or move that away"
                )
        key = self._read_key() if self.key_file.exists() else self._make_key()
        new = self.database.with_name(self.database.name + ".new")
        made = [new, *(new.with_name(new.name + end) for end in ("-journal", "-wal", "-shm"))]
        for left_by_a_crash in made:
            left_by_a_crash.unlink(missing_ok=True)
        try:
            _touch(new)
            self._fill(new)
            sync_file(new)
            sync_folder(self.database.parent)
            # An empty file holds the place, in case another program wants the name now; `tempfile` and `touch` leave
            # such ones too, so an empty file is always taken for a store that is still to be made.
            if not self.database.exists():
                _touch(self.database)
            new.replace(self.database)
        finally:
            for path in made:
                path.unlink(missing_ok=True)
        sync_folder(self.database.parent)
        return key

    def _fill(self, path: Path) -> None:
        try:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.executescript(
                    "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;"
                    f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
                    f"{sql.script('schema.sql')} COMMIT;"
                    # Here it is a byte of the header; of a database in use it would be a transaction with four syncs.
                    "PRAGMA journal_mode = WAL;"
                )
        except sqlite3.Error as error:
            raise StoreError(self._store, f"it can't be made: {error}") from error

    def _make_key(self) -> bytes:
        key = os.urandom(KEY_BYTES)
        new = self.key_file.with_name(self.key_file.name + ".new")
        new.unlink(missing_ok=True)
        try:
            write_private(new, key)
            new.replace(self.key_file)
        finally:
            new.unlink(missing_ok=True)
        return key


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
