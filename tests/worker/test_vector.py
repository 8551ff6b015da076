from __future__ import annotations

import _thread
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cluster.core.records import Ending
from cluster.worker import vector
from cluster.worker.vector import MAX_DATAGRAMS, TRIAL_BYTES, Courier, Doubt, Received, Single, Vectored
from tests.worker.recording_desk import a_worker

MAX_BYTES = 200


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, theirs:
        yield mine, theirs


@pytest.fixture(params=[Single, Vectored])
def courier(request: pytest.FixtureRequest) -> Courier:
    made: Courier = request.param(MAX_BYTES)
    return made


def batch(datagrams: Sequence[bytes]) -> tuple[bytearray, list[int]]:
    return bytearray(b"".join(datagrams)), list(itertools.accumulate(map(len, datagrams)))


def send_all(courier: Courier, end: socket.socket, datagrams: Sequence[bytes]) -> None:
    joined, ends = batch(datagrams)
    sent = 0
    while sent < len(ends):
        sent += courier.send(end, joined, ends, sent)


def receive_all(courier: Courier, end: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    while came := courier.receive(end):
        found += [bytes(datagram) for datagram, _, _ in came]
    return found


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- carrying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, MAX_DATAGRAMS, MAX_DATAGRAMS + 1, 3 * MAX_DATAGRAMS])
def test_datagrams_arrive_whole_and_in_order(
    courier: Courier, pair: tuple[socket.socket, socket.socket], count: int
) -> None:
    mine, theirs = pair
    datagrams = [b"%d" % number * (1 + number % 40) for number in range(count)]

    send_all(courier, mine, datagrams)

    assert receive_all(courier, theirs) == datagrams


def test_nothing_there_is_nothing(courier: Courier, pair: tuple[socket.socket, socket.socket]) -> None:
    assert list(courier.receive(pair[1])) == []


