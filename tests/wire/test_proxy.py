from __future__ import annotations

import contextlib
import copy
import gc
import multiprocessing
import os
import pickle
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import MasterUnavailable, Refused
from cluster.wire import proxy as module
from cluster.wire.address import Address, parse_address
from cluster.wire.calls import JobArgs, Requeue
from cluster.wire.connection import ClusterConnection
from cluster.wire.keys import Role, Secret
from cluster.wire.proxy import DeskProxy, connect_desk
from tests.project import ROOT
from tests.wire.rig import (
    KEYS,
    LOOPBACK,
    WAIT_SECONDS,
    EchoDesk,
    descriptors,
    echo,
    echo_bytes,
    proxy_to,
    server_of,
    serving,
    wait_connections,
    wait_threads_gone,
)


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads: the very subject
        return os.fork()


@contextlib.contextmanager
def silent_listener() -> Iterator[Address]:
    """Takes connections, and says nothing on them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address("127.0.0.1", listener.getsockname()[1])


def test_each_thread_has_one_connection_for_all_its_calls() -> None:
    desk = EchoDesk()
    with serving(desk) as server, proxy_to(server) as proxy:
        for _ in range(3):
            echo(proxy, "main")
        thread = threading.Thread(target=lambda: [echo(proxy, "other") for _ in range(3)])
        thread.start()
        thread.join()

    numbers = [peer.number for peer in desk.peers]
    assert numbers == [numbers[0]] * 3 + [numbers[3]] * 3
    assert numbers[0] != numbers[3]


def test_many_threads_each_get_their_own_answers() -> None:  # row A34
    with serving() as server, proxy_to(server) as proxy, ThreadPoolExecutor(8) as pool:
        asked = [f"{number}-" + "x" * (number % 50) * 15 for number in range(400)]

        assert list(pool.map(lambda text: echo(proxy, text), asked)) == asked


def test_the_connection_of_a_thread_that_has_ended_is_closed() -> None:
    with serving() as server, proxy_to(server) as proxy:
        thread = threading.Thread(target=echo, args=(proxy, "a"))
        thread.start()
        thread.join()
        gc.collect()

        wait_connections(server, 0)


def test_making_copying_and_dropping_proxies_costs_no_connection() -> None:  # rows A18, A27
    with serving() as server:
        for _ in range(10):
            proxy = connect_desk("jobs", server.address, Role.CLIENT, KEYS[Role.CLIENT], patience_seconds=1)
            assert type(proxy) is DeskProxy
            del proxy
        gc.collect()

        assert server.connections == 0


# --- when the connection breaks ------------------------------------------------------------------------------------


def test_calls_go_on_after_the_server_came_back_at_the_same_port() -> None:  # row A20
    first = server_of(EchoDesk())
    first.start()
    with proxy_to(first) as proxy:
        assert echo(proxy, "before") == "before"
        epoch = proxy.epoch
        first.stop()

        with serving(address=first.address):
            assert [echo(proxy, str(number)) for number in range(3)] == ["0", "1", "2"]
        assert proxy.epoch != epoch


def test_a_call_made_while_the_master_is_away_waits_for_it() -> None:  # row A20
    server = server_of(EchoDesk())
    address = server.address
    server.stop()
    with proxy_to(address, patience_seconds=WAIT_SECONDS) as proxy, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(echo, proxy, "patient")
        with pytest.raises(TimeoutError):
            answer.result(0.2)

        with serving(address=address):
            assert answer.result(WAIT_SECONDS) == "patient"


def test_a_call_that_lost_its_answer_is_sent_again_under_the_same_id() -> None:
    desk = EchoDesk()
    lost: list[str] = []
    with serving(desk) as server, proxy_to(server) as proxy:
        echo(proxy, "warm")

        def lose_the_first(said: Requeue) -> tuple[()]:
            if not lost:
                lost.append("an answer")
                for connection in list(server._door._guests):
                    connection.interrupt()
            return ()

        desk._behaviours["requeue"] = lose_the_first
        proxy.call("requeue", Requeue(("a",)))
        proxy.call("requeue", Requeue(("a",)))

    assert len(desk.requests) == 3
    assert desk.requests[0] == desk.requests[1] != desk.requests[2]


def test_patience_ends_with_a_sentence_that_names_the_master() -> None:
    server = server_of(EchoDesk())
    server.stop()
    started = time.monotonic()

    with (
        proxy_to(server.address, patience_seconds=0.3) as proxy,
        pytest.raises(MasterUnavailable, match=rf"{server.address} can't be reached: .*refused.*is it running"),
    ):
        echo(proxy, "a")

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("patience_seconds", [0.0, 0.3])
def test_what_listens_and_says_nothing_is_given_up_in_time(patience_seconds: float) -> None:  # row A4
    with silent_listener() as address, proxy_to(address, patience_seconds=patience_seconds) as proxy:
        started = time.monotonic()

        with pytest.raises(MasterUnavailable, match="can't be reached"):
            echo(proxy, "a")

    assert time.monotonic() - started < 5


def test_an_answer_that_does_not_come_in_time_is_not_waited_for_twice_as_long() -> None:  # row A4
    go_on = threading.Event()
    desk = EchoDesk(
        output=lambda said: (go_on.wait(WAIT_SECONDS), b"late")[1] if said.job == "slow" else said.job.encode()
    )
    with serving(desk) as server, proxy_to(server, patience_seconds=0.1) as proxy:
        echo(proxy, "warm")
        started = time.monotonic()

        with pytest.raises(MasterUnavailable):
            echo(proxy, "slow", timeout=0.2)
        assert time.monotonic() - started < 5

        go_on.set()
        assert echo(proxy, "next") == "next"


def test_a_wrong_key_is_not_tried_again_and_says_so_at_once() -> None:
    with serving() as server:
        proxy = connect_desk("jobs", server.address, Role.CLIENT, Secret(os.urandom(32)), patience_seconds=60)
        started = time.monotonic()

        with pytest.raises(Refused, match="has another client key"):
            echo(proxy, "a")

        assert time.monotonic() - started < 5
        proxy.close()


def test_waits_between_attempts_are_random_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.0

    server = server_of(EchoDesk())
    server.stop()
    monkeypatch.setattr(random, "uniform", uniform)
    clock = iter(range(100_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 10)
    with proxy_to(server.address, patience_seconds=10) as proxy, pytest.raises(MasterUnavailable):
        echo(proxy, "a")

    assert [low for low, _ in asked] == [0] * len(asked)
    assert [high for _, high in asked][:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert module._backoff_seconds(10**9) == 2.0


# --- never another's answer -----------------------------------------------------------------------------------------


def test_an_interrupted_call_leaves_no_answer_for_the_next_one() -> None:  # row A21
    entered, go_on = threading.Event(), threading.Event()

    def answer(said: JobArgs) -> bytes:
        if said.job == "interrupted":
            entered.set()
            go_on.wait(WAIT_SECONDS)
        return said.job.encode()

    def interrupt() -> None:
        assert entered.wait(WAIT_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    with serving(EchoDesk(output=answer)) as server, proxy_to(server) as proxy:
        echo(proxy, "warm")
        thread = threading.Thread(target=interrupt)
        thread.start()

        with pytest.raises(KeyboardInterrupt):
            echo(proxy, "interrupted")

        go_on.set()
        assert [echo(proxy, text) for text in "abc"] == ["a", "b", "c"]
        thread.join()
        wait_connections(server, 1)


def test_a_signal_handler_may_call_while_a_call_is_on_its_way() -> None:  # row A21
    entered, go_on = threading.Event(), threading.Event()
    inner: list[str] = []

    def answer(said: JobArgs) -> bytes:
        if said.job == "outer":
            entered.set()
            go_on.wait(WAIT_SECONDS)
        return said.job.encode()

    def on_signal(*_: object) -> None:
        inner.append(echo(proxy, "inner"))
        go_on.set()

    def nudge() -> None:
        assert entered.wait(WAIT_SECONDS)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with serving(EchoDesk(output=answer)) as server, proxy_to(server) as proxy:
            echo(proxy, "warm")
            thread = threading.Thread(target=nudge)
            thread.start()

            assert echo(proxy, "outer") == "outer"

            assert inner == ["inner"]
            assert echo(proxy, "next") == "next"
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_answer_to_another_request_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:  # row A21
    with serving() as server, proxy_to(server) as proxy:
        echo(proxy, "warm")
        stale = proxy._tls.connection
        real: Any = stale.receive_frame

        def one_behind(timeout: float | None) -> Any:
            frame = real(timeout)
            return bytes(frame).replace(b"-2", b"-1")

        monkeypatch.setattr(stale, "receive_frame", one_behind)

        assert echo(proxy, "mine") == "mine"
        assert stale.closed
        assert proxy._tls.connection is not stale


@pytest.mark.parametrize("cut", range(0, 70, 7))
def test_an_answer_cut_off_anywhere_is_asked_for_again(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:  # row A36
    real, to_cut = ClusterConnection.send_frame, ["this one"]

    def send_in_part(self: ClusterConnection, body: bytes) -> None:
        if self.peer is None or body.find(b"xxx") < 0 or not to_cut:
            real(self, body)
        else:  # it is the server's answer
            to_cut.clear()
            self._socket.sendall((len(body).to_bytes(4, "big") + body)[:cut])
            self.interrupt()

    monkeypatch.setattr(ClusterConnection, "send_frame", send_in_part)
    desk = EchoDesk()

    with serving(desk) as server, proxy_to(server) as proxy:
        assert [echo(proxy, text) for text in ("a", "x" * 60, "b")] == ["a", "x" * 60, "b"]

    assert desk.calls == ["output"] * 4
    assert not to_cut


# --- processes ------------------------------------------------------------------------------------------------------


def test_a_forked_child_has_connections_and_request_ids_of_its_own() -> None:  # row A28
    desk = EchoDesk()
    with serving(desk) as server, proxy_to(server) as proxy:
        proxy.call("requeue", Requeue(("parent",)))
        pid = fork()
        if not pid:
            proxy.call("requeue", Requeue(("child",)))
            ok = echo(proxy, "child") == "child"
            proxy.close()
            os._exit(0 if ok else 1)
        proxy.call("requeue", Requeue(("parent",)))
        _, status = os.waitpid(pid, 0)
        assert status == 0
        assert echo(proxy, "parent") == "parent"

    assert len(set(desk.requests)) == 3
    assert len({peer.number for peer in desk.peers}) == 2


def test_a_multiprocessing_child_connects_only_when_it_calls() -> None:  # row A28
    desk = EchoDesk()
    with serving(desk) as server, proxy_to(server) as proxy:
        echo(proxy, "parent")
        process = multiprocessing.get_context("fork").Process(target=int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads: the very subject
            process.start()
        process.join()
        assert process.exitcode == 0

        assert echo(proxy, "still mine") == "still mine"

    assert len({peer.number for peer in desk.peers}) == 1


def test_a_child_that_closes_its_copy_does_not_close_its_parent_s() -> None:  # row A28
    with serving() as server, proxy_to(server) as proxy:
        echo(proxy, "parent")
        pid = fork()
        if not pid:
            proxy.close()
            os._exit(0)
        os.waitpid(pid, 0)

        connection = proxy._tls.connection
        assert echo(proxy, "parent") == "parent"
        assert proxy._tls.connection is connection


def test_a_proxy_is_neither_pickled_nor_copied_and_shows_no_key() -> None:
    with proxy_to(LOOPBACK) as proxy:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="connect"):
                attempt(proxy)

        assert str(proxy) == repr(proxy) == "<DeskProxy jobs of tcp://127.0.0.1:0 as client>"
        assert vars(proxy)["_authkey"] == b""


# --- the end --------------------------------------------------------------------------------------------------------


def test_closing_wakes_the_calls_on_their_way_and_refuses_later_ones() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(said: JobArgs) -> bytes:
        entered.set()
        go_on.wait(WAIT_SECONDS)
        return b""

    with serving(EchoDesk(output=slow)) as server, proxy_to(server, patience_seconds=60) as proxy:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(echo, proxy, "a", timeout=60)
            assert entered.wait(WAIT_SECONDS)
            proxy.close()

            with pytest.raises(MasterUnavailable, match="closed by this program"):
                answer.result(WAIT_SECONDS)
        with pytest.raises(MasterUnavailable, match="closed by this program"):
            echo(proxy, "b")
        go_on.set()


def test_closing_wakes_a_call_that_waits_for_the_master_to_return() -> None:
    server = server_of(EchoDesk())
    server.stop()
    with proxy_to(server.address, patience_seconds=60) as proxy, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(echo, proxy, "a")
        with pytest.raises(TimeoutError):
            answer.result(0.1)
        proxy.close()
        proxy.close()

        with pytest.raises(MasterUnavailable, match="closed by this program"):
            answer.result(WAIT_SECONDS)


def test_closing_leaves_no_descriptor_of_any_thread() -> None:
    before = descriptors()
    server = server_of(EchoDesk())
    server.start()
    proxy = connect_desk("jobs", server.address, Role.CLIENT, KEYS[Role.CLIENT], patience_seconds=5)
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)
        list(pool.map(lambda text: (barrier.wait(), echo(proxy, text)), "abcd"))

        proxy.close()
        gc.collect()
        wait_connections(server, 0)
    server.stop()
    wait_threads_gone()

    assert descriptors() == before


# --- speed ----------------------------------------------------------------------------------------------------------

SERVER = """
import sys, threading
from cluster.wire.address import parse_address
from tests.wire import rig
from cluster.wire.keys import Role, Secret

