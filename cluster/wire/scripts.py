"""A side of the protocol as a script: what it says and waits for, without who carries that out.

A script is a generator. It yields `Ask`, and is sent the answer (or thrown what the desk raised), or `Rest`, and is
resumed once there is a reason to go on. Between two yields it holds no lock. So the same protocol runs in a thread, with
a proxy and a condition (`perform`), and in the simulator, with neither.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias, TypeVar

from msgspec import Struct


class Caller(Protocol):
    """A proxy of a master's desk: `cluster.wire.proxy.DeskProxy`."""

    def call(self, method: str, said: Struct, *, timeout: float = 30.0) -> Any:
        """One round trip. Raises what the desk raised, or `MasterUnavailable`."""

    def close(self) -> None:
        """Calls in flight raise `MasterUnavailable`."""


class Ask(Struct, frozen=True, gc=False):
    """Make this call; its answer is sent to the script."""

    method: str
    said: Struct
    timeout: float


class Rest(Struct, frozen=True):
    """Go on once `until` holds, or after so many seconds (None: no sooner). `until` is asked with the lock held."""

    until: Callable[[], bool]
    seconds: float | None = None


Answer = TypeVar("Answer")
Script: TypeAlias = Generator[Ask | Rest, Any, None]
Asking: TypeAlias = Callable[[Ask], Any]  # raises what the desk raised, or `MasterUnavailable`


def perform(script: Generator[Ask | Rest, Any, Answer], ask: Asking, changed: threading.Condition) -> Answer:
    """Carry a script out in this thread, to its end; what it returns. Raises what it raises."""
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            step = script.send(answer) if failure is None else script.throw(failure)
        except StopIteration as end:
            result: Answer = end.value
            return result
        answer = failure = None
        if isinstance(step, Rest):
            with changed:
                changed.wait_for(step.until, step.seconds)
            continue
        try:
            answer = ask(step)
        except Exception as error:  # noqa: BLE001 - the script judges it
            failure = error
