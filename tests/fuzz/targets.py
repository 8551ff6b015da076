"""What is fuzzed: each reader of bytes that somebody else chose, and what may come of any bytes at all.

A target takes an input and says in a few words what became of it; inputs of which something new became are worth keeping.
What it may not do is raise. Each checks what it can: that a refusal is one of those that the reader's caller expects, that
what was read is written as the same bytes again and read as the same once more, and that nothing was believed that only
holders of a key can say.
"""

from __future__ import annotations

import random
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from cluster.errors import ClusterError, Refused
from cluster.store.epochs import FILE_BYTES, EpochFile, Witness
from cluster.wire import codec, handshake
from cluster.wire.address import parse_address
from cluster.wire.calls import CALLS, PROTOCOL_VERSION
from cluster.wire.codec import ProtocolError, Request
from cluster.wire.connection import MAX_HANDSHAKE_BYTES, ClusterConnection, FrameError
from cluster.wire.faults import KINDS, Fault, fault_of
from cluster.wire.handshake import Greeting, Stranger
from cluster.wire.keys import Role, Secret
from cluster.worker import channel
from cluster.worker.channel import Nonsense
from tests.fuzz import desks, stored
from tests.fuzz.samples import sample

NAMES = list(CALLS)
ADDRESS = parse_address("tcp://127.0.0.1:1")
KEYS = {role: Secret(bytes([number]) * 32) for number, role in enumerate(Role)}
PATIENCE_SECONDS = 20.0
_decode_of_child = channel.decoder_of_answers()

encode = msgspec.msgpack.Encoder().encode


class Target(Struct, frozen=True):
    """One reader."""

    name: str
    run: Callable[[bytes], str]
    seeds: Callable[[], list[bytes]]
    skip: int = 0  # bytes of an input that come before its msgpack
    share: float = 1.0  # of a run over all targets; what takes long gets less


def read_to_the_end(data: bytes, max_bytes: int) -> list[bytes]:
    """The frames in a stream, by the plainest reading; an empty last one stands for an error."""
    frames: list[bytes] = []
    while data:
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 or size > max_bytes or len(data) < 4 + size:
            return [*frames, b"!"]
        frames.append(b"=" + data[4 : 4 + size])
        data = data[4 + size :]
    return frames


def frame(data: bytes) -> str:
    """A stream of frames, in pieces: read as by the plainest reader, and no more memory than came."""
    pieces, data = (data[0] if data else 0), data[1:]
    mine, theirs = socket.socketpair()
    connection = ClusterConnection(mine)
    frames: list[bytes] = []
    with theirs, connection:
        cut = len(data) * (pieces % 8) // 8
        theirs.sendall(data[:cut])
        if not cut:
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)
        try:
            while True:
                frames.append(b"=" + bytes(connection.receive_frame(PATIENCE_SECONDS if not cut else 0.0)))
        except TimeoutError:
            assert cut, "everything is here, and it waits for more"
            return "waits for more"  # of a stream that stopped half way, a reader without patience is sent away
        except EOFError:
            pass
        except (FrameError, ConnectionResetError):
            frames.append(b"!")
    assert frames == read_to_the_end(data, MAX_HANDSHAKE_BYTES), "another reading than the plain one"
    return f"{min(len(frames), 3)} frames{' and an error' if b'!' in frames else ''}"


def handshake_master(data: bytes) -> str:
    """Whatever a stranger says, nobody comes in without the key."""
    mine, theirs = socket.socketpair()
    with theirs, ClusterConnection(mine) as connection:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            role = handshake.receive(connection, KEYS, bytes(16), time.monotonic() + PATIENCE_SECONDS)
        except Stranger as stranger:
            return f"stranger {stranger.code.name} {stranger.reason[:14]}"
        except (OSError, EOFError) as error:
            return type(error).__name__
    raise AssertionError(f"came in as {role} without a key")


