from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import io
import logging
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.core.records import FunctionBlob
from cluster.errors import ClusterError, MasterUnavailable, Refused, UnknownJob
from cluster.wire import connection as connection_module
from cluster.wire import handshake
from cluster.wire.audit import Audit, Kind
from cluster.wire.calls import (
    CALLS,
    PROTOCOL_VERSION,
    FetchFunction,
    JobArgs,
    Listen,
    Nothing,
    QueueArgs,
    Requeue,
    Shutdown,
    Told,
)
from cluster.wire.connection import ClusterConnection
from cluster.wire.door import Limits
from cluster.wire.handshake import Greeting
from cluster.wire.keys import Role
from cluster.wire.listener import dial
from tests.project import ROOT
from tests.wire.rig import (
    KEYS,
    WAIT_SECONDS,
    EchoDesk,
    Giver,
    descriptors,
    echo,
    echo_bytes,
    hello_of,
    inside,
    is_closed_by_the_other,
    ping,
    proxy_to,
    raw,
    reset,
    server_of,
    serving,
    wait_connections,
    wait_threads_gone,
    wait_until,
)

# --- what can be called, and by whom --------------------------------------------------------------------------------


def test_a_call_reaches_the_desk_with_its_peer_and_its_typed_arguments() -> None:
    said: list[Any] = []

    def output(args: JobArgs) -> bytes:
        said.append(args)
        return b"text"

    desk = EchoDesk(output=output)
    with serving(desk) as server, proxy_to(server) as proxy:
        answer = proxy.call("output", JobArgs("abc"))

    assert answer == b"text"
    assert said == [JobArgs("abc")]
    assert [(peer.role, peer.address) for peer in desk.peers] == [(Role.CLIENT, "127.0.0.1")]


@pytest.mark.parametrize("role", Role)
def test_a_role_calls_what_the_table_allows_and_nothing_else(role: Role) -> None:  # row A17
    desk = EchoDesk()
    with serving(desk) as server, inside(server, role) as connection:
        for number, ((name, method), call) in enumerate(CALLS.items()):
            before = len(desk.calls)
            # Arguments that fit nothing: a call that is allowed is refused for them, one that isn't for its role.
            connection.send_frame(msgpack([str(number), name, method, [1]]))
            kind, fields = fault_in(connection)

            assert kind == "Refused"
            assert ("its arguments are not" in fields[0]) is (role in call.roles)
            assert (f"is not for role {role}" in fields[0]) is (role not in call.roles)
            assert len(desk.calls) == before


def test_anyone_may_ask_who_answers() -> None:
    with serving() as server:
        for role in Role:
            with proxy_to(server, "admin", role) as proxy:
                assert ping(proxy).pid == 1


@pytest.mark.parametrize(
    "method",
    [
        "shutdown",
        "create",
        "accept_connection",
        "get_methods",
        "debug_info",
        "number_of_objects",
        "dummy",
        "incref",
        "decref",
    ]
    + ["__class__", "_behaviours", "#GETVALUE", "__str__"],
)
def test_what_the_stock_server_offers_to_anyone_is_not_there(method: str) -> None:  # row A14
    desk = EchoDesk()
    with serving(desk) as server, inside(server, Role.ADMIN) as connection:
        for name in ("jobs", "0", "", "nothing"):
            connection.send_frame(msgpack(["r", name, method, {}]))

            assert fault_in(connection)[0] == "Refused"
        assert not server.stop_event.is_set()
    assert not server.public
    assert not desk.calls


def test_desks_have_fixed_names_explicit_methods_and_an_epoch_of_their_server() -> None:  # row A16
    with serving() as first, serving() as second:
        assert set(first.id_to_obj) == {"jobs", "work", "admin"}
        assert first.id_to_obj["work"][1] == {method for desk, method in CALLS if desk == "work"}
        with proxy_to(first) as one, proxy_to(second) as other:
            echo(one, "a")
            echo(other, "a")
            assert len(one.epoch) == 32
            assert one.epoch != other.epoch


