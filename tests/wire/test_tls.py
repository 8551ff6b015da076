from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from cluster.errors import ClusterError, MasterUnavailable, Refused
from cluster.wire import audit, tls
from cluster.wire.address import Address
from cluster.wire.calls import Listen, Nothing, Told
from cluster.wire.door import Limits
from cluster.wire.keys import Role, Secret, load_key, make_keys
from cluster.wire.manager import ClusterManager
from cluster.wire.proxy import DeskProxy, connect_desk
from cluster.wire.server import ClusterServer
from cluster.wire.tls import Tls, TlsFiles, read_files
from tests.wire.certificates import HOUR, Maker
from tests.wire.rig import (
    KEYS,
    LOOPBACK,
    WAIT_SECONDS,
    EchoDesk,
    Giver,
    echo,
    echo_bytes,
    is_closed_by_the_other,
    raw,
    serving,
)


@pytest.fixture(autouse=True)
def _every_event_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "QUIET_SECONDS", 0.0)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "lab")


@contextlib.contextmanager
def serving_tls(
    files: TlsFiles, desk: EchoDesk | None = None, limits: Limits | None = None, address: Address = LOOPBACK
) -> Iterator[ClusterServer]:
    desk = desk or EchoDesk()
    desks = {"jobs": desk, "work": desk, "admin": desk}
    server = ClusterManager(address, keys=KEYS, desks=desks, limits=limits, tls=files).get_server()
    server.start()
    try:
        yield server
    finally:
        server.stop(deadline_seconds=0.0)


@contextlib.contextmanager
def caller(
    server: ClusterServer,
    files: TlsFiles | None,
    role: Role = Role.CLIENT,
    key: Secret | None = None,
    host: str = "127.0.0.1",
) -> Iterator[DeskProxy]:
    address = server.address if server.address.path else Address(host, server.address.port)
    desk = {Role.CLIENT: "jobs", Role.WORKER: "work", Role.ADMIN: "admin"}[role]
    proxy = connect_desk(desk, address, role, key or KEYS[role], patience_seconds=3.0, tls=files)
    with contextlib.closing(proxy):
        yield proxy


def refused_of(server: ClusterServer, files: TlsFiles | None, **how: object) -> str:
    with caller(server, files, **how) as proxy, pytest.raises(Refused) as refused:  # type: ignore[arg-type]
        proxy.call("ping" if proxy.desk == "admin" else "stats", Nothing())
    return str(refused.value)


def log_says(caplog: pytest.LogCaptureFixture, part: str) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS
    while part not in caplog.text and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return part in caplog.text


# --- calls inside TLS -------------------------------------------------------------------------------------------------


def test_calls_of_any_size_pass_and_the_desk_hears_the_certificate_s_name(maker: Maker) -> None:
    desk = EchoDesk()
    client = maker.issue("client", "ana")
    with serving_tls(maker.issue("master", "head"), desk) as server, caller(server, client) as proxy:
        assert echo(proxy, "small") == "small"
    with (
        serving_tls(maker.issue("master", "head"), desk) as server,
        caller(server, maker.issue("worker", "w1"), Role.WORKER) as proxy,
    ):
        for size in (0, 16_380, 16_384, 65_532, 70_000, 5_000_000):
            body = os.urandom(size)
            assert echo_bytes(proxy, body) == body

    assert (desk.peers[0].role, desk.peers[0].name) == (Role.CLIENT, "ana")
    assert desk.peers[0].serial == Tls(client, is_master=False).identity.serial
    assert (desk.peers[-1].role, desk.peers[-1].name) == (Role.WORKER, "w1")


def test_a_unix_socket_speaks_tls_too_and_has_no_host_to_check(maker: Maker, tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "m.sock"))
    with (
        serving_tls(maker.issue("master", "head", ("elsewhere",)), address=address) as server,
        caller(server, maker.issue("client", "ana")) as proxy,
    ):
        assert echo(proxy, "x") == "x"