def test_sending_goes_on_where_the_first_call_stopped(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    joined, ends = batch([b"zero", b"one", b"two", b"three"])

    count = courier.send(mine, joined, ends, 2)

    assert receive_all(courier, theirs) == [b"two", b"three"][:count]


def test_the_batch_may_grow_again_after_it_was_sent(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    joined, ends = batch([b"one"])
    courier.send(pair[0], joined, ends)

    joined += b"x" * 1_000_000

    assert receive_all(courier, pair[1]) == [b"one"]


def test_a_full_socket_takes_a_prefix_and_then_says_so(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    datagrams = [bytes([number]) * MAX_BYTES for number in range(MAX_DATAGRAMS)]
    joined, ends = batch(datagrams)

    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += courier.send(mine, joined, ends, sent)

    assert 0 < sent < MAX_DATAGRAMS
    assert receive_all(courier, theirs) == datagrams[:sent]
    assert courier.send(mine, joined, ends, sent) > 0


def test_one_that_no_socket_can_hold_stops_those_behind_it_only(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    joined, ends = batch([b"small", b"x" * 1_000_000, b"small too"])

    assert courier.send(mine, joined, ends) == 1
    with pytest.raises(OSError, match="Message too long"):
        courier.send(mine, joined, ends, 1)
    assert courier.send(mine, joined, ends, 2) == 1
    assert receive_all(courier, theirs) == [b"small", b"small too"]


# --- what is odd ------------------------------------------------------------------------------------------------------


def test_descriptors_arrive_with_their_datagram(courier: Courier, pair: tuple[socket.socket, socket.socket]) -> None:
    mine, theirs = pair
    descriptor = os.memfd_create("test")
    for _ in range(3):
        send_all(courier, mine, [b"before"])
        socket.send_fds(mine, [b"with"], [descriptor])
        send_all(courier, mine, [b"after"])

        came = [(bytes(datagram), list(found), is_cut) for datagram, found, is_cut in courier.receive(theirs)]

        ((found,),) = [found for _, found, _ in came if found]
        assert came == [(b"before", [], False), (b"with", [found], False), (b"after", [], False)]
        assert os.fstat(found).st_ino == os.fstat(descriptor).st_ino
        assert not os.get_inheritable(found)
        os.close(found)
    os.close(descriptor)


def test_more_descriptors_than_expected_are_cut_off_and_told(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    before = open_descriptors()
    socket.send_fds(mine, [b"many"], [mine.fileno()] * 10)

    ((_, found, is_cut),) = courier.receive(theirs)

    assert is_cut
    for descriptor in found:
        os.close(descriptor)
    assert open_descriptors() == before


def test_a_datagram_that_is_too_long_is_cut_off_and_told(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    send_all(courier, mine, [b"a" * MAX_BYTES, b"b" * (MAX_BYTES + 1), b"c"])

    came = [(bytes(datagram), is_cut) for datagram, _, is_cut in courier.receive(theirs)]

    assert came == [(b"a" * MAX_BYTES, False), (b"b" * MAX_BYTES, True), (b"c", False)]


def test_a_closed_end_gives_what_was_sent_and_then_empty_ones(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    send_all(courier, mine, [b"last words"])
    mine.close()

    came = [bytes(datagram) for datagram, _, _ in courier.receive(theirs)]

    assert came[0] == b"last words"
    assert set(came[1:]) <= {b""}
    assert bytes(courier.receive(theirs)[0][0]) == b""


def test_an_error_behind_datagrams_comes_with_the_next_call(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    theirs.send(b"never read")
    send_all(courier, mine, [b"read"])
    mine.close()  # with something unread: the other side is told of a reset

    came: list[bytes] = []
    with pytest.raises(ConnectionResetError):
        for _ in range(3):
            came += [bytes(datagram) for datagram, _, _ in courier.receive(theirs)]

    assert b"read" in came or came == []


def test_sending_to_a_closed_end_is_an_error_and_no_signal(
    courier: Courier, pair: tuple[socket.socket, socket.socket]
) -> None:
    mine, theirs = pair
    theirs.close()
    joined, ends = batch([b"x"])
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which would end this process

    try:
        with pytest.raises(BrokenPipeError):
            courier.send(mine, joined, ends)
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_a_socket_that_is_closed_here_is_an_error(courier: Courier, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    joined, ends = batch([b"x"])

    with pytest.raises(OSError, match="Bad file descriptor"):
        courier.receive(pair[0])
    with pytest.raises(OSError, match="Bad file descriptor"):
        courier.send(pair[0], joined, ends)


def test_the_interpreter_s_lock_is_kept_throughout(pair: tuple[socket.socket, socket.socket]) -> None:
    # Another thread could run in between only if a call let go of the lock; the interpreter itself asks for it every
    # `switchinterval`, here never.
    mine, theirs = pair
    courier = Vectored(MAX_BYTES)
    joined, ends = batch([b"x"] * 8)
    rounds = 0
    seen: list[int] = []
    has_seen = _thread.allocate_lock()
    has_seen.acquire()

    def look() -> None:
        seen.append(rounds)
        has_seen.release()

    before = sys.getswitchinterval()
    sys.setswitchinterval(100.0)
    try:
        _thread.start_new_thread(look, ())  # `threading` would wait for its start, and let go
        for _ in range(2000):
            courier.send(mine, joined, ends)
            courier.receive(theirs)
            rounds += 1
        assert has_seen.acquire(timeout=20)
    finally:
        sys.setswitchinterval(before)

    assert seen == [2000]


# --- whether it may be used -------------------------------------------------------------------------------------------


def test_the_fast_one_is_used_here() -> None:
    assert isinstance(vector.make_courier(MAX_BYTES), Vectored)


def test_an_unknown_layout_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "_MACHINES", frozenset({"another"}))

    assert not vector.is_layout_known()
    assert isinstance(vector.make_courier(MAX_BYTES), Single)


def test_a_failed_trial_is_logged_and_the_slow_one_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(courier: Courier) -> None:
        raise Doubt("it didn't tell what was cut off")

    monkeypatch.setattr(vector, "try_out", fail)

    with caplog.at_level("INFO"):
        assert isinstance(vector.make_courier(MAX_BYTES), Single)
    assert "it didn't tell what was cut off" in caplog.text


@pytest.mark.parametrize("kind", [Single, Vectored])
def test_the_trial_passes_and_leaves_no_descriptor(kind: Callable[[int], Courier]) -> None:
    before = open_descriptors()

    vector.try_out(kind(TRIAL_BYTES))

    assert open_descriptors() == before


def _drop_descriptors(received: Received) -> Received:
    for descriptor in received[1]:
        os.close(descriptor)
    return received[0], (), received[2]


DEFECTS: dict[str, Callable[[Received], Received]] = {
    "it received something else than was sent": lambda one: (memoryview(bytes(one[0])[::-1] + b"!"), one[1], one[2]),
    "it lost descriptors, or made some up": _drop_descriptors,
    "it didn't tell what was cut off": lambda one: (one[0], one[1], False),
}


@pytest.mark.parametrize("doubt", DEFECTS)
def test_the_trial_finds_a_courier_that_receives_wrongly(doubt: str) -> None:
    class Wrong(Single):
        def receive(self, end: socket.socket) -> Sequence[Received]:
            return [DEFECTS[doubt](received) for received in super().receive(end)]

    with pytest.raises(Doubt, match=doubt):
        vector.try_out(Wrong(TRIAL_BYTES))


def test_the_trial_finds_a_courier_that_counts_wrongly() -> None:
    class Wrong(Single):
        def send(self, end: socket.socket, datagrams: bytearray, ends: Sequence[int], first: int = 0) -> int:
            super().send(end, datagrams, ends, first)
            if first + 1 < len(ends):
                super().send(end, datagrams, ends, first + 1)
            return 1

    with pytest.raises(Doubt):
        vector.try_out(Wrong(TRIAL_BYTES))


def test_the_package_is_imported_without_ctypes() -> None:
    code = "import sys, cluster, cluster.embedded.assembly; print('ctypes' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout == "False\n"


# --- a whole worker on the slow one -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_known", [True, False], ids=["vectored", "single"])
def test_a_worker_does_all_it_must_on_either(monkeypatch: pytest.MonkeyPatch, *, is_known: bool) -> None:
    monkeypatch.setattr(vector, "is_layout_known", lambda: is_known)
    with a_worker(slots=2) as (desk, supervisor):
        task = desk.function(abs, reusable=True)
        fences = [desk.put(task, -n) for n in range(3000)]
        large = [desk.put(lambda data: data * 2, os.urandom(size)) for size in (1, 100_000, 300_000, 2_000_000)]
        crash = desk.put(os._exit, 3)
        late = desk.put(signal.pause, timeout=0.1)
        told = desk.put_chunk(lambda x: x * x, [(n,) for n in range(5)], careful=True)
        endless = desk.put(signal.pause)
        desk.wait_leased(endless)
        desk.order_stop(endless)

        assert [desk.result_of(fence) for fence in fences] == list(range(3000))
        assert [len(desk.result_of(fence)) for fence in large] == [2, 200_000, 600_000, 4_000_000]
        assert desk.report_of(crash).ending is Ending.CRASHED
        assert desk.report_of(late).ending is Ending.TIMED_OUT
        segments = desk.report_of(told).segments
        assert [pickle.loads(segment.data) for segment in segments] == [[n * n] for n in range(5)]
        desk.wait(lambda: endless in desk.confirmed)
        assert isinstance(supervisor._slots.courier, Vectored if is_known else Single)
