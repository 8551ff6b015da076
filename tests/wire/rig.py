"""A server with a desk that echoes, on a real socket, and the ways to speak to it well and badly."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.core.records import FunctionBlob
from cluster.wire import handshake
from cluster.wire.address import Address, parse_address
from cluster.wire.calls import CALLS, FetchFunction, JobArgs, MasterInfo, Nothing, Told
from cluster.wire.connection import MAX_FRAME_BYTES, ClusterConnection
from cluster.wire.door import Limits
from cluster.wire.handshake import Greeting
from cluster.wire.keys import Role, Secret
from cluster.wire.listener import dial
from cluster.wire.manager import ClusterManager
from cluster.wire.peer import Peer
from cluster.wire.proxy import DeskProxy, connect_desk
from cluster.wire.reply import Reply
from cluster.wire.server import ClusterServer

KEYS = {role: Secret(os.urandom(32)) for role in Role}
LOOPBACK = parse_address("tcp://127.0.0.1:0")
WAIT_SECONDS = 20.0
INFO = MasterInfo(pid=1, address="", store="", epoch=0, version="", python="", started=0.0)


class EchoDesk:
    """Every call of the table. `output` gives the job's id back, `fetch_function` the digest as body."""

    def __init__(self, **behaviours: Callable[..., Any]) -> None:
        self._behaviours = behaviours
        self.peers: list[Peer] = []
        self.calls: list[str] = []
        self.requests: list[str] = []  # of once-calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in {method for _, method in CALLS}:
            raise AttributeError(name)

        def method(peer: Peer, said: Any, *reply: Reply, **once: str) -> Any:
            self.peers.append(peer)
            self.calls.append(name)
            self.requests += once.values()
            behaviour = self._behaviours.get(name)
            if behaviour is not None:
                return behaviour(said, *reply)
            if name == "output":
                return said.job.encode()
            if name == "fetch_function":
                return FunctionBlob(b"", said.digest, "3.11", "3", "echo")
            if name == "ping":
                return INFO
            return () if name == "requeue" else None

        return method


def server_of(desk: EchoDesk, address: Address = LOOPBACK, limits: Limits | None = None) -> ClusterServer:
    desks = {"jobs": desk, "work": desk, "admin": desk}
    return ClusterManager(address, keys=KEYS, desks=desks, limits=limits).get_server()


@contextlib.contextmanager
def serving(
    desk: EchoDesk | None = None, address: Address = LOOPBACK, limits: Limits | None = None
) -> Iterator[ClusterServer]:
    server = server_of(desk or EchoDesk(), address, limits)
    server.start()
    try:
        yield server
    finally:
        server.stop(deadline_seconds=0.0)


@contextlib.contextmanager
def proxy_to(
    server: ClusterServer | Address, desk: str = "jobs", role: Role = Role.CLIENT, patience_seconds: float = 10.0
) -> Iterator[DeskProxy]:
    address = server if isinstance(server, Address) else server.address
    proxy = connect_desk(desk, address, role, KEYS[role], patience_seconds=patience_seconds)
    try:
        yield proxy
    finally:
        proxy.close()


def echo(proxy: DeskProxy, text: str, **options: Any) -> str:
    return str(proxy.call("output", JobArgs(text), **options), "utf-8")


def echo_bytes(proxy: DeskProxy, body: bytes) -> bytes:
    return bytes(proxy.call("fetch_function", FetchFunction(body)).body)


class Giver:
    """What `listen` of an `EchoDesk` may do: have its answers given by another thread."""

    def __init__(self, *answers: Told) -> None:
        self._answers = iter(answers)

    def __call__(self, _said: object, reply: Reply) -> Told:
        giving = threading.Thread(target=reply.give, args=(next(self._answers),))
        giving.start()
        giving.join(WAIT_SECONDS)
        return Told(-1)  # counts for nothing


def ping(proxy: DeskProxy) -> MasterInfo:
    found: MasterInfo = proxy.call("ping", Nothing())
    return found


@contextlib.contextmanager
def inside(server: ClusterServer, role: Role = Role.CLIENT) -> Iterator[ClusterConnection]:
    """A bare connection on which the handshake was made."""
    with contextlib.closing(dial(server.address)) as connection:
        handshake.introduce(connection, Greeting(role, KEYS[role], server.address))
        connection.max_frame_bytes = MAX_FRAME_BYTES
        yield connection


@contextlib.contextmanager
def raw(server: ClusterServer) -> Iterator[socket.socket]:
    with socket.create_connection((server.address.host, server.address.port), timeout=WAIT_SECONDS) as sock:
        yield sock


def is_closed_by_the_other(sock: socket.socket) -> bool:
    """Wait until the other side has closed. What it said before is dropped."""
    try:
        while sock.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def reset(sock: socket.socket) -> None:
    """Close with RST, as the kernel of a killed or rebooted peer does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_connections(server: ClusterServer, count: int) -> None:
    door = server._door
    with door._changed:
        assert door._changed.wait_for(lambda: len(door) == count, WAIT_SECONDS), f"{len(door)} connections"


def wait_threads_gone(prefix: str = "cluster-") -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), thread.name


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_until(is_so: Callable[[], bool]) -> None:
    """For what nobody rings for."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def hello_of(version: int, role: int) -> bytes:
    """A handshake's first frame, length and all, as someone of that version and role would send it."""
    return struct.pack(">I8sHB32s", 43, b"\x89CLUSTER", version, role, bytes(32))
