"""A lock whose waiters come before whoever has just let it go."""

from __future__ import annotations

import threading
from types import TracebackType


class Turns:
    """Stands in front of a lock, for `with`. Python's own locks are not fair: who lets go and takes again at once has it."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.line = threading.Lock()  # held by the one who is next, until it has the lock

    def __enter__(self) -> None:
        with self.line:
            self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
