"""The work desk as a worker has it: the master's, over a network that breaks, and over masters that die and come back.

    supervisor's thread                         this desk                                  master
      poll, heartbeat ────────► inbox, credit, health ◄──── hearing thread ──── register, heartbeat, listen, fetch
      report, stopped, ...────► to tell ──────────────────► telling thread ──── tell (answered once committed)
                ◄── wake ───────┘

The supervisor is never kept waiting: what it says is kept here until the master has committed it, and what it asks for
is what has arrived. Two threads, each with a connection of its own, carry out one script each (`scripts`), which is all
that they do; everything that they share with the supervisor is guarded by `_changed`, which is never held during a call.
While such a thread would only wait, it lends its script to the supervisor's (`lending`): on a job's way no other thread wakes.

`_held` has every lease that came, from its arrival until the master has taken its end. So after a master's restart this
desk registers again by itself, under the same id and with those fences: what the master knows it adopts, fence and all,
and the supervisor notices nothing; what it does not know comes to the supervisor as an order to stop.

The lease. Attempts may run until the master may think us lost: its heartbeat timeout, counted from when the last heartbeat
that was answered was *sent*, less one interval, because the supervisor looks once in an interval. Then `heartbeat` and
`poll` raise `Refused`, and the supervisor kills what runs and registers as another worker. An attempt's end that was not
told by then is told all the same, under the old id and before the new one registers: the master counts it as late, or
takes it if it had not given the worker up yet.

Who dies, and what follows: the master, see above. The supervisor's thread hangs: it hands in no health, so no heartbeat
is sent. The process: nothing of this matters any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cluster.core.records import Digest, Ending, Fence, FunctionBlob, Lease, Report, Stop, WorkerId
from cluster.errors import ClusterError, MasterUnavailable, Refused
from cluster.wire.calls import FetchFunction, Heartbeat, Register, Tell, Welcome, Work, WorkerArgs, WorkListen
from cluster.wire.lending import Lender, Strand, WorkLine
from cluster.wire.messages import Health, Hello, Poll, Progress
from cluster.wire.scripts import Ask, Caller, Rest, Script, perform
from cluster.wire.untold import Untold

# A health that is handed in waits so long at most until its heartbeat is sent.
LISTEN_SECONDS = 1.0
# A long poll's answer, a commit of a slow store: then the connection is given up.
CALL_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0
# A worker that leaves has this long to tell what it has to tell.
MAX_LEAVE_SECONDS = 10.0
MAX_JOIN_SECONDS = 5.0
MAX_FUNCTIONS = 256

log = logging.getLogger("cluster.wire")


class RemoteWorkDesk:
    """`cluster.wire.desks.WorkDesk` of a master elsewhere. One worker, under one id after another."""

    def __init__(
        self,
        caller: Caller,
        on_welcome: Callable[[Welcome], None] = lambda _: None,
        *,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a desk that has no worker yet.

        Args:
            caller: the proxy; its patience should be short, for this desk tries again by itself.
            on_welcome: called from the hearing thread after each registration.
            mono: the clock by which leases are judged.
        """
        self._caller = caller
        self._on_welcome = on_welcome
        self._mono = mono
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._line: WorkLine | None = None
        self._lock = lock
        self._is_closed = False
        self._threads: list[threading.Thread] = []

        self._hello: Hello | None = None
        self._wake: Callable[[], None] = lambda: None
        self._life = 0  # grows with each id: an answer for an earlier one means nothing any more
        self._number = 0  # of the last registration
        self._is_registered = False
        self._lease_seconds = 0.0  # as the master says
        self._listen_seconds = LISTEN_SECONDS
        self._lease_until = float("inf")
        self._trouble = ""

        self._held: set[Fence] = set()
        self._unready: deque[Lease] = deque()  # their function is still to be fetched
        self._leases: list[Lease] = []
        self._stops: list[Stop] = []
        self._seen = 0
        self._received = 0  # leases since the registration
        self._credit = 0
        self._credit_turn = 0  # grows with each change of `_credit`
        self._told_credit = 0
        self._untold = Untold()
        self._late: Tell | None = None  # of the last id's attempts
        self._health: Health | None = None
        self._functions: dict[Digest, FunctionBlob] = {}

    # --- the supervisor's thread ------------------------------------------------------------------------------------

    def register(self, hello: Hello, wake: Callable[[], None]) -> None:
        """Begin a new life under this id; returns at once, while the hearing thread registers."""
        with self._changed:
            if self._hello is not None and self._untold.reports:
                ended = self._untold.batch(self._hello.worker, 0, self._number)
                self._late = Tell(ended.worker, ended.reports)
            self._hello, self._wake = hello, wake
            self._life += 1
            self._number = 0
            self._is_registered = False
            self._lease_until = float("inf")
            self._held.clear()
            self._unready.clear()
            self._leases, self._stops = [], []
            self._credit = self._told_credit = self._received = 0
            self._untold = Untold()
            self._health = None
            self._notify()
        if not self._threads and not self._is_closed:
            self._start()

    def poll(self, worker: WorkerId, capacity: int) -> Poll:
        """What has arrived. What is asked for beyond that, the master may send."""
        with self._changed:
            self._check(worker)
            leases, self._leases = self._leases, []
            stops, self._stops = self._stops, []
            # Those still without their function count: they are under way to a slot.
            room = max(0, capacity - len(leases) - len(self._unready))
            if self._received + room != self._credit:
                self._credit = self._received + room
                self._credit_turn += 1
                self._notify()
        return Poll(tuple(leases), tuple(stops))

    def fetch_function(self, digest: Digest) -> FunctionBlob:
        """The pickled task of a lease: fetched before the lease was handed out."""
        with self._changed:
            blob = self._functions.get(digest)
        if blob is None:
            blob = self._caller.call("fetch_function", FetchFunction(digest), timeout=CALL_SECONDS)
            self._keep(blob)
        return blob

    def report(self, worker: WorkerId, reports: Sequence[Report]) -> None:
        """Have it told; at once, while the telling thread sees to it."""
        self._say(worker, lambda untold: untold.reports.extend(reports))

    def give_back(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """As `report`."""
        self._say(worker, lambda untold: untold.given_back.extend(fences))

    def stopped(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """As `report`."""
        self._say(worker, lambda untold: untold.stopped.extend(fences))

    def progress(self, worker: WorkerId, progress: Sequence[Progress]) -> None:
        """As `report`, but not worth telling twice."""
        self._say(worker, lambda untold: untold.progress.extend(progress))

    def begun(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """As `progress`."""
        self._say(worker, lambda untold: untold.begun.extend(fences))

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        """Have it sent. Raises `Refused` once the worker's leases may be void."""
        with self._changed:
            self._check(worker)
            self._health = health

    def leave(self, worker: WorkerId) -> None:
        """Wait, a bounded time, until all is told, and deregister; a master that can't be told finds out itself."""
        if self._line is not None:
            with self._changed:
                self._line.let_go()  # it is the thread that would carry the scripts on which waits here
        perform(self.leaving(worker), self._ask, self._changed)

    # --- for whoever made this desk -----------------------------------------------------------------------------------

    def line(self, lender: Lender) -> WorkLine:
        """What the supervisor's thread carries the scripts on by; before the first registration, and once.

        Args:
            lender: the caller, as one whose calls need not be waited for.
        """
        self._line = WorkLine(self._lock)
        self._line.strands = [Strand(script, lender, self._line) for script in (self.hearing(), self.telling())]
        return self._line

    def wait_registered(self, timeout_seconds: float) -> bool:
        """Wait until the master has taken the worker in; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_registered or self._is_closed, timeout_seconds)

    @property
    def trouble(self) -> str:
        """Why the last call failed; empty if it did not."""
        return self._trouble

    def close(self) -> None:
        """Say and hear nothing more; returns when both threads are gone."""
        with self._changed:
            self._is_closed = True
            self._notify()
            if self._line is not None:
                self._line.let_go()
        self._caller.close()
        for thread in self._threads:
            thread.join(MAX_JOIN_SECONDS)
        if self._line is not None:
            self._line.close()

    def _start(self) -> None:
        if self._line is not None:
            runs: list[Callable[[], None]] = [strand.run for strand in self._line.strands]
        else:
            runs = [partial(perform, script, self._ask, self._changed) for script in (self.hearing(), self.telling())]
        for name, run in zip(("cluster-hearing", "cluster-telling"), runs, strict=True):
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _ask(self, step: Ask) -> Any:
        return self._caller.call(step.method, step.said, timeout=step.timeout)

    # --- the scripts: what the threads do ---------------------------------------------------------------------------

    def leaving(self, worker: WorkerId) -> Script:
        """See `leave`."""
        with self._changed:
            if not self._is_registered_as(worker):
                return
        yield Rest(lambda: self._untold.is_empty or self._is_closed, MAX_LEAVE_SECONDS)
        with self._changed:
            if not self._is_registered_as(worker):
                return
            is_told = self._untold.is_empty
            self._hello = None
            self._life += 1
        if not is_told:
            # To leave is to hand back what the master has not heard the end of, as if it had never begun: a job that may
            # run only once would run again. The master finds us lost instead.
            log.warning("worker %s goes with something untold: %s", worker, self._trouble or "the master is slow")
            return
        try:
            yield Ask("leave", WorkerArgs(worker), MAX_LEAVE_SECONDS)
        except ClusterError as error:
            log.warning("worker %s leaves without the master's knowledge: %s", worker, error)

    def hearing(self) -> Script:
        """Register, renew the lease and take what comes, until the desk is closed."""
        pause_seconds = 0.0
        while True:
            yield Rest(lambda: self._is_closed or self._hello is not None)
            with self._changed:
                if self._is_closed:
                    return
                life, is_registered = self._life, self._is_registered
            try:
                if not is_registered:
                    yield from self._tell_late()
                    yield from self._register_now(life)
                yield from self._beat(life)
                yield from self._make_ready(life)
                yield from self._listen(life)
            except Exception as error:  # noqa: BLE001 - a defect must not leave a worker that looks alive and is deaf
                pause_seconds = min(max(2 * pause_seconds, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
                self._on_failure(life, error)
                yield Rest(lambda: self._is_closed, pause_seconds)
            else:
                pause_seconds = 0.0
                self._on_success()

    def _tell_late(self) -> Script:
        """Have the last id's ended attempts judged by who can: the master has their fences. Tried until it answers."""
        with self._changed:
            late = self._late
        if late is None:
            return
        try:
            yield Ask("tell", late, CALL_SECONDS)
        except MasterUnavailable:
            raise
        except ClusterError as error:
            log.info("worker %s: %d reports came too late: %s", late.worker, len(late.reports), error)
        with self._changed:
            if self._late is late:
                self._late = None

    def _register_now(self, life: int) -> Script:
        with self._changed:
            hello = self._hello
            if hello is None or life != self._life:
                return
            self._number += 1
            said = Register(hello, tuple(sorted(self._held)), self._number)
        sent = self._mono()
        welcome: Welcome = yield Ask("register", said, CALL_SECONDS)
        with self._changed:
            if life != self._life:
                return
            self._is_registered = True
            self._untold.say_again()
            self._seen = 0
            # The master counts anew.
            self._credit, self._told_credit, self._received = max(0, self._credit - self._received), 0, 0
            self._renew(sent, welcome)
            self._drop(frozenset(welcome.drop))
            self._notify()
        self._on_welcome(welcome)
        self._wake()

    def _renew(self, sent: float, welcome: Welcome | None = None) -> None:
        if welcome is not None:
            self._lease_seconds = welcome.heartbeat_timeout_seconds - welcome.heartbeat_interval_seconds
            self._listen_seconds = min(LISTEN_SECONDS, welcome.heartbeat_interval_seconds / 2)
        self._lease_until = sent + self._lease_seconds

    def _drop(self, dropped: frozenset[Fence]) -> None:
        """Forget leases that are not ours any more, or have the supervisor end what runs of them."""
        waiting = {lease.fence for lease in (*self._leases, *self._unready)}
        self._leases = [lease for lease in self._leases if lease.fence not in dropped]
        self._unready = deque(lease for lease in self._unready if lease.fence not in dropped)
        # The master may know them, as ordered to stop, and wait for the word that they have: nobody else would say it.
        self._untold.stopped += sorted(dropped & waiting)
        self._stops += [Stop(fence, Ending.ADMISSION) for fence in sorted(dropped - waiting)]

    def _beat(self, life: int) -> Script:
        with self._changed:
            health, self._health = self._health, None
            hello = self._hello
        if health is None or hello is None:
            return
        sent = self._mono()
        yield Ask("heartbeat", Heartbeat(hello.worker, health), CALL_SECONDS)
        with self._changed:
            if life == self._life and self._is_registered:
                self._renew(sent)

    def _listen(self, life: int) -> Script:
        with self._changed:
            hello = self._hello
            if hello is None or life != self._life:
                return
            said = WorkListen(
                hello.worker, self._seen, self._listen_seconds, self._number, self._credit, self._credit_turn
            )
            self._told_credit = said.credit
        work: Work = yield Ask("listen", said, LISTEN_SECONDS + CALL_SECONDS)
        with self._changed:
            if life != self._life or work.mark <= self._seen:
                return
            self._seen = work.mark
            self._received += len(work.leases)
            self._held.update(lease.fence for lease in work.leases)
            self._unready.extend(work.leases)
            self._stops += work.stops
        yield from self._make_ready(life)
        self._wake()

    def _make_ready(self, life: int) -> Script:
        """Hand leases over once their functions are here; those that can't be had are given up, one by one."""
        is_any = False
        while True:
            with self._changed:
                if life != self._life:
                    break
                unready = self._unready
                while unready and unready[0].function in self._functions:
                    self._leases.append(unready.popleft())
                    is_any = True
                if not unready:
                    break
                lease = unready[0]
            try:
                blob = yield Ask("fetch_function", FetchFunction(lease.function), CALL_SECONDS)
            except MasterUnavailable:
                raise
            except ClusterError as error:
                self._give_up(lease, error)
            else:
                self._keep(blob)
        if is_any:
            self._wake()

    def _give_up(self, lease: Lease, error: ClusterError) -> None:
        with self._changed:
            if self._unready and self._unready[0] is lease:  # else dropped meanwhile
                self._unready.popleft()
                log.warning("job %s: its function can't be had: %s", lease.job, error)
                self._untold.refuse(lease, f"its function can't be had from the master: {error}")
                self._notify()

    def _keep(self, blob: FunctionBlob) -> None:
        with self._changed:
            if len(self._functions) >= MAX_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            self._functions[blob.digest] = blob

    def telling(self) -> Script:
        """Tell the master what there is to say, until the desk is closed."""
        pause_seconds = 0.0
        while True:
            yield Rest(lambda: self._is_closed or self._has_to_tell())
            with self._changed:
                hello = self._hello
                if self._is_closed:
                    return
                if hello is None or not self._has_to_tell():
                    continue
                life = self._life
                said = self._untold.batch(hello.worker, self._credit, self._number, turn=self._credit_turn)
            try:
                yield Ask("tell", said, CALL_SECONDS)
            except Exception as error:  # noqa: BLE001 - a defect must not leave a worker that looks alive and is deaf
                pause_seconds = min(max(2 * pause_seconds, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
                self._on_failure(life, error)
                with self._changed:
                    if life == self._life:
                        self._untold.say_again()
                yield Rest(lambda: self._is_closed, pause_seconds)
            else:
                pause_seconds = 0.0
                self._on_told(life, said)

    def _has_to_tell(self) -> bool:
        is_any = not self._untold.is_empty or self._is_credit_pressing()
        return is_any and self._is_registered and self._hello is not None

    def _is_credit_pressing(self) -> bool:
        """Whether the master must hear of the credit at once, by a call of its own.

        What it may still send may be half of what there is room for, or twice as much, until the next call that goes
        anyway: a call for each lease that came would cost as much as the lease.
        """
        room, allowed = self._credit - self._received, self._told_credit - self._received
        return not room <= 2 * allowed <= 4 * room

    def _on_told(self, life: int, said: Tell) -> None:
        with self._changed:
            if life != self._life:
                return
            if said.number == self._number and said.credit is not None:
                self._told_credit = said.credit
            self._held.difference_update(self._untold.told(said))
            self._trouble = ""
            self._notify()

    # --- what they share ----------------------------------------------------------------------------------------------

    def _notify(self) -> None:
        """With the lock held: something has changed that others may wait for."""
        self._changed.notify_all()
        if self._line is not None:
            self._line.nudge()

    def _is_registered_as(self, worker: WorkerId) -> bool:
        return self._is_registered and self._hello is not None and self._hello.worker == worker

    def _say(self, worker: WorkerId, add: Callable[[Untold], None]) -> None:
        with self._changed:
            if self._hello is not None and self._hello.worker == worker:
                add(self._untold)
                self._notify()

    def _check(self, worker: WorkerId) -> None:
        """Raise `Refused` if the worker must not go on under this id. `_changed` is held."""
        if self._hello is None or self._hello.worker != worker:
            raise Refused(f"worker {worker} is not registered any more")
        if self._mono() >= self._lease_until:
            raise Refused(f"no heartbeat was answered for {self._lease_seconds:g} s; {self._trouble}".rstrip("; "))

    def _on_failure(self, life: int, error: Exception) -> None:
        with self._changed:
            if self._is_closed or life != self._life:
                return
            is_new, self._trouble = not self._trouble, str(error)
            if isinstance(error, Refused):
                self._is_registered = False  # the master does not know us: the hearing thread registers
        if not isinstance(error, ClusterError):
            log.error("the work desk goes on after an unexpected error", exc_info=error)
        elif is_new:
            log.warning("the master's work desk: %s", error)

    def _on_success(self) -> None:
        if self._trouble:
            with self._changed:
                self._trouble = ""
            log.warning("the master's work desk answers again")
