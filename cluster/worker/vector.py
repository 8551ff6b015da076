"""Many datagrams per system call, without letting go of the interpreter's lock.

Python's `socket.send` and `recvmsg` release the interpreter's lock (GIL) around a system call of a microsecond. Where
the supervisor is a thread of the user's process, the user's thread takes the lock in that microsecond, and the
supervisor waits to have it back: up to 5 ms if that thread computes (the convoy effect). System calls on children's
sockets don't block, so there is no reason to let go. `ctypes.PyDLL` calls a C function and keeps the lock, and
`sendmmsg` and `recvmmsg` carry up to `MAX_DATAGRAMS` at once: one datagram sent and received costs 2 µs, and not 15.

    datagrams, one after the other in a bytearray ◄── iovec 0…n ◄── mmsghdr 0…n ◄── sendmmsg(n) ──► how many it took
    a lane of a buffer for each datagram          ◄── iovec 0…n ◄── mmsghdr 0…n ◄── recvmmsg(n) ──► how many there were

The arrays are made once and point into each other; a call changes only sizes and addresses. The kernel takes datagrams
in order, each whole or not at all, and stops at the first for which there is no room; nothing else changes in who has
which job.

This speaks the C library's binary interface, where a mistake corrupts the process instead of raising. So it is used
only where the layout is known (64-bit little-endian Linux: glibc and musl agree), and after a trial of every case with
the running kernel; at any doubt `Single` does the same with Python's own sockets.

A courier belongs to one thread. What it received is good until it receives again.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

# One call carries at most so many; whoever has more calls again.
MAX_DATAGRAMS = 64
# Enough for the trial, and less than the smallest send buffer holds.
TRIAL_BYTES = 1024
# Plain integers: arithmetic on enum flags would cost as much as the system call.
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)

_MACHINES = frozenset({"x86_64", "aarch64"})
# struct mmsghdr: name and its length, iovec and how many, control and its length, flags; then the datagram's size.
_MESSAGE = struct.Struct("@PI4xPNPNi4xI4x")
_OUTCOME = struct.Struct("@40xNi4xI4x")  # what the kernel writes into it: control's length, flags, size
_WORD_BYTES = 8
_VECTOR_BYTES = 2 * _WORD_BYTES  # struct iovec: address and size
_CONTROL = struct.Struct("@Nii")  # struct cmsghdr: its length, itself included; level; kind
_DESCRIPTOR_BYTES = array.array("i").itemsize
_CONTROL_BYTES = socket.CMSG_SPACE(_DESCRIPTOR_BYTES)
# Lanes a power of two apart would share their cache lines, and each header would push out the one before.
_LANE_STEP = 4096
_LANE_SHIFT = 64

log = logging.getLogger("cluster.worker")

# The datagram, the descriptors that came with it (the receiver's to close), and whether a part of either is missing.
Received: TypeAlias = tuple[memoryview, Sequence[int], bool]


class Courier(Protocol):
    """Carries datagrams to and from sockets without ever blocking."""

    def send(self, end: socket.socket, datagrams: bytearray, ends: Sequence[int], first: int = 0) -> int:
        """Send in order, from the first on; how many the socket took: at least one.

        Args:
            end: the socket to send on.
            datagrams: all of them, one after the other.
            ends: where in `datagrams` each of them ends.
            first: which of them is the first to send.

        Raises:
            BlockingIOError: there is no room for the first.
            OSError: the first can't be sent.
        """

    def receive(self, end: socket.socket) -> Sequence[Received]:
        """What is there; if it is `MAX_DATAGRAMS`, there may be more. A closed end gives empty ones. Raises OSError."""


class Single:
    """One system call per datagram, with Python's own sockets: works everywhere."""

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray(max_bytes)

    def send(self, end: socket.socket, datagrams: bytearray, ends: Sequence[int], first: int = 0) -> int:
        """See `Courier`."""
        with memoryview(datagrams) as view, view[ends[first - 1] if first else 0 : ends[first]] as datagram:
            end.send(datagram, _SEND_FLAGS)
        return 1

    def receive(self, end: socket.socket) -> Sequence[Received]:
        """See `Courier`."""
        found: list[Received] = []
        while len(found) < MAX_DATAGRAMS and (received := self._receive_one(end, is_first=not found)) is not None:
            found.append(received)
        return found

    def _receive_one(self, end: socket.socket, *, is_first: bool) -> Received | None:
        try:
            size, ancillary, flags, _ = end.recvmsg_into((self._buffer,), _CONTROL_BYTES, _RECEIVE_FLAGS)
        except BlockingIOError:
            return None
        except OSError:
            if is_first:
                raise
            return None  # what came before it is not lost; if it lasts, the next call raises it
        descriptors: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors += _whole_descriptors(data)
        return memoryview(self._buffer[:size]), descriptors, bool(flags & _CUT_OFF)


