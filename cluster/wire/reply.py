"""How a long poll is answered before its own thread runs again.

    connection's thread ── listen(peer, said, reply) ──► waits in the desk            ... ──► the rest, and the next frame
    whoever has what it waits for ───────────────────────► reply.give(answer) ──► socket ─┘

To wake a thread, which then sends the answer, takes longer than all else that is done for a small job. So the thread that
has an answer sends it, as far as the kernel takes it at once: it never waits for a peer. The connection's thread, which
sleeps meanwhile and touches nothing, sees to what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.wire import codec

if TYPE_CHECKING:
    from cluster.wire.codec import Request
    from cluster.wire.connection import ClusterConnection

# An answer with more payload is left to the connection's own thread: packing it takes time that others wait for.
MAX_GIVEN_BYTES = 16 * 1024


class Reply:
    """One call's."""

    def __init__(self, connection: ClusterConnection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self.is_given = False

    def give(self, answer: object) -> None:
        """Send the answer, once, from another thread than the call's, which waits until this returns. Never blocks."""
        self._connection.send_at_once(codec.encode_answer(self._request, answer))
        self.is_given = True

    def finish(self) -> None:
        """In the call's own thread: send what was not taken at once. Raises what went wrong, here or in `give`."""
        self._connection.send_left()
