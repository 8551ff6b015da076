from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.wire import handshake
from cluster.wire.calls import PROTOCOL_VERSION
from cluster.wire.connection import ClusterConnection
from cluster.wire.handshake import Code, Greeting, Stranger
from cluster.wire.keys import Role, Secret
from tests.wire.rig import KEYS, LOOPBACK, WAIT_SECONDS

EPOCH = handshake.new_epoch()


@pytest.fixture
def ends() -> Iterator[tuple[ClusterConnection, ClusterConnection]]:
    """The caller's end and the master's."""
    caller, master = (ClusterConnection(sock) for sock in socket.socketpair())
    with contextlib.closing(caller), contextlib.closing(master):
        yield caller, master


def both(
    ends: tuple[ClusterConnection, ClusterConnection],
    greeting: Greeting,
    keys: Mapping[Role, Secret] = KEYS,
    relay: Callable[[ClusterConnection], Any] | None = None,
) -> tuple[Future[Any], Future[Any]]:
    """What became of either side."""
    caller, master = ends
    with ThreadPoolExecutor(2) as pool:
        deadline = time.monotonic() + WAIT_SECONDS
        theirs = pool.submit(handshake.receive, master, keys, EPOCH, deadline)
        ours = pool.submit(relay or (lambda connection: handshake.introduce(connection, greeting)), caller)
    return ours, theirs


def greeting(role: Role = Role.CLIENT, **changes: Any) -> Greeting:
    return Greeting(**{"role": role, "key": KEYS[role], "address": LOOPBACK, **changes})


@pytest.mark.parametrize("role", Role)
def test_who_knows_the_key_of_its_role_is_let_in_and_told_the_epoch(
    ends: tuple[ClusterConnection, ClusterConnection], role: Role
) -> None:
    ours, theirs = both(ends, greeting(role))

    assert ours.result() == EPOCH.hex()
    assert theirs.result().role is role


def test_a_wrong_key_is_one_clear_sentence_on_both_sides(ends: tuple[ClusterConnection, ClusterConnection]) -> None:
    ours, theirs = both(ends, greeting(key=Secret(os.urandom(32))))

    with pytest.raises(
        Refused, match=r"has another client key than this program.*give the client\.key of that cluster"
    ):
        ours.result()
    with pytest.raises(Stranger, match="another client key") as stranger:
        theirs.result()
    assert stranger.value.code is Code.WRONG_PROOF


def test_one_role_s_key_does_not_open_another_role(
    ends: tuple[ClusterConnection, ClusterConnection],
) -> None:  # row A17
    ours, theirs = both(ends, greeting(Role.ADMIN, key=KEYS[Role.CLIENT]))

    with pytest.raises(Refused, match=r"another admin key.*each role has its own"):
        ours.result()
    assert isinstance(theirs.exception(), Stranger)


def test_a_role_for_which_the_master_has_no_key_is_one_clear_sentence(
    ends: tuple[ClusterConnection, ClusterConnection],
) -> None:
    ours, theirs = both(ends, greeting(Role.ADMIN), {Role.CLIENT: KEYS[Role.CLIENT]})

    with pytest.raises(Refused, match=r"no connection in role admin: it has no admin\.key"):
        ours.result()
    with pytest.raises(Stranger, match="role admin"):
        theirs.result()


def test_another_version_is_one_clear_sentence_on_both_sides(ends: tuple[ClusterConnection, ClusterConnection]) -> None:
    ours, theirs = both(ends, greeting(version=PROTOCOL_VERSION + 1))

    with pytest.raises(
        Refused,
        match=rf"version {PROTOCOL_VERSION} of the protocol, this program version {PROTOCOL_VERSION + 1}; install the same",
    ):
        ours.result()
    with pytest.raises(Stranger, match=f"speaks version {PROTOCOL_VERSION + 1}"):
        theirs.result()