def test_a_desk_that_lacks_a_method_of_the_table_is_found_before_anyone_calls_it() -> None:
    with pytest.raises(AttributeError, match="open"):
        server_of(object())  # type: ignore[arg-type]


def test_a_call_that_must_be_carried_out_once_brings_its_request_id() -> None:
    desk = EchoDesk()
    with serving(desk) as server, proxy_to(server) as proxy:
        for _ in range(2):
            proxy.call("requeue", Requeue(("a",)))
        proxy.call("pause", QueueArgs("q"))

    assert len(desk.requests) == 2
    assert len(set(desk.requests)) == 2


def test_arguments_of_a_wrong_type_never_reach_a_desk() -> None:
    desk = EchoDesk()
    with serving(desk) as server, proxy_to(server) as proxy:
        with pytest.raises(Refused, match=r"jobs\.output: its arguments"):
            proxy.call("output", QueueArgs("not a job"))
        assert echo(proxy, "still fine") == "still fine"

    assert desk.calls == ["output"]


# --- what a desk may raise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, ValueError])
def test_whatever_a_desk_raises_the_caller_is_told_and_the_connection_goes_on(  # rows A22, A23
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(said: JobArgs) -> bytes:
        raise error("in the master")

    desk = EchoDesk(output=fail)
    with caplog.at_level(logging.ERROR), serving(desk) as server, proxy_to(server) as proxy:
        with pytest.raises(ClusterError, match=rf"the master failed: jobs\.output ended in {error.__name__}"):
            echo(proxy, "a")
        proxy.call("pause", QueueArgs("q"))

    assert desk.peers[0].number == desk.peers[1].number
    assert "in the master" in caplog.text


def test_an_error_of_the_kit_arrives_as_itself() -> None:
    def fail(said: JobArgs) -> bytes:
        raise UnknownJob(said.job)

    with (
        serving(EchoDesk(output=fail)) as server,
        proxy_to(server) as proxy,
        pytest.raises(UnknownJob, match="'abc'"),
    ):
        echo(proxy, "abc")


def test_an_answer_that_can_not_be_sent_is_the_master_s_failure(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(EchoDesk(output=lambda said: object())) as server,
        proxy_to(server) as proxy,
        pytest.raises(ClusterError, match="the master failed"),
    ):
        echo(proxy, "a")

    assert "TypeError" in caplog.text


# --- strangers --------------------------------------------------------------------------------------------------------

QUICK = Limits(handshake_seconds=0.3)


def test_silent_and_dripping_strangers_cost_nothing_after_the_deadline() -> None:  # row A1
    with serving(limits=QUICK) as server, raw(server) as silent, raw(server) as dripping:
        wait_connections(server, 2)
        is_over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                for byte in struct.pack(">I", 43) + bytes(43):
                    if is_over.wait(0.05):
                        return
                    dripping.sendall(bytes([byte]))

        dripper = threading.Thread(target=drip)
        dripper.start()

        wait_connections(server, 0)
        assert is_closed_by_the_other(silent)
        is_over.set()
        dripper.join()


def test_three_hundred_silent_or_babbling_connections_delay_nobody_and_leave_nothing() -> None:  # row A1
    limits = Limits(handshake_seconds=1.0)
    garbage = [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(64),
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x04\x80\x04N.",
    ]
    with serving(limits=limits) as server, proxy_to(server) as old:
        echo(old, "before")
        wait_connections(server, 1)
        descriptors_before, threads_before = descriptors(), threading.active_count()

        with contextlib.ExitStack() as stack:
            for number in range(300):
                sock = stack.enter_context(raw(server))
                with contextlib.suppress(OSError):
                    sock.sendall(garbage[number % len(garbage)])
            started = time.monotonic()
            assert echo(old, "known") == "known"
            with proxy_to(server) as new:
                assert echo(new, "new") == "new"
            assert time.monotonic() - started < 5
            assert server.connections <= limits.max_strangers + 10

        wait_connections(server, 1)
        wait_threads_gone("cluster-stranger")
        assert echo(old, "after") == "after"
        assert threading.active_count() <= threads_before
        assert descriptors() <= descriptors_before


def test_strangers_are_never_more_than_their_bound() -> None:
    with serving(limits=Limits(max_strangers=3)) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(raw(server)) for _ in range(10)]

        assert all(is_closed_by_the_other(sock) for sock in socks[:7])
        wait_connections(server, 3)


