from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.core.records import Ending, Report, Segment
from cluster.worker.channel import (
    HEADER,
    IN_MEMFD,
    INLINE,
    MAX_INLINE_BYTES,
    Channel,
    Finished,
    FromChild,
    FunctionMissing,
    ItemEnded,
    ItemStarted,
    NewOutput,
    Nonsense,
    Printed,
    Said,
    Task,
    decoder_of_answers,
    decoder_of_tasks,
    encode,
    make_pair,
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    mine, theirs = make_pair()
    yield mine, theirs
    mine.close()
    theirs.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 5_000_000])
def test_a_body_of_any_size_arrives_whole_with_its_fence(pair: tuple[Channel, Channel], size: int) -> None:
    mine, theirs = pair
    body = os.urandom(size)
    before = open_descriptors()

    mine.send(2**40, body)
    received = theirs.receive()

    assert received is not None
    assert received[0] == 2**40
    assert bytes(received[1]) == body
    assert open_descriptors() == before


def test_nothing_there_is_none_and_a_closed_end_is_eof(pair: tuple[Channel, Channel]) -> None:
    mine, theirs = pair

    assert mine.receive() is None
    assert theirs.receive(socket.MSG_DONTWAIT) is None
    theirs.close()
    with pytest.raises(EOFError):
        mine.receive()


def test_each_message_is_received_once_whoever_reads_it(pair: tuple[Channel, Channel]) -> None:
    mine, theirs = pair
    duplicate = Channel(theirs.socket.dup())
    for fence in range(10):
        mine.send(fence, b"x")

    taken = [channel.receive(socket.MSG_DONTWAIT) for _ in range(5) for channel in (theirs, duplicate)]

    assert sorted(received[0] for received in taken if received) == list(range(10))
    assert theirs.receive(socket.MSG_DONTWAIT) is None
    duplicate.close()


def test_a_full_socket_says_so_and_loses_nothing(pair: tuple[Channel, Channel]) -> None:
    mine, theirs = pair
    sent = 0
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            mine.send(sent, b"y" * 100_000)
            sent += 1

    fences = []
    while (received := theirs.receive(socket.MSG_DONTWAIT)) is not None:
        fences.append(received[0])

    assert fences == list(range(sent))


@pytest.mark.parametrize(
    "garbage", [b"z", b"z" * 9, b"z" * 200, HEADER.pack(IN_MEMFD, 1), b"z" * (HEADER.size + MAX_INLINE_BYTES + 1)]
)
def test_garbage_is_nonsense(pair: tuple[Channel, Channel], garbage: bytes) -> None:
    mine, theirs = pair

    theirs.socket.send(garbage)

    with pytest.raises(Nonsense):
        mine.receive()


@pytest.mark.parametrize(("header", "count"), [(INLINE, 1), (IN_MEMFD, 0), (IN_MEMFD, 2)])
def test_descriptors_that_are_no_message_are_closed(pair: tuple[Channel, Channel], header: int, count: int) -> None:
    mine, theirs = pair
    null = os.open(os.devnull, os.O_RDONLY)
    before = open_descriptors()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))]

    theirs.socket.sendmsg([HEADER.pack(header, 1)], rights if count else [])

    with pytest.raises(Nonsense):
        mine.receive()
    assert open_descriptors() == before
    os.close(null)


def test_a_descriptor_that_is_no_file_in_memory_is_nonsense_or_empty(pair: tuple[Channel, Channel]) -> None:
    mine, theirs = pair
    read_end, write_end = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read_end]))]

    theirs.socket.sendmsg([HEADER.pack(IN_MEMFD, 1)], rights)

    received = mine.receive()
    assert received is not None
    assert received[1] == b""
    os.close(read_end)
    os.close(write_end)


def test_an_output_file_arrives_as_a_descriptor_of_the_receiver_s_own(pair: tuple[Channel, Channel]) -> None:
    mine, theirs = pair
    file = os.memfd_create("output")
    os.write(file, b"words")

    theirs.send_output(7, file)
    os.close(file)
    with pytest.raises(NewOutput) as caught:
        mine.receive()

    assert os.pread(caught.value.descriptor, 10, 0) == b"words"
    os.close(caught.value.descriptor)


def test_an_output_file_that_is_no_file_in_memory_is_nonsense_and_closed(pair: tuple[Channel, Channel]) -> None:
    mine, theirs = pair
    read_end, write_end = os.pipe()
    before = open_descriptors()

    theirs.send_output(7, read_end)

    with pytest.raises(Nonsense, match="output file that is none"):
        mine.receive()
    assert open_descriptors() == before
    os.close(read_end)
    os.close(write_end)


MESSAGES: list[FromChild] = [
    Finished(Report(7, Ending.SUCCEEDED, b"r", seconds=0.5), 1.5),
    ItemStarted(3),
    ItemEnded(Segment(3, 1, b"d")),
    FunctionMissing(b"digest"),
    Said(1.0, 2.0, "half"),
    Printed(b"text", 5),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_child_s_messages_survive_encoding(message: FromChild) -> None:
    assert decoder_of_answers()(encode(message)) == message


def test_a_task_survives_encoding() -> None:
    task = Task("j", 1, 2, b"d", b"", True, b"args", 1.5, (("k", b"v"),), ((0, 3),), careful=True)

    assert decoder_of_tasks()(encode(task)) == task
