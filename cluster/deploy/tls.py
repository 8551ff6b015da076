"""`master.tls` of a cluster's file: which certificates its parts use, and with `auto` that they are there.

    state/keys/...         state/tls/ca.pem, ca.key, revoked.pem, issued.json
    state/run/NAME/...     state/tls/master-NAME.pem, worker-worker-1.pem, client-local.pem, admin-local.pem, and a .key of each

With `{ca: ..., cert: ..., key: ...}` the master uses those, and this host's workers and commands what lies beside `ca`
under the same names; `cluster certs` makes them, perhaps elsewhere, and here they are only looked for.

Whoever brings the cluster up makes and renews, and so does its keeper each day (renewal.py); the authority's lock keeps them
apart.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.deploy.certificates import DAY_SECONDS
from cluster.deploy.identity import MASTER, MAX_HOSTS, check_hosts
from cluster.errors import Refused
from cluster.wire.address import parse_address
from cluster.wire.keys import Role
from cluster.wire.tls import TlsFiles

if TYPE_CHECKING:
    from cluster.deploy.authority import Authority
    from cluster.deploy.schema import Config

LOG = logging.getLogger("cluster.tls")

# Whose certificate this host's own commands and programs use.
LOCAL = "local"
# A quarter of a certificate's year. The keeper looks each day (renewal.py): so long may it fail to, or be down.
RENEWED_BEFORE_SECONDS = 90 * DAY_SECONDS
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what somebody else bound


def authority_folder(config: Config) -> Path:
    """Where the authority of a cluster is, or would be."""
    tls = config.master.tls
    return Path(config.master.keys).parent / "tls" if isinstance(tls, str) else Path(tls.ca).parent


def files_of(config: Config, role: str, name: str = LOCAL) -> TlsFiles | None:
    """The certificate that a part of the cluster on this host shows, the master's if `role` is that; None: no TLS."""
    tls = config.master.tls
    if tls == "off":
        return None
    folder = authority_folder(config)
    ca = folder / "ca.pem" if isinstance(tls, str) else Path(tls.ca)
    if role == MASTER and not isinstance(tls, str):
        return TlsFiles(ca, Path(tls.cert), Path(tls.key))
    file = f"{role}-{config.name if role == MASTER else name}"
    return TlsFiles(ca, folder / f"{file}.pem", folder / f"{file}.key")


def dialled(address: str) -> str:
    """Where this host's own programs dial a master that listens at an address: `0.0.0.0` is nobody's."""
    parsed = parse_address(address)
    if parsed.host not in _ANYWHERE:
        return address
    host = _ANYWHERE[parsed.host]
    return f"tcp://[{host}]:{parsed.port}" if ":" in host else f"tcp://{host}:{parsed.port}"


def prepare(config: Config) -> None:
    """See to it that every part on this host has its certificate. May be called at any time, by several at once.

    Raises:
        Refused: one is revoked, or missing where nobody makes it here; the sentence says what to run.
        ClusterError: it can't be made.
    """
    tls = config.master.tls
    if tls == "off":
        return
    if not isinstance(tls, str):
        _require_files(config)
        return
    authority = _authority(authority_folder(config))
    if authority.not_after < time.time() + RENEWED_BEFORE_SECONDS:
        LOG.warning(
            "the authority in %s ends soon: make another one, see docs/how-to/certificates.md", authority.folder
        )
    for role, name in _needed(config):
        hosts = hosts_of(config) if role == MASTER else ()
        made = authority.see_to(role, name, hosts=hosts, renewed_before_seconds=RENEWED_BEFORE_SECONDS)
        if made is not None:
            LOG.info("issued role=%s name=%s serial=%s", role, name, made.serial)


def hosts_of(config: Config) -> tuple[str, ...]:
    """What others may dial to reach the master, as far as this host knows, and what the file says besides."""
    address = parse_address(config.master.bind)
    found = [*config.master.hosts, *_LOOPBACK_HOSTS]
    if address.host in _ANYWHERE:
        found += [socket.gethostname(), *_interface_addresses()]
    elif not address.is_loopback:
        found += [address.host, socket.gethostname()]
    elif address.host:
        found.append(address.host)
    return tuple(dict.fromkeys(host for text in found for host in _if_dialled(text)))[:MAX_HOSTS]


def _needed(config: Config) -> Iterator[tuple[str, str]]:
    yield MASTER, config.name
    for worker in config.workers:
        yield Role.WORKER.value, worker.name
    yield Role.CLIENT.value, LOCAL
    yield Role.ADMIN.value, LOCAL


def _require_files(config: Config) -> None:
    for role, name in _needed(config):
        files = files_of(config, role, name)
        for path in () if files is None else (files.ca, files.cert, files.key):
            if not path.exists():
                what = f"{role} {'HOST...' if role == MASTER else name}"
                raise Refused(
                    f"there is no {path}, which {role} {name} needs for TLS; run `cluster certs issue {what} "
                    f"--ca {authority_folder(config)}`, or copy it there"
                )


def _authority(folder: Path) -> Authority:
    from cluster.deploy.authority import Authority

    if not (folder / "ca.pem").exists():
        # Refused: somebody else has just made it, or something else is there; to open it says which.
        with contextlib.suppress(Refused):
            return Authority.create(folder)
    return Authority(folder)


def _interface_addresses() -> Iterator[str]:
    import psutil

    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family in {socket.AF_INET, socket.AF_INET6}:
                yield address.address


def _if_dialled(host: str) -> Sequence[str]:
    """The host as a certificate says it; nothing, if it can't: an address of one link, a hostname that is no name."""
    try:
        return check_hosts([host])
    except Refused:
        return ()
