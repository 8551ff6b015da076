"""Frames over one socket: how bytes travel, how many at most, and how long they may take.

    ┌────────────────────┬──────────────────────┐
    │ length, 4 bytes    │ body: at most 4 KiB  │   before the handshake has ended
    │ big-endian, ≥ 0    │       or 256 MiB     │   after it
    └────────────────────┴──────────────────────┘

The standard library's `Connection` writes a long message in two parts and leaves Nagle's algorithm on, believes any
length, and waits for ever. This one is a `_ConnectionBase` too, over the socket object itself:

- one `send` and one `recv` for a frame of usual size, and nothing else: the socket stays in blocking mode, and the
  kernel bounds each wait (`SO_RCVTIMEO`, `SO_SNDTIMEO`), so no extra `poll` is needed;
- a bound on the time of a whole frame, and a shorter one for a frame whose bytes only drip;
- memory grows with what has arrived, never with what a header promises; and a server has a say before a long frame is
  received (`take_room`), so that many of them together stay within its bounds.

With TLS the socket is exchanged for a `TlsStream` before the first frame, which bounds its waits itself.

One thread at a time uses a connection, and may have another one send for it while it waits (`send_at_once`). Others may
only `interrupt()` it, which ends whatever it waits for; whoever uses it then closes it. After any error but a clean end the
stream may be out of step, so the connection is only good for closing. A connection that a `fork` has copied belongs to the
process that made it (`pid`); the copy may only be closed.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import _ConnectionBase, wait
from typing import TYPE_CHECKING, Any, NoReturn

from cluster.wire.peer import Peer
from cluster.wire.tls_stream import TlsStream

if TYPE_CHECKING:
    from cluster.wire.tls import Identity

    _Base = _ConnectionBase[Any, Any]
else:
    _Base = _ConnectionBase

MAX_HANDSHAKE_BYTES = 4 * 1024
MAX_FRAME_BYTES = 256 * 1024 * 1024
# From a frame's first byte to its last, either way. 256 MiB in a minute is 36 Mbit/s.
FRAME_SECONDS = 60.0
# A frame that has begun must go on at this rate, after a first grace: who promises 256 MiB and sends a byte now and then
# is cut off after ten seconds. A line of 64 kbit/s that loses half of its packets is faster.
FRAME_GRACE_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 1024
# What is still read of whoever was refused, so that closing does not destroy the answer that is on its way.
_LINGER_BYTES = 64 * 1024
_LINGER_SECONDS = 2.0

_HEADER_BYTES = 4
# A frame up to this size is copied behind its header and read by one `recv`; a longer one is written with `sendmsg`.
_READ_BYTES = 64 * 1024 + _HEADER_BYTES
LONG_FRAME_BYTES = _READ_BYTES  # a longer one needs room of its own
# Up to this size memory that was used before is cheaper than a mapping of its own.
_SMALL_BYTES = 256 * 1024

# A peer whose host vanished (power, cable, partition) is noticed within half a minute: after 5 + 2 x 5 seconds of silence,
# or, if something was said to it just before that, 12 seconds later, for then the kernel asks no more and counts from
# there. The same 12 seconds has a peer that lives and reads nothing, its buffers full; it comes back and is told again.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_USER_TIMEOUT_MILLISECONDS = 12_000
_MIN_WAIT_SECONDS = 0.001  # 0 would mean: for ever


class FrameError(OSError):
    """What arrived is no frame, or longer than it may be; the connection is of no further use."""


class FrameTooLongError(ValueError):
    """A frame to be sent is longer than the other side would take; nothing of it was sent."""


class ClusterConnection(_Base):
    """Frames over a connected stream socket, which it owns from now on."""

    def __init__(self, sock: socket.socket, origin: str = "") -> None:
        self._socket = sock
        self._line: socket.socket | TlsStream = sock  # what is read and written: the socket, or TLS upon it
        self._is_interrupted = False
        super().__init__(sock.fileno())
        self.pid = os.getpid()
        self.origin = origin  # the other side's IP address, or "unix"
        # What the handshake found out. Written by the thread that did the handshake.
        self.identity: Identity | None = None  # of the certificate, while the rest may still be refused
        self.peer: Peer | None = None
        self.max_frame_bytes = MAX_HANDSHAKE_BYTES
        # Asked with size and deadline before a long frame is received; raises to refuse it.
        self.take_room: Callable[[int, float], None] | None = None
        self._left = b""  # read, and not yet handed out
        self._unsent = memoryview(b"")  # of a frame that was begun by `send_at_once`
        self._send_failure: OSError | None = None
        self._receive_seconds: float | None = None  # what SO_RCVTIMEO says now
        sock.settimeout(None)
        _tune(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(FRAME_SECONDS))

    # --- frames -------------------------------------------------------------------------------------------------

    def send_frame(self, body: bytes) -> None:
        """Send one frame, within `FRAME_SECONDS` in all."""
        size = len(body)
        if size > self.max_frame_bytes:
            raise FrameTooLongError(f"a frame of {size} bytes; at most {self.max_frame_bytes} may be sent")
        header = size.to_bytes(_HEADER_BYTES, "big")
        try:
            if size <= _READ_BYTES:
                data = header + body
                sent = self._line.send(data)
                if sent != len(data):
                    self._send_rest([memoryview(data)[sent:]])
            else:
                sent = self._line.sendmsg((header, body))
                if sent != size + _HEADER_BYTES:
                    self._send_rest([memoryview(header)[sent:], memoryview(body)[max(sent - _HEADER_BYTES, 0) :]])
        except BlockingIOError:
            raise TimeoutError("the other side reads nothing") from None

    def send_at_once(self, body: bytes) -> None:
        """Send as much of a frame as is taken at once; `send_left` sends the rest, and raises what went wrong here.

        For another thread than the one that uses the connection, while that one waits for it, and touches nothing.
        """
        data = memoryview(len(body).to_bytes(_HEADER_BYTES, "big") + body)
        try:
            if isinstance(self._line, TlsStream):
                sent = self._line.send_at_once(data)
            else:
                sent = self._line.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._send_failure = error
            return
        self._unsent = data[sent:]

    def send_left(self) -> None:
        """Send what `send_at_once` has left, within `FRAME_SECONDS`."""
        if self._send_failure is not None:
            raise self._send_failure
        if self._unsent:
            rest, self._unsent = self._unsent, memoryview(b"")
            try:
                self._send_rest([rest])
            except BlockingIOError:
                raise TimeoutError("the other side reads nothing") from None

    @property
    def is_all_sent(self) -> bool:
        """Nothing is left to `send_left`, not even a failure."""
        return self._send_failure is None and not self._unsent

    @property
    def has_begun_to_receive(self) -> bool:
        """A part of a frame has been read, and is kept for `receive_frame`."""
        return bool(self._left)

    def receive_at_once(self) -> memoryview | None:
        """The next frame's body, if all of it is here; else None, and what is here is kept for `receive_frame`.

        Never waits. Raises `EOFError` at the end of the stream, or another `OSError`.
        """
        if self._left:
            return None
        try:
            if isinstance(self._line, TlsStream):
                data = self._line.receive_at_once(_READ_BYTES)
            else:
                data = self._line.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not data:
            raise EOFError("the other side closed the connection")
        if len(data) >= _HEADER_BYTES and len(data) == int.from_bytes(data[:_HEADER_BYTES], "big") + _HEADER_BYTES:
            return memoryview(data)[_HEADER_BYTES:]
        self._left = data
        return None

    def receive_frame(self, timeout: float | None = None) -> memoryview:
        """The next frame's body, whole within `timeout` seconds; None: it may begin at any time.

        Raises `EOFError` at a clean end, `TimeoutError`, `FrameError`, or another `OSError`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        data = self._left or self._receive(timeout, _READ_BYTES)
        self._left = b""
        if not data:
            raise EOFError("the other side closed the connection")
        if len(data) >= _HEADER_BYTES:
            size = int.from_bytes(data[:_HEADER_BYTES], "big")
            if size <= self.max_frame_bytes and len(data) == size + _HEADER_BYTES:
                return memoryview(data)[_HEADER_BYTES:]
        return self._receive_rest(data, time.monotonic() + FRAME_SECONDS if deadline is None else deadline)

    def interrupt(self) -> None:
        """From any thread of the process that made it: end what the connection waits for, and all its future waits."""
        if self.pid == os.getpid():
            self._is_interrupted = True  # first: see `secure`
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def stop_receiving(self) -> None:
        """From any thread: what has arrived is still read, and an answer still sent; then the stream is at its end."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RD)

    # --- before TLS, and in its stead ----------------------------------------------------------------------------

    def peek(self, timeout: float) -> bytes:
        """The first byte that has arrived, left where it is; empty at a clean end. Raises as `receive_frame`."""
        self._wait_at_most(timeout)
        try:
            return self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            raise TimeoutError("nothing arrived in time") from None

    def secure(self, wrap: Callable[[socket.socket], TlsStream]) -> TlsStream:
        """Speak through TLS from now on. `wrap` takes the socket over; the handshake is still to be done."""
        self._wait_at_most(None)  # the kernel bounds no wait any more
        stream = wrap(self._socket)
        self._line = stream
        if self._is_interrupted:  # whoever did that may have found the old socket only
            self.interrupt()
        return stream

    def linger(self) -> None:
        """Say no more, and read for a moment what still comes: closed with bytes unread, TCP drops what was sent."""
        deadline, left = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
            while left > 0:
                got = len(self._receive_bare(_left_until(deadline)))
                left -= got or left

    def _receive_bare(self, seconds: float) -> bytes:
        if isinstance(self._line, TlsStream):
            return self._line.receive_bare(seconds)
        return self._receive(seconds, _READ_BYTES)

    # --- parts of frames ----------------------------------------------------------------------------------------

    def _receive(self, seconds: float | None, most: int) -> bytes:
        self._wait_at_most(seconds)
        try:
            return self._line.recv(most)
        except BlockingIOError:
            raise TimeoutError("nothing arrived in time") from None

    def _wait_at_most(self, seconds: float | None) -> None:
        if seconds != self._receive_seconds:
            if isinstance(self._line, TlsStream):
                self._line.receive_seconds = seconds
            else:
                self._line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
            self._receive_seconds = seconds

    def _receive_rest(self, data: bytes, deadline: float) -> memoryview:
        """A frame that didn't arrive in one piece, or that isn't alone."""
        started = time.monotonic()
        while len(data) < _HEADER_BYTES:
            data += self._receive_more(_READ_BYTES, min(deadline, started + FRAME_GRACE_SECONDS))
        size = int.from_bytes(data[:_HEADER_BYTES], "big")
        if size > self.max_frame_bytes:
            raise FrameError(f"a frame that claims {size} bytes; at most {self.max_frame_bytes} are taken")
        end = _HEADER_BYTES + size
        if len(data) >= end:
            self._left = data[end:]
            return memoryview(data)[_HEADER_BYTES:end]
        if self.take_room is not None and size > LONG_FRAME_BYTES:
            self.take_room(size, deadline)
            started = time.monotonic()  # while it waited for us it could send nothing
        room = _room_for(size)
        filled = len(data) - _HEADER_BYTES
        room[:filled] = data[_HEADER_BYTES:]
        while filled < size:
            bought = started + FRAME_GRACE_SECONDS + filled / MIN_BYTES_PER_SECOND
            filled += self._receive_into(room[filled:], min(deadline, bought))
        return room.toreadonly()

    def _receive_more(self, most: int, deadline: float) -> bytes:
        data = self._receive(_left_until(deadline), most)
        if not data:
            raise ConnectionResetError("the other side closed the connection in the middle of a frame")
        return data

    def _receive_into(self, room: memoryview, deadline: float) -> int:
        self._wait_at_most(_left_until(deadline))
        try:
            got = self._line.recv_into(room)
        except BlockingIOError:
            raise TimeoutError("a frame did not arrive in time") from None
        if not got:
            raise ConnectionResetError("the other side closed the connection in the middle of a frame")
        return got

    def _send_rest(self, parts: list[memoryview]) -> None:
        deadline = time.monotonic() + FRAME_SECONDS
        for part in parts:
            rest = part
            while rest:
                _left_until(deadline)
                rest = rest[self._line.send(rest) :]

    # --- what the standard library asks of a connection -----------------------------------------------------------

    def _send_bytes(self, buf: memoryview) -> None:
        self.send_frame(bytes(buf))

    def _recv_bytes(self, maxsize: int | None = None) -> io.BytesIO | None:
        body = self.receive_frame()
        if maxsize is not None and len(body) > maxsize:
            return None
        found = io.BytesIO()
        found.write(body)
        return found

    def _poll(self, timeout: float | None) -> bool:
        # What TLS has decrypted and not handed out is nothing that the kernel would tell of.
        pending = self._line.pending() if isinstance(self._line, TlsStream) else 0
        return bool(self._left) or bool(pending) or bool(wait([self], timeout))

    def _close(self) -> None:
        # Only this process's descriptor: after a fork the connection itself is another's.
        self._line.close()

    def send(self, _obj: object) -> NoReturn:
        """Not here: the standard library would send a pickle."""
        raise TypeError("this connection carries typed frames, never pickles")

    def recv(self) -> NoReturn:
        """Not here: the standard library would unpickle what it gets."""
        raise TypeError("this connection carries typed frames, never pickles")


def _tune(sock: socket.socket) -> None:
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)  # not every system has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if user_timeout is not None:
        sock.setsockopt(socket.IPPROTO_TCP, user_timeout, _USER_TIMEOUT_MILLISECONDS)


def _timeval(seconds: float | None) -> bytes:
    """What `SO_RCVTIMEO` and `SO_SNDTIMEO` take; None is for ever."""
    bounded = 0.0 if seconds is None else max(seconds, _MIN_WAIT_SECONDS)
    if sys.platform == "win32":
        return struct.pack("L", int(bounded * 1000))
    return struct.pack("ll", int(bounded), int(bounded % 1 * 1_000_000))


def _room_for(size: int) -> memoryview:
    """Memory to read a frame into. What a header promises costs address space only: a page is there once written to."""
    if size <= _SMALL_BYTES:
        return memoryview(bytearray(size))
    if sys.platform == "win32":
        return memoryview(mmap.mmap(-1, size))
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _left_until(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("a frame did not arrive in time")
    return left