def test_a_full_server_says_so_and_serves_again_when_there_is_room() -> None:  # row A25
    with serving(limits=Limits(max_connections=1)) as server:
        with (
            inside(server),
            contextlib.closing(dial(server.address)) as other,
            pytest.raises(ConnectionError, match="as many connections as it may have"),
        ):
            handshake.introduce(other, Greeting(Role.CLIENT, KEYS[Role.CLIENT], server.address))
        with proxy_to(server) as proxy:
            assert echo(proxy, "a") == "a"


@pytest.mark.parametrize(
    "frame",
    [
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xff" + b"\x00\x00\x20\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x01x",
        b"\x00\x00\x00\x00",
    ],
    ids=["oversized", "negative", "garbage", "empty"],
)
def test_a_bad_frame_of_a_known_caller_ends_its_connection_and_no_other(frame: bytes) -> None:  # rows A8, A9
    with serving() as server, proxy_to(server) as proxy, inside(server) as bad:
        echo(proxy, "before")
        bad._socket.sendall(frame)

        assert is_closed_by_the_other(bad._socket)
        assert echo(proxy, "after") == "after"


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle_is_not_unpickled(tmp_path: Path) -> None:  # row A13
    bomb = pickle.dumps(Hostile(tmp_path / "owned"))
    with serving() as server, inside(server) as known, contextlib.closing(dial(server.address)) as stranger:
        known.send_frame(bomb)
        stranger.send_frame(bomb)

        assert is_closed_by_the_other(known._socket)
        assert is_closed_by_the_other(stranger._socket)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("first", [b"", b"x"])
def test_a_stock_multiprocessing_manager_s_client_is_refused(first: bytes) -> None:  # row A13
    with serving(limits=QUICK) as server:
        client = BaseManager((server.address.host, server.address.port), authkey=first + KEYS[Role.CLIENT].reveal())

        with pytest.raises((EOFError, OSError, multiprocessing.AuthenticationError)):
            client.connect()

        wait_connections(server, 0)


@pytest.mark.parametrize("moment", ["before the request is whole", "before the answer"])
def test_a_caller_that_is_reset_harms_nobody(moment: str) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(said: FetchFunction) -> FunctionBlob:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)
        return FunctionBlob(b"", bytes(1_000_000), "", "", "")

    with serving(EchoDesk(fetch_function=slow)) as server, proxy_to(server) as proxy:
        echo(proxy, "before")
        with inside(server, Role.WORKER) as connection:
            request = msgpack(["r", "work", "fetch_function", {"digest": b"x"}])
            if moment == "before the answer":
                connection.send_frame(request)
                assert entered.wait(WAIT_SECONDS)
            else:
                connection._socket.sendall(struct.pack(">I", len(request)) + request[:-1])
            reset(connection._socket)
            go_on.set()

            wait_connections(server, 1)
        assert echo(proxy, "after") == "after"


def test_a_client_killed_while_it_is_connected_leaves_nothing_in_the_server() -> None:  # row A19
    with serving() as server:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
            pid = os.fork()
        if not pid:
            with inside(server) as connection:
                connection.send_frame(msgpack(["r", "jobs", "output", {"job": "a"}]))
                connection.receive_frame(WAIT_SECONDS)
                os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)

        wait_connections(server, 0)
        wait_threads_gone("cluster-client")


# --- shortages --------------------------------------------------------------------------------------------------------


