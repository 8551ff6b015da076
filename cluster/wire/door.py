"""Who may be inside: bounds on all connections, on those of one address and of one identity, and on strangers.

    accept ──admit──► stranger ──recognise──► guest ──leave──►
                         │
                         └─ one is shown out when one stranger too many is at the door

A stranger costs a thread and a descriptor for as long as the handshake may take. So there are few of them, and when there
are too many, the address with most of them loses the one that has dawdled longest: three hundred silent connections
delay nobody who knows a key, since the handshake of an honest caller takes milliseconds, and nobody at all at another
address. What is full of recognised connections refuses instead. An identity (see `peer.py`) has a bound of its own below
that of its address, so that a client that opens connections without end leaves room for the workers and operators beside
it; a connection has one call in hand, so these are the bounds on calls in flight too.

The accepting thread admits, each connection's own thread recognises and leaves, the stopping one empties; one lock
guards it all, and nothing under it blocks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from enum import Enum

from msgspec import Struct

from cluster.wire.connection import ClusterConnection


class Limits(Struct, frozen=True, kw_only=True):
    """What a server takes at most. The defaults have room for a thousand workers, two connections each, on one host."""

    max_connections: int = 4096
    max_connections_per_host: int = 3072
    max_connections_per_identity: int = 2304
    max_strangers: int = 64
    handshake_seconds: float = 10.0
    # Of long frames and answers on their way; a single one may have 256 MiB.
    max_bytes_in_flight: int = 1 << 30
    max_bytes_in_flight_per_identity: int = 1 << 29
    max_heavy_calls_per_identity: int = 4


class Entry(Enum):
    """What becomes of a stranger whose handshake has ended well."""

    INSIDE = 1
    SHOWN_OUT = 2  # too late: others needed the room
    CROWDED = 3  # there are as many of its identity as may be; it remains a stranger


class Door:
    """The connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._hosts: Counter[str] = Counter()
        self._identities: Counter[str] = Counter()
        # In order of arrival. A connection is in exactly one of them, or shown out and about to leave.
        self._strangers: dict[ClusterConnection, None] = {}
        self._guests: dict[ClusterConnection, str] = {}  # with their identities
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
                dawdler = self._dawdler()
                del self._strangers[dawdler]
                self._shown_out.add(dawdler)
                dawdler.interrupt()  # its own thread then leaves
            self._strangers[connection] = None
            self._hosts[connection.origin] += 1
            self._changed.notify_all()
            return True

    def recognise(self, connection: ClusterConnection, identity: str) -> Entry:
        """The handshake has ended well, and told who it is."""
        with self._changed:
            if connection not in self._strangers:
                return Entry.SHOWN_OUT
            if self._identities[identity] >= self._limits.max_connections_per_identity:
                return Entry.CROWDED
            del self._strangers[connection]
            self._guests[connection] = identity
            self._identities[identity] += 1
            return Entry.INSIDE

    def was_shown_out(self, connection: ClusterConnection) -> bool:
        """Whether it had to make room for others, before it leaves."""
        with self._changed:
            return connection in self._shown_out

    def leave(self, connection: ClusterConnection) -> None:
        """A connection's thread is about to end."""
        with self._changed:
            self._strangers.pop(connection, None)
            identity = self._guests.pop(connection, None)
            if identity is not None:
                _count_down(self._identities, identity)
            self._shown_out.discard(connection)
            _count_down(self._hosts, connection.origin)
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

    def _dawdler(self) -> ClusterConnection:
        """The oldest stranger of the address that has most of them."""
        crowd = Counter(stranger.origin for stranger in self._strangers).most_common(1)[0][0]
        return next(stranger for stranger in self._strangers if stranger.origin == crowd)


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]  # or the names of all who ever came would remain
