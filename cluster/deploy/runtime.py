"""The folder that says what runs: `run/NAME` beside the keys, mode 0700, there while a cluster is up.

    run/lab/lock             held by whoever brings the cluster up or down
    run/lab/cluster.json     what it was brought up as, with the address in place of port 0
    run/lab/keeper.json      who keeps it: pid and birth
    run/lab/master.json      each part: pid and birth, state, how often it was started anew, why it died last
    run/lab/worker-1.json

Only the keeper writes the records of parts, and only `up` writes `cluster.json`. Each is replaced in one move, so a reader
never sees half of one. No secret is in any of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from cluster.deploy.processes import ProcessName
from cluster.deploy.schema import Config
from cluster.errors import Refused
from cluster.wire.folders import make_private, require_unshared

_LOCK_POLL_SECONDS = 0.05

T = TypeVar("T", bound=Struct)


class PartRecord(Struct, frozen=True):
    """One part of a cluster, as its keeper last saw it."""

    process: ProcessName
    state: str  # "starting", "ready", "waiting" (for its next start), "stopping", "failed" (given up)
    restarts: int = 0
    since: float = 0.0  # wall time of its last start
    trouble: str = ""  # how it died last


class KeeperRecord(Struct, frozen=True):
    """Who keeps the cluster up."""

    process: ProcessName


class Snapshot(Struct, frozen=True):
    """What a cluster was brought up as."""

    file: str
    config: str  # the `Config` as JSON
    address: str
    python_path: tuple[str, ...] = ()

    def parse(self) -> Config:
        """The configuration; it was checked when it was written, and its paths are absolute."""
        return Config.model_validate_json(self.config).from_file(Path(self.file))

    @classmethod
    def of(cls, config: Config, address: str, python_path: tuple[str, ...] = ()) -> Snapshot:
        """What `config` is brought up as at an address."""
        return cls(str(config.file), config.model_dump_json(), address, python_path)


class Runtime:
    """The folder of one cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, config: Config) -> Runtime:
        """The folder that belongs to a configuration: by where its keys are, and its name."""
        return cls(Path(config.master.keys).parent / "run" / config.name)

    @property
    def mark(self) -> str:
        """What the command line of each process of this cluster says behind `processes.MARK`."""
        return str(self.folder)

    # --- what runs --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        """What the cluster was brought up as; None: it is not up."""
        return self._read("cluster", Snapshot)

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Say what it is brought up as."""
        self._write("cluster", snapshot)

    def keeper(self) -> ProcessName | None:
        """The living keeper."""
        record = self._read("keeper", KeeperRecord)
        return record.process if record is not None and record.process.is_alive() else None

    def write_keeper(self, process: ProcessName) -> None:
        """Say who keeps it."""
        self._write("keeper", KeeperRecord(process))

    def part(self, name: str) -> PartRecord | None:
        """What the keeper last wrote of a part; it may be long dead."""
        return self._read(name, PartRecord)

    def write_part(self, name: str, record: PartRecord) -> None:
        """Say how a part is."""
        self._write(name, record)

    def forget_part(self, name: str) -> None:
        """Drop what an earlier keeper, or an earlier trial, wrote."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def recorded(self) -> dict[str, PartRecord]:
        """All parts that have a record."""
        names = sorted(path.stem for path in self.folder.glob("*.json"))
        found = {name: self._read(name, PartRecord) for name in names if name not in {"cluster", "keeper"}}
        return {name: record for name, record in found.items() if record is not None}

    # --- the folder ---------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the folder, private."""
        make_private(self.folder)
        require_unshared(self.folder)

    def remove(self) -> None:
        """Drop the folder with all that is in it; only by who holds the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other clusters may have theirs there
            self.folder.parent.rmdir()

    @contextlib.contextmanager
    def locked(self, timeout_seconds: float) -> Iterator[None]:
        """Hold the cluster's lock: one `up` or `down` at a time. The kernel drops it with the process."""
        deadline = time.monotonic() + timeout_seconds
        while (descriptor := self._try_lock()) < 0:
            if time.monotonic() > deadline:
                raise Refused(
                    f"another `cluster up` or `down` has been at work on {self.folder} for {timeout_seconds:g} s; "
                    f"wait for it, or end it"
                )
            # sleeps because there is no bounded wait for a file lock
            time.sleep(_LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            os.close(descriptor)

    def _try_lock(self) -> int:
        """The locked file's descriptor, or -1: another has it, or has just removed the folder."""
        self.make()
        path = self.folder / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise Refused(f"{path} can't be opened: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `down` removes the file while it holds it: the path must still lead to what is locked.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return -1

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.folder / f"{name}.json").read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
            # A damaged one is as good as none: processes without a record are found by their mark.
            return None

    def _write(self, name: str, record: Struct) -> None:
        path = self.folder / f"{name}.json"
        new = path.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(msgspec.json.encode(record))
        new.replace(path)