rig.KEYS = {role: Secret(b"benchmark " * 4) for role in Role}
with rig.serving(address=parse_address(sys.argv[1])) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "unix://{path}"])
def test_an_echo_of_up_to_64_kilobytes_takes_less_than_two_milliseconds(url: str, tmp_path: Path) -> None:  # row A7
    command = [sys.executable, "-c", SERVER, url.format(path=tmp_path / "s")]
    key = Secret(b"benchmark " * 4)
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=-1, stdout=-1, text=True
    ) as server:
        assert server.stdout is not None
        address = parse_address(server.stdout.readline())
        proxy = connect_desk("work", address, Role.WORKER, key, patience_seconds=5)
        medians = {}
        for size in (1_000, 17_000, 60_000, 1_000_000):
            body, taken = os.urandom(size), []
            for _ in range(50):
                started = time.perf_counter()
                assert echo_bytes(proxy, body) == body
                taken.append((time.perf_counter() - started) * 1000)
            medians[size] = statistics.median(taken)
        started = time.perf_counter()
        for _ in range(2_000):
            echo_bytes(proxy, b"small")
        rate = 2_000 / (time.perf_counter() - started)
        proxy.close()
        server.communicate()

    print({size: f"{median:.3f} ms" for size, median in medians.items()}, f"{rate:,.0f} calls/s")
    assert max(medians[1_000], medians[17_000], medians[60_000]) < 2
    assert medians[1_000_000] < 100
    assert rate > 2_000
