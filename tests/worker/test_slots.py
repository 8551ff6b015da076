from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from cluster.core.records import Ending, Report
from cluster.worker.blobs import Blobs
from cluster.worker.channel import HEADER, INLINE, MAX_DATAGRAM_BYTES, Finished, Said, encode
from cluster.worker.config import WorkerConfig
from cluster.worker.nursery_link import NurseryLink
from cluster.worker.outbox import Outbox
from cluster.worker.prefetch import LONG, MAX_QUEUED, MIN_JOB_SECONDS
from cluster.worker.slot import Phase, Sent, Slot
from cluster.worker.slots import MAX_MESSAGES_PER_TURN, MIN_GATHERED, Slots
from cluster.worker.vector import Single, Vectored
from tests.worker.recording_desk import RecordingDesk


@pytest.fixture(params=[Single, Vectored])
def slots(request: pytest.FixtureRequest) -> Iterator[Slots]:
    """One slot whose child is played by the test."""
    config = WorkerConfig(name="w", slots=1)
    made = Slots(config, NurseryLink(config, "w", "host"), Outbox())
    made.blobs = Blobs(RecordingDesk())
    made.courier = request.param(MAX_DATAGRAM_BYTES)
    made.all[0].open()
    made.all[0].phase = Phase.READY
    yield made
    made.all[0].close()
    made.epoll.close()


def hold(slot: Slot, count: int) -> None:
    """Give the slot leases 1 to count, as if its child had taken them."""
    desk = RecordingDesk()
    for _ in range(count):
        slot.add(desk.lease(b"f", b""), 0.0, 0.0)


def finish(slot: Slot, fence: int, payload: bytes = b"") -> None:
    assert slot._theirs is not None
    slot._theirs.send(fence, encode(Finished(Report(fence, Ending.SUCCEEDED, payload), 0.0)))


def reported(slots: Slots) -> list[int]:
    return [report.fence for report in slots.outbox.reports]


def test_all_that_is_there_is_taken_in_at_once(slots: Slots) -> None:
    slot = slots.all[0]
    hold(slot, 150)
    for fence in range(1, 101):
        finish(slot, fence)

    slots.receive(slot, time.monotonic())

    assert reported(slots) == list(range(1, 101))
    assert list(slot.outstanding) == list(range(101, 151))


def test_a_child_that_talks_without_end_leaves_the_others_their_turn(slots: Slots) -> None:
    slot = slots.all[0]
    hold(slot, 2 * MAX_MESSAGES_PER_TURN)
    for fence in range(1, MAX_MESSAGES_PER_TURN + 101):
        finish(slot, fence)

    slots.receive(slot, time.monotonic())
    first = len(slots.outbox.reports)
    slots.receive(slot, time.monotonic())

    assert first == MAX_MESSAGES_PER_TURN
    assert len(slots.outbox.reports) == MAX_MESSAGES_PER_TURN + 100


def test_large_results_arrive_among_small_ones(slots: Slots) -> None:
    slot = slots.all[0]
    hold(slot, 4)
    for fence, size in ((1, 3), (2, 1_000_000), (3, 0), (4, 2_000_000)):
        finish(slot, fence, b"r" * size)

    slots.receive(slot, time.monotonic())

    assert [(report.fence, len(report.payload)) for report in slots.outbox.reports] == [
        (1, 3),
        (2, 1_000_000),
        (3, 0),
        (4, 2_000_000),
    ]


NONSENSE = {
    "no msgpack": b"nonsense",
    "a text that is none": HEADER.pack(INLINE, 2) + encode(Said(0.0, 0.0, "ab")).replace(b"ab", b"\xff\xfe"),
    "nested without end": HEADER.pack(INLINE, 2) + b"\x95" + encode(Said(0.0, 0.0, ""))[1:] + b"\x91" * 50_000,
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_dooms_the_child_and_nothing_that_it_says_after_it_is_believed(slots: Slots, nonsense: bytes) -> None:
    slot = slots.all[0]
    assert slot._theirs is not None
    hold(slot, 3)
    null = os.open(os.devnull, os.O_RDONLY)
    before = len(list(Path("/proc/self/fd").iterdir()))

    finish(slot, 1)
    slot._theirs.socket.send(nonsense)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null, null]))]
    slot._theirs.socket.sendmsg([HEADER.pack(INLINE, 2)], rights)
    finish(slot, 2)
    slots.receive(slot, time.monotonic())
    finish(slot, 2)
    slots.receive(slot, time.monotonic())

    assert reported(slots) == [1]
    assert list(slot.outstanding) == [2, 3]
    assert slot.doom is not None
    assert slot.doom.ending is Ending.CRASHED
    assert "wrote nonsense" in slot.doom.reason
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(null)


def test_a_result_of_another_job_than_the_first_is_nonsense(slots: Slots) -> None:
    slot = slots.all[0]
    hold(slot, 2)

    finish(slot, 2)
    slots.receive(slot, time.monotonic())

    assert reported(slots) == []
    assert slot.doom is not None


def test_an_end_that_a_job_closed_dooms_its_child(slots: Slots) -> None:
    slot = slots.all[0]
    assert slot._theirs is not None
    hold(slot, 1)

    slot._theirs.socket.shutdown(socket.SHUT_WR)
    slots.receive(slot, time.monotonic())

    assert slot.doom is not None
    assert "its end of the socket is closed" in slot.doom.reason


def test_results_may_gather_while_a_child_has_many_short_jobs(slots: Slots) -> None:
    slot = slots.all[0]
    for fence in range(1, MAX_QUEUED + 1):
        slot.add(structs.replace(RecordingDesk().lease(b"f", b""), fence=fence), MIN_JOB_SECONDS, 0.0)

    slack = slots.slack()

    assert 0.0 < slack <= slots.config.max_slack_seconds
    assert slack < MAX_QUEUED * MIN_JOB_SECONDS / 2


@pytest.mark.parametrize(("count", "seconds"), [(0, 0.0), (1, 0.001), (MIN_GATHERED - 1, 0.0001), (MIN_GATHERED, LONG)])
def test_the_results_of_few_or_long_jobs_are_not_kept_waiting(slots: Slots, count: int, seconds: float) -> None:
    slot = slots.all[0]
    for fence in range(1, count + 1):
        slot.add(structs.replace(RecordingDesk().lease(b"f", b""), fence=fence), seconds, 0.0)

    assert slots.slack() == 0.0


def test_one_child_with_few_jobs_is_looked_after_whatever_the_others_have() -> None:
    config = WorkerConfig(name="w", slots=2)
    slots = Slots(config, NurseryLink(config, "w", "h"), Outbox())
    for slot, count in zip(slots.all, (MAX_QUEUED, 2), strict=True):
        slot.phase = Phase.READY
        for fence in range(1, count + 1):
            slot.outstanding[fence] = Sent(RecordingDesk().lease(b"f", b""), MIN_JOB_SECONDS, 0.0)
        slot.load_seconds = count * MIN_JOB_SECONDS

    assert slots.slack() == 0.0
    slots.epoll.close()
