from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.wire import connection as module
from cluster.wire.connection import (
    MAX_FRAME_BYTES,
    MAX_HANDSHAKE_BYTES,
    ClusterConnection,
    FrameError,
    FrameTooLongError,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, ClusterConnection]]:
    """A bare socket, and the connection on its other end, after the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bare = socket.create_connection(listener.getsockname(), timeout=20)
        accepted, _ = listener.accept()
    connection = ClusterConnection(accepted)
    connection.max_frame_bytes = MAX_FRAME_BYTES
    with bare, contextlib.closing(connection):
        yield bare, connection


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_a_frame_split_at_every_byte_arrives_whole(ends: tuple[socket.socket, ClusterConnection]) -> None:  # row A36
    bare, connection = ends
    frame = framed(b"hello, world")
    bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    for cut in range(1, len(frame)):
        bare.sendall(frame[:cut])
        # Begins to read with nothing but the first part there; the rest comes while it waits.
        late = threading.Timer(0.002, bare.sendall, [frame[cut:]])
        late.start()

        assert bytes(connection.receive_frame(5)) == b"hello, world"
        late.join()


def test_frames_that_arrive_together_are_handed_out_one_by_one(ends: tuple[socket.socket, ClusterConnection]) -> None:
    bare, connection = ends
    bodies = [b"", b"x" * 70_000, b"y", b"z" * 300]

    sender = threading.Thread(target=bare.sendall, args=(b"".join(map(framed, bodies)),))
    sender.start()
    found = [bytes(connection.receive_frame(5)) for _ in bodies]
    sender.join()

    assert found == bodies


@pytest.mark.parametrize("size", [0, 1, 17_000, 65_535, 65_536, 65_537, 1_000_000, 20_000_000])
def test_a_frame_of_any_size_goes_there_and_back(ends: tuple[socket.socket, ClusterConnection], size: int) -> None:
    bare, connection = ends
    other = ClusterConnection(bare.dup())
    other.max_frame_bytes = MAX_FRAME_BYTES
    body = os.urandom(size)

    def give_back() -> None:
        other.send_frame(bytes(other.receive_frame(10)))

    thread = threading.Thread(target=give_back)
    thread.start()
    connection.send_frame(body)

    assert connection.receive_frame(10) == body
    thread.join()
    other.close()


def test_a_frame_is_one_write_however_long_it_is(  # row A7
    ends: tuple[socket.socket, ClusterConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, connection = ends
    writes: list[int] = []

    class Counting:
        def send(self, data: bytes) -> int:
            writes.append(len(data))
            return len(data)

        def sendmsg(self, parts: tuple[bytes, ...]) -> int:
            writes.append(sum(map(len, parts)))
            return writes[-1]

        def close(self) -> None:
            pass

    real = connection._line
    monkeypatch.setattr(connection, "_line", Counting())
    for size in (10, 16_384, 17_000, 60_000, 1_000_000):
        connection.send_frame(bytes(size))
    monkeypatch.setattr(connection, "_line", real)

    assert writes == [14, 16_388, 17_004, 60_004, 1_000_004]
    assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_vanished_host_is_noticed_by_the_kernel(ends: tuple[socket.socket, ClusterConnection]) -> None:  # row A6
    _, connection = ends
    sock = connection._socket

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000


@pytest.mark.parametrize("header", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"GET "])
def test_an_oversized_or_negative_length_is_refused(  # rows A8, A9
    ends: tuple[socket.socket, ClusterConnection], header: bytes
) -> None:
    bare, connection = ends
    bare.sendall(header + b"x")

    with pytest.raises(FrameError, match="claims"):
        connection.receive_frame(5)


def test_before_the_handshake_a_frame_has_at_most_four_kibibytes(ends: tuple[socket.socket, ClusterConnection]) -> None:
    bare, connection = ends
    connection.max_frame_bytes = MAX_HANDSHAKE_BYTES
    bare.sendall(framed(bytes(MAX_HANDSHAKE_BYTES)) + framed(bytes(MAX_HANDSHAKE_BYTES + 1)))

    assert len(connection.receive_frame(5)) == MAX_HANDSHAKE_BYTES
    with pytest.raises(FrameError):
        connection.receive_frame(5)


def test_a_header_alone_reserves_no_memory(ends: tuple[socket.socket, ClusterConnection]) -> None:  # row A8
    bare, connection = ends
    bare.sendall(struct.pack(">I", MAX_FRAME_BYTES) + bytes(1000))
    bare.shutdown(socket.SHUT_WR)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ConnectionResetError):
        connection.receive_frame(5)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


def test_a_frame_too_long_to_be_taken_is_not_begun(ends: tuple[socket.socket, ClusterConnection]) -> None:
    bare, connection = ends
    connection.max_frame_bytes = 10

    with pytest.raises(FrameTooLongError):
        connection.send_frame(bytes(11))

    connection.send_frame(b"ok")
    assert bare.recv(100) == framed(b"ok")


def test_an_end_between_frames_is_eof_and_one_within_a_frame_is_an_error(  # row A36
    ends: tuple[socket.socket, ClusterConnection],
) -> None:
    bare, connection = ends
    bare.sendall(framed(b"whole") + framed(b"in part")[:-1])
    bare.shutdown(socket.SHUT_WR)

    assert bytes(connection.receive_frame(5)) == b"whole"
    with pytest.raises(ConnectionResetError, match="middle of a frame"):
        connection.receive_frame(5)
    with pytest.raises(EOFError):
        connection.receive_frame(5)


def test_silence_ends_with_a_timeout_in_time(ends: tuple[socket.socket, ClusterConnection]) -> None:  # rows A4, A5
    _, connection = ends
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        connection.receive_frame(0.05)

    assert 0.04 < time.monotonic() - started < 5


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_frame_that_drips_has_one_deadline_for_all_of_it(  # row A1
    ends: tuple[socket.socket, ClusterConnection], size: int
) -> None:
    bare, connection = ends
    is_over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            bare.sendall(struct.pack(">I", size))
            while not is_over.wait(0.02):
                bare.sendall(b"x" if size > 3 else b"")

    dripper = threading.Thread(target=drip)
    dripper.start()
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        connection.receive_frame(0.3)

    assert time.monotonic() - started < 5
    is_over.set()
    dripper.join()


def test_a_frame_that_begins_at_any_time_must_then_go_on(
    ends: tuple[socket.socket, ClusterConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, connection = ends
    monkeypatch.setattr(module, "FRAME_SECONDS", 0.1)
    bare.sendall(framed(b"never whole")[:-1])

    with pytest.raises(TimeoutError):
        connection.receive_frame(None)


def test_a_peer_that_reads_nothing_ends_a_long_write_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAME_SECONDS", 0.2)
    ours, theirs = socket.socketpair()
    connection = ClusterConnection(ours)
    connection.max_frame_bytes = MAX_FRAME_BYTES
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        connection.send_frame(bytes(16_000_000))

    assert time.monotonic() - started < 5
    connection.close()
    theirs.close()


def test_another_thread_may_interrupt_a_wait(ends: tuple[socket.socket, ClusterConnection]) -> None:
    _, connection = ends
    late = threading.Timer(0.05, connection.interrupt)
    late.start()

    with pytest.raises(EOFError):
        connection.receive_frame(None)

    late.join()


def test_pickles_are_neither_sent_nor_read(ends: tuple[socket.socket, ClusterConnection]) -> None:  # row A13
    _, connection = ends

    with pytest.raises(TypeError, match="never pickles"):
        connection.send({"a": 1})
    with pytest.raises(TypeError, match="never pickles"):
        connection.recv()


def test_it_is_a_connection_to_the_standard_library_too(ends: tuple[socket.socket, ClusterConnection]) -> None:
    bare, connection = ends  # row A33: what the library asks of a connection works over the socket object
    assert not connection.poll(0)

    connection.send_bytes(b"abc")
    bare.sendall(framed(b"defg"))

    assert bare.recv(100) == framed(b"abc")
    assert connection.poll(5)
    assert connection.recv_bytes() == b"defg"
    bare.sendall(framed(b"too long"))
    with pytest.raises(OSError, match="bad message length"):
        connection.recv_bytes(3)


def test_a_copy_made_by_fork_can_not_end_the_parent_s_connection(ends: tuple[socket.socket, ClusterConnection]) -> None:
    bare, connection = ends

    pid = os.fork()
    if not pid:
        connection.interrupt()
        connection.close()
        os._exit(0)
    os.waitpid(pid, 0)

    connection.send_frame(b"still here")
    assert bare.recv(100) == framed(b"still here")


def test_what_is_not_taken_at_once_is_sent_by_the_connection_s_own_thread() -> None:
    ours, theirs = socket.socketpair()
    with (
        contextlib.closing(ClusterConnection(ours)) as connection,
        contextlib.closing(ClusterConnection(theirs)) as other,
    ):
        other.max_frame_bytes = MAX_FRAME_BYTES
        body = os.urandom(4_000_000)

        connection.send_at_once(body)  # far more than fits into a socket that nobody reads from
        arrived: list[bytes] = []
        reading = threading.Thread(target=lambda: arrived.append(bytes(other.receive_frame(20))))
        reading.start()
        connection.send_left()
        connection.send_at_once(b"next")
        connection.send_left()
        reading.join(20)

        assert arrived == [body]
        assert bytes(other.receive_frame(20)) == b"next"


def test_a_connection_that_broke_under_another_thread_s_hands_says_so_to_its_own() -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(ClusterConnection(ours)) as connection:
        theirs.close()

        connection.send_at_once(b"to nobody")

        with pytest.raises(OSError):
            connection.send_left()
