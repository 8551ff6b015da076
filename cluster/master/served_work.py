"""The work desk as it is served over the network: each registered worker's seat, and what waits there for it.

    worker's hearing thread ──► listen (long poll) ─┐                        ┌── wake (mailboxes: work, or an order)
            ▲                                       ├─► Seat: credit, marks ◄┘
            │       telling thread ──► tell ────────┘         │ poll
            └─── answer ◄── whoever woke    reports ──► board ◄─┘

Connections break at any moment, so nothing here relies on an answer's arrival. An answer of `listen` is kept under its
mark and sent again until a later `listen` acknowledges it. `tell` is answered once its reports are committed, and may be
repeated: a fence that has ended ends once. `register` names all leases that the worker has; those that it doesn't name
never reached it and go back to the board, those that it names and are not its own any more are answered in `drop`.

Threads: one for each connection of the server; a worker has two connections. `Seat.listening` is held by the one
`listen` that counts, the newest; an older one, of a connection that broke, lets go at once. It is held by `register`
too, so that nothing can be leased between the worker's word of what it has and the board's hearing of it. While that
`listen` waits it lends what the lock guards to whoever wakes the worker: to lease for it there and then, and to send the
answer, costs less than to wake a thread that does. The committer only wakes: others wait for its next commit.

When the master dies, seats die with it, and every call of a worker is refused until it has registered again.

Who may speak for a worker: with TLS, whoever shows the certificate of the name that the worker's id begins with; to know
an id is then of no use to another worker. Several workers may live under one certificate: a restarted one comes before its
earlier life is given up, and they are one identity to the master, which logs it. Without TLS, whoever has the worker key and
knows the worker's id, which holds a random incarnation and is told to nobody who has that key but to the worker itself.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from cluster.core.records import Certificate, Ending, FunctionBlob, Lease, Report, Stop, WorkerId
from cluster.errors import MasterUnavailable, Refused
from cluster.master.work_desk import WorkDesk
from cluster.wire.audit import AUDIT, Kind
from cluster.wire.calls import FetchFunction, Heartbeat, Register, Tell, Welcome, Work, WorkerArgs, WorkListen
from cluster.wire.peer import Peer
from cluster.wire.reply import MAX_GIVEN_BYTES, Reply

if TYPE_CHECKING:
    from cluster.master.committer import Then
    from cluster.master.master import Master

LOG = logging.getLogger("cluster.master")

# A worker that asks for longer is answered with nothing, and asks again.
MAX_LISTEN_SECONDS = 30.0
# An answer takes leases up to this size, but one at least; the others follow with the next.
MAX_ANSWER_BYTES = 4 << 20
# One lease must fit into a frame (256 MiB), with what goes around it.
MAX_LEASE_BYTES = 240 << 20
# A store that takes longer to commit has a fault; the worker keeps its reports and tells them again.
MAX_COMMIT_SECONDS = 20.0
# Registered at once; a worker that registers under ever new ids must not fill the memory before they are found lost.
MAX_WORKERS = 10_000
MAX_LOST_WORKERS = 1000  # that are still listed
# Of one question. A worker that asks for the whole queue gets it in pieces, for the board is held while they are leased.
MAX_LEASES_AT_ONCE = 4096
# What a lease weighs in an answer besides its payload, roughly.
LEASE_BYTES = 200
# What is lent comes back in a moment, and who waits is not woken for that alone.
LOAN_SECONDS = 0.01
# How many heartbeats may get lost before a worker does.
HEARTBEATS_PER_TIMEOUT = 5.0


class Seat:
    """One registered worker, as long as it is that."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.welcome = Welcome()
        self.listening = threading.Lock()
        # The rest up to `turn` is written by whoever holds `changed`.
        self.changed = threading.Condition()
        self.is_rung = True  # a poll may bring something
        self.credit = 0
        self.credit_turn = 0
        self.turn = 0  # of the newest `listen`
        self.waiting: Reply | None = None  # of the `listen` that waits, if it may be answered by another thread
        self.is_lent = False  # such a thread has what `listening` guards
        # The rest by whoever holds `listening`, or has been lent it.
        self.mark = 0
        self.sent = 0  # leases, in all
        self.unacknowledged: Work | None = None
        self.leases: deque[Lease] = deque()  # leased, and too large for the last answer
        self.stops: list[Stop] = []

    def ring(self) -> None:
        """A poll would bring something. From any thread; never blocks."""
        with self.changed:
            self.is_rung = True
            self.changed.notify_all()

    def take_turn(self) -> int:
        """Make every earlier `listen` let go; the number by which this one knows itself."""
        with self.changed:
            self.turn += 1
            self.waiting = None
            self.changed.notify_all()
            return self.turn

    def wait(self, turn: int, deadline: float, reply: Reply | None) -> bool:
        """Wait until a poll may bring something; False if this `listen` is over: answered, too old, or at its end."""
        with self.changed:
            if turn == self.turn:
                self.waiting = reply
            while self.is_lent or not (self.has_something() or self.unacknowledged is not None or turn != self.turn):
                rest = deadline - time.monotonic()
                if rest <= 0 and not self.is_lent:
                    break
                self.changed.wait(LOAN_SECONDS if self.is_lent else rest)
            if turn == self.turn:
                self.waiting = None
            return turn == self.turn and self.unacknowledged is None and self.has_something()

    def has_something(self) -> bool:
        """There are leases for the next answer, or a poll may bring some."""
        return self.is_rung or bool(self.leases)

    def borrow(self) -> Reply | None:
        """Ring; if somebody waits here, the reply to him, and with it, until `give_back`, what `listening` guards."""
        with self.changed:
            self.is_rung = True
            if self.waiting is None or self.is_lent:
                self.changed.notify_all()
                return None
            self.is_lent = True
            return self.waiting

    def give_back(self) -> None:
        """End a loan. Whoever waits is woken if there is something for him to do."""
        with self.changed:
            self.is_lent = False
            if self.unacknowledged is not None:
                self.waiting = None  # it is answered, whether its thread has found that out or not
            if self.waiting is None or self.has_something():
                self.changed.notify_all()

    def answer_ring(self) -> int:
        """How many leases there is room for, at a poll that follows."""
        with self.changed:
            self.is_rung = False
            return max(0, self.credit - self.sent)

    def grant(self, said: WorkListen | Tell) -> None:
        """The worker is willing to have been sent so many."""
        with self.changed:
            # One that waited on its way since an earlier registration counts what is forgotten; one that was overtaken
            # by a later word would take that back, and nobody would say it again.
            if said.credit is None or said.number != self.number or said.turn < self.credit_turn:
                return
            self.credit_turn = said.turn
            if said.credit != self.credit:
                self.credit = said.credit
                self.is_rung = True
                self.changed.notify_all()

    def prepare(self) -> None:
        """Make the next answer of what there is for the worker, under a new mark; none if that is nothing."""
        leases: list[Lease] = []
        size = 0
        while self.leases and (not leases or size + size_of(self.leases[0]) <= MAX_ANSWER_BYTES):
            size += size_of(self.leases[0])
            leases.append(self.leases.popleft())
        if leases or self.stops:
            self.mark += 1
            self.unacknowledged = Work(self.mark, tuple(leases), tuple(self.stops))
            self.stops = []


