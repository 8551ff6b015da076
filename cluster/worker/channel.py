"""How the supervisor and a child talk: one message per datagram, on a private pair of SEQPACKET sockets.

    supervisor                                    child
      mine  ──── Task, one job per datagram ────►  theirs
            ◄─── Finished, ItemStarted, ... ─────
      dup of theirs: recv(MSG_DONTWAIT) takes back what the child has not taken

A datagram is taken whole by exactly one receiver, so there is no half message, no lock, and no question who has a job:
whoever received its datagram. A child that dies in the middle of anything harms only its own pair.

Datagram: one byte that says where the body is (`INLINE` after the header, `IN_MEMFD` in an anonymous file whose
descriptor travels along, `OUTPUT_FILE`: that descriptor is the child's new output file), eight bytes with the lease's fence (readable without decoding, for taking back), the body.

A child sends and receives one message at a time, through its `Channel`. The supervisor does so only with large ones and
in taking back; what comes and goes by the thousand passes through `vector`, many datagrams to a call.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import MsgspecError, Struct

from cluster.core.bounds import Figure, LongText, Natural
from cluster.core.records import Digest, Fence, JobId, Payload, Report, Segment
from cluster.worker.vector import Received

INLINE, IN_MEMFD, OUTPUT_FILE = 0, 1, 2
HEADER = struct.Struct(">BQ")
_HEADER_BYTES, _read_header = HEADER.size, HEADER.unpack_from
# Larger bodies go through a memfd: a datagram must fit into the socket's send buffer as a whole, and Linux gives an
# unprivileged process 208 KiB of that unless told otherwise.
MAX_INLINE_BYTES = 128 * 1024
MAX_DATAGRAM_BYTES = HEADER.size + MAX_INLINE_BYTES
# What we ask for, so that a prefetched queue of small jobs never fills it; the kernel may grant less.
SEND_BUFFER_BYTES = 1 << 20
# A bound on what one message may carry through a memfd; a result is bounded by the worker's configuration before.
MAX_BODY_BYTES = (1 << 30) + (1 << 26)

# Plain integers: arithmetic on enum flags would cost as much as the system call.
DONT_WAIT = int(socket.MSG_DONTWAIT)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)

_DESCRIPTOR_BYTES = socket.CMSG_SPACE(array.array("i").itemsize)


class Task(Struct, frozen=True, array_like=True, gc=False):
    """One attempt, as the child needs it. The fence is in the datagram's header."""

    job: JobId
    run: int
    attempt: int
    function: Digest
    body: bytes  # the pickled function; empty if the child has been sent it before
    is_reusable: bool
    args: Payload
    timeout: float | None
    inputs: tuple[tuple[JobId, Payload], ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    careful: bool = False
    memory: int = 0


class Finished(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The job in hand has ended and left nothing behind in the child."""

    report: Report
    cpu_seconds: Figure  # of the child so far; 0: not measured, the job was too short to matter


class ItemStarted(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The careful chunk in hand goes on with this item."""

    item: int


class ItemEnded(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The careful chunk in hand is done with an item."""

    segment: Segment


class FunctionMissing(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The child took a job whose function it doesn't have (its datagram was taken back, or it was evicted)."""

    function: Digest


class Said(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """`current_job().progress(done, total, note)`."""

    done: Figure
    total: Figure
    note: LongText


class TooFull(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Earlier jobs have left so much memory in the child that the one it took would pay for it: it ends itself."""


class Printed(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """What a job in a thread has printed, from its byte `offset` on; of a process the supervisor has the file."""

    text: bytes
    offset: Natural


FromChild: TypeAlias = Finished | ItemStarted | ItemEnded | FunctionMissing | Said | TooFull | Printed

_ENCODER = msgspec.msgpack.Encoder()
encode = _ENCODER.encode
encode_into = _ENCODER.encode_into


def decoder_of_tasks() -> Callable[[bytes | memoryview], Task]:
    """What reads a task. Made by whoever reads them: it takes a third of a millisecond that a supervisor needn't spend."""
    return msgspec.msgpack.Decoder(Task).decode


def decoder_of_answers() -> Callable[[bytes | memoryview], FromChild]:
    """What reads a child's messages. As above: it takes twice as long, and a child needn't spend it."""
    return msgspec.msgpack.Decoder(FromChild).decode


# What reading a message raises whose bytes a child chose: not msgpack, not the type, bad UTF-8, nested without end.
UNREADABLE = (MsgspecError, UnicodeError, RecursionError)


class Nonsense(Exception):
    """The other side sent what is no message."""


class NewOutput(Exception):
    """No message but a descriptor, the receiver's to close: the child prints into this file from now on.

    No error either: raised, so that messages, which come by the million, need no look.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.descriptor = descriptor


class Channel:
    """One end of a pair. Used by one thread."""

    __slots__ = ("_buffer", "_view", "socket")

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)

    def send(self, fence: Fence, body: bytes) -> None:
        """Send one message. Raises `BlockingIOError` where the socket doesn't block and has no room."""
        if len(body) <= MAX_INLINE_BYTES:
            try:
                self.socket.send(HEADER.pack(INLINE, fence) + body)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
            else:
                return
        descriptor = _write_memfd(body)
        try:
            self._send_descriptor(IN_MEMFD, fence, descriptor)
        finally:
            os.close(descriptor)

    def send_output(self, fence: Fence, descriptor: int) -> None:
        """Hand over the output file that is written from now on."""
        self._send_descriptor(OUTPUT_FILE, fence, descriptor)

    def _send_descriptor(self, where: int, fence: Fence, descriptor: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        self.socket.sendmsg([HEADER.pack(where, fence)], rights)

    def receive(self, flags: int = 0) -> tuple[Fence, bytes | memoryview] | None:
        """The next message's fence and body, which is good until the next call; None if there is none now.

        Raises:
            EOFError: the other end is gone.
            Nonsense: it is no message; it was taken off the socket all the same.
        """
        try:
            size, ancillary, answer, _ = self.socket.recvmsg_into(
                (self._buffer,), _DESCRIPTOR_BYTES, flags | _CLOSE_ON_EXEC
            )
        except BlockingIOError:
            return None
        if not ancillary and not answer & _CUT_OFF and size >= HEADER.size:
            where, fence = HEADER.unpack_from(self._buffer)
            if where == INLINE:  # nearly always
                return fence, self._view[HEADER.size : size]
        descriptors = _descriptors(ancillary)
        return open_received((self._view[:size], descriptors, bool(answer & _CUT_OFF)))

    def close(self) -> None:
        """Close the end; harmless if it is closed."""
        self.socket.close()


def open_received(received: Received) -> tuple[Fence, bytes | memoryview]:
    """A datagram's fence and body; its descriptors are closed.

    Raises:
        EOFError: it is empty: the other end is gone.
        NewOutput: it is an output file instead.
        Nonsense: it is no message.
    """
    datagram, descriptors, is_cut = received
    if descriptors:
        return _open_memfd(datagram, descriptors)
    if len(datagram) < _HEADER_BYTES:
        if not datagram:
            raise EOFError("its end of the socket is closed")
        raise Nonsense("a datagram too short to be a message")
    where, fence = _read_header(datagram)
    if where != INLINE or is_cut:
        raise Nonsense("a datagram that is no message")
    return fence, datagram[_HEADER_BYTES:]


def make_pair() -> tuple[Channel, Channel]:
    """The supervisor's end, which never blocks, and the child's, which does."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (mine, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    mine.settimeout(0)
    return Channel(mine), Channel(theirs)


def _open_memfd(datagram: memoryview, descriptors: Sequence[int]) -> tuple[Fence, bytes]:
    try:
        if len(datagram) != HEADER.size or len(descriptors) != 1:
            raise Nonsense("a datagram with descriptors that is no message")
        where, fence = HEADER.unpack_from(datagram)
        if where == OUTPUT_FILE:
            raise NewOutput(_keep_memfd(descriptors[0]))
        if where != IN_MEMFD:
            raise Nonsense("a datagram with a descriptor that it doesn't announce")
        return fence, _read_memfd(descriptors[0])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _keep_memfd(descriptor: int) -> int:
    """A duplicate, if it is a file in memory: nothing else is safe to be asked for its size, or to be emptied."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
    except OSError as error:
        raise Nonsense(f"an output file that is none ({error})") from None


def _write_memfd(body: bytes) -> int:
    descriptor = os.memfd_create("cluster-message", os.MFD_CLOEXEC)
    try:
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_memfd(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > MAX_BODY_BYTES:
        raise Nonsense(f"a message of {size} bytes")
    pieces: list[bytes] = []
    position = 0
    while position < size:
        with contextlib.suppress(OSError):  # a descriptor that can't be read is no message either
            piece = os.pread(descriptor, size - position, position)
            if piece:
                pieces.append(piece)
                position += len(piece)
                continue
        raise Nonsense("a message shorter than announced")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
