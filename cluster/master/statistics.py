"""The duty that says now and then, in the log, how things stand; nothing is said while nothing happens."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from cluster.master import listing

if TYPE_CHECKING:
    from cluster.master.master import Master

LOG = logging.getLogger("cluster.master")

EVERY_SECONDS = 60.0


class StatisticsDuty:
    """Logs the counters once a minute. `stop` may be called twice, or before `start`."""

    def __init__(self, master: Master, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._master = master
        self._every_seconds = every_seconds
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster-statistics", daemon=True)
        self._last = ""

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
                self._say()
            except Exception:
                LOG.exception("statistics: unexpected error; going on")

    def _say(self) -> None:
        stats = listing.statistics(self._master)
        states = " ".join(f"{name}={count}" for name, count in stats.states.items())
        line = (
            f"submitted={stats.submitted} completed={stats.completed} retried={stats.retried} dead={stats.dead} "
            f"fenced={stats.fenced} workers={stats.workers} slots={stats.slots} store_bytes={self._master.store.size()}"
        )
        said = f"{line} {states}".rstrip()
        if said != self._last:
            self._last = said
            LOG.info("statistics: %s", said)