def test_a_call_that_waits_is_ended_by_its_timeout_and_by_close(maker: Maker) -> None:
    release, begun = threading.Event(), threading.Event()

    def hang(_: object) -> bytes:
        begun.set()
        release.wait(WAIT_SECONDS)
        return b""

    with serving_tls(maker.issue("master", "head"), EchoDesk(output=hang)) as server:
        with caller(server, maker.issue("client", "ana")) as proxy:

            def close_once_begun() -> None:
                begun.wait(WAIT_SECONDS)
                proxy.close()

            thread = threading.Thread(target=close_once_begun)
            thread.start()
            with pytest.raises(MasterUnavailable, match="closed by this program"):
                echo(proxy, "x")
            thread.join()
        release.set()


# --- who is not let in --------------------------------------------------------------------------------------------------


def test_the_role_s_key_is_needed_besides_the_certificate(maker: Maker) -> None:
    with serving_tls(maker.issue("master", "head")) as server:
        said = refused_of(server, maker.issue("client", "ana"), key=Secret(os.urandom(32)))

    assert "has another client key" in said


def test_no_certificate_is_refused_and_told_to_the_log(maker: Maker, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(cafile=str(maker.ca))
    with (
        serving_tls(maker.issue("master", "head")) as server,
        raw(server) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as secure,
    ):
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            secure.recv(1)

        assert log_says(caplog, "it showed no certificate")


def test_another_authority_s_certificate_is_refused_on_either_side(
    maker: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Maker(tmp_path / "other")
    theirs = other.issue("client", "ana")
    master = maker.issue("master", "head")
    mixed = TlsFiles(tmp_path / "both.pem", theirs.cert, theirs.key)
    mixed.ca.write_bytes(maker.ca.read_bytes() + other.ca.read_bytes())
    with serving_tls(master) as server:
        fake = refused_of(server, theirs)  # to a caller of the other cluster this master is a fake
    with serving_tls(master) as server:
        late = refused_of(server, mixed)  # it believes the master, which does not believe it
        assert log_says(caplog, "its certificate is not taken")

    assert "has no certificate of the authority in" in fake
    assert "somebody who only says that it is one" in fake
    assert "refused this program's certificate" in late
    assert "not of the master's authority" in late


def test_a_fake_master_that_knows_the_keys_and_relays_hears_no_word(maker: Maker, tmp_path: Path) -> None:
    fake = Maker(tmp_path / "fake").issue("master", "head")
    heard = EchoDesk()
    with serving_tls(fake, heard) as server:
        said = refused_of(server, maker.issue("client", "ana"))

    assert "has no certificate of the authority" in said
    assert not heard.calls


@contextlib.contextmanager
def relaying(server: ClusterServer, spoil_at: int | None = None) -> Iterator[tuple[Address, bytearray]]:
    """Somebody on the way, who passes on all bytes; of what callers say one may be changed. What went by, both ways."""
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as door, contextlib.ExitStack() as open_sockets:
        threads: list[threading.Thread] = []

        def pump(source: socket.socket, sink: socket.socket, spoil: int | None) -> None:
            count = 0
            with contextlib.suppress(OSError):
                while data := bytearray(source.recv(65536)):
                    if spoil is not None and count <= spoil < count + len(data):
                        data[spoil - count] ^= 1
                    count += len(data)
                    seen.extend(data)
                    sink.sendall(data)
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = open_sockets.enter_context(door.accept()[0])
                    far = open_sockets.enter_context(socket.create_connection(("127.0.0.1", server.address.port)))
                    for one in ((near, far, spoil_at), (far, near, None)):
                        threads.append(threading.Thread(target=pump, args=one))
                        threads[-1].start()

        taker = threading.Thread(target=take)
        taker.start()
        try:
            yield Address("127.0.0.1", door.getsockname()[1]), seen
        finally:
            door.shutdown(socket.SHUT_RDWR)
            taker.join()
            server.stop(deadline_seconds=0.0)  # ends the far sides, and so the pumps
            for thread in threads:
                thread.join()


def test_whoever_passes_all_bytes_on_reads_none_of_them(maker: Maker) -> None:
    secret = os.urandom(64)
    client = maker.issue("client", "ana")
    with serving_tls(maker.issue("master", "head")) as server, relaying(server) as (way, seen):
        proxy = connect_desk("jobs", way, Role.CLIENT, KEYS[Role.CLIENT], patience_seconds=3.0, tls=client)
        with contextlib.closing(proxy):
            assert echo(proxy, secret.hex()) == secret.hex()

        assert len(seen) > 1000
        assert secret.hex().encode() not in seen
        assert b"cluster://client" not in seen
        assert KEYS[Role.CLIENT].reveal() not in seen


@pytest.mark.parametrize("at", [100, 700])  # in the caller's hello; in its certificate
def test_bytes_changed_on_the_way_break_the_connection_and_are_no_word_on_a_certificate(maker: Maker, at: int) -> None:
    client = maker.issue("client", "ana")
    with serving_tls(maker.issue("master", "head")) as server, relaying(server, at) as (way, _):
        proxy = connect_desk("jobs", way, Role.CLIENT, KEYS[Role.CLIENT], patience_seconds=1.0, tls=client)
        with contextlib.closing(proxy), pytest.raises(MasterUnavailable):
            echo(proxy, "x")


def test_who_ends_tls_on_the_way_with_a_worker_s_certificate_is_no_master_and_hears_nothing(maker: Maker) -> None:
    worker = maker.issue("worker", "w1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(worker.cert, worker.key)
    heard: list[object] = []

    def impersonate(door: socket.socket) -> None:
        with door.accept()[0] as near:
            try:
                with context.wrap_socket(near, server_side=True) as secure:
                    heard.append(secure.recv(1))
            except ssl.SSLError as error:
                heard.append(error)

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=impersonate, args=(door,))
        thread.start()
        way = Address("127.0.0.1", door.getsockname()[1])
        proxy = connect_desk(
            "jobs", way, Role.CLIENT, KEYS[Role.CLIENT], patience_seconds=1.0, tls=maker.issue("client", "ana")
        )
        with contextlib.closing(proxy), pytest.raises(Refused, match=r"is no master: .*cluster certs issue master"):
            echo(proxy, "x")
        thread.join()

    assert len(heard) == 1
    assert isinstance(heard[0], ssl.SSLError)


def test_a_worker_s_certificate_makes_no_master(maker: Maker) -> None:
    with pytest.raises(Refused, match="is of worker w1, not of a master"):
        Tls(maker.issue("worker", "w1"), is_master=True)


def test_a_master_s_name_must_be_the_one_that_was_dialled(maker: Maker) -> None:
    with serving_tls(maker.issue("master", "head", ("head.lab", "127.0.0.1"))) as server:
        said = refused_of(server, maker.issue("client", "ana"), host="localhost")

    assert "does not name 'localhost'" in said
    assert "cluster certs issue master localhost" in said


def test_the_claimed_role_must_be_the_certificate_s(maker: Maker) -> None:
    client = maker.issue("client", "ana")
    with serving_tls(maker.issue("master", "head")) as server:
        with pytest.raises(Refused, match=r"is of client ana.*connects as worker"):
            connect_desk("work", server.address, Role.WORKER, KEYS[Role.WORKER], patience_seconds=1.0, tls=client)

        side = Tls(client, is_master=False)
        from cluster.wire.handshake import Greeting

        greeting = Greeting(Role.WORKER, KEYS[Role.WORKER], server.address, tls=side)
        with (
            contextlib.closing(DeskProxy("work", greeting, patience_seconds=1.0)) as proxy,
            pytest.raises(Refused, match=r"takes no worker with this program's certificate.*client ana"),
        ):
            echo_bytes(proxy, b"x")


def test_an_expired_certificate_is_refused_by_both_sides(maker: Maker, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused, match=r"has expired on .* cluster certs renew"):
        Tls(maker.issue("client", "old", ends=-HOUR / 2), is_master=False)
    with pytest.raises(Refused, match=r"not valid before .* clock"):
        Tls(maker.issue("client", "new", begins=HOUR / 2), is_master=False)


def test_a_revoked_certificate_is_refused_and_the_reason_told_to_both(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    ana, bob = maker.issue("client", "ana"), maker.issue("client", "bob")
    maker.revoke(ana)
    with serving_tls(maker.issue("master", "head")) as server:
        said = refused_of(server, ana)
        with caller(server, bob) as proxy:
            assert echo(proxy, "bob") == "bob"

        assert "it was revoked" in said
        assert log_says(caplog, "its certificate is revoked (client ana")


def test_a_plain_caller_and_a_plain_master_are_told_about_tls(maker: Maker) -> None:
    with serving_tls(maker.issue("master", "head")) as server:
        assert "speaks TLS only; name the certificates" in refused_of(server, None)
    with serving() as server:
        assert "speaks no TLS" in refused_of(server, maker.issue("client", "ana"))


def test_a_master_that_is_full_says_so_to_who_speaks_tls(maker: Maker) -> None:
    with (
        serving_tls(maker.issue("master", "head"), limits=Limits(max_connections=0)) as server,
        caller(server, maker.issue("client", "ana")) as proxy,
        pytest.raises(MasterUnavailable, match="as many connections as it may have"),
    ):
        echo(proxy, "x")


def test_a_handshake_that_dawdles_is_cut_at_the_deadline_and_delays_nobody(maker: Maker) -> None:
    master = maker.issue("master", "head")
    with (
        serving_tls(master, limits=Limits(handshake_seconds=1.0)) as server,
        raw(server) as silent,
        raw(server) as half,
        caller(server, maker.issue("client", "ana")) as proxy,
    ):
        half.sendall(b"\x16\x03\x01\x02\x00\x01")

        assert echo(proxy, "x") == "x"
        started = time.monotonic()
        assert is_closed_by_the_other(half)
        assert is_closed_by_the_other(silent)
        assert time.monotonic() - started < WAIT_SECONDS


EXPIRED, NOT_YET = "it has expired; have it renewed", "it is not valid yet by the master's clock"


@pytest.mark.parametrize(
    ("begins", "told", "logged"),
    [
        (-2 * HOUR, EXPIRED, "its certificate has expired"),
        (HOUR, NOT_YET, "its certificate is not valid yet"),
    ],
)
def test_a_certificate_out_of_its_time_is_told_as_that_to_both_and_named(
    maker: Maker, caplog: pytest.LogCaptureFixture, begins: dt.timedelta, told: str, logged: str
) -> None:
    desk = EchoDesk()
    with pytest.MonkeyPatch.context() as patch, serving_tls(maker.issue("master", "head"), desk) as server:
        patch.setattr(tls, "_require_valid", lambda *_: None)  # its own program has another clock
        for role in Role:
            late = maker.issue(role, "late", begins=begins, ends=begins + HOUR)
            said = refused_of(server, late, role=role)

            assert told in said
            assert log_says(caplog, f"handshake_expired: origin=127.0.0.1 role={role} name=late ")
            assert log_says(caplog, f"reason=refused: {logged} ({role} late, certificate ")
    assert not desk.calls


@pytest.mark.parametrize(
    ("begins", "told", "logged"),
    [
        (-2 * HOUR, EXPIRED, "the authority of its certificate has expired"),
        (HOUR, NOT_YET, "the authority of its certificate is not valid yet"),
    ],
)
def test_a_certificate_of_an_authority_out_of_its_time_is_refused_and_named(
    maker: Maker, caplog: pytest.LogCaptureFixture, begins: dt.timedelta, told: str, logged: str
) -> None:
    master, client = maker.issue("master", "head"), maker.issue("client", "ana")
    # The caller has another certificate of the same authority: to it the master is in order.
    later = maker.folder / "later.pem"
    later.write_bytes(maker.ca.read_bytes())
    maker.certify(begins, begins + HOUR)
    desk = EchoDesk()
    with serving_tls(master, desk) as server:
        said = refused_of(server, structs.replace(client, ca=later))

        assert log_says(caplog, "handshake_expired: origin=127.0.0.1 role=client name=ana ")
        assert log_says(caplog, f"reason=refused: {logged} (client ana, certificate ")

        maker.ca.write_bytes(maker.ca.read_bytes() + later.read_bytes())  # either will do
        with caller(server, client) as proxy:
            assert echo(proxy, "x") == "x"
    assert told in said


def test_a_live_connection_ends_with_the_authority_of_its_certificate(
    maker: Maker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    master, client = maker.issue("master", "head"), maker.issue("client", "ana")
    later = tmp_path / "later.pem"
    later.write_bytes(maker.ca.read_bytes())
    maker.certify(-HOUR, dt.timedelta(seconds=3))
    with serving_tls(master) as server, caller(server, structs.replace(client, ca=later)) as proxy:
        assert echo(proxy, "x") == "x"

        assert log_says(caplog, "shown out: the authority of its certificate has expired (client ana")


def test_a_chain_through_an_authority_between_is_refused_because_nobody_looks_at_that_one_s_dates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Maker(tmp_path / "root", path_length=1)
    between = Maker(tmp_path / "between", above=root)
    leaf = between.issue("client", "ana")
    leaf.cert.write_bytes(leaf.cert.read_bytes() + between.ca.read_bytes())
    both = tmp_path / "both.pem"
    both.write_bytes(root.ca.read_bytes() + between.ca.read_bytes())
    desk = EchoDesk()
    with serving_tls(root.issue("master", "head"), desk) as server:
        with (
            caller(server, structs.replace(leaf, ca=both)) as proxy,
            pytest.raises((Refused, MasterUnavailable)),
        ):
            echo(proxy, "x")

        assert log_says(caplog, f"its certificate was not issued by the authority in {root.ca} itself (client ana")
    assert not desk.calls


def test_a_master_out_of_its_time_is_refused_by_callers(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tls, "_require_valid", lambda *_: None)
    client = maker.issue("client", "ana")
    with serving_tls(maker.issue("master", "old", begins=-2 * HOUR, ends=-HOUR)) as server:
        assert "has expired; renew it there" in refused_of(server, client)
    with serving_tls(maker.issue("master", "new", begins=HOUR, ends=2 * HOUR)) as server:
        assert "is not valid yet; are both hosts' clocks right?" in refused_of(server, client)
    master = maker.issue("master", "head")
    good = tmp_path / "good.pem"
    good.write_bytes(maker.ca.read_bytes())
    maker.certify(-2 * HOUR, -HOUR)
    with serving_tls(structs.replace(master, ca=good)) as server:
        assert "has expired" in refused_of(server, client)


def test_whoever_has_shown_a_good_certificate_is_named_when_the_rest_is_refused(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    ana, eve = maker.issue("client", "ana"), maker.issue("client", "eve")
    maker.revoke(eve)
    with serving_tls(maker.issue("master", "head")) as server:
        refused_of(server, ana, key=Secret(os.urandom(32)))
        refused_of(server, eve)

        assert log_says(caplog, "handshake_wrong_key: origin=127.0.0.1 role=client name=ana ")
        assert log_says(caplog, "handshake_revoked: origin=127.0.0.1 role=client name=eve ")


# --- what ends while it is in use -----------------------------------------------------------------------------------------


def test_revocation_ends_live_connections_and_a_bad_list_changes_nothing(
    maker: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ana, bob = maker.issue("client", "ana"), maker.issue("client", "bob")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving_tls(maker.issue("master", "head")))
        with caller(server, ana) as one, caller(server, bob) as other:
            assert echo(one, "1") == "1"
            assert echo(other, "2") == "2"
            kept = other._tls.connection

            maker.revoke(ana)
            assert log_says(caplog, "shown out: its certificate is revoked (client ana")
            with pytest.raises(Refused, match="it was revoked"):
                echo(one, "1")
            maker.revoked.write_text("garbage")
            assert log_says(caplog, "the last good list stays in force")
            with pytest.raises(Refused, match="it was revoked"):
                echo(one, "1")

            assert echo(other, "2") == "2"
            assert other._tls.connection is kept
    with pytest.raises(Refused, match="no list of revoked certificates"):
        ClusterManager(LOOPBACK, keys=KEYS, desks={}, tls=maker.issue("master", "head")).get_server()
    foreign = Maker(tmp_path / "foreign")
    foreign.revoke()
    maker.revoked.write_bytes(foreign.revoked.read_bytes())
    with pytest.raises(Refused, match="was not signed by the authority"):
        ClusterManager(LOOPBACK, keys=KEYS, desks={}, tls=maker.issue("master", "head")).get_server()


def test_a_live_connection_ends_with_its_certificate(maker: Maker, caplog: pytest.LogCaptureFixture) -> None:
    short = maker.issue("client", "ana", ends=dt.timedelta(seconds=3))
    with serving_tls(maker.issue("master", "head")) as server, caller(server, short) as proxy:
        assert echo(proxy, "x") == "x"

        assert log_says(caplog, "its certificate has expired (client ana")
        with pytest.raises(Refused, match=r"refused this program's certificate .* expired"):
            echo(proxy, "x")

        maker.issue("client", "ana")  # renewed in place
        assert echo(proxy, "again") == "again"


def test_a_role_s_key_is_exchanged_without_a_restart_and_the_old_one_is_worth_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_keys(tmp_path / "master")[Role.CLIENT]
    mine, left_behind = tmp_path / "mine.key", tmp_path / "old.key"
    old, new = path.read_text(), os.urandom(32).hex() + "\n"

    def write(file: Path, text: str) -> None:
        fresh = file.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text(text)
        fresh.replace(file)

    write(mine, old)
    write(left_behind, old)
    desk = EchoDesk()
    server = ClusterManager(LOOPBACK, keys={Role.CLIENT: load_key(path)}, desks={"jobs": desk}).get_server()
    server.start()
    try:
        keys = load_key(mine), load_key(left_behind)
        one, other = (connect_desk("jobs", server.address, Role.CLIENT, key, patience_seconds=3.0) for key in keys)
        with contextlib.closing(one), contextlib.closing(other):
            assert echo(one, "1") == echo(other, "1") == "1"
            write(path, new + old)
            write(mine, new)
            write(path, new)
            assert log_says(caplog, "client key is not in force any more")

            assert echo(one, "2") == "2"
            with pytest.raises(Refused, match="has another client key"):
                echo(other, "2")
    finally:
        server.stop(deadline_seconds=0.0)


def test_callers_refuse_a_master_that_was_revoked_if_they_have_the_list(
    maker: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    master, client, worker = maker.issue("master", "head"), maker.issue("client", "ana"), maker.issue("worker", "w1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ca.pem").write_bytes(maker.ca.read_bytes())
    listless, named = (structs.replace(client, ca=elsewhere / "ca.pem", revoked=path) for path in (None, maker.revoked))
    desk = EchoDesk()
    with serving_tls(master, desk) as server:
        with caller(server, client) as proxy, caller(server, worker, Role.WORKER) as other:
            assert echo(proxy, "x") == "x"
            assert echo_bytes(other, b"x") == b"x"
        heard = len(desk.calls)

        maker.revoke(master)

        said = [refused_of(server, client), refused_of(server, named)]
        with (
            caller(server, worker, Role.WORKER) as other,
            pytest.raises(Refused, match=r"the certificate of the master at .* is revoked \(master head"),
        ):
            echo_bytes(other, b"x")
        assert len(desk.calls) == heard
        with caller(server, listless) as proxy:  # who has no list knows of nothing
            assert echo(proxy, "x") == "x"
        (elsewhere / "revoked.pem").write_bytes(maker.revoked.read_bytes())
        said.append(refused_of(server, listless))

        maker.revoked.unlink()
        said.append(refused_of(server, client))

    assert all("have another one issued there: cluster certs issue master 127.0.0.1" in one for one in said)
    assert "the last good list stays in force" in caplog.text


def test_a_list_that_is_no_good_is_refused_by_a_caller_too(maker: Maker) -> None:
    maker.revoked.write_text("garbage")

    with pytest.raises(Refused, match="no list of revoked certificates in PEM form"):
        Tls(maker.issue("client", "ana"), is_master=False)


def test_a_master_whose_own_certificate_is_revoked_does_not_start(maker: Maker) -> None:
    master = maker.issue("master", "head")
    maker.revoke(master)

    with pytest.raises(Refused, match=r"this master's certificate .* is revoked \(master head.*certs issue master"):
        ClusterManager(LOOPBACK, keys=KEYS, desks={}, tls=master).get_server()


# --- files and addresses --------------------------------------------------------------------------------------------------


def test_each_wrong_file_is_a_sentence_with_what_to_do(maker: Maker, tmp_path: Path) -> None:
    good, other = maker.issue("client", "ana"), Maker(tmp_path / "other").issue("client", "bob")
    loose = maker.issue("client", "loose")
    loose.key.chmod(0o644)
    text = tmp_path / "text"
    text.write_text("hello")
    for files, part in [
        (TlsFiles(tmp_path / "none", good.cert, good.key), "there is no .*none, the authority's certificate"),
        (TlsFiles(good.ca, tmp_path / "none", good.key), "there is no .*none, certificate"),
        (TlsFiles(good.ca, good.cert, tmp_path / "none"), "there is no key .*none"),
        (TlsFiles(good.ca, text, good.key), "is no certificate in PEM form"),
        (TlsFiles(good.ca, good.cert, other.key), "is not the one of certificate"),
        (TlsFiles(good.ca, other.cert, other.key), "was not issued by the authority"),
        (loose, "chmod 600 .*loose"),
    ]:
        with pytest.raises(ClusterError, match=part):
            Tls(files, is_master=False)


def test_tls_is_given_by_name_and_all_of_it(maker: Maker) -> None:
    good = maker.issue("client", "ana")

    assert read_files({"ca": good.ca, "cert": str(good.cert), "key": good.key}) == good
    with pytest.raises(TypeError, match="did you mean 'cert'"):
        read_files({"ca": good.ca, "certs": good.cert, "key": good.key})
    with pytest.raises(TypeError, match="needs key"):
        read_files({"ca": good.ca, "cert": good.cert})


def test_off_this_host_is_refused_without_tls_unless_insecure_is_spelled_out(maker: Maker) -> None:
    anywhere = Address("0.0.0.0", 0)
    with pytest.raises(Refused, match="needs TLS"):
        ClusterManager(anywhere, keys=KEYS, desks={}).get_server()

    for how in ({"insecure": True}, {"tls": maker.issue("master", "head")}):
        server = ClusterManager(anywhere, keys=KEYS, desks={}, **how).get_server()
        server.stop()


def test_nothing_of_tls_is_loaded_without_it() -> None:
    source = "import sys, cluster, cluster.wire.proxy, cluster.wire.server; print('ssl' in sys.modules, 'cryptography' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"


def test_answers_that_another_thread_gives_arrive_whole(maker: Maker) -> None:
    answers = [Told(1), Told(2, printed=("x" * 1000,) * 3000), Told(3, accepted=("a",))]
    with (
        serving_tls(maker.issue("master", "head"), EchoDesk(listen=Giver(*answers))) as server,
        caller(server, maker.issue("client", "ana")) as proxy,
    ):
        heard = [proxy.call("listen", Listen("s", 0, 1.0)) for _ in answers]

        assert heard == answers
        assert echo(proxy, "and on") == "and on"
