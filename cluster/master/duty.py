"""A thread that does one thing now and then, until it is stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

LOG = logging.getLogger("cluster.master")


class Duty:
    """Whatever it is that goes wrong is logged, and it goes on. `stop` may be called twice, or before `start`."""

    def __init__(self, name: str, every_seconds: float, do: Callable[[], None]) -> None:
        self._name = name
        self._every_seconds = every_seconds
        self._do = do
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"cluster-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns once the thread is gone."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping.wait(self._every_seconds):
            try:
                self._do()
            except Exception:
                LOG.exception("%s: unexpected error; going on", self._name)
