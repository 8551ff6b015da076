"""Simulated time, chance and the event log: everything in a run that is not the kit itself.

One heap of (time, number, what). The number breaks ties, so a seed replays exactly; nothing here reads a clock, an
object's address or the order of a hash. `interleave` runs the next few deliveries *inside* the caller, which stands for
another thread of the master getting the processor at that very point.
"""

from __future__ import annotations

import heapq
import itertools
import random
import zlib
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from tests.sim.attempts import LONG_SECONDS, SECONDS

Action = Callable[[], None]


class Violation(AssertionError):
    """A promise of the kit was broken. The first word of the text names the invariant."""


class Crash(BaseException):
    """The master's process dies at this very instruction. Not an `Exception`: nothing in the master may catch it."""


class Size(Struct, frozen=True, kw_only=True):
    """How much there is in one world: from one client that does a few things with one worker, to seven parties at work.

    Most defects need few parties and few events in an unlucky order, and of small worlds there are ten for the time of
    one large one; some need a crowd, a long backlog, or a chain of restarts, so there are large ones too.
    """

    name: str
    max_clients: int
    max_workers: int
    max_slots: int  # of a worker
    operations: tuple[int, int]  # at least, at most; fewer if the time is over
    phase_seconds: tuple[float, float]  # while faults strike
    troubles_per_second: float  # of whole parties
    # Of those that wait when the faults end: enough that chains of dependants and retries are among them.
    max_left_jobs: int


SIZES = (
    Size(
        name="small",
        max_clients=2,
        max_workers=2,
        max_slots=2,
        operations=(4, 16),
        phase_seconds=(2.0, 8.0),
        troubles_per_second=2.0,
        max_left_jobs=4,
    ),
    Size(
        name="medium",
        max_clients=3,
        max_workers=3,
        max_slots=3,
        operations=(20, 60),
        phase_seconds=(5.0, 16.0),
        troubles_per_second=1.5,
        max_left_jobs=8,
    ),
    Size(
        name="large",
        max_clients=3,
        max_workers=3,
        max_slots=3,
        operations=(1000, 1000),
        phase_seconds=(40.0, 40.0),
        troubles_per_second=1.0,
        max_left_jobs=15,
    ),
)
SIZE_WEIGHTS = (85, 13, 2)

# How often users submit, and how often they do anything else: see `client.ACTS`, which has the same order.
SUBMITS = 0.55
HABITS = (0.15, 0.10, 0.08, 0.06, 0.03, 0.03)


class Tastes(Struct, frozen=True, kw_only=True):
    """What the users of one world are given to: so that in some of them the rare meets the rare, however small they are."""

    special: float  # of jobs: with resources, labels, a key, a delay, an end of their patience, short retention
    at_most_once: float
    chunks: float
    dependants: float
    keys: int  # that there are
    gossip: float  # how often another one watches a job that was just submitted
    attempt_seconds: tuple[float, ...]  # how long attempts take
    habits: tuple[float, ...]  # how often they do what, see `client.ACTS`; the sums up to each


class Plan(Struct, frozen=True, kw_only=True):
    """What one seed may do: drawn once, so that some runs are all crashes and others all lost messages."""

    fault_rate: float  # of messages: dropped, doubled, late, answer lost
    commit_fault_rate: float
    crash_rate: float  # per commit
    max_crashes: int
    interleave_rate: float
    is_instant: bool  # commits are driven by whoever appended, as with the memory store
    workers_survive: bool  # a master's crash; in embedded mode they die with it
    max_clock_step_seconds: float  # with a small one, jobs may name a wall time at which they are due
    size: Size
    tastes: Tastes


