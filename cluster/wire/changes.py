"""Whether files are still what they were: keys, certificates and revocations are read again when they change."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

# Whatever replaces or rewrites a file changes one of these, and so does a `chmod` that mends it.
_Stamp: TypeAlias = tuple[int, int, int, int]


class Changes:
    """What some files looked like at the last look."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._stamps: list[_Stamp | None] | None = None

    def look(self) -> bool:
        """Whether any of them is another, or is another way, than at the last look; True at the first."""
        stamps = [_stamp(path) for path in self._paths]
        has_changed = stamps != self._stamps
        self._stamps = stamps
        return has_changed


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
