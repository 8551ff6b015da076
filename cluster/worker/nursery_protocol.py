"""What the supervisor and the nursery say to each other, one message per datagram on the control socket."""

from __future__ import annotations

import array
import socket
from collections.abc import Callable
from typing import TypeAlias

import msgspec
from msgspec import Struct

from cluster.worker.identity import Identity
from cluster.worker.limits import Limits

MAX_MESSAGE_BYTES = 256 * 1024
MAX_DESCRIPTORS = 2
_DESCRIPTOR_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)


class Setup(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """First message: the surroundings of every child."""

    worker: str
    host: str
    directory: bytes  # a file's name need not be text
    max_output_bytes: int
    max_result_bytes: int
    scratch: bytes = b""  # as in `WorkerConfig`
    threads: int = 0
    identity: Identity | None = None  # who jobs run as; None: whoever the worker is
    limits: Limits = ()
    group: bytes = b""


class Spawn(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Fork a child for a slot. Its end of the socket pair and its output file travel along."""

    slot: int
    generation: int  # grows with each child of a slot, so that news of an old one is not taken for the new one's


class Spawned(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The child runs. Its pidfd travels along: opened by its parent, who alone can't mistake a reused pid for it."""

    slot: int
    generation: int
    pid: int


class SpawnFailed(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The system wouldn't fork."""

    slot: int
    generation: int
    reason: str


class Died(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """The child has ended, and everything it had started is gone too."""

    slot: int
    generation: int
    pid: int
    status: int  # as `os.wait4` has it
    peak_memory: int  # bytes
    cpu_seconds: float


ToNursery: TypeAlias = Setup | Spawn
FromNursery: TypeAlias = Spawned | SpawnFailed | Died

encode = msgspec.msgpack.Encoder().encode


def decoder_of_orders() -> Callable[[bytes], ToNursery]:
    """What reads a supervisor's messages; made on the side that does."""
    return msgspec.msgpack.Decoder(ToNursery).decode


def decoder_of_news() -> Callable[[bytes], FromNursery]:
    """What reads a nursery's messages; made on the side that does."""
    return msgspec.msgpack.Decoder(FromNursery).decode


def send(control: socket.socket, message: ToNursery | FromNursery, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message and copies of these descriptors."""
    socket.send_fds(control, [encode(message)], list(descriptors))


def receive(control: socket.socket) -> tuple[bytes, list[int]] | None:
    """One message's bytes and descriptors (not inherited by exec); None if nothing is there. Raises `EOFError`."""
    try:
        data, ancillary, _, _ = control.recvmsg(MAX_MESSAGE_BYTES, _DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except ConnectionError as error:
        raise EOFError from error
    if not data:
        raise EOFError
    descriptors = array.array("i")
    for _, _, rights in ancillary:
        descriptors.frombytes(rights[: len(rights) - len(rights) % descriptors.itemsize])
    return data, list(descriptors)
