"""`ClusterManager`: the standard library's manager, with our server and without what would make callers dangerous."""

from __future__ import annotations

import os
from collections.abc import Mapping
from multiprocessing.managers import BaseManager
from typing import Any, NoReturn, cast

from cluster.wire.address import Address
from cluster.wire.door import Limits
from cluster.wire.keys import Key, Role
from cluster.wire.listener import SERIALIZER
from cluster.wire.server import ClusterServer
from cluster.wire.tls import TlsFiles


class ClusterManager(BaseManager):
    """Desks at an address: `get_server()` binds it. Callers use `connect_desk` and need no manager.

    It has no registry: desks are pinned objects, so two clusters in one process share nothing.
    """

    _Server = ClusterServer

    def __init__(
        self,
        address: Address,
        *,
        keys: Mapping[Role, Key],
        desks: Mapping[str, object],
        limits: Limits | None = None,
        tls: TlsFiles | None = None,
        insecure: bool = False,
    ) -> None:
        """Say what is to be served, and to whom.

        Args:
            address: where.
            keys: of the roles that may connect.
            desks: by the names that the table of calls has for them.
            limits: on connections.
            tls: the master's certificate; then callers must have one too, and may come from other hosts.
            insecure: let them come from other hosts without TLS.
        """
        # A key of its own, never used: without one it would be the process's, which every child inherits.
        super().__init__(cast("Any", address), os.urandom(32), SERIALIZER)
        self._bind_to = address
        self._keys = keys
        self._desks = desks
        self._limits = limits
        self._tls = tls
        self._insecure = insecure

    def get_server(self) -> ClusterServer:
        """A server bound to the address, still to be started. Raises `Refused` if it can't be bound."""
        return ClusterServer(
            self._bind_to,
            keys=self._keys,
            desks=self._desks,
            limits=self._limits,
            tls=self._tls,
            insecure=self._insecure,
        )

    def start(self, *_: object, **__: object) -> NoReturn:
        """Not here: it would fork a process that shares its parent's memory, threads and keys."""
        raise TypeError("a master is a process of its own: `cluster master`, or get_server() in this one")

    def connect(self) -> NoReturn:
        """Not here: a connection has a role."""
        raise TypeError("use cluster.wire.proxy.connect_desk, which says in which role one connects")
