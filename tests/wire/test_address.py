from __future__ import annotations

import pytest

from cluster.errors import Refused
from cluster.wire.address import MAX_PATH_BYTES, Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7601", Address("127.0.0.1", 7601)),
        ("tcp://Head:7601", Address("head", 7601)),
        (" tcp://localhost:0/ ", Address("localhost", 0)),
        ("tcp://[::1]:7601", Address("::1", 7601)),
        ("tcp://[0:0:0:0:0:0:0:1]:65535", Address("::1", 65535)),
        ("unix:///run/lab.sock", Address(path="/run/lab.sock")),
        ("unix://state/lab.sock", Address(path="state/lab.sock")),
    ],
)
def test_an_address_is_read_and_its_text_reads_as_the_same_address(text: str, address: Address) -> None:
    found = parse_address(text)

    assert found == address
    assert parse_address(str(found)) == address


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no scheme"),
        ("127.0.0.1:7601", "no scheme"),
        ("http://127.0.0.1:7601", "'http' is neither tcp nor unix"),
        ("tcp://127.0.0.1", "a host, a colon and a port"),
        ("tcp://127.0.0.1:", "a host, a colon and a port"),
        ("tcp://127.0.0.1:port", "a host, a colon and a port"),
        ("tcp://ana@head:7601", "no host's name"),
        ("tcp://head:7601/x", "a host, a colon and a port"),
        ("tcp://head:65536", "above 65535"),
        ("tcp://::1:7601", "in brackets"),
        ("tcp://[::x]:7601", "no IPv6 address"),
        ("tcp://:7601", "names no host"),
        ("tcp://*:7601", "names no host"),
        ("tcp://-oProxyCommand=x:7601", "no host's name"),
        ("unix://", "the path of a socket"),
        ("unix:///run/", "the path of a socket"),
        ("unix:///" + "x" * MAX_PATH_BYTES, "shorter"),
    ],
)
def test_a_bad_address_is_refused_with_what_is_wrong_and_an_example(text: str, part: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_address(text)

    assert part in str(refused.value)
    assert "shorter" in part or "tcp://127.0.0.1:7601" in str(refused.value)


def test_an_abstract_socket_is_refused_because_no_file_mode_guards_it() -> None:  # row A37
    with pytest.raises(Refused, match="abstract"):
        parse_address("unix://@lab")


@pytest.mark.parametrize(
    "text", ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1", "unix:///x", "tcp://localhost:1"]
)
def test_what_stays_on_this_host_is_loopback(text: str) -> None:
    assert parse_address(text).is_loopback


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:1", "tcp://10.0.0.1:1", "tcp://[::]:1", "tcp://head:1"])
def test_what_may_leave_this_host_is_not(text: str) -> None:
    assert not parse_address(text).is_loopback


def test_an_ipv4_address_in_ipv6_clothes_is_seen_through() -> None:
    assert Address("::ffff:127.0.0.1", 1).is_loopback
    assert not Address("::ffff:10.0.0.1", 1).is_loopback
