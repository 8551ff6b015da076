"""A call on its way: it was sent without waiting, and its answer is taken in without waiting, or waited for.

While it is under way it alone has the connection, whoever holds it: the thread that began it, or the supervisor's
(`lending`), never two at a time. What can't be done at once (half a frame, a break, an answer that does not come) is left
to `finish`, which does as any call of the proxy does: the rest of the frame under its deadlines, or the same request again
on a new connection.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from cluster.wire import codec
from cluster.wire.codec import Answer

if TYPE_CHECKING:
    from cluster.wire.connection import ClusterConnection
    from cluster.wire.proxy import DeskProxy


class Flight(Struct):
    """One call's."""

    proxy: DeskProxy
    connection: ClusterConnection
    method: str
    request: str
    frame: bytes
    timeout: float
    started: float  # by the monotonic clock
    failure: OSError | EOFError | None = None

    @property
    def is_sent(self) -> bool:
        """The master has, or will have, all of the request without our help."""
        return self.connection.is_all_sent

    @property
    def is_stuck(self) -> bool:
        """Only `finish` can go on."""
        return self.failure is not None or self.connection.has_begun_to_receive

    def take_in(self) -> Answer | None:
        """The answer, if it is here, whole; never blocks."""
        try:
            frame = self.connection.receive_at_once()
            return None if frame is None else codec.open_answer(frame, self.request)
        except (OSError, EOFError) as error:
            self.failure = error
            return None

    def read(self, answer: Answer) -> Any:
        """What the call returned; raises what it raised."""
        return codec.read_answer(answer, self.proxy.desk, self.method)

    def finish(self) -> Any:
        """Wait for the answer as a call does, here and on new connections; the last of them is then this thread's.

        Raises as `DeskProxy.call`.
        """
        return self.read(self.proxy.finish(self))

    def receive(self) -> Answer:
        """Send what is left, and wait for the answer until the call's time is over. Raises what goes wrong."""
        if self.failure is not None:
            raise self.failure
        self.connection.send_left()
        left = self.started + self.timeout - time.monotonic()
        # What has arrived is read, however late: this process may have slept.
        return codec.open_answer(self.connection.receive_frame(max(left, 0.0)), self.request)
