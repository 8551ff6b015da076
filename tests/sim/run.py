"""One seed, one run: first everything goes wrong, then nothing does, and in the end every promise must have been kept.

phase 1   clients work, workers run, and the plan's faults strike
phase 2   no fault any more, queues resumed: everything must become terminal within bounded simulated time
the end   the board is empty; the history and the image are compared
"""

from __future__ import annotations

import gc
import logging

from msgspec import Struct

from cluster.master import durable
from cluster.wire import calls
from cluster.wire.messages import Hello
from tests.sim import catalogue, invariants
from tests.sim.client import Client
from tests.sim.history import History
from tests.sim.host import PEER, Host
from tests.sim.image import Image
from tests.sim.network import Caller, Network
from tests.sim.worker import Worker
from tests.sim.world import Crash, Violation, World

# After the last fault: the longest chain of retries, each as slow as can be, on slots that many jobs share.
MAX_CALM_SECONDS = 600.0
CALM_LOOK_SECONDS = 1.0
RUNS_PER_SWEEP = 32
LOG = logging.getLogger("cluster")


class Result(Struct, frozen=True):
    """What a run came to."""

    seed: int
    failure: str  # empty: every promise was kept
    tail: str
    digest: int
    counts: dict[str, int]
    seconds: float  # simulated


class Swallowed(logging.Handler):
    """The master logs an exception of a sink or a wake and goes on; here it is a failure."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if it tells of an exception."""
        if record.exc_info and record.exc_info[1] is not None:
            self._history.broken.append(f"swallowed: {record.exc_info[1]!r}")


