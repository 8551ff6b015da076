"""Messages between the parties: late, lost, doubled, out of order; and the master's host that answers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from cluster.errors import ClusterError
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.host import Host

PATIENCE_SECONDS = 1.0

Answer = TypeVar("Answer")


class Caller(Protocol):
    """A party that can be frozen, and that may be gone when an answer arrives."""

    def resume(self, action: Callable[[], None]) -> None:
        """Have it act, at once or when it thaws; never if it is gone."""


class Network:
    """Carries calls of the desks. A call happens when it is delivered; only its answer may be lost then."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host

    def call(
        self,
        caller: Caller,
        do: Callable[[Host], Answer],
        answered: Callable[[Answer | ClusterError], None],
        lost: Callable[[], None],
        *,
        is_repeatable: bool = False,
    ) -> None:
        """Call a desk.

        Args:
            caller: who hears the answer.
            do: the call itself, made when (and if) it arrives.
            answered: gets the answer, or what the desk raised.
            lost: called instead, if there will be no answer.
            is_repeatable: the message may arrive twice, the second copy much later.
        """
        world, rate = self._world, self._world.plan.fault_rate
        if world.chance(rate):
            world.fault("message dropped")
            world.after(PATIENCE_SECONDS, lambda: caller.resume(lost))
            return
        delay = self._delay()

        def deliver() -> None:
            self._deliver(caller, do, answered, lost)

        world.after(delay, deliver, is_delivery=True)
        if is_repeatable and world.chance(rate):
            world.fault("message doubled")
            again = delay + world.dice.uniform(0.0, 4.0)
            world.after(again, lambda: self._deliver(None, do, answered, lost), is_delivery=True)

    def _delay(self) -> float:
        world = self._world
        if world.chance(world.plan.fault_rate):
            world.fault("message late")
            return world.dice.uniform(0.1, 3.0)
        return world.dice.uniform(0.001, 0.02)

    def _deliver(
        self,
        caller: Caller | None,
        do: Callable[[Host], Answer],
        answered: Callable[[Answer | ClusterError], None],
        lost: Callable[[], None],
    ) -> None:
        world, host = self._world, self._host
        if host.is_frozen:
            host.held.append(lambda: self._deliver(caller, do, answered, lost))
            return
        if not host.is_up:
            if caller is not None:
                world.after(PATIENCE_SECONDS, lambda: caller.resume(lost))
            return
        world.counts["calls"] += 1
        answer: Answer | ClusterError
        try:
            answer = do(host)
        except ClusterError as error:
            answer = error
        except BaseException:
            # The master died in this call: whoever made it waits in vain.
            if caller is not None:
                world.after(PATIENCE_SECONDS, lambda: caller.resume(lost))
            raise
        if caller is None:
            return
        if world.chance(world.plan.fault_rate):
            world.fault("answer lost")
            world.after(PATIENCE_SECONDS, lambda: caller.resume(lost))
            return
        world.after(self._delay(), lambda: caller.resume(lambda: answered(answer)), is_delivery=True)
