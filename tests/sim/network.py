"""Messages between the parties: late, lost, doubled, out of order, cut off; and the master's host that answers them.

A call is a `Trip`: it arrives, perhaps twice or late, is answered, perhaps much later, and the answer comes back, or gets
lost. Whoever made it hears exactly one of the two: the answer, or that there will be none. That it hears nothing does
not mean that nothing happened, nor that nothing will: a message that was given up may still arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from cluster.errors import ClusterError, MasterUnavailable

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

# What a caller's proxy has, of patience, before it says that the master can't be reached.
PATIENCE_SECONDS = 1.0

Heard = Callable[[Any], None]  # what the desk answered, or the error that it raised


class Caller(Protocol):
    """A party that can be frozen, and that may be gone when an answer arrives."""

    name: str

    def resume(self, action: Callable[[], None]) -> None:
        """Have it act, at once or when it thaws; never if it is gone."""


class Trip:
    """One call on its way, there and back."""

    __slots__ = (
        "_answer",
        "_caller",
        "_heard",
        "_is_over",
        "_network",
        "desk",
        "generation",
        "method",
        "request",
        "said",
    )

    def __init__(
        self, network: Network, caller: Caller, call: tuple[str, str, Struct], heard: Heard, request: str = ""
    ) -> None:
        self._network = network
        self._caller = caller
        self._heard = heard
        self._is_over = False
        self._answer: Any = None
        self.desk, self.method, self.said = call
        self.generation = network.generation()
        self.request = request  # the same for a message and its repetitions

    @property
    def is_awaited(self) -> bool:
        """Somebody listens to what comes of it."""
        return not self._is_over

    def arrive(self) -> None:
        """It is at the master's host."""
        self._network.arrive(self)

    def arrive_again(self) -> None:
        """A copy of it is: nobody hears what comes of that."""
        copy = Trip(self._network, self._caller, (self.desk, self.method, self.said), _nobody, self.request)
        copy.generation = self.generation
        self._network.arrive(copy)

    def answer(self, answer: Any) -> None:
        """The desk's answer, or what it raised, sets out."""
        network, world = self._network, self._network.world
        network.under_way.pop(self, None)
        if self._is_over:
            return
        self._answer = answer
        if network.loses(self._caller, is_answer=True):
            world.after(PATIENCE_SECONDS, self.give_up)
        else:
            world.after(network.delay(), self.come_back, is_delivery=True)

    def come_back(self) -> None:
        """The answer is there; to be heard now, or when its hearer thaws."""
        self._caller.resume(self._hear)

    def give_up(self) -> None:
        """Say that there will be no answer, even if there is one yet."""
        self._answer = MasterUnavailable("there was no answer")  # its own: one for all would keep every frame it passed
        self._caller.resume(self._hear)

    def _hear(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._network.under_way.pop(self, None)
            self._heard(self._answer)


class Network:
    """Carries calls of the served desks."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.under_way: dict[Trip, None] = {}  # those that have arrived and are not answered
        self._host = host
        self._cuts: dict[str, tuple[float, bool, bool]] = {}  # by party: until when, and which way nothing passes
        host.on_down.append(self._master_down)

    def call(self, caller: Caller, call: tuple[str, str, Struct], heard: Heard, *, request: str = "") -> Trip:
        """Call a desk of the master; `heard` gets the answer, what the desk raised, or `MasterUnavailable`."""
        world, rate = self.world, self.world.plan.fault_rate
        trip = Trip(self, caller, call, heard, request)
        if self.loses(caller, is_answer=False):
            world.after(PATIENCE_SECONDS, trip.give_up)
            return trip
        if world.is_calm:
            world.after(0.001 + 0.019 * world.dice.random(), trip.arrive, is_delivery=True)
            return trip
        delay = self.delay()
        world.after(delay, trip.arrive, is_delivery=True)
        if world.chance(rate):
            world.fault("message doubled")
            world.after(delay + world.dice.uniform(0.0, 4.0), trip.arrive_again, is_delivery=True)
        if world.chance(rate / 2):
            world.fault("given up, and arrives")
            world.after(world.dice.uniform(0.0, delay), trip.give_up)
        return trip

    def cut(self, caller: Caller, seconds: float, *, asking: bool, answering: bool) -> None:
        """For so long, let no calls of a party pass, or no answers, or neither."""
        self.world.note("cut", caller.name, round(seconds, 2), "asking" * asking, "answering" * answering)
        self._cuts[caller.name] = self.world.now + seconds, asking, answering

    def loses(self, caller: Caller, *, is_answer: bool) -> bool:
        """Whether a message is lost. A cut, as a sleep, has its time, even if nothing new goes wrong any more."""
        world = self.world
        cut = self._cuts.get(caller.name)
        if cut is not None and world.now < cut[0] and cut[1 + is_answer]:
            world.fault("message cut off")
            return True
        if world.chance(world.plan.fault_rate):
            world.fault("answer lost" if is_answer else "message dropped")
            return True
        return False

    def generation(self) -> int:
        """Which master a message that is sent now can reach: a connection ends with its master."""
        return self._host.generation + (not self._host.is_up)

    def delay(self) -> float:
        """How long a message takes."""
        world = self.world
        if world.chance(world.plan.fault_rate):
            world.fault("message late")
            return world.dice.uniform(0.1, 3.0)
        return 0.001 + 0.019 * world.dice.random()

    def arrive(self, trip: Trip) -> None:
        """A message is at the host: have it served."""
        host = self._host
        if host.is_frozen:
            host.held.append(trip.arrive)
            return
        if not host.is_up or trip.generation != host.generation:
            self.world.after(PATIENCE_SECONDS, trip.give_up)
            return
        self.world.counts["calls"] += 1
        self.under_way[trip] = None
        try:
            host.serve(trip)
        except ClusterError as error:
            trip.answer(error)

    def _master_down(self) -> None:
        """Connections break: whoever waits for an answer hears that there is none."""
        broken, self.under_way = self.under_way, {}
        for trip in broken:
            self.world.after(self.world.dice.uniform(0.0, PATIENCE_SECONDS), trip.give_up)


def _nobody(_answer: Any) -> None:
    pass