def test_the_key_itself_never_travels(
    ends: tuple[ClusterConnection, ClusterConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    real = ClusterConnection.send_frame

    def send(self: ClusterConnection, body: bytes) -> None:
        sent.append(body)
        real(self, body)

    monkeypatch.setattr(ClusterConnection, "send_frame", send)

    both(ends, greeting())

    said = b"".join(sent)
    assert len(sent) == 4
    for value in (KEYS[Role.CLIENT].reveal(), KEYS[Role.CLIENT].reveal().hex().encode()):
        assert value not in said


def prove(proof: Callable[[bytes, bytes], bytes]) -> Callable[[ClusterConnection], bytes]:
    """A caller that makes its proof of (hello, the master's frame) in a way of its own; returns what it is told."""

    def speak(connection: ClusterConnection) -> bytes:
        hello = b"\x89CLUSTER" + PROTOCOL_VERSION.to_bytes(2, "big") + b"\x01" + os.urandom(32)
        connection.send_frame(hello)
        challenge = bytes(connection.receive_frame(WAIT_SECONDS))
        connection.send_frame(b"\x00" + proof(hello, challenge))
        return bytes(connection.receive_frame(WAIT_SECONDS))

    return speak


@pytest.mark.parametrize(
    "proof",
    [
        lambda _, challenge: challenge[-32:],  # the master's own proof, reflected
        lambda _, challenge: bytes(32),
        lambda hello, challenge: hmac.digest(KEYS[Role.CLIENT].reveal(), challenge[11:43], "md5") * 2,
        lambda hello, challenge: hmac.digest(b"", b"cluster handshake, caller" + hello + challenge[11:43], "sha256"),
        lambda hello, challenge: hmac.digest(
            KEYS[Role.ADMIN].reveal(), b"cluster handshake, caller" + hello + challenge[11:43], "sha256"
        ),
    ],
    ids=["reflected", "zeros", "md5", "empty key", "another role's"],
)
def test_no_other_proof_passes(  # rows A10, A35
    ends: tuple[ClusterConnection, ClusterConnection], proof: Callable[[bytes, bytes], bytes]
) -> None:
    told, theirs = both(ends, greeting(), relay=prove(proof))

    assert told.result()[10] == Code.WRONG_PROOF
    assert len(told.result()) == 11
    assert isinstance(theirs.exception(), Stranger)


def test_the_right_proof_made_by_hand_passes(ends: tuple[ClusterConnection, ClusterConnection]) -> None:
    def proof(hello: bytes, challenge: bytes) -> bytes:
        return hmac.digest(
            KEYS[Role.CLIENT].reveal(), b"cluster handshake, caller" + hello + challenge[11:43], "sha256"
        )

    told, theirs = both(ends, greeting(), relay=prove(proof))

    assert told.result()[11:] == EPOCH
    assert theirs.result().role is Role.CLIENT


def test_a_recorded_handshake_can_not_be_played_again(ends: tuple[ClusterConnection, ClusterConnection]) -> None:
    recorded: list[bytes] = []

    def proof(hello: bytes, challenge: bytes) -> bytes:
        recorded[:] = [
            hello,
            hmac.digest(KEYS[Role.CLIENT].reveal(), b"cluster handshake, caller" + hello + challenge[11:43], "sha256"),
        ]
        return recorded[1]

    def replay(connection: ClusterConnection) -> bytes:
        connection.send_frame(recorded[0])
        connection.receive_frame(WAIT_SECONDS)
        connection.send_frame(b"\x00" + recorded[1])
        return bytes(connection.receive_frame(WAIT_SECONDS))

    both(ends, greeting(), relay=prove(proof))
    told, theirs = both(ends, greeting(), relay=replay)

    assert told.result()[10] == Code.WRONG_PROOF
    assert isinstance(theirs.exception(), Stranger)


def test_md5_is_not_needed(  # row A10
    ends: tuple[ClusterConnection, ClusterConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_in_fips_mode(*_: object, **__: object) -> None:
        raise ValueError("md5 is disabled")

    monkeypatch.setattr(hashlib, "md5", not_in_fips_mode)

    ours, _ = both(ends, greeting())

    assert ours.result() == EPOCH.hex()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x05hello",
        b"\x00\x00\x00\x0b\x89CLUSTER\x00\x01\x01",
        b"\x00\x00\x00\x00",
    ],
)
def test_whoever_makes_no_sense_is_refused(ends: tuple[ClusterConnection, ClusterConnection], said: bytes) -> None:
    caller, master = ends
    caller._socket.sendall(said)

    with pytest.raises((Stranger, OSError)):
        handshake.receive(master, KEYS, EPOCH, time.monotonic() + WAIT_SECONDS)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"\x00\x00\x00\x0b#CHALLENGE#", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"]
)
def test_what_is_no_master_is_said_to_be_none(ends: tuple[ClusterConnection, ClusterConnection], said: bytes) -> None:
    caller, master = ends
    master._socket.sendall(said)

    with pytest.raises(Refused, match="is no cluster master; is the port right"):
        handshake.introduce(caller, greeting())


def test_a_master_that_is_full_may_be_tried_again(ends: tuple[ClusterConnection, ClusterConnection]) -> None:
    caller, master = ends
    handshake.send_away_busy(master)

    with pytest.raises(ConnectionError, match="as many connections as it may have"):
        handshake.introduce(caller, greeting())


@pytest.mark.parametrize("end", [0, 1], ids=["silent master", "silent caller"])
def test_a_silent_side_is_given_up_at_the_deadline(  # row A4
    ends: tuple[ClusterConnection, ClusterConnection], end: int
) -> None:
    caller, master = ends

    with pytest.raises(TimeoutError):
        if end:
            handshake.receive(master, KEYS, EPOCH, time.monotonic() + 0.1)
        else:
            handshake.introduce(caller, greeting(), timeout=0.1)


def test_the_deadline_is_for_the_whole_handshake_not_for_each_frame(  # row A1
    ends: tuple[ClusterConnection, ClusterConnection],
) -> None:
    caller, master = ends
    half = threading.Timer(
        0.15, caller.send_frame, [b"\x89CLUSTER" + PROTOCOL_VERSION.to_bytes(2, "big") + b"\x01" + bytes(32)]
    )
    half.start()
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        handshake.receive(master, KEYS, EPOCH, started + 0.3)

    assert time.monotonic() - started < 5
    half.join()
