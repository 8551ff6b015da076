"""The fault proxy: what each fault does to the bytes, and that it ends."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.programs import ROOT
from tests.chaos.proxy import HEALTHY, Fault, FaultProxy, Passing, Way

DEADLINE_SECONDS = 10.0
# Within this nothing must arrive. A wait for nothing can only be wrong in one way: by passing.
SILENCE_SECONDS = 0.2


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets, and ends when its peer does."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                thread = threading.Thread(target=serve, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(DEADLINE_SECONDS)
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as made:
        yield made


@pytest.fixture
def line(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(proxy.address, DEADLINE_SECONDS) as made:
        made.sendall(b"hello")
        assert receive(made, 5) == b"hello"
        yield made


def receive(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := line.recv(size - len(data))):
        data += more
    return data


def send_all(line: socket.socket, data: bytes) -> None:
    line.sendall(data)
    line.shutdown(socket.SHUT_WR)


def is_silent(line: socket.socket) -> bool:
    line.settimeout(SILENCE_SECONDS)
    try:
        line.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        line.settimeout(DEADLINE_SECONDS)
    return False


def is_closed(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except ConnectionError:
        return False


def test_without_a_fault_a_megabyte_comes_through_as_it_was_and_an_end_too(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 4096
    with socket.create_connection(proxy.address, DEADLINE_SECONDS) as line:
        sender = threading.Thread(target=send_all, args=(line, data))
        sender.start()

        received = receive(line, len(data))
        sender.join(DEADLINE_SECONDS)

        assert received == data
        assert is_closed(line)
    assert proxy.counts.bytes == {Way.UP: len(data), Way.DOWN: len(data)}


def test_latency_delays_each_way_and_keeps_the_order(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.set_fault(Fault(latency_seconds=0.1, jitter_seconds=0.1))
    begun = time.monotonic()

    for number in range(20):
        line.sendall(bytes([number]))

    assert receive(line, 20) == bytes(range(20))
    proxy.set_fault(Fault(latency_seconds=0.1))
    line.sendall(b"x")
    begun = time.monotonic()
    assert receive(line, 1) == b"x"
    assert time.monotonic() - begun >= 0.2


def test_a_slow_line_passes_so_many_bytes_a_second_until_it_is_healed(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.set_fault(Fault(bandwidth=1000), Way.UP)
    begun = time.monotonic()

    line.sendall(b"y" * 300)

    assert receive(line, 300) == b"y" * 300
    assert time.monotonic() - begun >= 0.25
    line.sendall(b"z" * 1_000_000)  # a thousand seconds, were it not healed
    proxy.heal()
    assert receive(line, 1_000_000) == b"z" * 1_000_000


def test_slices_arrive_as_the_same_bytes(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.set_fault(Fault(slice_bytes=1))

    line.sendall(b"sliced to single bytes")

    assert receive(line, 22) == b"sliced to single bytes"


def test_in_a_partition_nothing_arrives_and_afterwards_everything_does(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.partition()
    line.sendall(b"late")
    with socket.create_connection(proxy.address, DEADLINE_SECONDS) as second:
        second.sendall(b"later")

        assert is_silent(line)
        assert is_silent(second)
        proxy.heal()

        assert receive(line, 4) == b"late"
        assert receive(second, 5) == b"later"


def test_one_way_holds_that_way_only(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.set_fault(Fault(Passing.HELD), Way.DOWN)

    line.sendall(b"heard, not answered")

    assert is_silent(line)
    proxy.set_fault(HEALTHY, Way.DOWN)
    assert receive(line, 19) == b"heard, not answered"


def test_what_a_half_open_connection_lost_never_comes_and_it_is_reset_at_the_end(
    proxy: FaultProxy, line: socket.socket
) -> None:
    proxy.half_open(Way.UP)
    line.sendall(b"lost")

    assert is_silent(line)
    proxy.heal()

    with pytest.raises(ConnectionResetError):
        line.recv(1)
    assert proxy.counts.swallowed == 4


def test_a_connection_that_lost_nothing_outlives_a_half_open_time(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.half_open(Way.UP)
    proxy.heal()

    line.sendall(b"here")

    assert receive(line, 4) == b"here"


def test_a_timeout_holds_and_then_closes(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.set_fault(Fault(timeout_seconds=0.1))

    line.sendall(b"x")

    assert is_closed(line)


def test_a_drop_closes_and_a_reset_resets_and_new_connections_work(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.drop()
    assert is_closed(line)

    with socket.create_connection(proxy.address, DEADLINE_SECONDS) as second:
        second.sendall(b"a")
        assert receive(second, 1) == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            second.recv(1)

    with socket.create_connection(proxy.address, DEADLINE_SECONDS) as third:
        third.sendall(b"b")
        assert receive(third, 1) == b"b"


def test_refusing_closes_new_connections_and_leaves_old_ones(proxy: FaultProxy, line: socket.socket) -> None:
    proxy.refuse()

    with socket.create_connection(proxy.address, DEADLINE_SECONDS) as second:
        assert is_closed(second)
    line.sendall(b"old")

    assert receive(line, 3) == b"old"


def test_a_target_that_is_gone_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

    with FaultProxy(address) as proxy, socket.create_connection(proxy.address, DEADLINE_SECONDS) as line:
        assert is_closed(line)


def test_as_a_program_it_forwards_until_it_is_ended(echo: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.proxy", f"{host}:{port}", f"{echo[0]}:{echo[1]}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"

            with socket.create_connection((host, port), DEADLINE_SECONDS) as line:
                line.sendall(b"through")
                assert receive(line, 7) == b"through"
        finally:
            program.kill()
