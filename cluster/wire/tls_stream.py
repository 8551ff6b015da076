"""A socket with TLS on it, as far as `ClusterConnection` needs one.

The kernel's `SO_RCVTIMEO` and `SO_SNDTIMEO` are of no use here: OpenSSL would take the timeout for "try again", for ever.
So each wait is bounded by the socket object, which then is in non-blocking mode and polls.

One thread at a time reads or writes, as on any connection: OpenSSL's objects bear no two. `shutdown` alone may come
from any thread. It goes to the TCP socket and touches no TLS; the one of `SSLSocket` would also forget that there is TLS, and
hand out what follows as plain text.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

# A record of TLS holds so much at most, and one call of `send` writes one of them.
_RECORD_BYTES = 16 * 1024
_SEND_SECONDS = 60.0  # connection.FRAME_SECONDS, which bounds whole frames
_MIN_WAIT_SECONDS = 0.001  # 0 would mean: not at all


class TlsStream:
    """Owns the socket."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._seconds: float | None = 0.0  # what the socket's timeout is
        sock.settimeout(0.0)
        self.receive_seconds: float | None = None  # how long `recv` may wait; None: for ever

    # --- the handshake --------------------------------------------------------------------------------------------

    def shake_hands(self, seconds: float) -> None:
        """Do the handshake within this time in all. Raises `ssl.SSLError` or another `OSError`."""
        self._wait_at_most(seconds)
        self._socket.do_handshake()

    def receive_bare(self, seconds: float, most: int = 64 * 1024) -> bytes:
        """What has arrived, as it was sent."""
        self._wait_at_most(seconds)
        return socket.socket.recv(self._socket, most)

    def peer(self) -> Mapping[str, Any] | None:
        """The other side's certificate, as `ssl` tells it; it was verified."""
        return self._socket.getpeercert()

    def peer_bytes(self) -> bytes:
        """The same as it was sent (DER); empty: it showed none."""
        return self._socket.getpeercert(binary_form=True) or b""

    # --- as a socket ----------------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> int:
        """Write some of it; how much. `_SEND_SECONDS` at most."""
        self._wait_at_most(_SEND_SECONDS)
        return self._socket.send(data)

    def send_at_once(self, data: memoryview) -> int:
        """As `send`, but no more than is taken without waiting, which may be nothing."""
        self._wait_not_at_all()
        try:
            return self._socket.send(data)
        except OSError as error:
            import ssl

            if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                return 0
            raise

    def sendmsg(self, parts: Sequence[bytes]) -> int:
        """The same of a short part with a long one behind it, in one record."""
        header, body = parts
        return self.send(header + body[: _RECORD_BYTES - len(header)])

    def recv(self, most: int) -> bytes:
        """Some of what has arrived, within `receive_seconds`; empty at the end."""
        self._wait_at_most(self.receive_seconds)
        return self._socket.recv(most)

    def receive_at_once(self, most: int) -> bytes:
        """What is here, a record's content at most; empty at the end. Raises `BlockingIOError` if nothing is."""
        self._wait_not_at_all()
        try:
            return self._socket.recv(most)
        except OSError as error:
            import ssl

            if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                raise BlockingIOError from None
            raise

    def recv_into(self, room: memoryview) -> int:
        """As `recv`."""
        self._wait_at_most(self.receive_seconds)
        return self._socket.recv_into(room)

    def pending(self) -> int:
        """How many bytes can be had without asking the kernel."""
        return self._socket.pending()

    def shutdown(self, how: int) -> None:
        """From any thread: end TCP's one or both directions."""
        socket.socket.shutdown(self._socket, how)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def _wait_not_at_all(self) -> None:
        if self._seconds != 0.0:
            self._socket.settimeout(0.0)
            self._seconds = 0.0

    def _wait_at_most(self, seconds: float | None) -> None:
        if seconds != self._seconds:
            self._socket.settimeout(None if seconds is None else max(seconds, _MIN_WAIT_SECONDS))
            self._seconds = seconds
