"""A worker as the master meets it: a supervisor that leases, runs, reports, freezes, dies and comes back as another one.

What a supervisor does between its children and its desk is played here, turn by turn: it takes leases and orders, begins
what its slots have room for, kills what it must, and says how attempts ended, through the kit's own `Outbox`. The desk is
the kit's too. Of a master elsewhere it is `RemoteWorkDesk`, whose two scripts are carried out over the simulated
network: registration, heartbeats, credit, marks, adoption after a master's death and late reports are the real ones.
Embedded, it is the master's own, and dies with it.

What this owes the master, as the real supervisor does: once the desk says `Refused` everything that runs is killed before
anything else, and nothing begins in between; when it wakes from a sleep it looks at its lease before it begins anything;
before it leaves it has reported what it began and must not begin again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import structs

from cluster.core.policy import is_at_most_once
from cluster.core.records import Ending, Fence, Report, Stop
from cluster.errors import MasterUnavailable, Refused
from cluster.wire.messages import Health, Hello, SlotHealth
from cluster.wire.remote_work import RemoteWorkDesk
from cluster.worker.outbox import Outbox
from tests.sim import attempts
from tests.sim.fiber import Bell, Fiber
from tests.sim.host import INTERVAL_SECONDS, TIMEOUT_SECONDS

if TYPE_CHECKING:
    from typing import Any

    from msgspec import Struct

    from cluster.master.work_desk import WorkDesk
    from tests.sim.history import Attempt, History
    from tests.sim.host import Host
    from tests.sim.network import Network
    from tests.sim.world import World

# Once nothing fails any more it does not matter how long attempts take, only that there is an end.
CALM_HASTE = 0.1
MAX_DYING_SECONDS = 0.3
THAWED_SECONDS = 0.01


class NoLine:
    """Nothing is said but by the scripts."""

    def call(self, method: str, _said: Struct, *, timeout: float = 30.0) -> Any:
        """What a supervisor's own thread would have to wait for; here everything it asks for is there."""
        raise MasterUnavailable(f"{method} is not said by a script, and would wait {timeout:g} s")

    def close(self) -> None:
        """Nothing is open."""


class SimulatedDesk(RemoteWorkDesk):
    """The real desk; its threads are fibers."""

    def __init__(self, world: World, network: Network, worker: Worker) -> None:
        super().__init__(NoLine(), mono=lambda: world.now)
        self._changed = self.bell = Bell()
        self.fibers = [Fiber(world, network, worker, "work") for _ in range(3)]
        self.bell.fibers = self.fibers

    def _start(self) -> None:
        hearing, telling, _ = self.fibers
        if not hearing.is_busy:
            hearing.start(self.hearing())
            telling.start(self.telling())

    @property
    def lease_until(self) -> float:
        """When the leases are void, as far as this side can know."""
        return self._lease_until