class Run:
    """A cluster and its troubles."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.image = Image(self.world)
        self.history = History(self.world, self.image)
        self.host = Host(self.world, self.image, self.history)
        self.network = network = Network(self.world, self.host)
        dice, size = self.world.dice, self.world.plan.size
        self.workers = [
            Worker(self.world, network, self.host, self.history, self._hello(n))
            for n in range(dice.randint(1, size.max_workers))
        ]
        self.clients = [
            Client(self.world, network, self.host, self.history, chr(97 + n))
            for n in range(dice.randint(1, size.max_clients))
        ]
        self._left_operations = dice.randint(*size.operations)
        for client in self.clients:
            client.peers = self.clients
        self._is_cleared = False
        self.host.on_down.append(self._master_down)

    def _hello(self, n: int) -> Hello:
        # The first worker can run everything, so that nothing waits for ever.
        has_all = n == 0
        return Hello(
            worker="", name=f"w{n}", host="host", pid=1, slots=self.world.dice.randint(1, self.world.plan.size.max_slots),
            resources=(("gpu", self.world.dice.randint(1, 2)),) if has_all else (),
            memory_room=2 if has_all else 1, memory_most=2 if has_all else 1,
            labels=catalogue.LABELS if has_all or self.world.dice.random() < 0.5 else (),
        )  # fmt: skip

    def play(self) -> None:
        """All of it. Raises `Violation`."""
        world = self.world
        self.host.boot()
        for worker in self.workers:
            world.after(world.dice.uniform(0.0, 0.5), worker.boot)
        for client in self.clients:
            self._let_act(client)
        self._let_fail()
        self._go_on(until=world.now + world.dice.uniform(*world.plan.size.phase_seconds))
        self._calm_down()
        deadline = world.now + MAX_CALM_SECONDS
        while not self._is_over():
            self._go_on(until=world.now + CALM_LOOK_SECONDS)
            if world.now > deadline:
                raise Violation(f"liveness: after {MAX_CALM_SECONDS:g} calm seconds {self._what_is_left()}")
        invariants.check_board(self.host.master.board)
        invariants.check_agreement(self.host.master.board, self.image)
        invariants.check_empty(self.host.master.board)
        self.history.check_end()

    def _go_on(self, until: float) -> None:
        world, broken = self.world, self.history.broken
        heap, step = world.heap, world.step
        while heap and heap[0][0] <= until:
            try:
                step()
            except Crash:
                self.host.crash()
            if broken:
                raise Violation(broken[0])
        world.now = max(world.now, until)

    # --- phase 1 ---------------------------------------------------------------------------------------------------

    def _let_act(self, client: Client) -> None:
        def act() -> None:
            if self._left_operations and not self.world.is_calm:
                self._left_operations -= 1
                self.world.counts["operations"] += 1
                client.act()
                self._let_act(client)

        self.world.after(self.world.dice.expovariate(3.0), act)

    def _let_fail(self) -> None:
        """Faults of whole parties, one or two a second."""

        def fail() -> None:
            if not self.world.is_calm:
                self._fail_once()
                self._let_fail()

        self.world.after(self.world.dice.expovariate(self.world.plan.size.troubles_per_second), fail)

    def _fail_once(self) -> None:
        world = self.world
        dice, plan = world.dice, world.plan
        kind = dice.random()
        worker = dice.choice(self.workers)
        is_awake = self.host.is_up and not self.host.is_frozen
        if kind < 0.13:
            world.fault("worker killed")
            worker.die(seconds=dice.uniform(0.1, 4.0))
        elif kind < 0.25:
            world.fault("worker frozen")
            worker.freeze(dice.choice((0.5, 3.0, 9.0, 14.0)))
        elif kind < 0.30:
            worker.give_back()
        elif kind < 0.39:
            world.counts["drains"] += 1
            worker.drain()
        elif kind < 0.48:
            world.fault("clock stepped")
            world.wall_offset += dice.uniform(-1.0, 1.0) * plan.max_clock_step_seconds
        elif kind < 0.57 and is_awake:
            world.fault("master frozen")
            self.host.freeze(dice.choice((0.2, 2.0, 7.0, 12.0, 25.0)))
        elif kind < 0.64 and self.host.is_up and plan.crash_rate:
            world.fault("master killed")
            self.host.crash()
        elif kind < 0.71 and is_awake:
            self.host.master.committer.prune_soon()
        elif kind < 0.86:
            self._cut()
        elif kind < 0.92:
            world.fault("client killed")
            dice.choice(self.clients).die()

    def _cut(self) -> None:
        """Part some of the parties from the master, wholly or in one direction, while the others go on."""
        dice = self.world.dice
        parties: list[Caller] = [*self.clients, *self.workers]
        which = dice.randrange(3)
        seconds = dice.choice((0.5, 3.0, 8.0, 14.0, 14.0))
        self.world.fault("network cut")
        for party in dice.sample(parties, dice.randint(1, len(parties))):
            self.network.cut(party, seconds, asking=which != 1, answering=which != 2)

    # --- phase 2 ---------------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        self.world.note("calm")
        self.world.is_calm = True

    def _clear(self) -> None:
        """An operator cancels the most of what still waits: it would be run by the hundred, with nothing to go wrong."""
        board = self.host.master.board
        waiting = [name for name, job in board.jobs.items() if not job.fence and not job.is_terminal]
        chosen = tuple(waiting[self.world.plan.size.max_left_jobs :])
        self.world.note("cleared", len(chosen))
        try:
            self.host.jobs.cancel(PEER, calls.Cancel(chosen, 0.0))
        except Crash:
            self.host.crash()

    def _is_over(self) -> bool:
        if not self.host.is_up or self.host.is_frozen or self.host.held:
            return False
        board = self.host.master.board
        if not self._is_cleared:
            self._is_cleared = True
            self._clear()
        if board.placement.paused:
            self.clients[0].resume_queues()
            return False
        if self.host.master.committer._log or board.leases or board.jobs:
            return False
        return not any(client.is_waiting for client in self.clients)

    def _what_is_left(self) -> str:
        board = self.host.master.board
        jobs = {name: job.state.name for name, job in board.jobs.items()}
        waits = {client.name: list(client.waits) for client in self.clients if client.waits}
        return f"jobs {jobs}, leases {list(board.leases)}, waiting clients {waits}, paused {board.placement.paused}"

    # --- the master comes and goes -----------------------------------------------------------------------------------

    def _master_down(self) -> None:
        for worker in self.workers:
            worker.master_died()


def run(seed: int, *, is_verbose: bool = False) -> Result:
    """Play one seed."""
    simulation = Run(seed)
    world = simulation.world
    handler = Swallowed(simulation.history)
    was_propagating, LOG.propagate = LOG.propagate, False
    level = LOG.level
    LOG.setLevel(logging.ERROR)
    LOG.addHandler(handler)
    gc.disable()  # a run is one heap of cycles, of which nothing is over before its end
    failure = ""
    # Calls that are durable on return wait for the committer, which is not a thread here: they find it done or give up.
    patience, durable.DURABLE_SECONDS = durable.DURABLE_SECONDS, 0.0
    try:
        simulation.play()
    except Exception as error:
        if is_verbose and not isinstance(error, Violation):
            raise
        failure = str(error) if isinstance(error, Violation) else f"exception: {error!r}"
    finally:
        durable.DURABLE_SECONDS = patience
        gc.enable()
        LOG.removeHandler(handler)
        LOG.propagate = was_propagating
        LOG.setLevel(level)
    tail = world.tail(None if is_verbose else 60) if failure or is_verbose else ""
    result = Result(seed, failure, tail, world.digest(), dict(world.counts), world.now - 1000.0)
    _dismantle(simulation)
    if seed % RUNS_PER_SWEEP == 0:
        gc.collect()
    return result


def _dismantle(simulation: Run) -> None:
    """Undo the cycles, so that nothing is left for the collector, to which ten thousand objects of each run are work."""
    parties = (*simulation.workers, *simulation.clients)
    for master in simulation.host.masters:
        for part in (master.committer, master.board, master.sessions, master.mailboxes, master.timekeeper, master):
            vars(part).clear()
    simulation.world.heap.clear()
    for thing in (
        *parties,
        simulation.network,
        simulation.host,
        simulation.history,
        simulation.image,
        simulation.world,
    ):
        vars(thing).clear()


gc.freeze()  # what is imported by now stays, and need not be looked at with every collection