class World:
    """The clock, the dice, the queue of what happens next, and the log of what happened."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.plan = draw_plan(self.dice)
        self.now = 1000.0
        self.wall_offset = 1.7e9
        self.is_calm = False  # phase 2: no fault happens any more
        self.log: list[tuple[float, tuple[object, ...]]] = []
        self.counts: Counter[str] = Counter({self.plan.size.name: 1})
        self.heap: list[tuple[float, int, bool, Action]] = []
        self._number = 0
        self.depth = 0  # calls that were interrupted by others

    def wall(self) -> float:
        """The time of day, which may step both ways."""
        return self.now + self.wall_offset

    def note(self, *what: object) -> None:
        """Enter something into the event log."""
        self.log.append((self.now, what))

    def fault(self, kind: str) -> None:
        """Count a fault."""
        self.counts[kind] += 1
        self.counts["faults"] += 1

    def chance(self, probability: float) -> bool:
        """Whether something that may go wrong does; never in the second phase."""
        return not self.is_calm and probability > 0.0 and self.dice.random() < probability

    def after(self, delay: float, action: Action, *, is_delivery: bool = False) -> None:
        """Have something happen later."""
        self._number += 1
        heapq.heappush(self.heap, (self.now + delay, self._number, is_delivery, action))

    def at(self, when: float, action: Action, *, is_delivery: bool = False) -> None:
        """Have something happen at that very time: adding the difference to now may fall short of it."""
        self._number += 1
        heapq.heappush(self.heap, (when, self._number, is_delivery, action))

    def step(self) -> bool:
        """Let the next thing happen; False if nothing will."""
        if not self.heap:
            return False
        when, _, _, action = heapq.heappop(self.heap)
        if when > self.now:  # noqa: PLR1730 - a call of `max` for every event
            self.now = when
        action()
        return True

    def interleave(self) -> None:
        """Perhaps let other threads go on from here: the next few deliveries happen now."""
        if self.depth >= 2 or not self.chance(self.plan.interleave_rate):
            return
        self.depth += 1
        try:
            for _ in range(self.dice.randint(1, 4)):
                if not (self.heap and self.heap[0][2]):
                    break
                self.counts["interleaved"] += 1
                self.step()
        finally:
            self.depth -= 1

    def digest(self) -> int:
        """A number that two runs share only if the same things happened in both."""
        return zlib.crc32(repr(self.log).encode())

    def tail(self, lines: int | None = 60) -> str:
        """The end of the event log, for people."""
        chosen = self.log if lines is None else self.log[-lines:]
        return "\n".join(f"{when:10.3f}  {' '.join(map(str, what))}" for when, what in chosen)


def draw_plan(dice: random.Random) -> Plan:
    """Choose what may go wrong in this run."""
    size = dice.choices(SIZES, SIZE_WEIGHTS)[0]
    is_dire = dice.random() < 0.15  # the disk: its faults, and a crash upon them
    return Plan(
        fault_rate=dice.choice((0.0, 0.02, 0.05, 0.15)),
        commit_fault_rate=0.3 if is_dire else dice.choice((0.0, 0.02, 0.06)),
        crash_rate=0.1 if is_dire else dice.choice((0.0, 0.01, 0.03)),
        max_crashes=dice.randint(1, 4),
        interleave_rate=dice.choice((0.0, 0.1, 0.4)),
        is_instant=dice.random() < 0.3,
        workers_survive=dice.random() < 0.75,
        max_clock_step_seconds=dice.choice((10.0, 3600.0)),
        size=size,
        tastes=_draw_tastes(dice),
    )


def _draw_tastes(dice: random.Random) -> Tastes:
    # What all did equally often everywhere would never come in a rush, and in small worlds hardly at all.
    habits = [share * dice.choice((0.3, 1.0, 1.0, 3.0)) for share in HABITS]
    return Tastes(
        special=dice.choice((0.1, 0.4, 0.9)),
        at_most_once=dice.choice((0.05, 0.15, 0.5)),
        chunks=dice.choice((0.0, 0.25, 0.6)),
        dependants=dice.choice((0.0, 0.25, 0.6)),
        keys=dice.choice((1, 4, 30)),
        attempt_seconds=dice.choice((SECONDS, SECONDS, LONG_SECONDS)),
        gossip=dice.choice((0.2, 0.8)),
        habits=tuple(itertools.accumulate((SUBMITS, *habits))),
    )