def test_when_no_thread_can_be_started_one_connection_is_lost_and_not_the_server(  # row A2
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = threading.Thread.start
    failures = [RuntimeError("can't start new thread"), MemoryError()]

    def start(self: threading.Thread) -> None:
        if self.name == "cluster-stranger" and failures:
            raise failures.pop()
        real(self)

    with serving() as server:
        monkeypatch.setattr(threading.Thread, "start", start)
        with raw(server) as first, raw(server) as second:
            assert is_closed_by_the_other(first)
            assert is_closed_by_the_other(second)
        with proxy_to(server) as proxy:
            assert echo(proxy, "a") == "a"
        wait_connections(server, 0)

    assert "can't serve a connection" in caplog.text


def test_whatever_accept_raises_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:  # row A2
    server = server_of(EchoDesk())
    real = server.listener.accept
    failures: list[Exception] = [ValueError("surprise"), OSError(errno.ENOBUFS, "short"), RuntimeError("surprise")]

    def accept() -> ClusterConnection:
        if failures:
            raise failures.pop()
        return real()

    monkeypatch.setattr(server.listener, "accept", accept)
    server.start()

    with contextlib.closing(contextlib.ExitStack()), proxy_to(server) as proxy:
        assert echo(proxy, "a") == "a"
    server.stop()


EMFILE = """
import os, resource, socket, threading, time
from tests.wire.rig import EchoDesk, echo, proxy_to, serving
from tests.wire.rig import is_closed_by_the_other

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with serving() as server, proxy_to(server, patience_seconds=0.0) as proxy:
    assert echo(proxy, "before") == "before"
    caller = socket.socket()
    caller.settimeout(20)
    hoard = []
    try:
        while True:
            hoard.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    rounds = []
    real = server.listener.accept
    server.listener.accept = lambda: (rounds.append(1), real())[1]
    cpu = time.process_time()
    caller.connect((server.address.host, server.address.port))
    assert is_closed_by_the_other(caller), "the caller hears at once"
    assert echo(proxy, "meanwhile") == "meanwhile"
    threading.Event().wait(0.5)
    print("rounds", len(rounds), "cpu", time.process_time() - cpu)
    for descriptor in hoard:
        os.close(descriptor)
    with proxy_to(server, patience_seconds=20) as other:
        assert echo(other, "after") == "after"
    assert len(rounds) < 60
"""


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_when_descriptors_run_out_callers_hear_at_once_and_the_loop_does_not_spin() -> None:  # row A3
    ran = run(EMFILE)

    assert ran.returncode == 0, ran.stderr


OPTIMISED = """
from cluster.errors import Refused
from cluster.wire.calls import Nothing, Register
from cluster.wire.keys import Role
from tests.wire.rig import EchoDesk, proxy_to, serving

desk = EchoDesk()
refused = []
with serving(desk) as server:
    for name, method in [("admin", "shutdown"), ("jobs", "create"), ("jobs", "debug_info"), ("work", "leave")]:
        with proxy_to(server, name) as proxy:
            try:
                proxy.call(method, Nothing())
            except Refused as error:
                refused.append(str(error))
if len(refused) != 4 or desk.calls:
    raise SystemExit(f"{refused} {desk.calls}")
"""


def test_python_with_assertions_off_refuses_the_same() -> None:  # row A15
    ran = run(OPTIMISED, "-O")

    assert ran.returncode == 0, ran.stderr


# --- life -------------------------------------------------------------------------------------------------------------


def test_a_stop_lets_the_call_in_hand_finish_and_takes_no_more() -> None:  # row A25
    entered, go_on = threading.Event(), threading.Event()

    def slow(said: JobArgs) -> bytes:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)
        return b"finished"

    server = server_of(EchoDesk(output=slow))
    server.start()
    with proxy_to(server, patience_seconds=0.0) as proxy:
        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(echo(proxy, "a")))
        caller.start()
        assert entered.wait(WAIT_SECONDS)
        stopper = threading.Thread(target=server.stop, args=(WAIT_SECONDS,))
        stopper.start()
        assert server.stop_event.wait(WAIT_SECONDS)
        go_on.set()
        stopper.join()
        caller.join()

    assert answers == ["finished"]
    with pytest.raises(ConnectionRefusedError):
        dial(server.address)