class Worker:
    """One name, one incarnation after another."""

    def __init__(self, world: World, network: Network, host: Host, history: History, hello: Hello) -> None:
        self._world = world
        self._network = network
        self._host = host
        self._history = history
        self._template = hello
        self._resources = dict(hello.resources)
        self.name = hello.name
        self._incarnation = 0
        self.id = ""
        # down, up, draining (what runs ends), leaving
        self.state = "down"
        self._frozen_until = 0.0
        self._life = 0  # of the process: a death makes every pending event of this life meaningless
        self._desk: SimulatedDesk | WorkDesk
        self._outbox = Outbox()
        self._renewed = 0.0  # embedded: when the desk last took a heartbeat
        self._is_rung = False
        self._is_turning = False
        self._has_more = False
        self.held: dict[Fence, Attempt] = {}  # in order of arrival; the begun ones run
        self._running = 0
        history.workers[self.name] = self

    @property
    def valid_until(self) -> float:
        """Until when its attempts may run: the real supervisor looks at the lease once in an interval."""
        if isinstance(self._desk, SimulatedDesk):
            return self._desk.lease_until + INTERVAL_SECONDS
        return self._renewed + TIMEOUT_SECONDS

    @property
    def is_awake(self) -> bool:
        """It runs, and has done so for long enough to look at its lease."""
        return self._world.now > self._frozen_until + THAWED_SECONDS

    # --- life ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start a process."""
        if self.state != "down":
            return
        world = self._world
        if world.plan.workers_survive:
            self._desk = SimulatedDesk(world, self._network, self)
        elif self._host.is_up and not self._host.is_frozen:
            self._desk = self._host.work
        else:
            self._later(1.0, self.boot)
            return
        self.state = "up"
        self._is_turning = False
        self._outbox = Outbox()
        self._register()
        life = self._life
        world.after(INTERVAL_SECONDS * world.dice.random(), lambda: self._beat(life))

    def die(self, *, seconds: float) -> None:
        """SIGKILL of supervisor and children; something starts it again later."""
        self._world.note("worker dies", self.id)
        self._drop_all()
        self._gone()
        self._frozen_until = 0.0
        self._later(seconds, self.boot)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP of the supervisor; its children run on."""
        self._world.note("worker frozen", self.id, round(seconds, 2))
        self._frozen_until = max(self._frozen_until, self._world.now + seconds)

    def drain(self) -> None:
        """Let what runs end, or kill it, and go in good order; something starts it again."""
        if self.state == "up" and self._world.now >= self._frozen_until:
            self._world.note("worker drains", self.id)
            self.state = "draining"
            self._give_back_waiting()
            if self._world.dice.random() < 0.5:
                self._stop_all()
            self._turn_soon()

    def give_back(self) -> None:
        """Hand back what waits, as for a slot that turned out not to have room for it."""
        if self.state == "up" and self._world.now >= self._frozen_until:
            self._give_back_waiting()
            self._turn_soon()

    def master_died(self) -> None:
        """In embedded mode so do we."""
        if not self._world.plan.workers_survive and self.state != "down":
            self.die(seconds=self._world.dice.uniform(0.1, 3.0))

    def resume(self, action: Callable[[], None]) -> None:
        """Act now, or once thawed."""
        if self._world.now < self._frozen_until:
            life = self._life
            self._world.at(self._frozen_until, lambda: self.resume(action) if life == self._life else None)
        else:
            action()

    # --- turns -------------------------------------------------------------------------------------------------------

    def _register(self) -> None:
        self._incarnation += 1
        self.id = f"{self.name}#{self._incarnation}"
        self._world.note("worker registers", self.id)
        self._renewed = self._world.now
        self._has_more = True
        self._desk.register(structs.replace(self._template, worker=self.id), self._waker())

    def _waker(self) -> Callable[[], None]:
        life = self._life

        def wake() -> None:
            if life == self._life and not self._is_rung:
                self._is_rung = True
                self._turn_soon()

        return wake

    def _turn_soon(self) -> None:
        if not self._is_turning:
            self._is_turning = True
            life = self._life
            self._world.after(0.0005, lambda: self.resume(lambda: self._turn(life)))

    def _turn(self, life: int) -> None:
        if life != self._life or self.state not in ("up", "draining"):
            return
        self._is_turning = False
        try:
            self._outbox.flush(self._desk, self.id)
            self._take_work()
        except Refused as refusal:
            self._start_over(str(refusal))
            return
        self._begin_next()
        if self.state == "draining" and not self._running:
            self._leave()

    def _take_work(self) -> None:
        is_rung, self._is_rung = self._is_rung, False
        room = 0 if self.state == "draining" else max(0, self._template.slots + self._prefetch() - len(self.held))
        if not (is_rung or (room and self._has_more)):
            return
        answer = self._desk.poll(self.id, room)
        if room:
            self._has_more = len(answer.leases) >= room
        elif self.state == "up":
            self._has_more = True
        for lease in answer.leases:
            attempt = self._history.taken(self, lease)
            self.held[lease.fence] = attempt
        if answer.leases:
            self._check_resources()
            if self.state == "draining":
                self._give_back_waiting()
        for stop in answer.stops:
            self._stop(stop)
        self._outbox.flush(self._desk, self.id)

    def _prefetch(self) -> int:
        return 1 if self._world.dice.random() < 0.3 else 0

    def _beat(self, life: int) -> None:
        if life != self._life or self.state not in ("up", "draining"):
            return
        if self._world.now < self._frozen_until:
            self._world.at(self._frozen_until, lambda: self._beat(life))
            return
        self._world.after(INTERVAL_SECONDS, lambda: self._beat(life))
        running = [attempt for attempt in self.held.values() if attempt.is_begun]
        slots = tuple(SlotHealth(slot=n, job=attempt.lease.job) for n, attempt in enumerate(running))
        try:
            self._desk.heartbeat(self.id, Health(slots=slots))
        except Refused as refusal:
            self._start_over(str(refusal))
            return
        self._renewed = self._world.now
        self._is_rung = True
        self._turn_soon()

    def _start_over(self, why: str) -> None:
        """Whatever runs here may be run by others: nothing of it goes on, nobody is told."""
        self._world.note("worker starts over", self.id, why)
        self._world.counts["started over"] += 1
        self._drop_all()
        self._outbox.clear()
        if self.state == "draining":
            self._left()  # as nobody: under this id there is nothing to hand back
            return
        life = self._life
        self.state = "pausing"
        self._later(self._world.dice.uniform(0.05, 1.0), lambda: self._come_again(life))

    def _come_again(self, life: int) -> None:
        if life == self._life and self.state == "pausing":
            self.state = "up"
            self._is_turning = False
            self._register()
            self._turn_soon()
            self._beat(life)

    # --- attempts ------------------------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        if self.valid_until <= self._world.now:
            return  # thawed too late: the next heartbeat ends everything
        for attempt in list(self.held.values()):
            if self._running >= self._template.slots:
                return
            if not attempt.is_begun:
                self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        self._running += 1
        self._history.begun(attempt)
        seconds, report = attempts.play(attempt.lease, self._world.dice, self._world.plan.tastes.attempt_seconds)
        if self._world.is_calm:
            seconds *= CALM_HASTE
        elif self._is_broken():
            self._world.counts["failed at once"] += 1
            seconds, report = 0.001, attempts.killed(attempt.lease)
        if seconds > 0.1 and self._world.dice.random() < 0.5:
            # By chance only, and not again: nothing may rely on it.
            self._outbox.begun.append(attempt.lease.fence)
        life, fence = self._life, attempt.lease.fence
        self._world.after(seconds, lambda: self._finish(life, fence, report))

    def _is_broken(self) -> bool:
        """In one world of four the first host is one on which everything fails, until the faults stop."""
        return self._world.seed % 4 == 1 and self.name == "w0"

    def _finish(self, life: int, fence: Fence, report: Report) -> None:
        if life != self._life or fence not in self.held:
            return
        if self._world.now < self._frozen_until:
            # Its child has ended; the supervisor sees that when it thaws.
            self._world.at(self._frozen_until, lambda: self._finish(life, fence, report))
            return
        self._let_go(fence)
        self._tell(report)
        self._turn_soon()

    def _stop(self, stop: Stop) -> None:
        """An order: kill the attempt, and say so once it is gone; what has ended or is not here is gone."""
        attempt = self.held.get(stop.fence)
        if attempt is None or not attempt.is_begun:
            if attempt is not None:
                self._let_go(stop.fence)
            self._outbox.stopped.append(stop.fence)
            return
        life = self._life

        def gone() -> None:
            # If it has ended before it could be killed it was reported; the desk takes both.
            if life == self._life and self.state in ("up", "draining"):
                if stop.fence in self.held:
                    self._let_go(stop.fence)
                self._outbox.stopped.append(stop.fence)
                self._turn_soon()

        self._later(self._world.dice.uniform(0.0, MAX_DYING_SECONDS), gone)

    def _give_back_waiting(self) -> None:
        waiting = [fence for fence, attempt in self.held.items() if not attempt.is_begun]
        self._world.counts["given back"] += len(waiting)
        for fence in waiting:
            self._let_go(fence)
        self._outbox.given_back += waiting

    def _stop_all(self) -> None:
        """Kill what runs: given back, if it may run again, else reported."""
        for fence, attempt in list(self.held.items()):
            self._let_go(fence)
            if is_at_most_once(attempt.lease.options):
                certificate = attempts.certificate(Ending.WORKER_LOST)
                self._tell(Report(fence, Ending.WORKER_LOST, certificate=certificate))
            else:
                self._outbox.given_back.append(fence)

    def _let_go(self, fence: Fence) -> None:
        attempt = self.held.pop(fence)
        self._running -= attempt.is_begun
        self._history.over(attempt)

    def _tell(self, report: Report) -> None:
        self._history.reported(report)
        self._outbox.reports.append(report)

    def _check_resources(self) -> None:
        used: dict[str, int] = {}
        memory = 0
        for attempt in self.held.values():
            if attempt.is_orphan:
                continue  # of a master that died with it undurable: the next one knows nothing of it, and has it stopped
            memory += attempt.lease.memory
            for name, amount in attempt.lease.options.resources:
                used[name] = used.get(name, 0) + amount
        for name, amount in used.items():
            if amount > self._resources.get(name, 0):
                self._history.fail("resources", f"{self.id} has {self._resources} and is given jobs for {used}")
        if memory > self._template.memory_most:
            self._history.fail("memory", f"{self.id} has {self._template.memory_most} and is given jobs for {memory}")

    # --- the end of a process --------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        self.state = "leaving"
        if isinstance(self._desk, SimulatedDesk):
            self._desk.fibers[2].start(self._desk.leaving(self.id), lambda _: self._left())
        else:
            self._desk.leave(self.id)
            self._left()

    def _left(self) -> None:
        self._world.note("worker left", self.id)
        self._gone()
        self._later(self._world.dice.uniform(0.05, 1.0), self.boot)

    def _gone(self) -> None:
        self.state = "down"
        self._life += 1
        self._is_rung = self._is_turning = False
        if self._incarnation and isinstance(self._desk, SimulatedDesk):
            for fiber in self._desk.fibers:
                fiber.stop()

    def _drop_all(self) -> None:
        for fence in list(self.held):
            self._let_go(fence)

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        self._world.after(delay, lambda: self.resume(action))
