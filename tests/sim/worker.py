"""A worker as the master may meet it: it leases, runs, reports, freezes, dies and comes back as another one.

What it owes the master, and any real one does too: it believes in its leases until `timeout` after it *sent* its last
answered heartbeat (or registration), kills its attempts then, and begins nothing after; it never has two polls out; when
a poll's answer is lost it can't know what it was given, so it registers again with what it holds, or leaves; it does the
same when the master dies (what the next one does not know, it stops); it repeats a report until that is durable (a
master that dies with an undurable one leaves the lease with it); before it leaves it has reported what it began and must
not begin again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import structs

from cluster.core.policy import is_at_most_once
from cluster.core.records import Ending, Fence, Report, Stop
from cluster.errors import ClusterError
from cluster.wire.messages import Health, Hello, Poll
from tests.sim import attempts
from tests.sim.history import Attempt
from tests.sim.host import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from tests.sim.history import History
    from tests.sim.host import Host
    from tests.sim.network import Network
    from tests.sim.world import World

HEARTBEAT_SECONDS = 2.0
RESEND_SECONDS = 0.5
# Once nothing fails any more it does not matter how long attempts take, only that there is an end.
CALM_HASTE = 0.1
HEALTH = Health()


class Worker:
    """One name, one incarnation after another."""

    def __init__(self, world: World, network: Network, history: History, hello: Hello) -> None:
        self._world = world
        self._network = network
        self._history = history
        self._template = hello
        self._resources = dict(hello.resources)
        self._incarnation = 0
        self.id = ""
        self.valid_until = 0.0
        # down, joining, up, returning (up, but the master does not know it), ending (runs on or reports, but takes
        # nothing more)
        self.state = "down"
        self._frozen_until = 0.0
        self._session = 0  # of polls and heartbeats: what an earlier registration is answered means nothing any more
        self._life = 0  # a death makes every pending event of this life meaningless
        self.held: dict[Fence, Attempt] = {}  # in order of arrival; the begun ones run
        # The latest registration that has reached the master. As a served desk does by `Register.number`, it leases
        # nothing to a call from before that: one that was given up as lost, and comes late.
        self._heard_session = 0
        self._reports: dict[Fence, Report] = {}  # unanswered
        self._stopping: dict[Fence, None] = {}  # stopped, and that is not durable yet
        self._is_polling = False
        self._is_woken = False  # since the last poll went out
        self._is_reporting = False

    # --- life ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start a new incarnation."""
        if self.state != "down":
            return
        self._incarnation += 1
        self.id = f"{self._template.name}#{self._incarnation}"
        self.state = "joining"
        self._is_polling = self._is_reporting = False
        self._join(self._life)

    def die(self, *, seconds: float) -> None:
        """SIGKILL of supervisor and children; something starts it again later."""
        self._world.note("worker dies", self.id)
        self._drop_all()
        self._reports.clear()
        self._stopping.clear()
        self.state = "down"
        self._life += 1
        self._frozen_until = 0.0
        self._later(seconds, self.boot)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP of the supervisor; its children run on."""
        self._world.note("worker frozen", self.id, round(seconds, 2))
        self._frozen_until = self._world.now + seconds

    def drain(self) -> None:
        """Go in good order, and come back as another one."""
        if self.state == "up":
            self._world.note("worker drains", self.id)
            self._end(is_killing=self._world.dice.random() < 0.5)

    def master_died(self, *, is_embedded: bool) -> None:
        """The connection is gone; in embedded mode so are we."""
        if is_embedded:
            if self.state != "down":
                self.die(seconds=self._world.dice.uniform(0.1, 6.0))
        elif self.state == "joining":
            self._restart()
        elif self.state == "up":
            if self._world.dice.random() < 0.7:
                self._come_back()
            else:
                self._end(is_killing=False)

    def resume(self, action: Callable[[], None]) -> None:
        """Act now, or once thawed."""
        if self._world.now < self._frozen_until:
            life = self._life
            self._world.at(self._frozen_until, lambda: self.resume(action) if life == self._life else None)
        else:
            action()

    # --- registration and heartbeats --------------------------------------------------------------------------------

    def _join(self, life: int) -> None:
        if life != self._life or self.state != "joining":
            return
        hello = self._hello()
        sent = self._world.now

        def joined(answer: ClusterError | None) -> None:
            if life == self._life and self.state == "joining":
                self._world.note("worker up", self.id)
                self.state = "up"
                self.valid_until = sent + TIMEOUT_SECONDS
                self._guard(life)
                self._heartbeat(life)
                self.poll()

        def again() -> None:
            self._join(life)

        self._network.call(
            self, lambda host: host.work.register(hello, self._waker()), joined, again, is_repeatable=True
        )

    def _come_back(self) -> None:
        """Register again under the same id, with all that is held; what runs goes on meanwhile."""
        if self.state != "up":
            return
        self._world.counts["came back"] += 1
        self.state = "returning"
        self._session += 1
        self._is_polling = False
        self._rejoin(self._life, self._session)

    def _rejoin(self, life: int, session: int) -> None:
        if life != self._life or session != self._session or self.state != "returning":
            return
        hello, waker, sent = self._hello(), self._waker(), self._world.now
        # What is reported and not known to be durable may still be this worker's there.
        held = tuple(dict.fromkeys((*self.held, *self._reports, *self._stopping)))

        def rejoined(dropped: tuple[Fence, ...] | ClusterError) -> None:
            if life != self._life or session != self._session or self.state != "returning":
                return
            assert not isinstance(dropped, ClusterError)
            self._world.note("worker is back", self.id, len(held), len(dropped))
            self._world.counts["adopted"] += len(held) - len(dropped)
            self.state = "up"
            self.valid_until = max(self.valid_until, sent + TIMEOUT_SECONDS)
            for fence in dropped:
                self._stop(Stop(fence, Ending.ADMISSION))
            for fence in self._stopping:
                self._confirm(fence)
            self._begin_next()
            self.poll()

        def again() -> None:
            self._rejoin(life, session)

        def adopt(host: Host) -> tuple[Fence, ...]:
            self._heard_session = max(self._heard_session, session)
            return host.work.adopt(hello, waker, held)

        self._network.call(self, adopt, rejoined, again)

    def join_again(self) -> None:
        """Send the registration once more, as a retried call does."""
        if self.state == "up":
            hello, waker = self._hello(), self._waker()
            self._network.call(self, lambda host: host.work.register(hello, waker), lambda _: None, lambda: None)

    def _hello(self) -> Hello:
        return structs.replace(self._template, worker=self.id)

    def _heartbeat(self, life: int) -> None:
        if life != self._life or self.state not in ("up", "returning", "ending"):
            return
        sent, worker, session = self._world.now, self.id, self._session

        def renewed(answer: ClusterError | None) -> None:
            if life != self._life or session != self._session or self.state == "returning":
                return
            if isinstance(answer, ClusterError):
                self._unknown()
            else:
                self.valid_until = max(self.valid_until, sent + TIMEOUT_SECONDS)

        self._network.call(
            self, lambda host: host.work.heartbeat(worker, HEALTH), renewed, lambda: None, is_repeatable=True
        )
        # What runs is said by chance only, and not again: nothing may rely on it.
        begun = tuple(fence for fence in self.held if self._world.dice.random() < 0.5)
        if begun:
            self._network.call(self, lambda host: host.work.begun(worker, begun), lambda _: None, lambda: None)
        self._later(HEARTBEAT_SECONDS, lambda: self._heartbeat(life))

    def _guard(self, life: int) -> None:
        """Kill everything once our leases may be void."""
        if life != self._life or self.state not in ("up", "returning", "ending"):
            return
        if self.valid_until <= self._world.now:
            self._world.note("worker gives itself up", self.id)
            self._world.counts["self-fenced"] += 1
            self._end(is_killing=True)
            return
        self._world.at(self.valid_until, lambda: self.resume(lambda: self._guard(life)))

    def _unknown(self) -> None:
        """The master does not know us (any more)."""
        if self.state == "up" and self._world.plan.workers_survive and self._world.dice.random() < 0.5:
            self._come_back()
        else:
            self._disowned()

    def _disowned(self) -> None:
        """The master says that it does not know us: nothing that we hold counts."""
        self._drop_all()
        self._reports.clear()
        self._restart()

    def _restart(self) -> None:
        self._life += 1
        self._stopping.clear()
        self.state = "down"
        self._later(self._world.dice.uniform(0.05, 1.0), self.boot)

    # --- leases ------------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Ask for work and orders."""
        if self.state != "up" or self._is_polling:
            return
        self._is_polling, self._is_woken = True, False
        life, session, worker = self._life, self._session, self.id
        capacity = max(0, self._template.slots + self._prefetch() - len(self.held))

        def ask(host: Host) -> tuple[Poll, list[Attempt]]:
            if session < self._heard_session:
                return Poll(), []
            asked = self._history.mark()
            answer = host.work.poll(worker, capacity)
            return answer, self._history.handed(self, answer, asked)

        def told(answer: tuple[Poll, list[Attempt]] | ClusterError) -> None:
            if life != self._life or session != self._session:
                return
            self._is_polling = False
            if isinstance(answer, ClusterError):
                self._unknown()
            elif self.state == "up":
                self._take(*answer)

        def lost() -> None:
            if life != self._life or session != self._session:
                return
            self._is_polling = False
            if self._world.plan.workers_survive and self._world.dice.random() < 0.5:
                self._come_back()
            else:
                self._end(is_killing=self._world.dice.random() < 0.5)

        self._network.call(self, ask, told, lost)

    def _take(self, poll: Poll, new: list[Attempt]) -> None:
        for attempt in new:
            self.held[attempt.lease.fence] = attempt
        self._check_resources()
        for stop in poll.stops:
            self._stop(stop)
        surplus = [fence for fence, attempt in self.held.items() if not attempt.is_begun]
        if surplus and self._world.dice.random() < 0.1:
            self._give_back(surplus)
        self._begin_next()
        if self._is_woken or (new and len(self.held) < self._template.slots):
            self.poll()

    def _prefetch(self) -> int:
        return 1 if self._world.dice.random() < 0.3 else 0

    def _waker(self) -> Callable[[], None]:
        life = self._life

        def wake() -> None:
            if life != self._life:
                return
            if self._world.chance(self._world.plan.fault_rate / 2):
                self._world.fault("registration repeated")
                self.join_again()
            if self._is_polling:
                self._is_woken = True
            elif not self._is_woken:
                self._is_woken = True
                self._later(0.001, lambda: self.resume(self.poll) if life == self._life else None)

        return wake

    def _stop(self, stop: Stop) -> None:
        attempt = self.held.pop(stop.fence, None)
        if attempt is not None:
            self._history.over(attempt)
            if attempt.is_begun and is_at_most_once(attempt.lease.options):
                # The order came before what it is for was durable: a next master may know nothing of it, and would
                # take a lease that is handed back for one that was never begun.
                self._tell(attempts.killed(attempt.lease))
        self._confirm(stop.fence)

    def _confirm(self, fence: Fence) -> None:
        """Say that an attempt is gone, and remember until the master can't forget it."""
        self._stopping[fence] = None

        def forget() -> None:
            self._stopping.pop(fence, None)

        def confirm(host: Host, worker: str) -> None:
            host.work.stopped(worker, [fence])
            host.when_durable(lambda: self._later(0.01, forget))

        self._repeat(confirm)

    def _give_back(self, fences: list[Fence]) -> None:
        for fence in fences:
            del self.held[fence]
        self._world.counts["given back"] += len(fences)
        self._repeat(lambda host, worker: host.work.give_back(worker, fences))

    def _check_resources(self) -> None:
        used: dict[str, int] = {}
        for attempt in self.held.values():
            for name, amount in attempt.lease.options.resources:
                used[name] = used.get(name, 0) + amount
        for name, amount in used.items():
            if amount > self._resources.get(name, 0):
                self._history.fail("resources", f"{self.id} has {self._resources} and is given jobs for {used}")
        memory = sum(attempt.lease.memory for attempt in self.held.values())
        if memory > self._template.memory_most:
            self._history.fail("memory", f"{self.id} has {self._template.memory_most} and is given jobs for {memory}")

    # --- attempts ------------------------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        if self.valid_until <= self._world.now:
            return  # thawed too late: `_guard` is about to give everything up
        running = sum(attempt.is_begun for attempt in self.held.values())
        for attempt in list(self.held.values()):
            if running >= self._template.slots:
                return
            if not attempt.is_begun:
                running += 1
                self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        self._history.begun(attempt)
        seconds, report = attempts.play(attempt.lease, self._world.dice)
        if self._world.is_calm:
            seconds *= CALM_HASTE
        if self._is_broken():
            self._world.counts["failed at once"] += 1
            seconds, report = 0.001, attempts.killed(attempt.lease)
        life, fence = self._life, attempt.lease.fence
        self._world.after(seconds, lambda: self._finish(life, fence, report))

    def _is_broken(self) -> bool:
        """In one world of four the first host is one on which everything fails, until the faults stop."""
        return not self._world.is_calm and self._world.seed % 4 == 1 and self._template.name == "w0"

    def _finish(self, life: int, fence: Fence, report: Report) -> None:
        if life != self._life or fence not in self.held:
            return
        if self._world.now < self._frozen_until:
            # Its child has ended; the supervisor sees that when it thaws.
            self._world.at(self._frozen_until, lambda: self._finish(life, fence, report))
            return
        self._history.over(self.held.pop(fence))
        self._tell(report)
        if self.state == "up":
            self._begin_next()
            self.poll()
        elif self.state == "ending" and not self.held:
            self._leave(life)

    def _tell(self, report: Report) -> None:
        self._history.reported(report)
        self._reports[report.fence] = report
        self._send_reports(self._life)

    def _send_reports(self, life: int) -> None:
        if life != self._life or self._is_reporting or not self._reports:
            return
        self._is_reporting = True
        worker, batch = self.id, tuple(self._reports.values())

        def durable() -> None:
            if life == self._life:
                for report in batch:
                    self._reports.pop(report.fence, None)

        def tell(host: Host) -> None:
            host.work.report(worker, batch)
            host.when_durable(lambda: self._later(0.01, durable))

        def answered(answer: ClusterError | None) -> None:
            if life == self._life:
                self._is_reporting = False
                self._later(RESEND_SECONDS, lambda: self._send_reports(life))

        def lost() -> None:
            if life == self._life:
                self._is_reporting = False
                self._later(RESEND_SECONDS, lambda: self._send_reports(life))

        self._network.call(self, tell, answered, lost, is_repeatable=True)

    # --- the end of an incarnation ---------------------------------------------------------------------------------------

    def _end(self, *, is_killing: bool) -> None:
        """Take nothing more; let what runs end, or kill it and say so; then leave."""
        if self.state not in ("up", "returning", "ending"):
            return
        self.state = "ending"
        for fence, attempt in list(self.held.items()):
            if attempt.is_begun and not is_killing:
                continue
            del self.held[fence]
            self._history.over(attempt)
            # What was not begun, and what may run again, is handed back by leaving.
            if attempt.is_begun and (is_at_most_once(attempt.lease.options) or self._world.dice.random() < 0.5):
                self._tell(attempts.killed(attempt.lease))
        if not self.held:
            self._leave(self._life)

    def _leave(self, life: int) -> None:
        if life != self._life or self.state != "ending" or self.held:
            return
        if self._reports:
            self._send_reports(life)
            self._later(0.1, lambda: self._leave(life))
            return
        worker = self.id

        def gone(answer: ClusterError | None) -> None:
            if life == self._life and self.state == "ending":
                self._world.note("worker left", worker)
                self._restart()

        self._network.call(
            self, lambda host: host.work.leave(worker), gone, lambda: self._leave(life), is_repeatable=True
        )

    def _repeat(self, do: Callable[[Host, str], None]) -> None:
        """Say it until it is answered."""
        life, worker = self._life, self.id

        def send() -> None:
            if life == self._life:
                self._network.call(
                    self, lambda host: do(host, worker), lambda _: None, lambda: self._later(RESEND_SECONDS, send),
                    is_repeatable=True,
                )  # fmt: skip

        send()

    def _drop_all(self) -> None:
        for attempt in self.held.values():
            self._history.over(attempt)
        self.held.clear()

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        self._world.after(delay, lambda: self.resume(action))