def test_a_call_that_outlasts_the_deadline_is_cut_off() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(said: JobArgs) -> bytes:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)
        return b"too late"

    server = server_of(EchoDesk(output=slow))
    server.start()
    failures: list[Exception] = []
    with proxy_to(server, patience_seconds=0.0) as proxy:

        def call() -> None:
            try:
                echo(proxy, "a")
            except ClusterError as error:
                failures.append(error)
                go_on.set()

        caller = threading.Thread(target=call)
        caller.start()
        assert entered.wait(WAIT_SECONDS)
        server.stop(deadline_seconds=0.05)
        caller.join()

    assert "can't be reached" in str(failures[0])


def test_a_server_may_be_stopped_twice_and_before_it_starts() -> None:
    server = server_of(EchoDesk())

    server.stop()
    server.stop()

    with pytest.raises(ConnectionRefusedError):
        dial(server.address)


def test_a_stop_leaves_no_thread_and_no_descriptor() -> None:  # row A26
    before = descriptors()
    server = server_of(EchoDesk())
    server.start()
    with proxy_to(server) as proxy:
        echo(proxy, "a")
        server.stop()
    del proxy
    gc.collect()

    wait_threads_gone()
    assert descriptors() == before


def test_serving_for_ever_returns_after_a_stop_and_leaves_stdout_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # row A26
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    server = server_of(EchoDesk())
    with proxy_to(server) as proxy:

        def call_and_stop() -> None:
            echo(proxy, "a")
            server.stop()

        callers = threading.Thread(target=call_and_stop)
        callers.start()

        server.serve_forever()

        callers.join()
    assert sys.stdout is mine


def test_an_idle_connection_keeps_nothing_of_its_last_call() -> None:  # row A24
    @dataclasses.dataclass
    class Big:  # an answer that tells when it is gone
        digest: bytes = b""
        body: bytes = bytes(1000)
        python: str = ""
        pickler: str = ""
        name: str = ""

    is_gone = threading.Event()

    def give(said: FetchFunction) -> Big:
        big = Big()
        weakref.finalize(big, is_gone.set)
        return big

    with serving(EchoDesk(fetch_function=give)) as server, proxy_to(server, "work", Role.WORKER) as proxy:
        proxy.call("fetch_function", FetchFunction(b"d"))

        assert is_gone.wait(WAIT_SECONDS)
        assert server.connections == 1


def test_the_process_s_own_key_is_neither_used_nor_changed() -> None:  # row A29
    before = bytes(multiprocessing.current_process().authkey)

    with serving() as server:
        never_used = bytes(vars(server)["authkey"])

    keys = {key.reveal() for key in KEYS.values()}
    assert never_used != before
    assert bytes(multiprocessing.current_process().authkey) == before
    assert not keys & {before, never_used}


def test_strangers_are_told_of_in_the_log_but_do_not_flood_it(audited: Audit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), serving() as server:
        for _ in range(30):
            with contextlib.closing(dial(server.address)) as stranger:
                stranger.send_frame(b"hello")
                assert is_closed_by_the_other(stranger._socket)
        wait_connections(server, 0)

    lines = [record.message for record in caplog.records if "handshake_malformed" in record.message]
    assert len(lines) == 2  # the first event's, and when the server stopped how many more there were
    assert "origin=127.0.0.1" in lines[0]
    assert "does not speak the cluster's protocol" in lines[0]
    assert "suppressed=29" in lines[1]
    assert audited.counts() == {"handshake_malformed": 30}


