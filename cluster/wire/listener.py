"""The transport that `multiprocessing.managers` is given: where a server listens, and how a client gets there.

    managers.listener_client["cluster"] = (ClusterListener, dial)

Both make `ClusterConnection`s, and neither says a word on them: the handshake is done by whoever serves or calls, in
its own thread. TCP works over IPv4 and IPv6. Without TLS, what is not this host's loopback interface is refused on both
sides, unless `insecure` is spelled out: an unencrypted connection could be relayed or injected into by anyone on its way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import stat
import sys
import time
from multiprocessing import managers
from pathlib import Path
from typing import Any

from cluster.errors import Refused
from cluster.wire.address import Address, is_loopback_ip
from cluster.wire.connection import ClusterConnection
from cluster.wire.folders import EVERYBODY, require_unshared

SERIALIZER = "cluster"
DIAL_SECONDS = 5.0

# After a master's restart every client and worker comes back at once; the standard library's 16 would overflow.
_BACKLOG = 1024
_NEEDS_TLS = (
    "beyond this host a cluster needs TLS: name the certificates (--tls-ca, --tls-cert, --tls-key; `cluster certs` makes "
    "them), or use an SSH tunnel to its loopback interface, or spell out --insecure (insecure=True in Python)"
)


class ClusterListener:
    """A bound and listening socket. One thread accepts; any may `wake` it; `close` it when that thread is gone."""

    def __init__(self, address: Address, backlog: int = _BACKLOG) -> None:
        self._socket = _bind_unix(address) if address.path else _bind_tcp(address)
        self._socket.listen(max(backlog, _BACKLOG))
        self._socket.settimeout(0)
        self._file = _identity(address.path)
        self.address = address if address.path else Address(address.host, self._socket.getsockname()[1])
        # Closing a socket doesn't wake the thread that waits for it; a byte on this pair does, on every system.
        self._waker, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def accept(self) -> ClusterConnection:
        """The next connection. Raises `EOFError` once `wake` was called, and `OSError` when the system is short."""
        while True:
            if any(key.fileobj is self._woken for key, _ in self._selector.select()):
                raise EOFError("the listener is to stop")
            # Between the two calls whoever wanted in may have given up.
            with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                sock, where = self._socket.accept()
                return _owned(sock, str(where[0]) if isinstance(where, tuple) else "unix")

    def wake(self) -> None:
        """Have `accept` raise `EOFError`, now and from now on."""
        with contextlib.suppress(OSError):
            self._waker.send(b"x")

    def close(self) -> None:
        """Stop listening, and remove a UNIX socket's file if it is still ours."""
        if self._file and _identity(self.address.path) == self._file:
            Path(self.address.path).unlink(missing_ok=True)
        self._selector.close()
        for sock in (self._socket, self._waker, self._woken):
            sock.close()


def dial(
    address: Address, family: str | None = None, authkey: bytes | None = None, timeout: float = DIAL_SECONDS
) -> ClusterConnection:
    """A connection on which nothing was said yet. Raises `OSError` if nobody is there, within `timeout` in all."""
    if family is not None or authkey is not None:
        raise TypeError("a key alone does not say in which role: use cluster.wire.proxy.connect_desk")
    deadline = time.monotonic() + timeout
    if address.path:
        sock = socket.socket(socket.AF_UNIX)
        return _connected(sock, address.path, "unix", timeout)
    targets = _resolve(address, passive=False)
    trouble: OSError | None = None
    for position, (family_number, target) in enumerate(targets):
        # A first address that swallows everything must leave time for the others.
        share = max(deadline - time.monotonic(), 0.1) / (len(targets) - position)
        try:
            return _connected(socket.socket(family_number), target, str(target[0]), share)
        except OSError as error:
            trouble = error
    raise trouble or ConnectionError(f"{address.host!r} has no address")


def _connected(sock: socket.socket, target: Any, origin: str, timeout: float) -> ClusterConnection:
    try:
        sock.settimeout(timeout)
        sock.connect(target)
        if origin != "unix" and sock.getsockname() == sock.getpeername():
            # TCP lets a socket connect to itself when its own port is the one where nobody listens. It would then hold
            # the port that the master needs for its restart.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there")
    except BaseException:
        sock.close()
        raise
    return _owned(sock, origin)


def _owned(sock: socket.socket, origin: str) -> ClusterConnection:
    try:
        return ClusterConnection(sock, origin)
    except BaseException:
        sock.close()
        raise


def _resolve(address: Address, *, passive: bool) -> list[tuple[socket.AddressFamily, Any]]:
    """Every way to the host, in the system's order. Raises `Refused` unless each stays on this host, or may leave it."""
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        # EAI_AGAIN and such may pass; a caller that has patience tries again.
        raise ConnectionError(f"the host {address.host!r} is not found: {error.strerror}") from error
    for *_, target in found:
        if not (address.may_leave_host or is_loopback_ip(str(target[0]))):
            found_there = "" if str(target[0]) == address.host else f", to {target[0]}"
            raise Refused(f"{address} leads off this host{found_there}: {_NEEDS_TLS}")
    return [(family, target) for family, _, _, _, target in found]


def _bind_tcp(address: Address) -> socket.socket:
    try:
        family, target = _resolve(address, passive=True)[0]
        sock = socket.socket(family)
    except OSError as error:
        raise Refused(f"can't listen at {address}: {error}") from error
    try:
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Connections of a master that is gone must not keep its port from the next one.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _cannot_listen(address, error) from error
        raise
    return sock


def _bind_unix(address: Address) -> socket.socket:
    path = Path(address.path)
    with contextlib.suppress(OSError):  # not there: `bind` says so
        # Elsewhere anybody could put a socket of his own in place of ours. (In /tmp the sticky bit is against that.)
        require_unshared(path.parent, EVERYBODY)
    _remove_stale(address, path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(address.path)
        # Nobody can connect before `listen`, so the mode is in force before the first who might.
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise _cannot_listen(address, error) from error
        raise
    return sock


def _remove_stale(address: Address, path: Path) -> None:
    """Remove the socket that a killed master has left; never one where somebody listens, nor any other file."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise Refused(f"can't listen at {address}: {path} is there and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(DIAL_SECONDS)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _cannot_listen(address, error) from error
        else:
            raise _cannot_listen(address, OSError(errno.EADDRINUSE, "in use"))


def _cannot_listen(address: Address, error: OSError) -> Refused:
    if error.errno == errno.EADDRINUSE:
        return Refused(f"{address} is in use by another program; stop that one, or choose another address in `bind`")
    if error.errno == errno.EACCES:
        return Refused(f"this user may not listen at {address}; choose a port above 1023, or a folder of your own")
    return Refused(f"can't listen at {address}: {error.strerror or error}")


def _identity(path: str) -> tuple[int, int] | None:
    """Which file a path means, so that another process's socket of that name is left alone."""
    if not path:
        return None
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# So that any process that can unpickle, serve or call knows the transport: it comes with the import.
managers.listener_client[SERIALIZER] = (ClusterListener, dial)  # type: ignore[attr-defined]
