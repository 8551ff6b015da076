"""One of the kit's protocol scripts (`cluster.wire.scripts`), carried out by the simulated network and clock.

A thread that waits on a condition is woken when that is notified and its predicate holds; here the condition is a
`Bell`, which has every resting fiber look, a moment later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from cluster.wire.scripts import Ask, Rest

if TYPE_CHECKING:
    from tests.sim.network import Caller, Network, Trip
    from tests.sim.world import World


class Bell(threading.Condition):
    """A condition that no thread waits on."""

    def __init__(self, lock: Any = None) -> None:
        super().__init__(lock)
        self.fibers: list[Fiber] = []

    def __enter__(self) -> bool:
        """There is no other thread."""
        return True

    def __exit__(self, *_: object) -> None:
        """See above."""

    def notify_all(self) -> None:
        """Whoever rests here looks whether it may go on."""
        for fiber in self.fibers:
            fiber.look()


class Fiber:
    """A script that runs."""

    def __init__(self, world: World, network: Network, caller: Caller, desk: str) -> None:
        self._world = world
        self._network = network
        self._caller = caller
        self._desk = desk
        self._script: Generator[Ask | Rest, Any, Any] | None = None
        self._ended: Callable[[Any], None] = _ignore
        self._rest: Rest | None = None
        self._rests = 0
        self._trip: Trip | None = None
        self._is_looking = False

    @property
    def is_busy(self) -> bool:
        """Its script has not ended."""
        return self._script is not None

    def start(self, script: Generator[Ask | Rest, Any, Any], ended: Callable[[Any], None] | None = None) -> None:
        """Run it; `ended` gets what it returns or raises."""
        self._script = script
        self._ended = ended or _ignore
        self._go(None)

    def stop(self) -> None:
        """Its process has died."""
        self._script = self._rest = self._trip = None

    def break_off(self) -> None:
        """The call that it waits for has no answer."""
        if self._trip is not None:
            self._world.after(0.0, self._trip.give_up)

    def look(self) -> None:
        """Go on, a moment later, if what it rests for holds."""
        if self._rest is not None and not self._is_looking and self._rest.until():
            self._is_looking = True
            self._world.after(0.0, self._look_now)

    def _look_now(self) -> None:
        self._is_looking = False
        if self._rest is not None:
            self._caller.resume(self._wake)

    def _wake(self) -> None:
        if self._rest is not None and self._rest.until():
            self._rest = None
            self._go(None)

    def _go(self, answer: Any) -> None:
        script = self._script
        while script is not None:
            try:
                step = script.throw(answer) if isinstance(answer, Exception) else script.send(answer)
            except StopIteration as end:
                self._script = None
                self._ended(end.value)
                return
            except Exception as error:
                self._script = None
                if self._ended is _ignore:
                    raise
                self._ended(error)
                return
            answer = None
            if isinstance(step, Ask):
                self._trip = self._network.call(self._caller, (self._desk, step.method, step.said), self._hear(script))
                return
            if not step.until():
                self._rest = step
                self._rests += 1
                if step.seconds is not None:
                    self._world.after(step.seconds, self._over(self._rests))
                return

    def _hear(self, script: object) -> Callable[[Any], None]:
        def heard(answer: Any) -> None:
            if script is self._script:
                self._trip = None
                self._go(answer)

        return heard

    def _over(self, rests: int) -> Callable[[], None]:
        def over() -> None:
            if self._rest is not None and rests == self._rests:
                self._caller.resume(lambda: self._time_is_up(rests))

        return over

    def _time_is_up(self, rests: int) -> None:
        if self._rest is not None and rests == self._rests:
            self._rest = None
            self._go(None)


def _ignore(_result: Any) -> None:
    pass