class ServedWorkDesk:
    """The calls of desk "work" in `cluster.wire.calls`."""

    def __init__(self, master: Master, heartbeat_interval_seconds: float | None = None) -> None:
        self._master = master
        self._work = WorkDesk(master)
        timeout = master.settings.heartbeat_timeout_seconds
        self._interval_seconds = heartbeat_interval_seconds or timeout / HEARTBEATS_PER_TIMEOUT
        self._seats: dict[WorkerId, Seat] = {}
        self._lock = threading.Lock()  # guards `_seats`
        self._is_stopped = False
        self._registering = threading.Lock()  # a call that comes twice must see what its twin has done

    def register(self, peer: Peer, said: Register) -> Welcome:
        """Give a worker its seat."""
        _require_own(peer, said.hello.worker)
        if peer.name and said.hello.name != peer.name:
            raise _for_another(
                peer, f"the certificate is of worker {peer.name}, which can't register as {said.hello.name!r}"
            )
        with self._registering:
            self._require_open()
            welcome = self._register(said)
            self._note_namesakes(peer, said)
            return welcome

    def listen(self, peer: Peer, said: WorkListen, reply: Reply | None = None) -> Work:
        """Wait for leases or orders; another thread may have given the answer through `reply`."""
        _require_own(peer, said.worker)
        seat = self._seat(said.worker)
        if said.number != seat.number:
            # It waited on its way since an earlier registration: what it has seen are that one's marks, and by them it
            # would acknowledge leases that nobody has.
            return Work(said.seen)
        deadline = time.monotonic() + min(said.timeout, MAX_LISTEN_SECONDS)
        turn = seat.take_turn()
        seat.grant(said)
        with seat.listening:
            if seat.unacknowledged is not None and said.seen < seat.mark:
                return seat.unacknowledged
            seat.unacknowledged = None
            while seat.wait(turn, deadline, reply):
                self._collect(said.worker, seat)
            return seat.unacknowledged or Work(seat.mark)

    def tell(self, peer: Peer, said: Tell) -> None:
        """Take what a worker has to say; its reports are committed on return.

        Reports of a worker that was lost, and whose seat is another's since, are counted before it is refused.
        """
        _require_own(peer, said.worker)
        is_durable = threading.Event()
        if self.take(said, is_durable.set) and not is_durable.wait(MAX_COMMIT_SECONDS):
            raise MasterUnavailable(f"the store has not committed for {MAX_COMMIT_SECONDS:g} s; tell it again later")

    def take(self, said: Tell, then: Then) -> bool:
        """Decide what `tell` says; False if that makes nothing durable, so that `then` won't be called."""
        try:
            seat = self._seat(said.worker)
        except Refused:
            if said.reports and not self._work.is_known(said.worker):
                self._work.report(said.worker, said.reports)
            raise
        seat.grant(said)
        if said.begun:
            self._work.begun(said.worker, said.begun)
        # One that was on its way while the worker registered: it says all that was printed again, and that comes first.
        if said.progress and said.number == seat.number:
            self._work.progress(said.worker, said.progress)
        # The last of these is durable after the others. A report comes first: it says more than that its attempt is gone.
        if said.reports:
            self._work.report(said.worker, said.reports, None if said.stopped or said.given_back else then)
        if said.stopped:
            self._work.stopped(said.worker, said.stopped, None if said.given_back else then)
        if said.given_back:
            self._work.give_back(said.worker, said.given_back, then)
        return bool(said.reports or said.stopped or said.given_back)

    def heartbeat(self, peer: Peer, said: Heartbeat) -> None:
        """Renew all of a worker's leases."""
        _require_own(peer, said.worker)
        self._seat(said.worker)
        self._work.heartbeat(said.worker, said.health)

    def fetch_function(self, _peer: Peer, said: FetchFunction) -> FunctionBlob:
        """The pickled task of a lease."""
        return self._work.fetch_function(said.digest)

    def leave(self, peer: Peer, said: WorkerArgs) -> None:
        """A worker goes; what it still held is given back."""
        _require_own(peer, said.worker)
        with self._lock:
            seat = self._seats.pop(said.worker, None)
        if seat is None:
            return
        seat.take_turn()
        with seat.listening:  # nothing is leased to it any more
            self._work.leave(said.worker)

    def stop(self) -> None:
        """Answer those who wait, and nobody any more; workers come back to the next master."""
        self._is_stopped = True
        with self._lock:
            seats = list(self._seats.values())
        for seat in seats:
            seat.take_turn()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _register(self, said: Register) -> Welcome:
        worker = said.hello.worker
        with self._lock:
            old = self._seats.get(worker) or Seat(0)
        old.take_turn()
        with old.listening:
            if said.number == old.number:
                return old.welcome  # this very call came twice; leases may have been handed out since the first
            if said.number < old.number:
                raise Refused(f"worker {worker} has registered again since; this call came too late")
            with self._lock:
                self._forget_lost()
                if worker not in self._seats and len(self._seats) >= MAX_WORKERS:
                    raise Refused(
                        f"{MAX_WORKERS:,} workers are registered, which is the limit; stop some, and try again"
                    )
            seat = Seat(said.number)
            drop = self._work.adopt(said.hello, functools.partial(self._wake, worker, seat), said.held)
            seat.welcome = Welcome(drop, self._interval_seconds, self._master.settings.heartbeat_timeout_seconds)
            old.take_turn()  # whoever began to listen meanwhile
            with self._lock:
                self._seats[worker] = seat
        return seat.welcome

    def _note_namesakes(self, peer: Peer, said: Register) -> None:
        """Two that live under one certificate are a restart, or a copy of the certificate: an operator should know."""
        if not peer.name:
            return
        with self._lock:
            others = [worker for worker in self._seats if _is_of(peer.name, worker) and worker != said.hello.worker]
        if others:
            LOG.info(
                "workers of one certificate: name=%s serial=%s origin=%s worker=%s earlier=%s",
                peer.name, peer.serial, peer.address, said.hello.worker, ", ".join(others),
            )  # fmt: skip

    def _seat(self, worker: WorkerId) -> Seat:
        self._require_open()
        with self._lock:
            seat = self._seats.get(worker)
        if seat is None:
            raise Refused(f"worker {worker} is not registered (any more); register, and name the leases that it has")
        return seat

    def _require_open(self) -> None:
        if self._is_stopped:
            raise MasterUnavailable("this master is stopping; call again once it is back")

    def _forget_lost(self) -> None:
        """Drop the seats of lost workers, and the oldest of those from the listings."""
        with self._master.lock:
            live = set(self._master.board.workers)
        for worker in [worker for worker in self._seats if worker not in live]:
            del self._seats[worker]
        boxes = self._master.mailboxes
        lost = [box.hello.worker for box in boxes.all() if box.hello.worker not in live]
        for worker in lost[:-MAX_LOST_WORKERS]:
            boxes.remove(worker)

    def _wake(self, worker: WorkerId, seat: Seat) -> None:
        """A poll would bring something. From any thread; waits neither for the worker nor for a commit."""
        if self._master.committer.is_here():
            seat.ring()
            return
        reply = seat.borrow()
        if reply is None:
            return
        try:
            self._collect(worker, seat)  # once: should it be rung meanwhile, the thread that listens looks again
            if seat.unacknowledged is not None and weight_of(seat.unacknowledged) <= MAX_GIVEN_BYTES:
                reply.give(seat.unacknowledged)
        except Exception:  # noqa: BLE001 - it is the worker's, whose own thread comes upon it again, and tells it
            seat.ring()
        finally:
            seat.give_back()

    def _collect(self, worker: WorkerId, seat: Seat) -> None:
        """Lease for a worker, and put together the next answer, if there is anything for it."""
        poll = self._work.poll(worker, min(seat.answer_ring(), MAX_LEASES_AT_ONCE))
        seat.sent += len(poll.leases)
        if len(poll.leases) >= MAX_LEASES_AT_ONCE:
            seat.ring()  # there may be more
        seat.stops += poll.stops
        for lease in poll.leases:
            size = size_of(lease)
            if size <= MAX_LEASE_BYTES:
                seat.leases.append(lease)
                continue
            seat.sent -= 1
            reason = (
                f"its arguments, with the results that it depends on, are {size:,} bytes, more than the "
                f"{MAX_LEASE_BYTES:,} that can be sent to a worker; hand over a file's name instead"
            )
            certificate = Certificate(ending=Ending.UNPICKLABLE, reason=reason, attempt=lease.attempt)
            self._work.report(worker, [Report(lease.fence, Ending.UNPICKLABLE, certificate=certificate)])
            seat.ring()  # the board takes it for room that is used up
        seat.prepare()


def _require_own(peer: Peer, worker: WorkerId) -> None:
    """Raise `Refused` if the peer has proved another name than the worker's."""
    if peer.name and not _is_of(peer.name, worker):
        raise _for_another(
            peer, f"the certificate is of worker {peer.name}, which can't speak for {worker}; each worker needs its own"
        )


def _for_another(peer: Peer, reason: str) -> Refused:
    AUDIT.record(Kind.CALL_FOR_ANOTHER, origin=peer.address, role=peer.role.value, name=peer.name, reason=reason)
    return Refused(reason)


def _is_of(name: str, worker: WorkerId) -> bool:
    return worker.rpartition("#")[0] == name


def size_of(lease: Lease) -> int:
    """Bytes of a lease's payloads."""
    return len(lease.args) + sum(len(payload) for _, payload in lease.inputs)


def weight_of(work: Work) -> int:
    """Bytes of an answer, roughly."""
    return sum(size_of(lease) + LEASE_BYTES for lease in work.leases)
