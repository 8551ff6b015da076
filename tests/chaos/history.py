"""What is written down during a run, by whoever did it, at the moment of doing: the checker knows nothing else.

Clients write what they asked for and what they heard; jobs write that they run, so that executions are known without
the master's word; the harness writes what it broke. Each record is one line, appended in one write, so that a process
killed in between leaves whole lines or the beginning of one. All processes share one machine's monotonic clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct


class Invoked(Struct, frozen=True, tag=True, omit_defaults=True, kw_only=True):
    """A client is about to submit."""

    token: str  # the job's name, unlike any other's; a keyed job's is its key's
    at: float
    sort: str
    digest: str = ""  # of the data among the arguments
    retries: int = 0
    crash_limit: int = 5
    delay: float = 0.0
    key: str = ""
    after: str = ""  # another token
    items: int = 0


class Issued(Struct, frozen=True, tag=True):
    """`submit` has returned."""

    token: str
    job: str
    at: float


class Acknowledged(Struct, frozen=True, tag=True):
    """The submission is durable, says the cluster."""

    token: str
    job: str
    at: float


class Refused(Struct, frozen=True, tag=True):
    """The submission, or all that could be heard of it, ended with an error."""

    token: str
    at: float
    why: str


class Heard(Struct, frozen=True, tag=True, omit_defaults=True):
    """An outcome, as some client was told it. More than one may hear of the same job."""

    token: str
    job: str
    at: float
    state: str
    nonce: str = ""  # of the execution whose result it is
    owner: str = ""  # the token that the result says it is of
    error: str = ""


class CancelAnswered(Struct, frozen=True, tag=True):
    """What `cancel()` returned."""

    token: str
    at: float
    verdict: bool


class Unresolved(Struct, frozen=True, tag=True):
    """A client gave up waiting for an outcome after everything was whole again."""

    token: str
    job: str
    at: float


class MapHeard(Struct, frozen=True, tag=True, omit_defaults=True):
    """The results of a map: how many were right, and the first that was not."""

    token: str
    at: float
    right: int
    errors: int = 0
    wrong: str = ""


class Began(Struct, frozen=True, tag=True, omit_defaults=True, kw_only=True):
    """A job's code runs."""

    job: str
    token: str
    run: int
    attempt: int
    fence: int
    pid: int
    at: float
    nonce: str
    digest: str = ""
    item: int = -1
    given: str = ""  # the nonce of the result that it was given as an argument


class Alive(Struct, frozen=True, tag=True):
    """It still does."""

    nonce: str
    at: float


class Finished(Struct, frozen=True, tag=True):
    """It is about to return or to raise."""

    nonce: str
    at: float


class Fault(Struct, frozen=True, tag=True, omit_defaults=True, kw_only=True):
    """The harness broke something."""

    kind: str  # kill, freeze, cut
    what: str  # master, supervisor, child, nursery, client, keeper, host, line
    host: str
    at: float
    until: float = 0.0  # of what ends again
    detail: str = ""


ClientRecord: TypeAlias = (
    Invoked | Issued | Acknowledged | Refused | Heard | CancelAnswered | Unresolved | MapHeard
)  # fmt: skip
JobRecord: TypeAlias = Began | Alive | Finished

_encode = msgspec.json.Encoder().encode
_decode_client = msgspec.json.Decoder(ClientRecord).decode
_decode_job = msgspec.json.Decoder(JobRecord).decode


class Book:
    """A file of records that one process, or several, append to."""

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        """Open it. With `sync` a line is on the disk before `write` returns."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sync = sync

    def write(self, record: Struct) -> None:
        """Append a line. Thread-safe: it is one write."""
        os.write(self._file, _encode(record) + b"\n")
        if self._sync:
            os.fsync(self._file)


def now() -> float:
    """The machine's monotonic clock, the same for every process on it."""
    return time.monotonic()


def read_client(path: Path) -> list[ClientRecord]:
    """A client's records in their order; a half line at the end is what a kill left."""
    return [_decode_client(line) for line in _whole_lines(path)]


def read_jobs(path: Path) -> list[JobRecord]:
    """A host's records in their order."""
    return [_decode_job(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def write_lines(path: Path, records: Iterable[Struct]) -> None:
    """Keep records for whoever looks into a failed run."""
    path.write_bytes(b"".join(_encode(record) + b"\n" for record in records))
