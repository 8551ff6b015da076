"""The admin desk: what operators may ask and order. `ping` alone is for everyone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.master.draining import set_draining
from cluster.wire import calls
from cluster.wire.calls import MasterInfo
from cluster.wire.peer import Peer

if TYPE_CHECKING:
    from cluster.master.master import Master

DISTRIBUTION = "cluster-kit"


class ServedAdminDesk:
    """One method for each entry of the admin desk in `cluster.wire.calls.CALLS`."""

    def __init__(self, master: Master, on_shutdown: Callable[[bool], None]) -> None:
        """Make one.

        Args:
            master: the master.
            on_shutdown: called, with True for a drain, when an operator wants the master stopped; must not block.
        """
        self._master = master
        self._on_shutdown = on_shutdown
        self._started = master.clock.wall()
        self._version = _version()  # now: to look it up imports what reads it
        self.address = ""  # known once the server is bound

    def ping(self, _peer: Peer, _said: calls.Nothing) -> MasterInfo:
        """Who answers here."""
        master = self._master
        return MasterInfo(
            pid=os.getpid(),
            address=self.address,
            store=master.store.url,
            epoch=master.epoch,
            version=self._version,
            python=platform.python_version(),
            started=self._started,
            is_draining=master.is_draining,
            store_trouble=master.board.refusing,
        )

    def drain(self, _peer: Peer, said: calls.WorkerArgs) -> None:
        """Lease a worker, by id or name, no more jobs. Raises `Refused` if there is none of that name."""
        set_draining(self._master, said.worker, draining=True)

    def undrain(self, _peer: Peer, said: calls.WorkerArgs) -> None:
        """Undo `drain`."""
        set_draining(self._master, said.worker, draining=False)

    def shutdown(self, _peer: Peer, said: calls.Shutdown) -> None:
        """Stop the master; returns while that begins."""
        self._on_shutdown(said.drain)


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return "unknown"
