"""The duty that makes time pass on the board: jobs fall due, expire, and silent workers are found lost.

One thread sleeps until the earliest deadline that the board knows, and is woken when an earlier one comes in. It also
ticks at a steady beat, so that the board can tell its own sleep (a stopped process) from the silence of workers, and
has the store pruned now and then.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from cluster.core import events

if TYPE_CHECKING:
    from cluster.master.master import Master

LOG = logging.getLogger("cluster.master")

PRUNE_SECONDS = 60.0
MIN_PRUNE_SECONDS = 1.0


class Timekeeper:
    """Ticks the board."""

    def __init__(self, master: Master) -> None:
        self._master = master
        # The board forgives its own sleep from half a heartbeat timeout on; the beat is well below that.
        self._beat_seconds = master.settings.heartbeat_timeout_seconds / 4
        self.prune_seconds = _prune_seconds(master)
        self._wakes_at = float("-inf")  # mono; `look_again` reads it without the lock and may at worst wake us in vain
        self._is_woken = threading.Condition()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="cluster-timekeeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns once the thread is gone."""
        with self._is_woken:
            self._is_stopping = True
            self._is_woken.notify()
        if self._thread is not None:
            self._thread.join()

    def look_again(self) -> None:
        """A decision may have set an earlier deadline than the one we sleep towards."""
        due = self._master.board.timers.next_due()
        if due is not None and due < self._wakes_at:
            with self._is_woken:
                self._is_woken.notify()

    def _run(self) -> None:
        prune_at = self._master.clock.mono() + self.prune_seconds
        while self._sleep():
            try:
                self._master.decide(events.Tick())
                if self._master.clock.mono() >= prune_at:
                    prune_at = self._master.clock.mono() + self.prune_seconds
                    self._master.committer.prune_soon()
            except Exception:
                # Without this duty no retry would ever run: whatever is wrong, go on.
                LOG.exception("timekeeper: unexpected error; going on")

    def _sleep(self) -> bool:
        """Wait for the next deadline; False if we are to stop."""
        with self._is_woken:
            # From here on whoever sets a deadline wakes us, for `due` may be read just before it is set.
            self._wakes_at = float("inf")
            now = self._master.clock.mono()
            with self._master.lock:
                due = self._master.board.next_due()
            self._wakes_at = min(now + self._beat_seconds, float("inf") if due is None else due)
            if not self._is_stopping and self._wakes_at > now:
                self._is_woken.wait(self._wakes_at - now)
            self._wakes_at = float("-inf")  # awake: `look_again` need not wake us
            return not self._is_stopping


def _prune_seconds(master: Master) -> float:
    """More often than usual where something is kept for less than that."""
    kept = (
        master.retention.output_seconds,
        master.defaults.result_ttl,
        master.settings.dead_retention_seconds,
    )
    return min(PRUNE_SECONDS, max(MIN_PRUNE_SECONDS, min(kept)))
