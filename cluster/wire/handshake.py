"""Who are you, and do you know my key? Four short frames before anything else, within ten seconds in all.

With TLS its handshake comes first, within the same ten seconds; the frames then travel inside it.

    caller                                                  master
      │ magic, version, role, nonce C                         │
      ├──────────────────────────────────────────────────────►│ a role of mine? a version of mine?
      │           magic, version, code, nonce M, proofs M     │ with TLS: is this role the certificate's?
      │◄──────────────────────────────────────────────────────┤ proof M = HMAC-SHA256(key of the role, "master" + all above)
      │ a proof M right? else: code, and goodbye                │
      │ code, proof C                                         │
      ├──────────────────────────────────────────────────────►│ proof C = HMAC-SHA256(key of the role, "caller" + all above)
      │                         magic, version, code, epoch   │ proof C right?
      │◄──────────────────────────────────────────────────────┤
      │                        calls                          │

Both prove the key and neither shows it. Both nonces, the role and the version are under both proofs, and the labels
keep one side's proof from serving as the other's. What is refused travels as a code: the sentence is made by whoever
shows it, and a stranger learns no more than that he is one. Unlike the standard library's handshake it knows SHA-256
only (there an answer in MD5 still passes on 3.12 and later), and refuses keys that are empty or short.

While a role's key is exchanged for another the master has both, and sends a proof of each; any of them will do, and so
will the caller's proof of any of them. A caller has one key: the first of its file.

The first eleven bytes of either side's first frame (magic, version, one number) never change, so that any two versions
can tell each other what they are.

What it can't do without TLS: a process that sits between the two can relay all four frames and then speak in the
caller's place. That is why connections without TLS stay on this host's loopback interface (see listener.py). With TLS
whoever sits between shows no certificate of a master for that host, and the caller says nothing of all this to it.
"""

from __future__ import annotations

import hmac
import os
import struct
import time
from collections.abc import Callable, Container, Mapping
from enum import IntEnum

from msgspec import Struct

from cluster.errors import Refused
from cluster.wire.address import Address
from cluster.wire.calls import PROTOCOL_VERSION
from cluster.wire.connection import ClusterConnection, FrameError
from cluster.wire.keys import MAX_KEYS, Key, Role, Secret
from cluster.wire.tls import Tls
from cluster.wire.tls_handshake import certificate_refused, secure_caller

HANDSHAKE_SECONDS = 10.0

_MAGIC = b"\x89CLUSTER"
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_EPOCH_BYTES = 16
_OPENING = struct.Struct(">8sHB")
_PROVE = struct.Struct(">B32s")
_ROLES = {1: Role.CLIENT, 2: Role.WORKER, 3: Role.ADMIN}
_NUMBERS = {role: number for number, role in _ROLES.items()}
_CHALLENGES = range(_NONCE_BYTES + _PROOF_BYTES, _NONCE_BYTES + MAX_KEYS * _PROOF_BYTES + 1, _PROOF_BYTES)


class Code(IntEnum):
    """All that either side says about a refusal."""

    WELCOME = 0
    BUSY = 1  # too many connections; later perhaps
    OTHER_VERSION = 2
    NO_SUCH_ROLE = 3
    WRONG_PROOF = 4
    NO_SENSE = 5
    NEEDS_TLS = 6  # said without TLS, as is the next
    HAS_NO_TLS = 7
    OTHER_ROLE = 8  # than the certificate's
    REVOKED = 9
    EXPIRED = 10
    BAD_CERTIFICATE = 11  # for the log: the caller hears of it by an alert of TLS
    NOT_YET_VALID = 12