def handshake_caller(data: bytes) -> str:
    """Whatever a false master says, it is not believed to be one."""
    mine, theirs = socket.socketpair()
    with theirs, ClusterConnection(mine) as connection:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            epoch = handshake.introduce(connection, Greeting(Role.CLIENT, KEYS[Role.CLIENT], ADDRESS), PATIENCE_SECONDS)
        except Refused as error:
            return f"refused {str(error)[-40:]}"
        except (OSError, EOFError) as error:
            return type(error).__name__
    raise AssertionError(f"took a stranger for the master of epoch {epoch}")


def request(data: bytes) -> str:
    """A frame as the master takes it."""
    try:
        found = codec.open_request(memoryview(data))
    except ProtocolError:
        return "no call"
    if codec.call_of(found.desk, found.method) is None:
        return "no such call"
    return arguments_of(found)


def arguments(data: bytes) -> str:
    """The arguments of each call: the first byte says which."""
    desk, method = NAMES[data[0] % len(NAMES)] if data else NAMES[0]
    return arguments_of(Request("r", desk, method, Raw(data[1:])))


def arguments_of(found: Request) -> str:
    name = f"{found.desk}.{found.method}"
    try:
        said = codec.read_arguments(found)
    except Refused as error:
        return f"{name} refused {type(error.__context__).__name__}"
    assert type(said) is CALLS[found.desk, found.method].args
    wire = codec.encode_request(found.request, found.desk, found.method, said)
    again = codec.read_arguments(codec.open_request(memoryview(wire)))
    # Compared as bytes: a value may be no number, which is equal to nothing.
    assert codec.encode_request(found.request, found.desk, found.method, again) == wire, "not read as it was written"
    return f"{name} taken"


def answer(data: bytes) -> str:
    """A frame as a caller takes it, for each call: the first byte says which."""
    desk, method = NAMES[data[0] % len(NAMES)] if data else NAMES[0]
    try:
        found = codec.open_answer(memoryview(data[1:]), "r")
        body = codec.read_answer(found, desk, method)
    except ProtocolError as error:
        return str(error)[:24]
    except ClusterError as error:
        str(error)  # its text is made from what came
        kind = found.fault.kind if found.fault and found.fault.kind in KINDS else "unreadable"
        return f"{kind} {type(error).__name__}"
    opened = Request("r", desk, method, Raw(b""))
    wire = codec.encode_answer(opened, body)
    again = codec.read_answer(codec.open_answer(memoryview(wire), "r"), desk, method)
    assert codec.encode_answer(opened, again) == wire, "not read as it was written"
    return f"{desk}.{method} {type(body).__name__}"


def child(data: bytes) -> str:
    """A datagram as a worker's supervisor takes it from a child."""
    try:
        _, body = channel.open_received((memoryview(data[1:]), [], bool(data[:1] == b"\1")))
        message = _decode_of_child(body)
    except (Nonsense, EOFError) as error:
        return f"{type(error).__name__} {error}"[:40]
    except channel.UNREADABLE as error:
        return type(error).__name__
    wire = channel.encode(message)
    assert channel.encode(_decode_of_child(wire)) == wire, "not read as it was written"
    return type(message).__name__


_folder = tempfile.TemporaryDirectory(prefix="cluster-fuzz-")
_WITNESS = Path(_folder.name, "epoch")


def witness(data: bytes) -> str:
    """The file beside a store."""
    _WITNESS.write_bytes(data)
    found = EpochFile("fuzz", _WITNESS).read(b"k" * 32)
    if found is None:
        return "says nothing"
    assert type(found) is Witness
    try:
        assert EpochFile("fuzz", _WITNESS).next_epoch(b"k" * 32, 5) > max(found.epoch, 5)
    except ClusterError:
        return "no epochs left"
    return "read"


# --- seeds ----------------------------------------------------------------------------------------------------------


def _framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def _frame_seeds() -> list[bytes]:
    whole = _framed(b"", b"a", b"x" * 4096)
    return [bytes([pieces]) + whole for pieces in (0, 3)] + [b"\0" + _framed(b"x") + b"\x7f\xff\xff\xff", b"\0\0\0"]