@pytest.mark.parametrize(
    ("kind", "role", "frame"),
    [
        (Kind.CALL_UNKNOWN, Role.CLIENT, ["r", "jobs", "frobnicate", {}]),
        (Kind.CALL_NOT_FOR_ROLE, Role.WORKER, ["r", "admin", "shutdown", {}]),
        (Kind.CALL_MALFORMED, Role.CLIENT, ["r", "jobs", "output", {"job": 1}]),
        (Kind.CALL_MALFORMED, Role.CLIENT, ["r" * 200, "jobs", "requeue", {"jobs": []}]),
        (Kind.FRAME_MALFORMED, Role.CLIENT, "no call"),
    ],
)
def test_what_a_known_peer_may_not_do_is_in_the_audit_with_its_role_and_address(
    kind: Kind, role: Role, frame: object, audited: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), serving() as server, inside(server, role) as connection:
        connection.send_frame(msgpack(frame))
        with contextlib.suppress(EOFError):
            connection.receive_frame(WAIT_SECONDS)

    assert audited.counts() == {kind.value: 1}
    assert f"{kind}: origin=127.0.0.1 role={role}" in caplog.text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Kind.HANDSHAKE_MALFORMED, struct.pack(">I", 5) + b"hello"),
        (Kind.HANDSHAKE_MALFORMED, b"\x7f\xff\xff\xff"),
        (Kind.HANDSHAKE_VERSION, hello_of(99, 1)),
        (Kind.HANDSHAKE_ROLE, hello_of(PROTOCOL_VERSION, 9)),
        (Kind.HANDSHAKE_WRONG_KEY, hello_of(PROTOCOL_VERSION, 1) + struct.pack(">IB32s", 33, 0, bytes(32))),
        (Kind.HANDSHAKE_TIMEOUT, b""),
    ],
)
def test_each_reason_to_refuse_a_stranger_is_an_event_of_its_own(kind: Kind, said: bytes, audited: Audit) -> None:
    with serving(limits=QUICK) as server, raw(server) as stranger:
        stranger.sendall(said)

        assert is_closed_by_the_other(stranger)
        wait_connections(server, 0)
    assert audited.counts() == {kind.value: 1}


def test_a_stranger_that_must_make_room_is_told_of(audited: Audit) -> None:
    with serving(limits=Limits(max_strangers=1)) as server, raw(server) as first, raw(server):
        assert is_closed_by_the_other(first)

    assert audited.counts() == {"stranger_displaced": 1}


# --- what one peer may take -------------------------------------------------------------------------------------------


def test_one_identity_leaves_room_for_the_others_of_its_address(audited: Audit) -> None:
    with serving(limits=Limits(max_connections_per_identity=2)) as server, inside(server), inside(server):
        with (
            proxy_to(server, patience_seconds=0.0) as third,
            pytest.raises(MasterUnavailable, match=r"as many connections of clients at 127\.0\.0\.1 .* \(2\)"),
        ):
            echo(third, "a")
        with proxy_to(server, "admin", Role.ADMIN) as operator:
            assert ping(operator).pid == 1
        wait_connections(server, 2)
    assert audited.counts() == {"connections_full": 1}


@pytest.mark.parametrize("frame", [struct.pack(">I", 200 << 20), b"\x00\x00", struct.pack(">I", 100) + b"x"])
def test_a_known_peer_whose_frame_only_drips_is_cut_off_and_idle_ones_are_not(
    frame: bytes, audited: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "FRAME_GRACE_SECONDS", 0.3)
    with serving() as server, proxy_to(server) as idle, inside(server) as slow:
        echo(idle, "before")
        slow._socket.sendall(frame)
        is_over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not is_over.wait(0.05):
                    slow._socket.sendall(b"\0")

        dripper = threading.Thread(target=drip if len(frame) == 4 else is_over.wait)
        dripper.start()
        try:
            assert is_closed_by_the_other(slow._socket)
        finally:
            is_over.set()
            dripper.join()

        wait_connections(server, 1)
        assert server._intake.bytes_in_flight() == 0
        assert echo(idle, "after") == "after"
    assert audited.counts() == {"frame_too_slow": 1}