class Stranger(Exception):
    """Whoever connected may not come in; the text is for the master's log, the code was sent."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Greeting(Struct, frozen=True):
    """What a caller introduces itself with."""

    role: Role
    key: Key
    address: Address  # where it believes the master to be: what the master's certificate must name
    version: int = PROTOCOL_VERSION
    tls: Tls | None = None


class Proven(Struct, frozen=True):
    """What a caller has shown to the master: that it knows this key of this role."""

    role: Role
    key: Secret


# --- the master's side ----------------------------------------------------------------------------------------------


def receive(
    connection: ClusterConnection,
    keys: Mapping[Role, Key],
    epoch: bytes,
    deadline: float,
    vet: Callable[[Role], None] = lambda _: None,
) -> Proven:
    """Find out who connected. Raises `Stranger` when it was refused, else `OSError` or `EOFError`.

    Args:
        connection: on which nothing was said yet, but for TLS.
        keys: by role; a role without one can't come in.
        epoch: this server's.
        deadline: on the monotonic clock, of all of it.
        vet: called with the role that is claimed; raises `Stranger` if it is not to be had.
    """
    try:
        return _receive(connection, keys, epoch, deadline, vet)
    except Stranger as stranger:
        send_away(connection, stranger.code)
        raise


def _receive(
    connection: ClusterConnection,
    keys: Mapping[Role, Key],
    epoch: bytes,
    deadline: float,
    vet: Callable[[Role], None],
) -> Proven:
    hello = bytes(connection.receive_frame(_left(deadline)))
    role = _read_hello(hello)
    if role not in keys:
        raise Stranger(Code.NO_SUCH_ROLE, f"it wants role {role.value}, for which there is no key here")
    vet(role)
    nonce = os.urandom(_NONCE_BYTES)
    secrets = keys[role].secrets()
    opening = _OPENING.pack(_MAGIC, PROTOCOL_VERSION, Code.WELCOME)
    connection.send_frame(opening + nonce + b"".join(_proof(each, b"master", hello, nonce) for each in secrets))
    answer = bytes(connection.receive_frame(_left(deadline)))
    if len(answer) != _PROVE.size:
        raise Stranger(Code.NO_SENSE, "its proof has a wrong length")
    code, proof = _PROVE.unpack(answer)
    if code != Code.WELCOME:
        raise Stranger(Code.WRONG_PROOF, f"it found that this master has another {role.value} key than it has")
    for each in secrets:
        if hmac.compare_digest(proof, _proof(each, b"caller", hello, nonce)):
            connection.send_frame(opening + epoch)
            return Proven(role, each)
    raise Stranger(Code.WRONG_PROOF, f"it does not have the {role.value} key")


def _read_hello(hello: bytes) -> Role:
    if len(hello) < _OPENING.size or not hello.startswith(_MAGIC):
        raise Stranger(Code.NO_SENSE, "it does not speak the cluster's protocol")
    _, version, number = _OPENING.unpack_from(hello)
    if version != PROTOCOL_VERSION:
        raise Stranger(Code.OTHER_VERSION, f"it speaks version {version} of the protocol, not {PROTOCOL_VERSION}")
    if len(hello) != _OPENING.size + _NONCE_BYTES:
        raise Stranger(Code.NO_SENSE, "its first frame has a wrong length")
    role = _ROLES.get(number)
    if role is None:
        raise Stranger(Code.NO_SUCH_ROLE, f"it wants role {number}, for which there is no key here")
    return role


def send_away(connection: ClusterConnection, code: Code) -> None:
    """Tell whoever connected why it may not come in."""
    connection.send_frame(_OPENING.pack(_MAGIC, PROTOCOL_VERSION, code))


def send_away_busy(connection: ClusterConnection) -> None:
    """Tell whoever has just connected that there is no room. Never blocks: nothing was sent to it before."""
    send_away(connection, Code.BUSY)


# --- the caller's side ----------------------------------------------------------------------------------------------


def introduce(connection: ClusterConnection, greeting: Greeting, timeout: float = HANDSHAKE_SECONDS) -> str:
    """Prove one's role to the master and have it prove that it is one. Returns the epoch of its server.

    Raises `Refused` when another attempt would end alike, `OSError` or `EOFError` when it might not.
    """
    deadline = time.monotonic() + timeout
    if greeting.tls is None:
        return _introduce(connection, greeting, deadline)
    plain = secure_caller(connection, greeting.tls, greeting.address, deadline)
    if plain:
        # Not under TLS's protection, so believed only as a reason not to go on.
        _, version, code = _read_opening(plain, greeting)
        raise _refusal(code if code != Code.WELCOME else Code.NO_SENSE, greeting, version)
    try:
        return _introduce(connection, greeting, deadline)
    except OSError as error:
        # In TLS 1.3 a caller's handshake ends before the master has judged its certificate.
        raise certificate_refused(error, greeting.address, greeting.tls) or error from None


def _introduce(connection: ClusterConnection, greeting: Greeting, deadline: float) -> str:
    nonce = os.urandom(_NONCE_BYTES)
    hello = _OPENING.pack(_MAGIC, greeting.version, _NUMBERS[greeting.role]) + nonce
    key = greeting.key.secrets()[0]
    connection.send_frame(hello)
    challenge = _answer(connection, greeting, _CHALLENGES, deadline)
    theirs, proofs = challenge[:_NONCE_BYTES], challenge[_NONCE_BYTES:]
    right = _proof(key, b"master", hello, theirs)
    if not any(
        hmac.compare_digest(proofs[at : at + _PROOF_BYTES], right) for at in range(0, len(proofs), _PROOF_BYTES)
    ):
        connection.send_frame(_PROVE.pack(Code.WRONG_PROOF, bytes(_PROOF_BYTES)))
        raise _refusal(Code.WRONG_PROOF, greeting)
    connection.send_frame(_PROVE.pack(Code.WELCOME, _proof(key, b"caller", hello, theirs)))
    return _answer(connection, greeting, {_EPOCH_BYTES}, deadline).hex()


def new_epoch() -> bytes:
    """A name for one server, so that callers can tell it from the one before."""
    return os.urandom(_EPOCH_BYTES)


def _answer(connection: ClusterConnection, greeting: Greeting, sizes: Container[int], deadline: float) -> bytes:
    """What follows the opening of the master's next frame."""
    try:
        frame = bytes(connection.receive_frame(_left(deadline)))
    except FrameError:
        frame = b""
    _, version, code = _read_opening(frame, greeting)
    if code != Code.WELCOME:
        raise _refusal(code, greeting, version)
    rest = frame[_OPENING.size :]
    if len(rest) not in sizes:
        raise _refusal(Code.NO_SENSE, greeting, version)
    return rest


