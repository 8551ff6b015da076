"""Who are you, and do you know my key? Four short frames before anything else, within ten seconds in all.

    caller                                                  master
      │ magic, version, role, nonce C                         │
      ├──────────────────────────────────────────────────────►│ a role of mine? a version of mine?
      │             magic, version, code, nonce M, proof M    │
      │◄──────────────────────────────────────────────────────┤ proof M = HMAC-SHA256(key of the role, "master" + all above)
      │ proof M right? else: code, and goodbye                │
      │ code, proof C                                         │
      ├──────────────────────────────────────────────────────►│ proof C = HMAC-SHA256(key of the role, "caller" + all above)
      │                         magic, version, code, epoch   │ proof C right?
      │◄──────────────────────────────────────────────────────┤
      │                        calls                          │

Both prove the key and neither shows it. Both nonces, the role and the version are under both proofs, and the labels
keep one side's proof from serving as the other's. What is refused travels as a code: the sentence is made by whoever
shows it, and a stranger learns no more than that he is one. Unlike the standard library's handshake it knows SHA-256
only (there an answer in MD5 still passes on 3.12 and later), and refuses keys that are empty or short.

The first eleven bytes of either side's first frame (magic, version, one number) never change, so that any two versions
can tell each other what they are.

What it can't do without TLS: a process that sits between the two can relay all four frames and then speak in the
caller's place. That is why connections stay on this host's loopback interface (see listener.py).
"""

from __future__ import annotations

import hmac
import os
import struct
import time
from collections.abc import Mapping
from enum import IntEnum

from msgspec import Struct

from cluster.errors import Refused
from cluster.wire.address import Address
from cluster.wire.calls import PROTOCOL_VERSION
from cluster.wire.connection import ClusterConnection, FrameError
from cluster.wire.keys import Role, Secret

HANDSHAKE_SECONDS = 10.0

_MAGIC = b"\x89CLUSTER"
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_EPOCH_BYTES = 16
_OPENING = struct.Struct(">8sHB")
_PROVE = struct.Struct(">B32s")
_ROLES = {1: Role.CLIENT, 2: Role.WORKER, 3: Role.ADMIN}
_NUMBERS = {role: number for number, role in _ROLES.items()}


class Code(IntEnum):
    """All that either side says about a refusal."""

    WELCOME = 0
    BUSY = 1  # too many connections; later perhaps
    OTHER_VERSION = 2
    NO_SUCH_ROLE = 3
    WRONG_PROOF = 4
    NO_SENSE = 5