def _handshake_seeds() -> list[bytes]:
    opening = handshake._OPENING.pack
    hello = [opening(handshake._MAGIC, version, role) + bytes(32) for version in (1, 2) for role in (1, 2, 3, 9)]
    proofs = [handshake._PROVE.pack(code, bytes(32)) for code in (0, 4)]
    return [_framed(first, proof) for first in hello for proof in proofs] + [_framed(hello[0][:-1]), _framed(b"x")]


def _false_master_seeds() -> list[bytes]:
    said = [
        handshake._OPENING.pack(handshake._MAGIC, PROTOCOL_VERSION, code) + bytes(size)
        for code in range(7)
        for size in (0, 16, 64)
    ]
    return [_framed(each, said[0] + bytes(16)) for each in said] + [_framed(b"HTTP/1.1 400"), b"HTTP/1.1 400\r\n\r\n"]


def _argument_seeds() -> list[bytes]:
    chance = random.Random(1)
    kinds = [call.args for call in CALLS.values()]
    return [
        bytes([number]) + encode(sample(kind, chance)) for number, kind in enumerate(kinds) for _ in range(4)
    ]  # fmt: skip


def _request_seeds() -> list[bytes]:
    chance = random.Random(2)
    return [
        codec.encode_request("r-1", desk, method, sample(call.args, chance)) for (desk, method), call in CALLS.items()
    ] + [encode(["r", "jobs", "shutdown", None])]


def _answer_seeds() -> list[bytes]:
    chance = random.Random(3)
    found = []
    for number, ((desk, method), call) in enumerate(CALLS.items()):
        opened = Request("r", desk, method, Raw(b""))
        bodies = [sample(call.answer, chance) for _ in range(3)]
        found += [bytes([number]) + codec.encode_answer(opened, body) for body in bodies]
    opened = Request("r", "jobs", "info", Raw(b""))
    faults = [Fault(kind, texts) for kind in [*KINDS, "Newer"] for texts in ((), ("a",), ("a", "b"), ("a", "b", "c"))]
    faults.append(fault_of(KeyError("x"), "fuzz"))
    return found + [b"\6" + codec.encode_fault(opened, fault) for fault in faults]


def _child_seeds() -> list[bytes]:
    chance = random.Random(4)
    kinds = channel.FromChild.__args__
    header = b"\0" + channel.HEADER.pack(channel.INLINE, 7)
    return [header + channel.encode(sample(kind, chance)) for kind in kinds for _ in range(4)]


def _witness_seeds() -> list[bytes]:
    file = EpochFile("fuzz", _WITNESS)
    file.write(b"k" * 32, 7, is_log_needed=True)
    return [_WITNESS.read_bytes(), b"", b"{}", b" " * FILE_BYTES]


TARGETS = {
    target.name: target
    for target in (
        Target("frame", frame, _frame_seeds, 1, 0.5),
        Target("handshake-master", handshake_master, _handshake_seeds, 0, 0.5),
        Target("handshake-caller", handshake_caller, _false_master_seeds, 0, 0.5),
        Target("request", request, _request_seeds, 0, 2.0),
        Target("arguments", arguments, _argument_seeds, 1, 3.0),
        Target("answer", answer, _answer_seeds, 1, 3.0),
        Target("child", child, _child_seeds, 1 + channel.HEADER.size, 2.0),
        Target("witness", witness, _witness_seeds, 0, 0.2),
        Target("journal", stored.journal_group, stored.journal_seeds, 0, 2.0),
        Target("sealed-row", stored.sealed_row, stored.row_seeds, 1, 2.0),
        Target("foreign-row", stored.foreign_row, stored.foreign_seeds, 0, 2.0),
        Target("database", stored.database, stored.database_seeds, 0, 0.002),
        Target("desks", desks.session, desks.seeds, 0, 0.02),
    )
}
