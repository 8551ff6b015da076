"""Where a master listens: `tcp://HOST:PORT`, `tcp://[::1]:PORT` or `unix://PATH`, read once and strictly."""

from __future__ import annotations

import ipaddress
import logging
import re

from msgspec import Struct

from cluster.errors import Refused

EXAMPLE = "write for instance tcp://127.0.0.1:7601, tcp://[::1]:7601 or unix:///run/lab/master.sock"

# Linux has room for 107 bytes and a NUL in `sun_path`; macOS for 103. The smaller one, so that an address that works
# on one host of a cluster works on all.
MAX_PATH_BYTES = 103
MAX_PORT = 65_535

# No leading hyphen: a host may end up on some command's line.
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})")
_TCP = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


class Address(Struct, frozen=True):
    """A parsed address; `str()` gives its URL back."""

    host: str = ""
    port: int = 0  # 0, where one may listen: any free one
    path: str = ""  # of a UNIX socket; empty for TCP
    # TLS guards what goes there, or somebody has spelled out that nothing shall. Not part of the URL: whoever listens or
    # dials sets it, at the last moment.
    may_leave_host: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can get there. A name other than `localhost` is not asked for: False."""
        return bool(self.path) or self.host == "localhost" or is_loopback_ip(self.host)


def is_loopback_ip(host: str) -> bool:
    """Whether the text is an IP address of this host's loopback interface."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def warn_if_open(log: logging.Logger, address: Address, *, is_guarded: bool) -> None:
    """Have a log say, at every start, that what goes over this address can be read, changed and taken over."""
    if not (is_guarded or address.is_loopback):
        log.warning(
            "insecure: %s is used without TLS; whoever is on the way can read all jobs and results, and run code "
            "on the workers",
            address,
        )


def parse_address(text: str) -> Address:
    """The address that a URL names. Raises `Refused` with what to write instead."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise Refused(f"{text!r} is no address: it has no scheme; {EXAMPLE}")
    if scheme == "tcp":
        return _tcp(text, rest.removesuffix("/"))
    if scheme == "unix":
        return _unix(text, rest)
    raise Refused(f"{text!r} is no address: {scheme!r} is neither tcp nor unix; {EXAMPLE}")


def _tcp(text: str, rest: str) -> Address:
    found = _TCP.fullmatch(rest)
    if found is None:
        if rest.count(":") > 1 and "[" not in rest:
            raise Refused(f"{text!r} is no address: an IPv6 host stands in brackets; {EXAMPLE}")
        raise Refused(f"{text!r} is no address: after tcp:// come a host, a colon and a port; {EXAMPLE}")
    port = int(found["port"])
    if port > MAX_PORT:
        raise Refused(f"{text!r} is no address: port {port} is above {MAX_PORT}; {EXAMPLE}")
    if found["v6"] is not None:
        try:
            return Address(host=str(ipaddress.IPv6Address(found["v6"])), port=port)
        except ValueError:
            raise Refused(f"{text!r} is no address: {found['v6']!r} is no IPv6 address; {EXAMPLE}") from None
    host = found["host"]
    if host in {"", "*"}:
        raise Refused(f"{text!r} names no host; {EXAMPLE}")
    if not _HOST.fullmatch(host):
        raise Refused(f"{text!r} is no address: {host!r} is no host's name; {EXAMPLE}")
    return Address(host=host.lower(), port=port)


def _unix(text: str, path: str) -> Address:
    if not path or path.endswith("/"):
        raise Refused(f"{text!r} is no address: after unix:// comes the path of a socket; {EXAMPLE}")
    if path.startswith("@") or "\0" in path:
        # Anyone on the host may connect to an abstract socket, whatever its name (CVE-2022-42919).
        raise Refused(f"{text!r}: abstract sockets have no file mode to guard them; {EXAMPLE}")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise Refused(
            f"{text!r}: the path has {len(path.encode())} bytes, a UNIX socket's may have {MAX_PATH_BYTES}; "
            "choose a shorter one"
        )
    return Address(path=path)
