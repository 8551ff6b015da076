"""Who speaks on a connection, as the handshake proved it."""

from __future__ import annotations

from msgspec import Struct

from cluster.wire.keys import Role


class Peer(Struct, frozen=True):
    """One authenticated connection. A process has one per thread and desk, so a peer is no session and no worker."""

    number: int  # grows with each connection of a server, and never repeats within it
    role: Role
    address: str  # where it comes from, for logs; over a UNIX socket: "unix"
    name: str = ""  # as its certificate says; empty without TLS: then nobody has proved a name
    serial: str = ""  # the certificate's, in hexadecimal

    @property
    def identity(self) -> str:
        """Whose share of the server's limits this connection uses.

        That of the name which its certificate proves; without one, those of one role and address have one together.
        """
        return f"{self.role.value}/{self.name}" if self.name else f"{self.role.value}@{self.address}"
