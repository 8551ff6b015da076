"""The master's process: the real `Master`, opened on the image, driven by hand, killed and stopped at will.

No thread runs. What the master's threads would do are events of the simulation: a tick when the board's next deadline
(or the timekeeper's beat) has come, and, unless the store is instant, a commit some time after something was appended.

Peers reach the served desks. A call that would keep its thread waiting (a long poll, a report until it is durable) is
parked here, and answered when it has come to what it waits for. One that comes while another holds a lock that it needs
(`interleave` runs calls inside of calls) comes again a moment later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import structs

from cluster.core import events
from cluster.core.board import Settings
from cluster.core.effects import Effect
from cluster.errors import ClusterError
from cluster.master.committer import Then
from cluster.master.master import Clock, Master
from cluster.master.served_jobs import ServedJobsDesk
from cluster.master.served_work import ServedWorkDesk
from cluster.master.work_desk import WorkDesk
from cluster.wire import calls
from cluster.wire.calls import Told, Work
from cluster.wire.keys import Role
from cluster.wire.messages import Poll
from cluster.wire.peer import Peer
from tests.sim import invariants
from tests.sim.image import Image
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.history import History
    from tests.sim.network import Trip

TIMEOUT_SECONDS = 10.0
INTERVAL_SECONDS = 2.0  # of heartbeats
BEAT_SECONDS = TIMEOUT_SECONDS / 4
# Decisions between two looks at the whole board, or twice as many as it has jobs: what a look costs grows with them,
# and so it stays a small part of what the decisions cost.
CHECK_EVERY = 40
# Ticks: nothing that is overdue, or has no timer, gets one later, so it is found then all the same.
CHECK_TIMERS_EVERY = 4
PEER = Peer(1, Role.CLIENT, "there")
WORKER = Peer(2, Role.WORKER, "there")
# A thread that waits for a lock has it a moment later.
LOCKED_SECONDS = 0.0005


class Notice(threading.Condition):
    """Stands in a session's book: whoever listens there is answered."""

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self._told = told

    def notify_all(self) -> None:
        """The book has changed."""
        self._told()


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
        self.masters: list[Master] = []  # all of them, the present one last
        self.jobs: ServedJobsDesk
        self.work: WorkDesk  # embedded workers have it
        self._served: ServedWorkDesk
        self._parked: dict[str, list[tuple[Trip, float]]] = {}  # by worker or session: those who listen, until when
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.timeout_seconds = TIMEOUT_SECONDS
        self.awake_since = float("-inf")  # the end of its last sleep that was long enough to be forgiven
        self._is_commit_due = False
        self._next_tick = float("inf")
        self._last_tick = world.now
        self._decisions = 0
        self._ticks = 0

    # --- life ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Open the image with a new master."""
        world = self._world
        self.generation += 1
        self._is_commit_due = False
        self.awake_since = float("-inf")
        clock = Clock(mono=lambda: world.now, wall=world.wall)
        self.master = Master(self.image, Settings(heartbeat_timeout_seconds=TIMEOUT_SECONDS), clock)
        self.masters.append(self.master)
        self.jobs, self._served = ServedJobsDesk(self.master), ServedWorkDesk(self.master, INTERVAL_SECONDS)
        self.work = self._served._work
        self._parked = {}
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

    # --- calls -----------------------------------------------------------------------------------------------------

    def serve(self, trip: Trip) -> None:
        """Carry out a call that has arrived. Raises what its desk raises."""
        if self._is_locked(trip):
            self._world.after(LOCKED_SECONDS, trip.arrive)
            return
        said = trip.said
        match trip.desk, trip.method, said:
            case "jobs", "listen", calls.Listen():
                until = self._world.now + said.timeout
                self._listen_jobs(trip, until)
                self._limit(said.session, trip, until)
            case "jobs", "open", _:
                opened = self.jobs.open(PEER, calls.Nothing())
                book = self.jobs._clients[opened.session].book
                book._changed = Notice(lambda: self._put(opened.session))
                trip.answer(opened)
            case "jobs", "requeue", calls.Requeue():
                trip.answer(self.jobs.requeue(PEER, said, trip.request))
            case "jobs", _, _:
                trip.answer(getattr(self.jobs, trip.method)(PEER, said))
            case _, "listen", calls.WorkListen():
                for older, _ in self._parked.pop(said.worker, []):  # of a connection that broke, or a copy
                    self._listen_work(older, 0.0)
                until = self._world.now + said.timeout
                self._listen_work(trip, until)
                self._limit(said.worker, trip, until)
            case _, "register", calls.Register():
                trip.answer(self._register(said))
            case _, "tell", calls.Tell():
                if not self._served.take(said, lambda: trip.answer(None)):
                    trip.answer(None)
                self._look_parked(said.worker)
            case _:
                trip.answer(getattr(self._served, trip.method)(WORKER, said))

    def _put(self, session: str) -> None:
        """Something was told to a session: whoever listens there hears it, and others may come in between."""
        self._look_parked(session)
        self._world.interleave()

    def _is_locked(self, trip: Trip) -> bool:
        """Whether a call below us on the stack, another thread's, holds a lock that this one would wait for."""
        if not self._world.depth:
            return False
        match trip.said:
            case calls.Submit(session=name):
                client = self.jobs._clients.get(name)
                return client is not None and client.submitting.locked()
            case calls.Requeue() | calls.Purge():
                return self.master.committer.pruning.locked()
            case calls.WorkListen(worker=name) | calls.WorkerArgs(worker=name):
                seat = self._served._seats.get(name)
                return seat is not None and seat.listening.locked()
            case calls.Register():
                seat = self._served._seats.get(trip.said.hello.worker)
                return self._served._registering.locked() or (seat is not None and seat.listening.locked())
            case _:
                return False

    def _register(self, said: calls.Register) -> calls.Welcome:
        worker = said.hello.worker
        for older, _ in self._parked.pop(worker, []):
            older.answer(Work(0))
        welcome = self._served.register(WORKER, said)
        box = self.master.mailboxes.get(worker)
        if box is not None:
            seat = self._served._seats[worker]

            def rung() -> None:
                seat.ring()
                if seat.credit > seat.sent or box.stops or box.granted:  # else it would find nothing for it
                    self._look_parked(worker)

            box.wake = rung
        return welcome

    def _look_parked(self, name: str) -> None:
        """Something has come for whoever listens under this name: answer a moment later, in a thread of its own."""
        if name in self._parked:
            parked = self._parked.pop(name)
            generation = self.generation

            def look() -> None:
                if self.is_up and generation == self.generation:
                    for trip, until in parked:
                        self._listen_again(trip, until)

            self._world.after(0.0002, look)

    def _listen_again(self, trip: Trip, until: float) -> None:
        if self.is_frozen:
            self.held.append(lambda: self._listen_again(trip, until))
        elif self._is_locked(trip):
            self._world.after(LOCKED_SECONDS, lambda: self._listen_again(trip, until))
        elif self.is_up and trip.is_awaited:
            try:
                (self._listen_jobs if trip.desk == "jobs" else self._listen_work)(trip, until)
            except ClusterError as error:
                trip.answer(error)

    def _listen_jobs(self, trip: Trip, until: float) -> None:
        said = trip.said
        assert isinstance(said, calls.Listen)
        told: Told = self.jobs.listen(PEER, structs.replace(said, timeout=0.0))
        if told.is_gone or told.mark != said.seen or self._world.now >= until:
            trip.answer(told)
        else:
            self._parked.setdefault(said.session, []).append((trip, until))

    def _listen_work(self, trip: Trip, until: float) -> None:
        said = trip.said
        assert isinstance(said, calls.WorkListen)
        work = self._served.listen(WORKER, structs.replace(said, timeout=0.0))
        if work.mark != said.seen or self._world.now >= until:
            trip.answer(work)
        else:
            self._parked.setdefault(said.worker, []).append((trip, until))

    def _limit(self, name: str, trip: Trip, until: float) -> None:
        """Answer a long poll at its end, whatever has come."""
        generation = self.generation

        def time_is_up() -> None:
            if generation == self.generation and self.is_up and trip.is_awaited:
                parked = self._parked.get(name, [])
                if any(trip is other for other, _ in parked):
                    self._parked[name] = [each for each in parked if each[0] is not trip]
                    self._listen_again(trip, until)

        self._world.at(until, time_is_up)

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
        self._ticks += 1
        if self._ticks % CHECK_TIMERS_EVERY == 0:
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
            self._decisions += 1
            return append(effects, then)

        poll = self.work.poll

        def handing(worker: str, capacity: int) -> Poll:
            asked = self._history.mark()
            answer = poll(worker, capacity)
            if answer.leases:
                self._history.handed(worker, answer, asked)
            return answer

        self.work.poll = handing  # type: ignore[method-assign]
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
