"""Roles and their keys: made once, kept in files that only their owner reads, never shown.

A cluster has one key for each role. A key is 32 random bytes, as hexadecimal text in `client.key`, `worker.key` and
`admin.key`. Whoever holds one may do what that role may do, and nothing else.

While a key is exchanged for another a file has both, a line for each. The first is the one that a caller proves; a master
takes any of them. Whoever holds a `KeyFile` sees a change of the file at its next connection, so nobody is restarted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, TypeAlias

from cluster.errors import ClusterError
from cluster.wire.changes import Changes
from cluster.wire.folders import make_private, require_unshared

LOG = logging.getLogger("cluster.wire")

KEY_BYTES = 32
# In one file. Each is one more proof in the master's answer to whoever connects.
MAX_KEYS = 4
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# A key is 64 digits and a newline; whatever is much longer than a few of them is another file.
_MAX_FILE_BYTES = 4096


class Role(StrEnum):
    """What a connection may do; each has a key of its own."""

    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"


class Secret:
    """Bytes that no log, traceback or pickle may hold. Only `reveal()` gives them out."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if len(value) < KEY_BYTES:
            raise ClusterError(f"a key of {len(value)} bytes is too short: it needs {KEY_BYTES}; see make_keys")
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves."""
        return self._value

    def secrets(self) -> tuple[Secret, ...]:
        """As `KeyFile.secrets`: a key in hand is one that does not change."""
        return (self,)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __getstate__(self) -> NoReturn:
        raise TypeError("a key has no state to show: hand on the path of its file")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: hand on the path of its file")


class KeyFile:
    """The keys of one file, as they stand in it now. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # guards the rest
        self._changes = Changes(path)
        self._changes.look()
        self._secrets = _read(path)

    def secrets(self) -> tuple[Secret, ...]:
        """The keys, at least one: the first is proved, each is accepted. Looks whether the file has changed.

        If it was changed into what is no key file, those that it had stay in force, and the log says why.
        """
        with self._lock:
            if self._changes.look():
                try:
                    self._secrets = _read(self.path)
                    LOG.info("keys were read again: file=%s keys=%d", self.path, len(self._secrets))
                except ClusterError as error:
                    LOG.warning("a changed key file is not taken, what it held before stays in force: %s", error)
            return self._secrets

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"


Key: TypeAlias = Secret | KeyFile


def make_keys(directory: Path) -> dict[Role, Path]:
    """Make those keys that are not there yet, in a folder of mode 0700; existing ones are checked and kept.

    Safe to call by several processes at once: whoever comes first makes a key, and it appears whole or not at all.
    """
    try:
        make_private(directory)
        require_unshared(directory)
    except OSError as error:
        raise ClusterError(f"the folder for keys, {directory}, can't be made: {error.strerror}") from error
    paths = {role: directory / f"{role.value}.key" for role in Role}
    for path in paths.values():
        if not path.exists():
            _make(path)
        load_key(path)
    return paths


def load_key(path: Path) -> KeyFile:
    """What is in a key's file. Raises `ClusterError` that names the command that mends what is wrong with it."""
    return KeyFile(path)


def _read(path: Path) -> tuple[Secret, ...]:
    try:
        # Checked on the open file: between a check by name and an open, the name may come to mean another file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ClusterError(
            f"there is no key {path}; a master makes it on its first start, copy it from there"
        ) from None
    except OSError as error:
        if path.is_symlink():
            raise ClusterError(f"key {path} is a symbolic link; give the path of the key itself") from None
        raise ClusterError(f"key {path} can't be read: {error.strerror}") from error
    try:
        require_private(path, os.fstat(descriptor))
        text = os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
    return _parse(path, text)


def require_private(path: Path, status: os.stat_result) -> None:
    """Raise `ClusterError` with the command that mends it, unless this is a plain file that only we can read."""
    if not stat.S_ISREG(status.st_mode):
        raise ClusterError(f"key {path} is no plain file; give the path of the key itself")
    if status.st_uid != os.geteuid():
        raise ClusterError(
            f"key {path} belongs to user {status.st_uid}; run `sudo chown {os.geteuid()} {path}` if it is yours"
        )
    if status.st_mode & _OTHERS:
        raise ClusterError(f"other users can read or write key {path}; run `chmod 600 {path}`")


def _parse(path: Path, text: bytes) -> tuple[Secret, ...]:
    remake = "remove it and start the master again to have a new one made"
    lines = [line for line in text.splitlines() if line.strip()] or [b""]
    if len(lines) > MAX_KEYS:
        raise ClusterError(f"key {path} has {len(lines)} lines; it may hold {MAX_KEYS} keys, one on each line")
    return tuple(_parse_line(path, line, remake) for line in lines)


def _parse_line(path: Path, line: bytes, remake: str) -> Secret:
    try:
        value = bytes.fromhex(line.decode("ascii"))
    except ValueError:
        # Nothing of the file is quoted: it may be another secret.
        raise ClusterError(f"key {path} is not hexadecimal text; {remake}") from None
    if len(value) < KEY_BYTES:
        raise ClusterError(f"key {path} is too short: {len(value)} bytes, it needs {KEY_BYTES}; {remake}")
    return Secret(value)


def _make(path: Path) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
    try:
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123  # Path can't open a descriptor
            file.write(os.urandom(KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: it never replaces the key that another process has just made.
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    except OSError as error:
        raise ClusterError(f"key {path} can't be made: {error.strerror}") from error
    finally:
        new.unlink(missing_ok=True)
