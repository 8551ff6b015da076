"""Peers that are silent, slow, loud, lying or too many, against a real master: others are served, and nothing is left."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import cluster
from cluster.core.digests import name_function
from cluster.core.records import JobSpec, Options
from cluster.wire import calls, handshake
from cluster.wire.address import parse_address
from cluster.wire.connection import MAX_FRAME_BYTES, ClusterConnection
from cluster.wire.handshake import Code, Greeting
from cluster.wire.keys import Role, load_key
from cluster.wire.listener import dial
from tests.acceptance.lab import Lab, a_lab
from tests.acceptance.programs import wait_until
from tests.acceptance.test_hostile_calls import ask, known, whole

WAIT_SECONDS = 60.0
CROWD = 500


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with a_lab(tmp_path_factory.mktemp("lab")) as made:
        made.start_worker()
        with made.connect() as client:
            assert client.submit(pow, (2, 10)).result(WAIT_SECONDS) == 1024
        yield made


@pytest.fixture
def master(lab: Lab) -> Iterator[psutil.Process]:
    """The master's process; after the test it has no more threads and descriptors than before."""
    process = psutil.Process(lab.processes[0].pid)
    wait_until(lambda: _is_calm(lab))
    threads, descriptors = process.num_threads(), process.num_fds()

    yield process

    # Strangers may take ten seconds for a handshake.
    wait_until(lambda: process.num_threads() <= threads and process.num_fds() <= descriptors, WAIT_SECONDS)


def _is_calm(lab: Lab) -> bool:
    """Nobody but the worker, with its two connections, is at the master."""
    port = parse_address(lab.bind).port
    found = psutil.Process(lab.processes[0].pid).net_connections("tcp")
    return sum(1 for one in found if one.laddr and one.laddr.port == port and one.status == "ESTABLISHED") <= 2


def knock(lab: Lab) -> socket.socket:
    address = parse_address(lab.bind)
    return socket.create_connection((address.host, address.port), timeout=WAIT_SECONDS)


def is_closed(sock: socket.socket) -> bool:
    """Wait for the other side to close."""
    with contextlib.suppress(ConnectionError):
        while sock.recv(65_536):
            pass
    return True


def security(lab: Lab, kind: str) -> int:
    with lab.connect() as client:
        return client.stats().security.get(kind, 0)


def submit_for_a_while(client: cluster.Cluster, count: int) -> list[float]:
    """Submit jobs one by one, and wait for each; how long each took to be acknowledged."""
    taken = []
    for number in range(count):
        started = time.monotonic()
        job = client.submit(pow, (number, 2)).accepted(WAIT_SECONDS)
        taken.append(time.monotonic() - started)
        assert job.result(WAIT_SECONDS) == number**2
    return sorted(taken)


# --- strangers --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_descriptors")
def test_five_hundred_silent_and_five_hundred_babbling_connections_delay_no_submit(
    lab: Lab, master: psutil.Process
) -> None:
    garbage = [b"\x00", b"GET / HTTP/1.1\r\n\r\n", os.urandom(64), b"\xff\xff\xff\xff", b"\x16\x03\x01\x02\x00\x01"]
    lines_before = lab.log().count("cluster.audit")
    is_here, is_over = threading.Event(), threading.Event()

    def crowd() -> None:
        with contextlib.ExitStack() as stack:
            for number in range(2 * CROWD):
                with contextlib.suppress(OSError):
                    sock = stack.enter_context(knock(lab))
                    if number % 2:
                        sock.sendall(garbage[number % len(garbage)])
                if number == CROWD:
                    is_here.set()
            is_over.wait(WAIT_SECONDS)

    with lab.connect() as client:
        client.submit(pow, (2, 2)).result(WAIT_SECONDS)
        thread = threading.Thread(target=crowd)
        thread.start()
        try:
            assert is_here.wait(WAIT_SECONDS)
            taken = submit_for_a_while(client, 200)
            with lab.connect() as newcomer:  # it must get past the strangers at the door
                assert newcomer.submit(pow, (2, 3)).result(WAIT_SECONDS) == 8
            most = master.num_threads()
        finally:
            is_over.set()
            thread.join()

    p99 = taken[int(len(taken) * 0.99) - 1]
    print(f"submit acknowledged beside {2 * CROWD} hostile connections: p50 {taken[100]:.4f} s, p99 {p99:.4f} s")
    assert p99 < 1.0
    assert most < 150  # 64 strangers, and what the master has itself
    assert security(lab, "stranger_displaced") + security(lab, "handshake_malformed") >= CROWD
    assert lab.log().count("cluster.audit") - lines_before < 60


