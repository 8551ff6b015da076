"""Who a certificate may name: a role and a name, and for a master the hosts it answers for.

    OU=worker, CN=node1, cluster://worker/node1        what the wire reads is the URI

The name becomes part of a file's name, of a URI and of log lines, so it is letters, digits and three signs, and begins
with a letter or digit: nothing that could be an option of some command, a path, or a second line.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from cluster.errors import Refused
from cluster.wire.keys import Role

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MASTER = "master"
ROLES = (MASTER, *(role.value for role in Role))

MAX_HOSTS = 100
_MAX_HOST_CHARACTERS = 253  # RFC 1035, without the final dot
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def check_role(role: str) -> str:
    """The role. Raises `Refused` with those that there are."""
    if role not in ROLES:
        raise Refused(f"no role is called {role!r}; write one of {', '.join(ROLES)}")
    return role


def check_name(name: str) -> str:
    """The name. Raises `Refused` with what one is made of."""
    if not re.fullmatch(NAME, name):
        raise Refused(
            f"{name!r} can't be a name: write 1 to 64 letters, digits, '.', '_' and '-', the first one a letter or digit"
        )
    return name


def check_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Names and addresses as a certificate says them, each once. Raises `Refused` for what nobody can dial."""
    read = tuple(dict.fromkeys(_host(host) for host in hosts))
    if not read:
        raise Refused("a master's certificate needs the hosts that others dial, as in head, head.lab or 192.0.2.7")
    if len(read) > MAX_HOSTS:
        raise Refused(f"{len(read)} hosts are too many for one certificate, which names {MAX_HOSTS} at most")
    return read


def is_ip(host: str) -> bool:
    """Whether a host is told by its address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def name_of_master(hosts: Sequence[str]) -> str:
    """What a master is called that is given no name: by its first host."""
    if not re.fullmatch(NAME, hosts[0]):
        raise Refused(f"a certificate can't be called {hosts[0]!r}; give it a name, as in --name head")
    return hosts[0]


def uri_of(role: str, name: str) -> str:
    """The identity in one text."""
    return f"cluster://{role}/{name}"


def _host(text: str) -> str:
    host = text.strip("[]").lower() if text.startswith("[") and text.endswith("]") else text.lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _dns_name(text, host)
    if address.is_unspecified or "%" in host:
        raise Refused(f"{text!r} is no address that others can dial; write the host's own, as in 192.0.2.7")
    return str(address)


def _dns_name(text: str, host: str) -> str:
    labels = host.split(".")
    # A last label of digits: an address with a typing error, which a resolver would not take for a name either.
    is_name = len(host) <= _MAX_HOST_CHARACTERS and not labels[-1].isdigit()
    if not is_name or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused(f"{text!r} is no host's name or address; write it as in head.lab, 192.0.2.7 or ::1")
    return host
