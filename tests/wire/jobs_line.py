"""A network for the jobs desk without a network: calls go through the codec to a served desk, and break as told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from cluster.errors import MasterUnavailable
from cluster.master.served_jobs import ServedJobsDesk
from cluster.wire import calls, codec
from cluster.wire.calls import CALLS
from cluster.wire.faults import fault_of
from cluster.wire.keys import Role
from cluster.wire.peer import Peer

PEER = Peer(1, Role.CLIENT, "here")
DEADLINE_SECONDS = 10.0
SLICE_SECONDS = 0.02


class JobsLine:
    """Dials callers (as `DeskProxy`) to whichever master is there. `served` None: nobody answers."""

    def __init__(self, served: ServedJobsDesk | None) -> None:
        self.served = served
        self.losing_answers: dict[str, int] = {}  # how many answers of a method get lost yet
        self.losing_calls: dict[str, int] = {}  # how many calls of a method do not even arrive
        self.calls: list[tuple[str, Struct]] = []
        self.dialled = 0
        self._changed = threading.Condition()

    def dial(self, _patience_seconds: float) -> LineCaller:
        self.dialled += 1
        return LineCaller(self)

    def said(self, method: str) -> list[Any]:
        with self._changed:
            return [said for name, said in self.calls if name == method]

    def wait_said(self, method: str, count: int = 1) -> list[Any]:
        with self._changed:
            found = self._changed.wait_for(
                lambda: len([1 for name, _ in self.calls if name == method]) >= count, DEADLINE_SECONDS
            )
        assert found, f"{method} was called {len(self.said(method))} times"
        return self.said(method)

    def carry(self, method: str, said: Struct, is_closed: Callable[[], bool]) -> Any:
        served = self.served
        with self._changed:
            if served is None or self._is_lost(self.losing_calls, method):
                raise MasterUnavailable("nobody answers")
            self.calls.append((method, said))
            self._changed.notify_all()
        request = codec.open_request(memoryview(codec.encode_request("r1", "jobs", method, said)))
        once = {"request": f"request-{len(self.calls)}"} if CALLS["jobs", method].is_once else {}
        try:
            arguments = codec.read_arguments(request)
            if method == "listen":
                body = self._listen(served, arguments, is_closed)
            else:
                body = getattr(served, method)(PEER, arguments, **once)
            answer = codec.encode_answer(request, body)
        except Exception as error:
            answer = codec.encode_fault(request, fault_of(error, method))
        with self._changed:
            if served is not self.served or self._is_lost(self.losing_answers, method):
                raise MasterUnavailable("the connection broke before the answer came")
        return codec.read_answer(codec.open_answer(memoryview(answer), "r1"), "jobs", method)

    def _listen(self, served: ServedJobsDesk, said: calls.Listen, is_closed: Callable[[], bool]) -> calls.Told:
        """In slices, so that closing the caller breaks it off."""
        until = time.monotonic() + said.timeout
        while True:
            told = served.listen(PEER, calls.Listen(said.session, said.seen, min(said.timeout, SLICE_SECONDS)))
            if told.mark != said.seen or told.is_gone or told.progress or told.printed or time.monotonic() >= until:
                return told
            if is_closed():
                raise MasterUnavailable("broken off")

    def _is_lost(self, losing: dict[str, int], method: str) -> bool:
        left = losing.get(method, 0)
        losing[method] = max(0, left - 1)
        return left > 0


class LineCaller:
    """One proxy."""

    def __init__(self, line: JobsLine) -> None:
        self._line = line
        self.is_closed = False

    def call(self, method: str, said: Struct, *, timeout: float = 30.0) -> Any:
        if self.is_closed:
            raise MasterUnavailable("closed")
        return self._line.carry(method, said, lambda: self.is_closed)

    def close(self) -> None:
        self.is_closed = True