def test_frames_on_their_way_have_a_bound_together_and_each_identity_its_share(audited: Audit) -> None:
    mib = 1 << 20
    limits = Limits(max_bytes_in_flight=4 * mib, max_bytes_in_flight_per_identity=2 * mib)
    body = msgpack(["r", "jobs", "submit", {"filler": bytes(2 * mib - 100)}])
    with serving(limits=limits) as server, inside(server) as first, inside(server) as second:
        first._socket.sendall(struct.pack(">I", len(body)) + body[:mib])
        wait_until(lambda: server._intake.bytes_in_flight() == len(body))

        sender = threading.Thread(target=second.send_frame, args=(body,))
        sender.start()
        with proxy_to(server, "work", Role.WORKER) as other:  # another identity
            assert len(echo_bytes(other, bytes(mib))) == mib
        wait_until(lambda: server._intake.bytes_in_flight() == len(body))  # the second one's is not among them
        first._socket.sendall(body[mib:])

        for connection in (first, second):
            assert fault_in(connection)[0] == "Refused"
        sender.join()
        wait_until(lambda: server._intake.bytes_in_flight() == 0)
    assert audited.counts() == {"call_malformed": 2}


def test_long_answers_are_made_a_few_at_a_time_for_one_identity() -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(said: JobArgs) -> bytes:
        entered.release()
        assert go_on.wait(WAIT_SECONDS)
        return b""

    with (
        serving(EchoDesk(output=slow), limits=Limits(max_heavy_calls_per_identity=2)) as server,
        inside(server) as one,
        inside(server) as two,
        inside(server) as three,
        inside(server, Role.ADMIN) as operator,
    ):
        for connection in (one, two):
            connection.send_frame(msgpack(["r", "jobs", "output", {"job": "a"}]))
            assert entered.acquire(timeout=WAIT_SECONDS)
        three.send_frame(msgpack(["r", "jobs", "output", {"job": "a"}]))
        operator.send_frame(msgpack(["r", "jobs", "output", {"job": "a"}]))
        assert entered.acquire(timeout=WAIT_SECONDS)  # the operator's
        assert not entered.acquire(timeout=0.2)
        go_on.set()

        for connection in (one, two, three, operator):
            assert msgspec.msgpack.decode(connection.receive_frame(WAIT_SECONDS))[1] == b""


def test_an_operator_s_call_is_not_a_stranger_s_to_make() -> None:
    desk = EchoDesk()
    with serving(desk) as server:
        with (
            proxy_to(server, "admin", Role.CLIENT) as client,
            pytest.raises(Refused, match="connect with the admin key"),
        ):
            client.call("shutdown", Shutdown())
        with proxy_to(server, "admin", Role.ADMIN) as admin:
            admin.call("shutdown", Shutdown())

    assert desk.calls == ["shutdown"]


def test_a_call_this_master_does_not_know_is_a_sentence() -> None:
    with (
        serving() as server,
        proxy_to(server) as proxy,
        pytest.raises(Refused, match=r"knows no call jobs\.frobnicate"),
    ):
        proxy.call("frobnicate", Nothing())


def msgpack(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


def fault_in(connection: ClusterConnection) -> tuple[str, list[str]]:
    fault = msgspec.msgpack.decode(connection.receive_frame(WAIT_SECONDS))[2]
    return fault[0], fault[1]


def test_answers_that_another_thread_gives_arrive_whole() -> None:
    answers = [Told(1), Told(2, printed=("x" * 1000,) * 3000), Told(3, accepted=("a",))]
    with serving(EchoDesk(listen=Giver(*answers))) as server, proxy_to(server) as proxy:
        heard = [proxy.call("listen", Listen("s", 0, 1.0)) for _ in answers]

        assert heard == answers
        assert echo(proxy, "and on") == "and on"
