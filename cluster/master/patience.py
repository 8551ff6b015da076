"""When a commit may wait for what comes next.

A job may start before its admission is durable, so a short one ends while that is being written, and its outcome then
waits for a second write. Had the first one waited for the outcome, there would have been one write, and the round trip
half as long. But whoever waits for the acknowledgement of a long job would have waited in vain.

So it is tried, and learned: a commit waits no longer than a commit takes lately, which at worst doubles its time; and
after each wait that nothing came of, twice as many commits as before do not wait at all.
"""

from __future__ import annotations

MAX_SECONDS = 0.001  # of a wait; a disk that takes longer than this makes groups by itself
NEWEST_WEIGHT = 0.25
MAX_PASSES = 255  # commits that do not wait between one try and the next


class Patience:
    """What has been learned. Only the thread that commits touches it."""

    def __init__(self) -> None:
        self._commit_seconds = 0.0  # 0: none was measured yet
        self._passes = 0
        self._passes_left = 0

    def seconds(self) -> float:
        """How long the commit that is due may wait; 0: not at all."""
        if self._passes_left:
            self._passes_left -= 1
            return 0.0
        return min(self._commit_seconds, MAX_SECONDS)

    def note_commit(self, seconds: float) -> None:
        """A commit took so long."""
        known = self._commit_seconds
        self._commit_seconds = known + NEWEST_WEIGHT * (seconds - known) if known else seconds

    def note_wait(self, *, was_worth_it: bool) -> None:
        """A commit waited, and something came that goes with it, or nothing did."""
        self._passes = 0 if was_worth_it else min(2 * self._passes + 1, MAX_PASSES)
        self._passes_left = self._passes
