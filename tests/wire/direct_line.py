"""A proxy without a network: calls go straight to a served desk, and break as a test wants them to."""

from __future__ import annotations

import threading
from typing import Any

from msgspec import Struct

from cluster.errors import MasterUnavailable
from cluster.wire.keys import Role
from cluster.wire.peer import Peer

PEER = Peer(1, Role.WORKER, "here")


class DirectLine:
    """As `cluster.wire.proxy.DeskProxy`. `desk` may be exchanged for another master's, or taken away."""

    def __init__(self, desk: object | None) -> None:
        self.desk = desk
        self.losing: dict[str, int] = {}  # how many answers of a method get lost yet
        self.calls: list[tuple[str, Struct]] = []
        self.lost = 0
        self._changed = threading.Condition()

    def call(self, method: str, said: Struct, *, timeout: float = 30.0) -> Any:
        desk = self.desk
        with self._changed:
            self.calls.append((method, said))
            self._changed.notify_all()
        if desk is None:
            raise MasterUnavailable("nobody answers")
        answer = getattr(desk, method)(PEER, said)
        with self._changed:
            if self.losing.get(method, 0) > 0:
                self.losing[method] -= 1
                self.lost += 1
                raise MasterUnavailable("the connection broke before the answer came")
        if self.desk is not desk:
            raise MasterUnavailable("the master died")
        return answer

    def close(self) -> None:
        self.desk = None

    def said(self, method: str) -> list[Any]:
        with self._changed:
            return [said for name, said in self.calls if name == method]

    def wait_called(self, method: str, count: int = 1, seconds: float = 10.0) -> None:
        """Wait until a method was called so often."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len([name for name, _ in self.calls if name == method]) >= count, seconds
            )
        assert enough, f"{method} was called {len(self.said(method))} times in {seconds} s"
