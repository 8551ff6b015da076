"""What the processes of a cluster wrote, line by line, and what they write from now on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from cluster.deploy.commands import log_of
from cluster.deploy.schema import Config
from cluster.errors import Refused

_POLL_SECONDS = 0.1
_BLOCK_BYTES = 65536
MAX_LINE_BYTES = 65536  # a longer one is told in pieces


class LogLine(Struct, frozen=True):
    """A line, and who wrote it."""

    part: str
    text: str


def log_files(config: Config, part: str | None = None) -> dict[str, Path]:
    """The logs by part: the master's first, then the workers', then the keeper's; or one of them.

    Raises:
        Refused: there is no such part.
    """
    names = ["master", *(worker.name for worker in config.workers), "keeper"]
    if part is not None:
        if part not in names:
            raise Refused(f"cluster {config.name!r} has no part {part!r}; it has {', '.join(names)}")
        names = [part]
    return {name: log_of(config, name) for name in names}


def logs(config: Config, part: str | None = None, *, max_lines: int = 100, follow: bool = False) -> Iterator[LogLine]:
    """The last lines of each log, then, if asked to follow, each line as it is written, without end.

    A log that is not there yet, or is moved away because it is full, is no hindrance: its next lines come.

    Raises:
        Refused: there is no such part.
    """
    tails = [_Tail(name, path) for name, path in log_files(config, part).items()]
    for tail in tails:
        yield from tail.last(max_lines)
    while follow:
        is_quiet = True
        for tail in tails:
            for line in tail.new():
                is_quiet = False
                yield line
        if is_quiet:
            # sleeps because a file does not say when it grows
            time.sleep(_POLL_SECONDS)


class _Tail:
    """One log, read up to an offset."""

    def __init__(self, part: str, path: Path) -> None:
        self._part = part
        self._path = path
        self._offset = 0
        self._rest = b""  # a line whose end is still to come

    def last(self, max_lines: int) -> list[LogLine]:
        """Its last lines, without reading what comes before."""
        try:
            with self._path.open("rb") as file:
                data = _last_block(file, max_lines)
                self._offset = file.tell()
        except OSError:
            return []
        lines = self._split(data)
        return lines[-max_lines:] if max_lines > 0 else []

    def new(self) -> list[LogLine]:
        """What was written since."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # the keeper has cut it
                file.seek(self._offset)
                data = file.read(_BLOCK_BYTES)
                self._offset = file.tell()
        except OSError:
            return []
        return self._split(data)

    def _split(self, data: bytes) -> list[LogLine]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            whole.append(self._rest)
            self._rest = b""
        return [LogLine(self._part, line.decode(errors="replace")) for line in whole]


def _last_block(file: BinaryIO, max_lines: int) -> bytes:
    """The end of a file, from a line's beginning on; at least `max_lines` lines, if there are so many."""
    start = file.seek(0, os.SEEK_END)
    data = b""
    while start > 0 and data.count(b"\n") <= max_lines:
        step = min(start, _BLOCK_BYTES)
        start -= step
        file.seek(start)
        data = file.read(step) + data
    file.seek(0, os.SEEK_CUR)
    return data
