from __future__ import annotations

import contextlib
import socket
import stat
import subprocess
import sys
import threading
import time
from multiprocessing import managers
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.wire import listener as module
from cluster.wire.address import Address, parse_address
from cluster.wire.listener import ClusterListener, dial
from tests.wire.rig import LOOPBACK, WAIT_SECONDS, descriptors


def greet_over(address: Address) -> tuple[bytes, str]:
    """Send a frame through a fresh listener; what arrived, and where from."""
    listener = ClusterListener(address)
    with (
        contextlib.closing(listener),
        contextlib.closing(dial(listener.address)) as here,
        contextlib.closing(listener.accept()) as there,
    ):
        here.send_frame(b"hello")
        return bytes(there.receive_frame(WAIT_SECONDS)), there.origin


@pytest.mark.parametrize(
    ("text", "origin"),
    [("tcp://127.0.0.1:0", "127.0.0.1"), ("tcp://[::1]:0", "::1"), ("unix://{path}", "unix")],
)
def test_ipv4_ipv6_and_unix_sockets_work_alike(tmp_path: Path, text: str, origin: str) -> None:  # row A32
    address = parse_address(text.format(path=tmp_path / "s"))

    assert greet_over(address) == (b"hello", origin)


def test_a_host_whose_first_address_is_dead_is_reached_by_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = ClusterListener(LOOPBACK)
    port = listener.address.port
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)

    with contextlib.closing(listener), contextlib.closing(dial(Address("localhost", port))) as connection:
        assert connection.origin == "127.0.0.1"


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:7601"])
def test_off_this_host_is_refused_on_both_sides_without_tls(text: str) -> None:  # row A11
    address = parse_address(text)

    for attempt in (ClusterListener, dial):
        with pytest.raises(Refused, match=r"leads off this host: .*needs TLS.*--tls-ca.*SSH tunnel.*--insecure"):
            attempt(address)


def test_a_name_that_leads_off_this_host_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:  # row A11
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 7601))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    with pytest.raises(Refused, match=r"to 192\.0\.2\.1"):
        dial(Address("head", 7601))


def test_a_host_that_is_not_found_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with pytest.raises(ConnectionError, match="'head' is not found"):
        dial(Address("head", 7601))


def test_a_port_in_use_is_refused_in_one_sentence() -> None:
    with (
        contextlib.closing(ClusterListener(LOOPBACK)) as listener,
        pytest.raises(Refused, match="in use by another program"),
    ):
        ClusterListener(listener.address)


def test_a_port_is_free_again_at_once() -> None:
    listener = ClusterListener(LOOPBACK)
    with contextlib.closing(dial(listener.address)), contextlib.closing(listener.accept()) as accepted:
        accepted.close()  # this side closes first, so that the kernel keeps the port in TIME_WAIT
        listener.close()

        again = ClusterListener(listener.address)

    again.close()


def test_a_unix_socket_is_its_owner_s_alone_and_goes_with_the_listener(tmp_path: Path) -> None:  # row A37
    path = tmp_path / "s"
    listener = ClusterListener(Address(path=str(path)))
    mode = stat.S_IMODE(path.stat().st_mode)

    listener.close()

    assert mode == 0o600
    assert not path.exists()


def test_a_unix_socket_that_a_killed_master_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = f"import socket, os; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen(); os._exit(9)"
    subprocess.run([sys.executable, "-c", script], check=False, timeout=WAIT_SECONDS)
    assert path.exists()

    assert greet_over(Address(path=str(path))) == (b"hello", "unix")


def test_a_unix_socket_where_somebody_listens_and_a_plain_file_are_left_alone(tmp_path: Path) -> None:
    path, file = tmp_path / "s", tmp_path / "f"
    file.write_text("mine")

    with contextlib.closing(ClusterListener(Address(path=str(path)))):
        with pytest.raises(Refused, match="in use"):
            ClusterListener(Address(path=str(path)))
        assert path.exists()
    with pytest.raises(Refused, match="no socket"):
        ClusterListener(Address(path=str(file)))

    assert file.read_text() == "mine"


def test_a_socket_that_another_has_put_in_our_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = ClusterListener(Address(path=str(path)))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))

        listener.close()

        assert path.exists()


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="can't listen at unix://"):
        ClusterListener(Address(path=str(tmp_path / "none" / "s")))


def test_nobody_there_is_found_out_at_once() -> None:
    listener = ClusterListener(LOOPBACK)
    listener.close()
    started = time.monotonic()

    with pytest.raises(ConnectionRefusedError):
        dial(listener.address)

    assert time.monotonic() - started < 5


def test_a_socket_that_connected_to_itself_is_not_taken_for_a_master(monkeypatch: pytest.MonkeyPatch) -> None:
    class Selfish(socket.socket):
        def connect(self, target: Any) -> None:
            self.bind(target)  # as the kernel does, once in some 28,000 attempts
            super().connect(target)

    with contextlib.closing(ClusterListener(LOOPBACK)) as listener:
        free = listener.address
    monkeypatch.setattr(socket, "socket", Selfish)

    with pytest.raises(ConnectionRefusedError, match="nobody listens"):
        dial(free)


def test_a_waiting_accept_is_woken_for_good() -> None:
    listener = ClusterListener(LOOPBACK)
    late = threading.Timer(0.05, listener.wake)
    late.start()

    for _ in range(2):
        with pytest.raises(EOFError):
            listener.accept()

    late.join()
    listener.close()


def test_a_storm_of_reconnecting_callers_finds_room_in_the_backlog() -> None:  # row A40
    with contextlib.closing(ClusterListener(LOOPBACK, backlog=16)) as listener, contextlib.ExitStack() as stack:
        for _ in range(200):  # none of them accepted yet; the library's backlog holds 16
            stack.enter_context(contextlib.closing(dial(listener.address, timeout=1)))

    assert module._BACKLOG >= 1024


def test_the_transport_is_known_by_its_name_and_takes_no_bare_key() -> None:  # row A30
    known: dict[str, object] = managers.listener_client  # type: ignore[attr-defined]

    assert known["cluster"] == (ClusterListener, dial)
    with pytest.raises(TypeError, match="role"):
        dial(LOOPBACK, authkey=b"x" * 32)


def test_no_descriptor_is_left_by_what_fails(tmp_path: Path) -> None:
    before = descriptors()

    with contextlib.closing(ClusterListener(LOOPBACK)) as listener:
        for _ in range(3):
            with pytest.raises(Refused):
                ClusterListener(listener.address)
    for _ in range(3):
        with pytest.raises(OSError, match=r"refused|No such file"):
            dial(listener.address)
        with pytest.raises(OSError, match="No such file"):
            dial(Address(path=str(tmp_path / "none")))

    assert descriptors() == before
