"""Waiting until a decision is on the disk, for calls that are durable on return."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cluster.errors import MasterUnavailable

if TYPE_CHECKING:
    from cluster.master.master import Master

# A disk that takes longer is not well.
DURABLE_SECONDS = 30.0
# So long a failing store may take to come back before whoever waits hears why.
LOOK_SECONDS = 1.0


def wait_durable(master: Master, durable: threading.Event, what: str) -> None:
    """Wait until the commit that sets `durable`. Raises `MasterUnavailable`: it is decided, and written later.

    A store that fails is told within about a second, with its reason, for it may stay so for hours.
    """
    deadline = time.monotonic() + DURABLE_SECONDS
    while not durable.wait(max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))):
        reason = master.board.refusing
        if reason:
            raise MasterUnavailable(
                f"{what} is decided, but not on the disk: the store fails ({reason}); it is written as soon as that is over"
            )
        if time.monotonic() >= deadline:
            raise MasterUnavailable(
                f"{what} is decided, but the store has not confirmed it in {DURABLE_SECONDS:g} s; see the master's log"
            )
