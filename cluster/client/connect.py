"""`cluster.connect`: a handle on a cluster that runs elsewhere.

Connecting proves the key and opens a session; from then on the handle survives breaks of the network and restarts of
the master (see `cluster.wire.conversation`). In a forked child the handle connects anew when it is first used there;
the jobs that were submitted before belong to the parent, and `c.job(id)` attaches to them.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from cluster.client.handle import Cluster
from cluster.errors import ClusterError, MasterUnavailable, Refused
from cluster.wire.desks import JobsDesk

if TYPE_CHECKING:
    from cluster.wire.tls import TlsLike

LOG = logging.getLogger("cluster")

ADDRESS_VARIABLE = "CLUSTER_ADDRESS"
KEY_VARIABLE = "CLUSTER_AUTHKEY_FILE"
PATIENCE_SECONDS = 30.0


def connect(
    address: str | None = None,
    authkey_file: str | os.PathLike[str] | None = None,
    *,
    role: str = "client",
    patience_seconds: float = PATIENCE_SECONDS,
    tls: TlsLike | None = None,
    insecure: bool = False,
) -> Cluster:
    """Connect to a running cluster. Closing the handle leaves the cluster, and its jobs, running.

    Args:
        address: `tcp://HOST:PORT` or `unix://PATH`; by default what the environment's CLUSTER_ADDRESS says.
        authkey_file: the key made by the master, `client.key`; by default what CLUSTER_AUTHKEY_FILE says.
        role: whose key it is, "client" or "admin".
        tls: `{"ca": ..., "cert": ..., "key": ...}`, the paths of the authority's certificate, of this program's own and
            of its key; by default what CLUSTER_TLS_CA, CLUSTER_TLS_CERT and CLUSTER_TLS_KEY say. With it the master
            must show a certificate too.
        insecure: go to another host without TLS: whoever is on the way can read, change and take over everything.
        patience_seconds: how long a call goes on trying while the master can't be reached. Futures wait for longer.

    Raises:
        MasterUnavailable: nobody answers at the address.
        ClusterError: address, key, certificate or role can't be what they are; the text says what to write.
    """
    # Here, so that a program with an embedded cluster loads neither addresses nor keys.
    from pathlib import Path

    from cluster.wire.address import parse_address, warn_if_open
    from cluster.wire.keys import Role, load_key
    from cluster.wire.tls import files_from_environment, read_files

    address = address or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise Refused(f"no address to connect to: give one, or set {ADDRESS_VARIABLE}, e.g. tcp://127.0.0.1:7601")
    key_file = authkey_file or os.environ.get(KEY_VARIABLE)
    if not key_file:
        raise Refused(f"no key to connect with: give the path of the master's client.key, or set {KEY_VARIABLE}")
    if role not in {Role.CLIENT, Role.ADMIN}:
        raise Refused(f"a handle connects as 'client' or 'admin', not as {role!r}")
    if patience_seconds < 0:
        raise ValueError(f"patience_seconds must not be negative, which {patience_seconds} is")
    files = read_files(tls) or files_from_environment()
    where, key = parse_address(address), load_key(Path(key_file))
    wanted = Role(role)
    if insecure:
        warn_if_open(LOG, where, is_guarded=files is not None)

    def desk() -> JobsDesk:
        from cluster.wire.remote_jobs import RemoteJobsDesk

        return RemoteJobsDesk(where, key, wanted, patience_seconds, tls=files, insecure=insecure)

    return Cluster(desk(), owns_workers=False, reconnect=desk)


def connect_default() -> Cluster:
    """The cluster that the environment names, for programs without a handle."""
    try:
        return connect()
    except ClusterError as error:
        raise MasterUnavailable(
            f"{ADDRESS_VARIABLE} is {os.environ.get(ADDRESS_VARIABLE)!r}, and: {error}; unset it to use an embedded one"
        ) from error
