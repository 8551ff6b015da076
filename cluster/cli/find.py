"""Which cluster a command is about, and which key opens it.

    --address                with --authkey-file, else CLUSTER_AUTHKEY_FILE
    --file                   its `bind`, and a key from its `keys`
    CLUSTER_ADDRESS          as --address
    CLUSTER_FILE             as --file
    ./cluster.yaml           likewise

What is written on the command line goes before what the environment says. Operators' commands need the admin key, and
workers theirs: from a file's `keys`, or, where only the environment names a key, `admin.key` or `worker.key` beside it.

The certificate, if there is TLS, is what `--tls-ca`, `--tls-cert` and `--tls-key` name, else what the file says
(`master.tls`). With an address the environment's CLUSTER_TLS_CA, CLUSTER_TLS_CERT and CLUSTER_TLS_KEY stand for each that is
not written. An operator's certificate will do for clients' commands too: they then connect as admin, with the admin key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.errors import Refused
from cluster.wire.keys import Role

if TYPE_CHECKING:
    from msgspec import Struct

    from cluster.client.handle import Cluster
    from cluster.wire.tls import TlsFiles

TlsCa = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TLS: the authority's certificate, ca.pem.", show_default="CLUSTER_TLS_CA"),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TLS: the certificate to show.", show_default="CLUSTER_TLS_CERT")
]
TlsKey = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TLS: the key of that certificate.", show_default="CLUSTER_TLS_KEY"),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Leave this host without TLS: anybody on the way can join.")]

DEFAULT_FILE = "cluster.yaml"
# A command is typed by somebody who waits for its answer: a master that restarts is back sooner than this.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Where:
    """The options that name a cluster."""

    address: Annotated[
        str | None,
        typer.Option(
            help="The master's address, as in tcp://127.0.0.1:7601 or unix://PATH.", show_default="CLUSTER_ADDRESS"
        ),
    ] = None
    authkey_file: Annotated[
        Path | None,
        typer.Option(help="The key that goes with --address.", show_default="CLUSTER_AUTHKEY_FILE"),
    ] = None
    file: Annotated[
        Path | None,
        typer.Option(
            help="The cluster's configuration, instead of an address.", show_default="CLUSTER_FILE, else ./cluster.yaml"
        ),
    ] = None
    tls_ca: TlsCa = None
    tls_cert: TlsCert = None
    tls_key: TlsKey = None
    insecure: Insecure = False


@dataclass(frozen=True, slots=True)
class Found:
    """An address, and the file of the key for one role there."""

    address: str
    key: Path
    tls: TlsFiles | None = None
    insecure: bool = False


def locate(where: Where, role: Role) -> Found:
    """The cluster that is meant. Raises `Refused` if none is, or no key goes with it."""
    file = _file_of(where)
    if file is None:
        address = where.address or os.environ["CLUSTER_ADDRESS"]
        return Found(address, _key_for_address(where, role), certificate(where), where.insecure)
    return _from_file(file, where, role)


def certificate(where: Where) -> TlsFiles | None:
    """The certificate that is named; None: there is no TLS, or a file says which. Raises `Refused` for half of one."""
    from cluster.wire.tls import files_from, files_from_environment, named_by_environment

    named = {"ca": where.tls_ca, "cert": where.tls_cert, "key": where.tls_key}
    # What the environment names goes with the address that it names, not with a file.
    if _file_of(where):
        return files_from(named, "--tls-{}")
    if not any(named.values()):
        return files_from_environment()
    around = named_by_environment()
    return files_from({part: path or around[part] for part, path in named.items()}, "--tls-{}")


def _file_of(where: Where) -> Path | None:
    """The configuration that is meant; None: an address is."""
    if where.address and where.file:
        raise Refused("--address and --file both name a cluster; write the one that you mean")
    if where.address or (not where.file and os.environ.get("CLUSTER_ADDRESS")):
        return None
    if found := _config_file(where.file):
        return found
    raise Refused(
        f"no cluster is named, and there is no {DEFAULT_FILE} here; write --file FILE or --address tcp://HOST:PORT, "
        f"or set CLUSTER_FILE or CLUSTER_ADDRESS"
    )


def config_file(given: Path | None) -> Path:
    """The configuration that is meant, for what an address is not enough for. Raises `Refused` if there is none."""
    if found := _config_file(given):
        return found
    address = os.environ.get("CLUSTER_ADDRESS")
    raise Refused(
        f"no configuration is named, and there is no {DEFAULT_FILE} here; name the cluster's YAML file, or set CLUSTER_FILE"
        + (f" (CLUSTER_ADDRESS is {address}; of a cluster at an address, see `cluster worker list`)" if address else "")
    )


def _config_file(given: Path | None) -> Path | None:
    if given is not None:
        return given
    if named := os.environ.get("CLUSTER_FILE"):
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def find_cluster(where: Where) -> Cluster:
    """A connected handle. Tests put an embedded cluster in its place."""
    from cluster.client.connect import connect

    role = _role_of(certificate(where))
    found = locate(where, role)
    return connect(
        found.address,
        found.key,
        role=role,
        patience_seconds=PATIENCE_SECONDS,
        tls=found.tls,
        insecure=found.insecure,
    )


def _role_of(tls: TlsFiles | None) -> Role:
    """As what a client's command connects: an operator may do all that a client may, and has one certificate."""
    if tls is None:
        return Role.CLIENT
    from cluster.wire.tls import own_identity

    return Role.ADMIN if own_identity(tls).role == Role.ADMIN else Role.CLIENT


def ask_admin(where: Where, method: str, said: Struct) -> Any:
    """One call of the admin desk."""
    from cluster.wire.address import parse_address
    from cluster.wire.keys import load_key
    from cluster.wire.proxy import connect_desk

    found = locate(where, Role.ADMIN)
    desk = connect_desk(
        "admin",
        parse_address(found.address),
        Role.ADMIN,
        load_key(found.key),
        patience_seconds=PATIENCE_SECONDS,
        tls=found.tls,
        insecure=found.insecure,
    )
    try:
        return desk.call(method, said)
    finally:
        desk.close()


def _key_for_address(where: Where, role: Role) -> Path:
    if where.authkey_file:
        return where.authkey_file
    if named := os.environ.get("CLUSTER_AUTHKEY_FILE"):
        # The environment names a client's key as a rule; the master made the others beside it.
        beside = Path(named).with_name(f"{role}.key")
        return beside if role is not Role.CLIENT and beside.exists() else Path(named)
    raise Refused(
        f"an address needs a key: write --authkey-file KEYS/{role}.key, or set CLUSTER_AUTHKEY_FILE; "
        f"KEYS is the folder that the master made its keys in"
    )


def _from_file(file: Path, where: Where, role: Role) -> Found:
    from cluster.deploy.commands import key_file
    from cluster.deploy.lifecycle import address_of
    from cluster.deploy.load import load_config
    from cluster.deploy.tls import files_of

    config = load_config(file)
    return Found(
        address_of(config),
        where.authkey_file or key_file(config, role),
        certificate(where) or files_of(config, role),
        where.insecure or config.master.insecure,
    )
