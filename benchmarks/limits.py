"""What the machine can do at all: the ceilings under which every side lives, measured in the same run.

Each limit is tried for a while and given as a rate. The other end of a ping-pong is another process, forked: nothing of
the kit is in it, or in this module.
"""

from __future__ import annotations

import os
import pickle
import socket
import sqlite3
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from benchmarks.tasks import echo

SMALL_BYTES = 100
# More than the 16,384 bytes from which on `multiprocessing.connection` writes header and body apart.
LARGE_BYTES = 20_000
CHUNK_BYTES = 1 << 20
ROWS_A_COMMIT = 1_000
CALLS_BETWEEN_LOOKS = 64  # at the clock, which is not what is measured
ROW_BYTES = 200
JOIN_SECONDS = 10.0


def measure_limits(seconds: float, folder: Path) -> dict[str, float]:
    """Each limit's rate by its name in the plan.

    Args:
        seconds: for each.
        folder: on the disk in question.
    """
    found: dict[str, float] = {}
    for label, size in (("100 B", SMALL_BYTES), ("20 kB", LARGE_BYTES)):
        found[f"pipe ping-pong, {label}"] = pipe_round_trips(size, seconds)
        found[f"TCP ping-pong, {label}, NODELAY"] = tcp_round_trips(size, seconds)
    found["loopback bandwidth"] = loopback_bytes(seconds) / 1e6
    job = (echo, (1,))
    pickled = pickle.dumps(job)
    found["pickle dumps"] = rate(lambda: pickle.dumps(job), seconds, CALLS_BETWEEN_LOOKS)
    found["pickle loads"] = rate(lambda: pickle.loads(pickled), seconds, CALLS_BETWEEN_LOOKS)  # noqa: S301 - ours
    found["append + fsync"] = synced_appends(folder / "appended", seconds)
    found["SQLite WAL FULL, 1 row a commit"] = rows_per_second(folder / "single.db", 1, seconds)
    found["SQLite WAL FULL, 1,000 rows a commit"] = rows_per_second(folder / "many.db", ROWS_A_COMMIT, seconds)
    return found


def rate(call: Callable[[], object], seconds: float, at_once: int = 1) -> float:
    """Calls a second, tried for so many seconds at least."""
    done = 0
    began = time.perf_counter()
    while True:
        for _ in range(at_once):
            call()
        done += at_once
        spent = time.perf_counter() - began
        if spent >= seconds:
            return done / spent


def pipe_round_trips(size: int, seconds: float) -> float:
    """Of the standard library's pipe, which its own pools are built on."""
    mine, theirs = Pipe()
    message = bytes(size)

    def trip() -> None:
        mine.send_bytes(message)
        mine.recv_bytes()

    other = get_context("fork").Process(target=answer_pipe, args=(mine, theirs), daemon=True)
    other.start()
    theirs.close()
    with mine:
        trip()
        found = rate(trip, seconds)
    other.join(JOIN_SECONDS)
    return found


def answer_pipe(mine: Connection, theirs: Connection) -> None:
    mine.close()  # inherited: while it is open here, the end of it is never seen
    try:
        while True:
            theirs.send_bytes(theirs.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def tcp_round_trips(size: int, seconds: float) -> float:
    """Of a bare socket, with Nagle's algorithm off at both ends."""
    mine, theirs = tcp_pair()
    message = bytes(size)

    def trip() -> None:
        mine.sendall(message)
        if not receive(mine, size):
            raise AssertionError("the other end of a ping-pong is gone, so there is nothing to measure")

    other = get_context("fork").Process(target=answer_tcp, args=(mine, theirs, size), daemon=True)
    other.start()
    theirs.close()
    with mine:
        trip()
        found = rate(trip, seconds)
    other.join(JOIN_SECONDS)
    return found


def answer_tcp(mine: socket.socket, theirs: socket.socket, size: int) -> None:
    mine.close()
    try:
        while receive(theirs, size):
            theirs.sendall(bytes(size))
    finally:
        os._exit(0)


def loopback_bytes(seconds: float) -> float:
    """Bytes a second of one stream."""
    mine, theirs = tcp_pair()
    chunk = bytes(CHUNK_BYTES)
    other = get_context("fork").Process(target=swallow, args=(mine, theirs), daemon=True)
    other.start()
    theirs.close()
    with mine:
        found = rate(lambda: mine.sendall(chunk), seconds) * CHUNK_BYTES
    other.join(JOIN_SECONDS)
    return found


def swallow(mine: socket.socket, theirs: socket.socket) -> None:
    mine.close()
    buffer = bytearray(CHUNK_BYTES)
    while theirs.recv_into(buffer):
        pass
    os._exit(0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    for end in (mine, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return mine, theirs


def receive(end: socket.socket, size: int) -> int:
    """Read one whole message; 0 at the end of the stream."""
    left = size
    while left:
        piece = end.recv(left)
        if not piece:
            return 0
        left -= len(piece)
    return size


def synced_appends(file: Path, seconds: float) -> float:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    record = bytes(ROW_BYTES)

    def append() -> None:
        os.write(descriptor, record)
        os.fsync(descriptor)

    try:
        return rate(append, seconds)
    finally:
        os.close(descriptor)


def rows_per_second(file: Path, rows: int, seconds: float) -> float:
    """Rows that are safe after a power cut, so many in each transaction."""
    connection = sqlite3.connect(file, isolation_level=None)
    batch = [(bytes(ROW_BYTES),)] * rows
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, body BLOB)")

        def commit() -> None:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO record (body) VALUES (?)", batch)
            connection.execute("COMMIT")

        return rate(commit, seconds) * rows
    finally:
        connection.close()
