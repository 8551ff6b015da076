"""What the master has for each worker until its next poll: orders to stop, and leases that have become durable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cluster.core.records import Fence, Stop, WorkerId
from cluster.wire.messages import Health, Hello

LOG = logging.getLogger("cluster.master")


class Mailbox:
    """One worker's."""

    __slots__ = ("granted", "health", "hello", "stops", "wake")

    def __init__(self, hello: Hello, wake: Callable[[], None]) -> None:
        self.hello = hello
        self.wake = wake
        self.health = Health()
        self.stops: list[Stop] = []
        self.granted: list[Fence] = []


class Mailboxes:
    """All workers' mailboxes."""

    def __init__(self) -> None:
        self._boxes: dict[WorkerId, Mailbox] = {}
        self._lock = threading.Lock()  # guards the lists in the boxes

    def add(self, hello: Hello, wake: Callable[[], None]) -> None:
        """A worker has registered."""
        box = self._boxes.get(hello.worker)
        if box is None:
            self._boxes[hello.worker] = Mailbox(hello, wake)
        else:  # the message came twice: what is in the box is still the worker's
            box.hello, box.wake = hello, wake

    def remove(self, worker: WorkerId) -> None:
        """A worker is gone."""
        self._boxes.pop(worker, None)

    def all(self) -> list[Mailbox]:
        """Every mailbox, in order of registration."""
        return list(self._boxes.values())

    def get(self, worker: WorkerId) -> Mailbox | None:
        """This worker's mailbox."""
        return self._boxes.get(worker)

    def post_stop(self, worker: WorkerId, stop: Stop) -> None:
        """Have a worker stop an attempt. A worker that is gone has stopped everything."""
        box = self._boxes.get(worker)
        if box is not None:
            with self._lock:
                box.stops.append(stop)
            _wake(box)

    def post_granted(self, worker: WorkerId, fence: Fence) -> None:
        """Have a worker take a lease that had to be durable first."""
        box = self._boxes.get(worker)
        if box is not None:
            with self._lock:
                box.granted.append(fence)
            _wake(box)

    def take(self, worker: WorkerId) -> tuple[list[Stop], list[Fence]]:
        """Empty a worker's mailbox."""
        box = self._boxes.get(worker)
        if box is None or not (box.stops or box.granted):
            return [], []
        with self._lock:
            stops, granted = box.stops, box.granted
            box.stops, box.granted = [], []
        return stops, granted

    def wake(self, worker: WorkerId) -> None:
        """Have a worker poll. One that is gone has no need to."""
        box = self._boxes.get(worker)
        if box is not None:
            _wake(box)


def _wake(box: Mailbox) -> None:
    try:
        box.wake()
    except Exception:
        LOG.exception("worker %s: waking it failed", box.hello.worker)
