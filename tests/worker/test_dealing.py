from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from msgspec import structs

from cluster.core.records import Digest, Ending, FunctionBlob, Lease, Report
from cluster.errors import Refused
from cluster.worker import dealing
from cluster.worker.blobs import PICKLER, PYTHON, Blobs
from cluster.worker.channel import (
    MAX_DATAGRAM_BYTES,
    MAX_INLINE_BYTES,
    Finished,
    Task,
    decode_task,
    encode,
)
from cluster.worker.config import WorkerConfig
from cluster.worker.nursery_link import NurseryLink
from cluster.worker.outbox import Outbox
from cluster.worker.prefetch import MAX_QUEUED, MIN_JOB_SECONDS
from cluster.worker.slot import Phase, Slot
from cluster.worker.slots import Slots
from cluster.worker.vector import Courier, Single, Vectored
from tests.worker.recording_desk import RecordingDesk

FUNCTION = b"function"
BODY = b"its pickle"


class FunctionsDesk(RecordingDesk):
    """Gives any function but those that the master has forgotten, or can't read."""

    def fetch_function(self, digest: Digest) -> FunctionBlob:
        if digest == b"forgotten":
            raise Refused("no such function")
        if digest == b"unreadable":
            raise OSError("the disk is gone")
        return FunctionBlob(digest, BODY, PYTHON, PICKLER, "f", reusable=True)


@pytest.fixture(params=[Single, Vectored])
def slots(request: pytest.FixtureRequest) -> Iterator[Slots]:
    """Two slots whose children are played by the test; most jobs are known to be short."""
    config = WorkerConfig(name="w", slots=2)
    made = Slots(config, NurseryLink(config, "w", "host"), Outbox())
    made.blobs = Blobs(FunctionsDesk())
    made.courier = request.param(MAX_DATAGRAM_BYTES)
    for function in (FUNCTION, b"second", b"forgotten", b"unreadable"):
        made.durations.note(lease(0, function=function), MIN_JOB_SECONDS)
    for slot in made.all:
        slot.open()
        slot.phase = Phase.READY
    yield made
    for slot in made.all:
        slot.close()
    made.epoll.close()


@pytest.fixture
def slot(slots: Slots) -> Slot:
    """The only slot that is open."""
    slots.all[1].is_full = True
    return slots.all[0]


def lease(fence: int, args: bytes = b"args", function: Digest = FUNCTION) -> Lease:
    return structs.replace(RecordingDesk().lease(function, args), fence=fence, job=f"job-{fence}")


def deal(slots: Slots, leases: list[Lease]) -> None:
    slots.backlog.extend(leases)
    dealing.deal(slots, time.monotonic())


def take(slot: Slot) -> tuple[int, Task]:
    """As the child does."""
    assert slot._theirs is not None
    received = slot._theirs.receive(socket.MSG_DONTWAIT)
    assert received is not None
    return received[0], decode_task(received[1])


def finish(slot: Slot, fence: int) -> None:
    assert slot._theirs is not None
    slot._theirs.send(fence, encode(Finished(Report(fence, Ending.SUCCEEDED, seconds=MIN_JOB_SECONDS), 0.0)))


def fences_of(slots: Slots) -> list[int]:
    return [waiting.fence for waiting in slots.backlog]


def make_small(slot: Slot) -> None:
    slot.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)


def test_short_jobs_are_dealt_in_turn_and_each_arrives_once(slots: Slots) -> None:
    deal(slots, [lease(fence) for fence in range(1, 11)])

    assert [list(slot.outstanding) for slot in slots.all] == [[1, 3, 5, 7, 9], [2, 4, 6, 8, 10]]
    assert [[take(slot)[0] for _ in range(5)] for slot in slots.all] == [[1, 3, 5, 7, 9], [2, 4, 6, 8, 10]]
    assert not slots.backlog


def test_a_slot_takes_no_more_than_it_may_queue(slots: Slots) -> None:
    deal(slots, [lease(fence) for fence in range(1, 2 * MAX_QUEUED + 11)])

    assert [len(slot.outstanding) for slot in slots.all] == [MAX_QUEUED, MAX_QUEUED]
    assert fences_of(slots) == list(range(2 * MAX_QUEUED + 1, 2 * MAX_QUEUED + 11))


def test_a_job_of_unknown_length_has_nothing_queued_behind_it(slots: Slots) -> None:
    deal(slots, [lease(fence, function=b"another") for fence in (1, 2, 3)])

    assert [list(slot.outstanding) for slot in slots.all] == [[1], [2]]
    assert fences_of(slots) == [3]


def test_a_function_goes_with_the_first_job_that_needs_it(slots: Slots, slot: Slot) -> None:
    deal(slots, [lease(1), lease(2)])
    deal(slots, [lease(3)])

    assert [take(slot)[1].body for _ in range(3)] == [BODY, b"", b""]


def test_what_the_socket_did_not_take_is_in_the_backlog_and_only_that(slots: Slots, slot: Slot) -> None:
    make_small(slot)

    deal(slots, [lease(fence, b"x" * 2000) for fence in range(1, 33)])

    sent = list(slot.outstanding)
    assert 0 < len(sent) < 32
    assert [*sent, *fences_of(slots)] == list(range(1, 33))
    assert slot.is_full
    assert slot.load_seconds == pytest.approx(len(sent) * MIN_JOB_SECONDS)
    assert [take(slot)[0] for _ in sent] == sent