def _read_opening(frame: bytes, greeting: Greeting) -> tuple[bytes, int, int]:
    if len(frame) < _OPENING.size or not frame.startswith(_MAGIC):
        raise Refused(f"what listens at {greeting.address} is no cluster master; is the port right?")
    return _OPENING.unpack_from(frame)


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
        case Code.NEEDS_TLS:
            return Refused(
                f"the master at {address} speaks TLS only; name the certificates: tls={{'ca': ..., 'cert': ..., "
                f"'key': ...}}, or --tls-ca, --tls-cert and --tls-key"
            )
        case Code.HAS_NO_TLS:
            return Refused(
                f"the master at {address} speaks no TLS, and this program nothing else; give the master certificates, "
                f"or leave out this program's"
            )
        case Code.OTHER_ROLE | Code.REVOKED | Code.EXPIRED | Code.NOT_YET_VALID:
            return Refused(_of_certificate(code, greeting))
        case _:
            return Refused(f"the master at {address} and this program do not understand each other's handshake")


def _of_certificate(code: int, greeting: Greeting) -> str:
    """What the master has against this program's certificate."""
    role, address = greeting.role.value, greeting.address
    own = f"certificate {greeting.tls.files.cert} ({greeting.tls.identity})" if greeting.tls else "certificate"
    if code == Code.REVOKED:
        return f"the master at {address} refused this program's {own}: it was revoked; have another one issued"
    if code == Code.EXPIRED:
        return f"the master at {address} refused this program's {own}: it has expired; have it renewed"
    if code == Code.NOT_YET_VALID:
        return (
            f"the master at {address} refused this program's {own}: it is not valid yet by the master's clock; "
            "are both hosts' clocks right?"
        )
    return (
        f"the master at {address} takes no {role} with this program's {own}; connect in the certificate's role, "
        f"or have one issued: cluster certs issue {role} NAME"
    )


def _proof(key: Secret, label: bytes, hello: bytes, nonce: bytes) -> bytes:
    # Every part has a fixed length, so no two different transcripts are the same bytes.
    return hmac.digest(key.reveal(), b"cluster handshake, " + label + hello + nonce, "sha256")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the handshake took too long")
    return left