def test_a_handshake_that_is_heard_once_is_worth_nothing_later(lab: Lab, master: psutil.Process) -> None:
    assert master.is_running()
    address = parse_address(lab.bind)
    greeting = Greeting(Role.CLIENT, load_key(lab.folder / "keys" / "client.key"), address)
    heard: list[bytes] = []

    class Overheard(ClusterConnection):
        def send_frame(self, body: bytes) -> None:
            heard.append(body)
            super().send_frame(body)

    with contextlib.closing(Overheard(knock(lab))) as honest:
        handshake.introduce(honest, greeting)
    with contextlib.closing(dial(address)) as replayed:
        replayed.send_frame(heard[0])
        replayed.receive_frame(WAIT_SECONDS)
        replayed.send_frame(heard[1])

        assert bytes(replayed.receive_frame(WAIT_SECONDS))[10] == Code.WRONG_PROOF
        assert is_closed(replayed._socket)
    assert security(lab, "handshake_wrong_key") >= 1


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_stock_manager_s_client_and_a_hostile_pickle_get_nowhere_though_they_know_the_keys(
    lab: Lab, master: psutil.Process, tmp_path: Path
) -> None:
    address = parse_address(lab.bind)
    bomb = pickle.dumps(Hostile(tmp_path / "owned"))
    with lab.connect() as client:
        jobs = client.stats().submitted

    for role in Role:
        key = load_key(lab.folder / "keys" / f"{role}.key").secrets()[0].reveal()
        stock = BaseManager((address.host, address.port), authkey=key)
        with pytest.raises((EOFError, OSError, multiprocessing.AuthenticationError)):
            stock.connect()
        with known(lab, role) as connection:
            connection.send_frame(bomb)
            assert is_closed(connection._socket)
        for method in ("create", "shutdown", "accept_connection", "get_methods", "debug_info", "incref", "#GETVALUE"):
            with known(lab, role) as connection:
                _, fault = ask(connection, ("jobs", method), {})
                assert fault[0] == "Refused"
        with known(lab, role) as connection:  # a bomb as the argument of each call
            for call in calls.CALLS:
                _, fault = ask(connection, call, bomb)
                assert fault[0] == "Refused"

    assert not (tmp_path / "owned").exists()
    assert master.is_running()
    with lab.connect() as client:
        assert client.stats().submitted == jobs
        assert client.submit(pow, (2, 10)).result(WAIT_SECONDS) == 1024


# --- peers that have a key --------------------------------------------------------------------------------------------


def test_frames_that_promise_much_and_drip_cost_no_memory_and_end_soon(lab: Lab, master: psutil.Process) -> None:
    before = master.memory_info().rss
    slow_before = security(lab, "frame_too_slow")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(known(lab, Role.CLIENT)) for _ in range(20)]
        for peer in peers:
            peer._socket.sendall(struct.pack(">I", MAX_FRAME_BYTES) + bytes(100))

        with lab.connect() as client:
            submit_for_a_while(client, 20)
        assert master.memory_info().rss - before < 64 << 20
        # Two have room, and nobody else until they are cut off for their slowness.
        wait_until(lambda: security(lab, "frame_too_slow") - slow_before >= 2, WAIT_SECONDS)


def test_a_flood_of_calls_and_of_jobs_leaves_others_their_turn(lab: Lab, master: psutil.Process) -> None:
    assert master.is_running()
    is_over = threading.Event()
    answered: list[int] = []

    def flood() -> None:
        with known(lab, Role.CLIENT) as connection:
            count = 0
            while not is_over.is_set():
                ask(connection, ("admin", "ping"), {})
                count += 1
            answered.append(count)

    def submit_without_end() -> None:
        blob = name_function(b"no pickle", "3.11", "3", "flood", reusable=False)
        spec = JobSpec("", blob.digest, b"", Options(name="flood"), delay=1e6)
        with known(lab, Role.CLIENT) as connection:
            session = ask(connection, ("jobs", "open"), {})[0]["session"]
            ids: list[str] = []
            for batch in range(1, 4):
                names = [f"flood-{batch}-{number}" for number in range(5000)]
                jobs = tuple(msgspec.structs.replace(spec, id=name) for name in names)
                said = calls.Submit(session, jobs, (blob,), number=batch)
                assert ask(connection, ("jobs", "submit"), whole(said))[1] is None
                ids += names
            too_many = calls.Submit(session, (spec,) * 10_001, (), number=9)
            assert ask(connection, ("jobs", "submit"), whole(too_many))[1][0] == "Refused"
            ask(connection, ("jobs", "cancel"), {"jobs": ids, "timeout": 60.0})

    threads = [threading.Thread(target=flood) for _ in range(16)] + [threading.Thread(target=submit_without_end)]
    with lab.connect() as client:
        for thread in threads:
            thread.start()
        try:
            taken = submit_for_a_while(client, 50)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()

    print(f"submit acknowledged in a flood: p50 {taken[25]:.4f} s, longest {taken[-1]:.4f} s; {sum(answered)} pings")
    assert taken[-1] < 10.0
    assert len(answered) == 16


# --- shortages --------------------------------------------------------------------------------------------------------


def test_a_master_without_descriptors_serves_whom_it_has_and_recovers(lab: Lab, master: psutil.Process) -> None:
    limits = resource.prlimit(master.pid, resource.RLIMIT_NOFILE)
    shortages = lab.log().count("shortage")
    with lab.connect() as client, contextlib.ExitStack() as stack:
        submit_for_a_while(client, 5)
        resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (master.num_fds() + 3, limits[1]))
        stack.callback(resource.prlimit, master.pid, resource.RLIMIT_NOFILE, limits)
        cpu = sum(master.cpu_times()[:2])
        strangers = [stack.enter_context(knock(lab)) for _ in range(30)]

        assert is_closed(strangers[-1])  # it hears at once that there is no room
        submit_for_a_while(client, 20)
        threading.Event().wait(1.0)  # an accept loop that spins would take all of it
        spent = sum(master.cpu_times()[:2]) - cpu

        resource.prlimit(master.pid, resource.RLIMIT_NOFILE, limits)
        with lab.connect() as newcomer:
            assert newcomer.submit(pow, (2, 10)).result(WAIT_SECONDS) == 1024
    assert 1 <= lab.log().count("shortage") - shortages < 10
    assert spent < 5.0
    assert security(lab, "shortage") >= 1
