"""What a turn of the supervisor has to tell the master, told in few calls at its end.

The order matters: an attempt's report goes before the word that it is stopped, and both before new work is asked for,
so that the board knows the slots to be free. What a desk failed to take is kept and told again; its fence makes a
repetition harmless. Only the supervisor's thread touches it.
"""

from __future__ import annotations

from msgspec import Struct

from cluster.core.records import Fence, Report, WorkerId
from cluster.wire.desks import WorkDesk
from cluster.wire.messages import Progress


class Outbox(Struct):
    """Reports, confirmations and give-backs that the desk has not taken yet."""

    reports: list[Report] = []
    stopped: list[Fence] = []
    given_back: list[Fence] = []
    progress: list[Progress] = []
    begun: list[Fence] = []

    def flush(self, desk: WorkDesk, worker: WorkerId) -> None:
        """Tell it all. Raises what the desk raises, and keeps what it did not take."""
        if self.begun:
            begun, self.begun = self.begun, []  # as with progress
            desk.begun(worker, begun)
        if self.progress:  # before the reports: the last word of a job that has ended since is heard by nobody later
            progress, self.progress = self.progress, []  # not worth telling twice
            desk.progress(worker, progress)
        if self.reports:
            desk.report(worker, self.reports)
            self.reports = []
        if self.stopped:
            desk.stopped(worker, self.stopped)
            self.stopped = []
        if self.given_back:
            desk.give_back(worker, self.given_back)
            self.given_back = []

    def clear(self) -> None:
        """Forget it all: the master no longer knows the leases."""
        self.reports, self.stopped, self.given_back, self.progress, self.begun = [], [], [], [], []
