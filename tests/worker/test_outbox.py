from __future__ import annotations

from collections.abc import Sequence

import pytest

from cluster.core.records import Ending, Fence, Report, WorkerId
from cluster.wire.messages import Progress
from cluster.worker.outbox import Outbox
from tests.worker.recording_desk import RecordingDesk


class Diary(RecordingDesk):
    """Writes down each call, and can be made to fail at one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fails_at = ""

    def _note(self, name: str) -> None:
        if name == self.fails_at:
            raise ConnectionError(name)
        self.calls.append(name)

    def report(self, worker: WorkerId, reports: Sequence[Report]) -> None:
        self._note("report")

    def stopped(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        self._note("stopped")

    def give_back(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        self._note("give_back")

    def progress(self, worker: WorkerId, progress: Sequence[Progress]) -> None:
        self._note("progress")

    def begun(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        self._note("begun")


def full() -> Outbox:
    return Outbox([Report(1, Ending.SUCCEEDED)], [2], [3], [Progress(4, 1, 2)], [5])


def test_everything_is_told_in_order_and_once() -> None:
    desk, outbox = Diary(), full()

    outbox.flush(desk, "w")
    outbox.flush(desk, "w")

    assert desk.calls == ["begun", "progress", "report", "stopped", "give_back"]


def test_what_was_not_taken_is_told_again() -> None:
    desk, outbox = Diary(), full()
    desk.fails_at = "stopped"
    with pytest.raises(ConnectionError):
        outbox.flush(desk, "w")
    desk.fails_at = ""

    outbox.flush(desk, "w")

    assert desk.calls == ["begun", "progress", "report", "stopped", "give_back"]


def test_progress_is_not_worth_telling_twice() -> None:
    desk, outbox = Diary(), full()
    desk.fails_at = "progress"
    with pytest.raises(ConnectionError):
        outbox.flush(desk, "w")
    desk.fails_at = ""

    outbox.flush(desk, "w")

    assert desk.calls == ["begun", "report", "stopped", "give_back"]


def test_a_cleared_outbox_tells_nothing() -> None:
    desk, outbox = Diary(), full()

    outbox.clear()
    outbox.flush(desk, "w")

    assert desk.calls == []