def test_it_goes_on_when_a_result_has_made_room(slots: Slots, slot: Slot) -> None:
    make_small(slot)
    deal(slots, [lease(fence, b"x" * 2000) for fence in range(1, 33)])
    come: list[int] = []

    while slot.outstanding:
        fence, _ = take(slot)
        come.append(fence)
        finish(slot, fence)
        slots.receive(slot, time.monotonic())
        deal(slots, [])

    assert come == list(range(1, 33))
    assert [report.fence for report in slots.outbox.reports] == come


def test_what_one_full_slot_can_t_take_another_gets(slots: Slots) -> None:
    full, other = slots.all
    make_small(full)

    deal(slots, [lease(fence, b"x" * 2000) for fence in range(1, 41)])

    assert full.is_full
    assert len(other.outstanding) > 20
    assert not slots.backlog
    assert sorted([*full.outstanding, *other.outstanding]) == list(range(1, 41))


def test_a_function_whose_datagram_was_not_taken_is_sent_again(slots: Slots, slot: Slot) -> None:
    make_small(slot)
    deal(slots, [lease(1, b"x" * 10_000)])
    rest = [lease(2, b"x" * 14_000), lease(3, b"x" * 14_000, b"second"), lease(4, b"x" * 14_000, b"second")]

    deal(slots, rest)
    assert 3 not in slot.outstanding
    assert b"second" not in slot.known

    come: dict[int, Task] = {}
    while slot.outstanding:
        fence, come[fence] = take(slot)
        finish(slot, fence)
        slots.receive(slot, time.monotonic())
        deal(slots, [])
    assert [(fence, bool(task.body)) for fence, task in come.items()] == [(1, True), (2, False), (3, True), (4, False)]


@pytest.mark.parametrize("size", [MAX_INLINE_BYTES - 20, MAX_INLINE_BYTES, 3_000_000])
def test_a_large_job_keeps_its_place_among_small_ones(slots: Slots, slot: Slot, size: int) -> None:
    deal(slots, [lease(1), lease(2, b"x" * size), lease(3)])

    assert list(slot.outstanding) == [1, 2, 3]
    assert [(fence, len(task.args)) for fence, task in (take(slot) for _ in range(3))] == [(1, 4), (2, size), (3, 4)]


def test_a_datagram_that_the_kernel_finds_too_large_goes_as_a_file(slots: Slots, slot: Slot) -> None:
    make_small(slot)

    deal(slots, [lease(1), lease(2, b"x" * 100_000), lease(3)])

    assert list(slot.outstanding) == [1, 2, 3]
    assert [(fence, len(task.args)) for fence, task in (take(slot) for _ in range(3))] == [(1, 4), (2, 100_000), (3, 4)]


def test_jobs_that_can_t_be_sent_are_reported_and_their_neighbours_go(slots: Slots, slot: Slot) -> None:
    unencodable = structs.replace(lease(2), job="\ud800")

    deal(slots, [lease(1), unencodable, lease(3), lease(4, function=b"unreadable"), lease(5)])

    assert list(slot.outstanding) == [1, 3, 5]
    assert [take(slot)[0] for _ in range(3)] == [1, 3, 5]
    assert [(report.fence, report.ending) for report in slots.outbox.reports] == [
        (2, Ending.UNPICKLABLE),
        (4, Ending.CRASHED),
    ]


def test_what_was_not_sent_when_the_desk_refuses_is_not_lost(slots: Slots, slot: Slot) -> None:
    with pytest.raises(Refused):
        deal(slots, [lease(1), lease(2, function=b"forgotten"), lease(3)])

    assert fences_of(slots) == [1, 2, 3]
    assert not slot.outstanding
    assert not slot.known


def test_a_child_that_closed_its_end_gets_nothing_and_loses_nothing(slots: Slots, slot: Slot) -> None:
    assert slot._theirs is not None
    slot._theirs.socket.shutdown(socket.SHUT_RDWR)

    deal(slots, [lease(1), lease(2)])

    assert not slot.outstanding
    assert fences_of(slots) == [1, 2]


class Failing:
    """Takes one datagram, then fails as a system without memory does."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self.receive = courier.receive

    def send(self, end: socket.socket, datagrams: bytearray, ends: list[int], first: int = 0) -> int:
        if first:
            raise OSError(12, "Cannot allocate memory")
        return self._courier.send(end, datagrams, ends[:1], 0)


def test_an_error_in_the_middle_leaves_an_exact_account(slots: Slots, slot: Slot) -> None:
    slots.courier = Failing(slots.courier)  # type: ignore[assignment]

    with pytest.raises(OSError, match="allocate"):
        deal(slots, [lease(1), lease(2), lease(3)])

    assert list(slot.outstanding) == [1]
    assert fences_of(slots) == [2, 3]
    assert take(slot)[0] == 1


def test_a_chunks_estimate_is_not_that_of_the_jobs_behind_it(slots: Slots) -> None:
    slots.durations.note(structs.replace(lease(0), ranges=((0, 1),)), 0.1)
    chunk = structs.replace(lease(1), ranges=((0, 1),))

    deal(slots, [chunk, lease(2), lease(3), lease(4)])

    assert [list(slot.outstanding) for slot in slots.all] == [[1], [2, 3, 4]]
