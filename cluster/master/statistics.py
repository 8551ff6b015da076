"""Says in the log how things stand; nothing is said while nothing happens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cluster.master import listing

if TYPE_CHECKING:
    from cluster.master.master import Master

LOG = logging.getLogger("cluster.master")

EVERY_SECONDS = 60.0


class Statistics:
    """The counters, as they were last said."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._last = ""

    def say(self) -> None:
        """Log them, if they have changed."""
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