class Vectored:
    """Many datagrams per system call."""

    def __init__(self, max_bytes: int) -> None:
        # Two milliseconds that `import cluster` needn't spend.
        import ctypes
        import mmap

        library = ctypes.PyDLL(None, use_errno=True)
        self._sendmmsg: Callable[..., int] = library.sendmmsg
        self._recvmmsg: Callable[..., int] = library.recvmmsg
        library.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        library.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        self._errno: Callable[[], int] = ctypes.get_errno

        def locate(buffer: bytearray | mmap.mmap) -> int:
            return ctypes.addressof(ctypes.c_char.from_buffer(buffer))

        self._locate = locate
        lane_bytes = -(-max_bytes // _LANE_STEP) * _LANE_STEP + _LANE_SHIFT
        # Mapped and not allocated, for most of its pages are never touched. Private: a fork must not write into it.
        buffer = mmap.mmap(-1, MAX_DATAGRAMS * lane_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        control = bytearray(MAX_DATAGRAMS * _CONTROL_BYTES)
        self._out = _Headers(locate, 0)
        self._in = _Headers(locate, locate(control))
        self._in.vectors[0::2] = array.array("Q", [locate(buffer) + lane_bytes * lane for lane in range(MAX_DATAGRAMS)])
        self._in.vectors[1::2] = array.array("Q", [max_bytes] * MAX_DATAGRAMS)
        # While they are viewed, neither can move away from its address.
        self._control = memoryview(control)
        view = memoryview(buffer)
        self._lanes = [view[start : start + max_bytes] for start in range(0, len(buffer), lane_bytes)]

    def send(self, end: socket.socket, datagrams: bytearray, ends: Sequence[int], first: int = 0) -> int:
        """See `Courier`."""
        address = self._locate(datagrams)
        vectors = self._out.vectors
        start = ends[first - 1] if first else 0
        place = 0
        for stop in ends[first : first + MAX_DATAGRAMS]:
            vectors[place] = address + start
            vectors[place + 1] = stop - start
            start = stop
            place += 2
        taken = self._sendmmsg(end.fileno(), self._out.address, place // 2, _SEND_FLAGS)
        if taken < 0:
            raise self._error()
        return taken

    def receive(self, end: socket.socket) -> Sequence[Received]:
        """See `Courier`."""
        headers = self._in
        count = self._recvmmsg(end.fileno(), headers.address, MAX_DATAGRAMS, _RECEIVE_FLAGS, None)
        if count < 0:
            error = self._error()
            if isinstance(error, BlockingIOError):
                return ()
            raise error
        used = headers.messages[: count * _MESSAGE.size]
        found: list[Received] = []
        for lane, (control_bytes, flags, size) in zip(self._lanes, _OUTCOME.iter_unpack(used), strict=False):
            if control_bytes or flags & _CUT_OFF:
                found.append((lane[:size], self._descriptors(len(found), control_bytes), bool(flags & _CUT_OFF)))
            else:
                found.append((lane[:size], (), False))
        # The kernel wrote lengths over the sizes that the next call needs.
        used[:] = headers.fresh[: count * _MESSAGE.size]
        return found

    def _descriptors(self, lane: int, control_bytes: int) -> list[int]:
        place = lane * _CONTROL_BYTES
        last = place + control_bytes - _CONTROL.size
        found: list[int] = []
        while place <= last:
            size, level, kind = _CONTROL.unpack_from(self._control, place)
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found += _whole_descriptors(bytes(self._control[place + _CONTROL.size : place + size]))
            place += max(-(-size // _WORD_BYTES) * _WORD_BYTES, _CONTROL.size)
        return found

    def _error(self) -> OSError:
        number = self._errno()
        return OSError(number, os.strerror(number))


class _Headers:
    """An array of struct mmsghdr, each with an iovec of its own, and with room for control messages or without."""

    def __init__(self, locate: Callable[[bytearray], int], control: int) -> None:
        messages, vectors = bytearray(MAX_DATAGRAMS * _MESSAGE.size), bytearray(MAX_DATAGRAMS * _VECTOR_BYTES)
        first_vector = locate(vectors)
        size = _CONTROL_BYTES if control else 0
        for index in range(MAX_DATAGRAMS):
            vector, room = first_vector + index * _VECTOR_BYTES, control + index * size
            _MESSAGE.pack_into(messages, index * _MESSAGE.size, 0, 0, vector, 1, room, size, 0, 0)
        self.address = locate(messages)
        self.fresh = memoryview(bytes(messages))
        # While they are viewed, neither can move away from its address.
        self.messages = memoryview(messages)
        self.vectors = memoryview(vectors).cast("Q")


def make_courier(max_bytes: int) -> Courier:
    """The fastest courier that is safe here, for datagrams of so many bytes at most.

    Imports ctypes and tries everything out, which takes several milliseconds: not before a program's first result.
    """
    if is_layout_known():
        try:
            try_out(Vectored(TRIAL_BYTES))
            return Vectored(max_bytes)
        except Exception as error:  # an old C library, a sandbox that forbids the calls: nothing is lost but speed
            log.info("datagrams are sent one by one, for many at a time failed: %s", error)
    return Single(max_bytes)


def is_layout_known() -> bool:
    """Whether the structures here are this C library's."""
    sizes = (_MESSAGE.size, _OUTCOME.size, _CONTROL.size, struct.calcsize("P"), struct.calcsize("N"))
    return (
        sys.platform == "linux"
        and sys.byteorder == "little"
        and os.uname().machine in _MACHINES
        and sizes == (64, 64, 16, _WORD_BYTES, _WORD_BYTES)
    )


class Doubt(Exception):
    """A courier did something else than it should."""


def try_out(courier: Courier) -> None:
    """Have a courier of `TRIAL_BYTES` carry everything there is. Raises if anything is not as it should be."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        with mine:
            _try_kinds(courier, mine, theirs)
            _try_full(courier, mine, theirs)
        if not all(len(datagram) == 0 for datagram, _, _ in courier.receive(theirs)):
            raise Doubt("a closed end gave a datagram")


def _try_kinds(courier: Courier, mine: socket.socket, theirs: socket.socket) -> None:
    if list(courier.receive(theirs)):
        raise Doubt("it received what nobody sent")
    sent = [b"a", b"b" * TRIAL_BYTES, b"with a descriptor", b"c" * (TRIAL_BYTES + 1), b"with two too many", b"d"]
    for _ in range(2):  # whatever the first call wrote into the headers must not matter to the second
        _send_all(courier, mine, sent[:2])
        socket.send_fds(mine, sent[2:3], [mine.fileno()])
        _send_all(courier, mine, sent[3:4])
        socket.send_fds(mine, sent[4:5], [mine.fileno()] * 4)
        _send_all(courier, mine, sent[5:])
        came = [(bytes(datagram), list(found), is_cut) for datagram, found, is_cut in courier.receive(theirs)]
        for descriptor in (descriptor for _, found, _ in came for descriptor in found):
            with socket.socket(fileno=descriptor) as copy:
                if copy.getpeername() != mine.getpeername() or os.get_inheritable(descriptor):
                    raise Doubt("it received another descriptor than was sent")
        if [datagram for datagram, _, _ in came] != [datagram[:TRIAL_BYTES] for datagram in sent]:
            raise Doubt("it received something else than was sent")
        if [len(found) for _, found, _ in came] != [0, 0, 1, 0, 2, 0]:
            raise Doubt("it lost descriptors, or made some up")
        if [is_cut for _, _, is_cut in came] != [False, False, False, True, True, False]:
            raise Doubt("it didn't tell what was cut off")


def _try_full(courier: Courier, mine: socket.socket, theirs: socket.socket) -> None:
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * TRIAL_BYTES)
    sent = [bytes([number]) * TRIAL_BYTES for number in range(MAX_DATAGRAMS)]
    count = _send_all(courier, mine, sent)
    came = [bytes(datagram) for datagram, _, _ in courier.receive(theirs)]
    if not 0 < count < MAX_DATAGRAMS or came != sent[:count]:
        raise Doubt("a full socket took another number of datagrams than it said")


def _send_all(courier: Courier, end: socket.socket, datagrams: Sequence[bytes]) -> int:
    ends = list(itertools.accumulate(map(len, datagrams)))
    count = 0
    with contextlib.suppress(BlockingIOError):
        while count < len(ends):
            count += courier.send(end, bytearray(b"".join(datagrams)), ends, count)
    return count


def _whole_descriptors(data: bytes) -> list[int]:
    found = array.array("i")
    found.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
    return found.tolist()
