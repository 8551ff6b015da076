from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cluster.wire.connection import ClusterConnection
from cluster.wire.door import Door, Entry, Limits
from tests.wire.rig import WAIT_SECONDS


@pytest.fixture
def arrive() -> Iterator[Callable[..., ClusterConnection]]:
    with contextlib.ExitStack() as stack:

        def make(origin: str = "127.0.0.1") -> ClusterConnection:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            return stack.enter_context(contextlib.closing(ClusterConnection(ours, origin)))

        yield make


def was_interrupted(connection: ClusterConnection) -> bool:
    try:
        connection.receive_frame(0.01)
    except EOFError:
        return True
    except TimeoutError:
        return False
    raise AssertionError


def test_one_stranger_too_many_shows_the_oldest_out(arrive: Callable[..., ClusterConnection]) -> None:  # row A1
    door = Door(Limits(max_strangers=2))
    first, second, third = arrive(), arrive(), arrive()

    admitted = [door.admit(one) for one in (first, second, third)]

    assert admitted == [True, True, True]
    assert [was_interrupted(one) for one in (first, second, third)] == [True, False, False]
    assert door.recognise(first, "client") is Entry.SHOWN_OUT
    assert door.recognise(second, "client") is Entry.INSIDE
    assert len(door) == 3


def test_a_recognised_guest_is_never_shown_out(arrive: Callable[..., ClusterConnection]) -> None:
    door = Door(Limits(max_strangers=1))
    guest = arrive()
    door.admit(guest)
    door.recognise(guest, "client")

    for _ in range(5):
        door.admit(arrive())

    assert not was_interrupted(guest)


def test_what_is_full_refuses_until_someone_leaves(arrive: Callable[..., ClusterConnection]) -> None:  # row A25
    door = Door(Limits(max_connections=2))
    first = arrive()
    door.admit(first)
    door.recognise(first, "client")
    door.admit(arrive())

    assert not door.admit(arrive())
    door.leave(first)
    assert door.admit(arrive())


def test_one_host_can_not_take_all_the_room(arrive: Callable[..., ClusterConnection]) -> None:  # row A25
    door = Door(Limits(max_connections_per_host=1))
    first = arrive("127.0.0.1")

    assert door.admit(first)
    assert not door.admit(arrive("127.0.0.1"))
    assert door.admit(arrive("127.0.0.2"))
    door.leave(first)
    assert door.admit(arrive("127.0.0.1"))


def test_emptying_lets_guests_finish_and_strangers_go(arrive: Callable[..., ClusterConnection]) -> None:
    door = Door(Limits())
    guest, stranger = arrive(), arrive()
    for one in (guest, stranger):
        door.admit(one)
    door.recognise(guest, "client")

    def finish() -> None:
        for one in (guest, stranger):
            with contextlib.suppress(EOFError):
                one.receive_frame(WAIT_SECONDS)
            door.leave(one)

    thread = threading.Thread(target=finish)
    thread.start()

    assert door.empty(WAIT_SECONDS)
    assert not len(door)
    thread.join()


def test_whoever_does_not_leave_is_cut_off_at_the_deadline(arrive: Callable[..., ClusterConnection]) -> None:
    door = Door(Limits())
    guest = arrive()
    door.admit(guest)
    door.recognise(guest, "client")

    assert not door.empty(0.05)
    with pytest.raises(OSError, match="Broken pipe"):
        guest.send_frame(b"too late")