class Stranger(Exception):
    """Whoever connected may not come in; the text is for the master's log, the code was sent."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Greeting(Struct, frozen=True):
    """What a caller introduces itself with."""

    role: Role
    key: Secret
    address: Address  # where it believes the master to be; for sentences only
    version: int = PROTOCOL_VERSION


# --- the master's side ----------------------------------------------------------------------------------------------


def receive(connection: ClusterConnection, keys: Mapping[Role, Secret], epoch: bytes, deadline: float) -> Role:
    """Find out who connected. Raises `Stranger` when it was refused, else `OSError` or `EOFError`."""
    try:
        return _receive(connection, keys, epoch, deadline)
    except Stranger as stranger:
        connection.send_frame(_OPENING.pack(_MAGIC, PROTOCOL_VERSION, stranger.code))
        raise


def _receive(connection: ClusterConnection, keys: Mapping[Role, Secret], epoch: bytes, deadline: float) -> Role:
    hello = bytes(connection.receive_frame(_left(deadline)))
    if len(hello) < _OPENING.size or not hello.startswith(_MAGIC):
        raise Stranger(Code.NO_SENSE, "it does not speak the cluster's protocol")
    _, version, number = _OPENING.unpack_from(hello)
    if version != PROTOCOL_VERSION:
        raise Stranger(Code.OTHER_VERSION, f"it speaks version {version} of the protocol, not {PROTOCOL_VERSION}")
    if len(hello) != _OPENING.size + _NONCE_BYTES:
        raise Stranger(Code.NO_SENSE, "its first frame has a wrong length")
    role = _ROLES.get(number)
    if role is None or role not in keys:
        raise Stranger(Code.NO_SUCH_ROLE, f"it wants role {role or number}, for which there is no key here")
    nonce = os.urandom(_NONCE_BYTES)
    key = keys[role]
    opening = _OPENING.pack(_MAGIC, PROTOCOL_VERSION, Code.WELCOME)
    connection.send_frame(opening + nonce + _proof(key, b"master", hello, nonce))
    answer = bytes(connection.receive_frame(_left(deadline)))
    if len(answer) != _PROVE.size:
        raise Stranger(Code.NO_SENSE, "its proof has a wrong length")
    code, proof = _PROVE.unpack(answer)
    if code != Code.WELCOME:
        raise Stranger(Code.WRONG_PROOF, f"it found that this master has another {role.value} key than it has")
    if not hmac.compare_digest(proof, _proof(key, b"caller", hello, nonce)):
        raise Stranger(Code.WRONG_PROOF, f"it does not have the {role.value} key")
    connection.send_frame(opening + epoch)
    return role


def send_away_busy(connection: ClusterConnection) -> None:
    """Tell whoever has just connected that there is no room. Never blocks: nothing was sent to it before."""
    connection.send_frame(_OPENING.pack(_MAGIC, PROTOCOL_VERSION, Code.BUSY))


# --- the caller's side ----------------------------------------------------------------------------------------------


def introduce(connection: ClusterConnection, greeting: Greeting, timeout: float = HANDSHAKE_SECONDS) -> str:
    """Prove one's role to the master and have it prove that it is one. Returns the epoch of its server.

    Raises `Refused` when another attempt would end alike, `OSError` or `EOFError` when it might not.
    """
    deadline = time.monotonic() + timeout
    nonce = os.urandom(_NONCE_BYTES)
    hello = _OPENING.pack(_MAGIC, greeting.version, _NUMBERS[greeting.role]) + nonce
    connection.send_frame(hello)
    challenge = _answer(connection, greeting, _NONCE_BYTES + _PROOF_BYTES, deadline)
    theirs, proof = challenge[:_NONCE_BYTES], challenge[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(greeting.key, b"master", hello, theirs)):
        connection.send_frame(_PROVE.pack(Code.WRONG_PROOF, bytes(_PROOF_BYTES)))
        raise _refusal(Code.WRONG_PROOF, greeting)
    connection.send_frame(_PROVE.pack(Code.WELCOME, _proof(greeting.key, b"caller", hello, theirs)))
    return _answer(connection, greeting, _EPOCH_BYTES, deadline).hex()


def new_epoch() -> bytes:
    """A name for one server, so that callers can tell it from the one before."""
    return os.urandom(_EPOCH_BYTES)


def _answer(connection: ClusterConnection, greeting: Greeting, size: int, deadline: float) -> bytes:
    """What follows the opening of the master's next frame."""
    try:
        frame = bytes(connection.receive_frame(_left(deadline)))
    except FrameError:
        frame = b""
    if len(frame) < _OPENING.size or not frame.startswith(_MAGIC):
        raise Refused(f"what listens at {greeting.address} is no cluster master; is the port right?")
    _, version, code = _OPENING.unpack_from(frame)
    if code != Code.WELCOME:
        raise _refusal(code, greeting, version)
    rest = frame[_OPENING.size :]
    if len(rest) != size:
        raise _refusal(Code.NO_SENSE, greeting, version)
    return rest


def _refusal(code: int, greeting: Greeting, version: int = PROTOCOL_VERSION) -> Exception:
    role, address = greeting.role.value, greeting.address
    match code:
        case Code.BUSY:
            return ConnectionError("it has as many connections as it may have")
        case Code.OTHER_VERSION:
            return Refused(
                f"the master at {address} speaks version {version} of the protocol, this program version "
                f"{greeting.version}; install the same cluster-kit on both"
            )
        case Code.NO_SUCH_ROLE:
            return Refused(f"the master at {address} takes no connection in role {role}: it has no {role}.key")
        case Code.WRONG_PROOF:
            return Refused(
                f"the master at {address} has another {role} key than this program; each role has its own, "
                f"so give the {role}.key of that cluster"
            )
        case _:
            return Refused(f"the master at {address} and this program do not understand each other's handshake")


def _proof(key: Secret, label: bytes, hello: bytes, nonce: bytes) -> bytes:
    # Every part has a fixed length, so no two different transcripts are the same bytes.
    return hmac.digest(key.reveal(), b"cluster handshake, " + label + hello + nonce, "sha256")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the handshake took too long")
    return left
