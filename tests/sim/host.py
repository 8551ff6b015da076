"""The master's process: the real `Master`, opened on the image, driven by hand, killed and stopped at will.

No thread runs. What the master's threads would do are events of the simulation: a tick when the board's next deadline
(or the timekeeper's beat) has come, and, unless the store is instant, a commit some time after something was appended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.core import events
from cluster.core.board import Settings
from cluster.core.effects import Announced, Effect
from cluster.master.committer import Then
from cluster.master.jobs_desk import JobsDesk
from cluster.master.master import Clock, Master
from cluster.master.work_desk import WorkDesk
from tests.sim import invariants
from tests.sim.image import Image
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.history import History

TIMEOUT_SECONDS = 10.0
BEAT_SECONDS = TIMEOUT_SECONDS / 4
# Decisions between two looks at the whole board, or twice as many as it has jobs: what a look costs grows with them,
# and so it stays a small part of what the decisions cost.
CHECK_EVERY = 40


class Host:
    """One master after another on the same image."""

    def __init__(self, world: World, image: Image, history: History) -> None:
        self._world = world
        self._history = history
        self.image = image
        self.is_up = False
        self.is_frozen = False
        self.held: list[Callable[[], None]] = []  # messages that arrived while it was frozen
        self.generation = 0
        self.master: Master
        self.jobs: JobsDesk
        self.work: WorkDesk
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.timeout_seconds = TIMEOUT_SECONDS
        self.awake_since = float("-inf")  # the end of its last sleep that was long enough to be forgiven
        self._is_commit_due = False
        self._next_tick = float("inf")
        self._last_tick = world.now
        self._decisions = 0

    # --- life ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Open the image with a new master."""
        world = self._world
        self.generation += 1
        self._is_commit_due = False
        self.awake_since = float("-inf")
        clock = Clock(mono=lambda: world.now, wall=world.wall)
        self.master = Master(self.image, Settings(heartbeat_timeout_seconds=TIMEOUT_SECONDS), clock)
        self.jobs, self.work = JobsDesk(self.master), WorkDesk(self.master)
        self._listen()
        self.is_up = True
        world.note("master up", self.generation)
        self.master.open(grace_seconds=TIMEOUT_SECONDS if world.plan.workers_survive else 0.0)
        self._last_tick = world.now
        self._sleep()
        for told in self.on_up:
            told()

    def crash(self) -> None:
        """SIGKILL: whatever was decided and not committed is gone."""
        self._world.note("master down", self.generation)
        self.is_up = self.is_frozen = False
        self.image.close()
        self._history.master_died(self.image)
        held, self.held = self.held, []
        for deliver in held:
            deliver()  # to nobody
        for told in self.on_down:
            told()
        self._world.after(self._world.dice.uniform(0.05, 4.0), self.boot)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.is_frozen = True
        generation = self.generation
        self._world.note("master frozen", round(seconds, 2))

        def thaw() -> None:
            if self.is_up and self.is_frozen and self.generation == generation:
                self.is_frozen = False
                # From its last tick on it did not look at the time, and from half a timeout on it must forgive that.
                if self._world.now - self._last_tick > TIMEOUT_SECONDS / 2:
                    self.awake_since = self._world.now
                self._tick_at(self._world.now + self._world.dice.uniform(0.0, 0.05))
                held, self.held = self.held, []
                self._world.dice.shuffle(held)
                for deliver in held:
                    self._world.after(self._world.dice.uniform(0.0, 0.05), deliver, is_delivery=True)

        self._world.after(seconds, thaw)

    # --- what the master's threads would do ------------------------------------------------------------------------

    def _look_again(self) -> None:
        """Something may fall due sooner than was known: what the timekeeper's thread is told by its master."""
        due = self.master.board.timers.next_due()
        if due is not None and due < self._next_tick and self.is_up and not self.is_frozen:
            self._tick_at(due)

    def when_durable(self, told: Callable[[], None]) -> None:
        """Have it called once all that has been decided is committed; never, if this master dies before."""
        with self.master.lock:
            self.master.committer.append([], told)
        self.master.committer.kick()

    def _tick_at(self, when: float) -> None:
        self._next_tick = when
        generation = self.generation
        self._world.at(when, lambda: self._tick(when, generation))

    def _tick(self, when: float, generation: int) -> None:
        if not self.is_up or generation != self.generation or when != self._next_tick:
            return
        if self.is_frozen:
            return  # `thaw` sets the next
        self._next_tick = float("inf")
        ticked = self._last_tick = self._world.now  # other threads may make time pass before `decide` returns
        self.master.decide(events.Tick())
        invariants.check_timers(self.master.board, ticked)
        self._sleep()

    def _sleep(self) -> None:
        """Until the next deadline or beat, as the timekeeper's thread does."""
        due = self.master.board.next_due()
        beat = self._world.now + BEAT_SECONDS
        self._tick_at(beat if due is None or due > beat else max(due, self._world.now))

    def _kick(self) -> None:
        if self.image.is_instant:
            self.master.committer.drive()
        if not self._is_commit_due and self.master.committer._log:
            self._commit_soon(0.08 * self._world.dice.random())

    def _commit_soon(self, delay: float) -> None:
        if not self._is_commit_due and self.master.committer._log:
            self._is_commit_due = True
            generation = self.generation
            self._world.after(delay, lambda: self._commit(generation))

    def _commit(self, generation: int) -> None:
        if not self.is_up or generation != self.generation:
            return
        if self.is_frozen:
            self._world.after(0.05, lambda: self._commit(generation))
            return
        self._is_commit_due = False
        self.master.committer.drive()
        self._commit_soon(0.1)
        self._look()

    # --- observation -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Stand where every decision passes: between the board and the commit log."""
        committer = self.master.committer
        append = committer.append

        def watched(effects: list[Effect], then: Then | None = None) -> list[Effect]:
            self._history.decided(effects, self)
            for effect in effects:
                if isinstance(effect, Announced):
                    self._world.note("announced", effect.sentence)
                    self._world.counts["announced"] += 1
            self._decisions += 1
            return append(effects, then)

        committer.append = watched  # type: ignore[method-assign]
        committer.kick = self._kick  # type: ignore[method-assign]
        self.master.timekeeper.look_again = self._look_again  # type: ignore[method-assign]

    def _look(self) -> None:
        if self._decisions >= max(CHECK_EVERY, 2 * len(self.master.board.jobs)):
            self._decisions = 0
            self.check()

    def check(self) -> None:
        """The board agrees with itself and, once all is committed, with the image."""
        invariants.check_board(self.master.board)
        committer = self.master.committer
        if not committer._log and not committer._driving.locked():
            invariants.check_agreement(self.master.board, self.image)
