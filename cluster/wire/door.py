"""Who may be inside: a bound on all connections, on those of one host, and on those that have not said who they are.

    accept ──admit──► stranger ──recognise──► guest ──leave──►
                         │
                         └─ the oldest is shown out when one stranger too many is at the door

A stranger costs a thread and a descriptor for as long as the handshake may take. So there are few of them, and who has
dawdled longest makes room: three hundred silent connections delay nobody who knows a key, since the handshake of an
honest caller takes milliseconds. What is full of recognised connections refuses instead.

The accepting thread admits, each connection's own thread recognises and leaves, the stopping one empties; one lock
guards it all, and nothing under it blocks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

from msgspec import Struct

from cluster.wire.connection import ClusterConnection


class Limits(Struct, frozen=True):
    """How many connections a server has at most, and how long a handshake may take."""

    max_connections: int = 2048
    max_connections_per_host: int = 1024
    max_strangers: int = 64
    handshake_seconds: float = 10.0


class Door:
    """The connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._hosts: Counter[str] = Counter()
        # In order of arrival. A connection is in exactly one of them, or shown out and about to leave.
        self._strangers: dict[ClusterConnection, None] = {}
        self._guests: dict[ClusterConnection, None] = {}
        self._shown_out: set[ClusterConnection] = set()

    def admit(self, connection: ClusterConnection) -> bool:
        """Let a stranger in, or say that there is no room."""
        with self._changed:
            if (
                len(self) >= self._limits.max_connections
                or self._hosts[connection.origin] >= self._limits.max_connections_per_host
            ):
                return False
            if len(self._strangers) >= self._limits.max_strangers:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                self._shown_out.add(oldest)
                oldest.interrupt()  # its own thread then leaves
            self._strangers[connection] = None
            self._hosts[connection.origin] += 1
            self._changed.notify_all()
            return True

    def recognise(self, connection: ClusterConnection) -> bool:
        """The handshake has ended well. False: too late, it was shown out."""
        with self._changed:
            if connection not in self._strangers:
                return False
            del self._strangers[connection]
            self._guests[connection] = None
            return True

    def leave(self, connection: ClusterConnection) -> None:
        """A connection's thread is about to end."""
        with self._changed:
            self._strangers.pop(connection, None)
            self._guests.pop(connection, None)
            self._shown_out.discard(connection)
            self._hosts[connection.origin] -= 1
            if not self._hosts[connection.origin]:
                del self._hosts[connection.origin]
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._guests) + len(self._shown_out)

    def empty(self, deadline_seconds: float) -> bool:
        """Have every call in hand finished, and every connection closed, by force after the deadline.

        True if all calls were finished.
        """
        deadline = time.monotonic() + deadline_seconds
        with self._changed:
            for stranger in self._strangers:
                stranger.interrupt()
            for guest in self._guests:
                guest.stop_receiving()
            in_time = self._changed.wait_for(lambda: not len(self), max(deadline - time.monotonic(), 0))
            for guest in self._guests:
                guest.interrupt()
        return in_time

    def wait_empty(self, timeout: float) -> bool:
        """Whether every connection's thread has left."""
        with self._changed:
            return self._changed.wait_for(lambda: not len(self), timeout)
