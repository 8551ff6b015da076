"""How a thread that waits lends its script to the supervisor's thread, which then carries it on where it has reason to.

    a script's own thread ── connects, retries, waits, reads long frames ──┐
            │ lend: while nothing is to be done but to wait                ├──► one script, one connection
    supervisor's thread ──── epoll: an answer is here ── takes it in ──────┘
                     └────── end of a turn: says what there is to say

To wake a thread, which then takes in an answer and wakes the supervisor's, costs more than all that is done with a small
job. So while a script waits, for the answer to its call or for a reason to go on, its thread lends it, connection and all;
the supervisor's thread finds the answer by its own epoll, and makes the next call, without ever waiting. What would have it
wait (half a frame, a break, an answer overdue, a connection to be made, a pause) goes back to the script's thread, whose
ways are those of any call.

Who has a strand: its thread, until that lends it (`is_lent`); then the supervisor's, but for as long as it is `is_busy`
only. The thread waits meanwhile, with the call's deadline, and takes back what is overdue, whatever has become of the
supervisor. Both are written with the desk's lock held, which nobody holds while a script runs. A thread sleeps on
`_turn`, a condition of its own, so what happens between the supervisor and the desk does not wake it.

TLS: the epoll tells nothing of what OpenSSL has decrypted and not handed out. But a connection has one call at a time, so
after a whole answer nothing follows, and less than a whole answer is read on by the thread, which asks OpenSSL first.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from cluster.errors import ClusterError
from cluster.wire.codec import Answer
from cluster.wire.connection import ClusterConnection
from cluster.wire.flight import Flight
from cluster.wire.scripts import Ask, Caller, Rest, Script

# What the supervisor's thread is busy with is over in a moment.
BUSY_SECONDS = 0.01


class Lender(Caller, Protocol):
    """A caller whose calls need not be waited for: `cluster.wire.proxy.DeskProxy`."""

    def begin(self, connection: ClusterConnection, method: str, said: Struct, timeout: float) -> Flight:
        """Send a call, without waiting. Raises `Refused` if it can't be sent."""

    def take(self) -> ClusterConnection | None:
        """The connection of this thread's calls, which is ours then."""

    def land(self, connection: ClusterConnection) -> None:
        """This thread's calls may use the connection."""


class Strand:
    """A script and how far it is. `run` is its thread; `hear` and `speak` are called by the supervisor's."""

    def __init__(self, script: Script, caller: Lender, line: WorkLine) -> None:
        self._script = script
        self._caller = caller
        self._line = line
        self._lock = line.lock
        self._turn = threading.Condition(line.lock)
        self._step: Ask | Rest | None = None
        self._flight: Flight | None = None  # of the step, if that is a call that was begun
        self._spare: ClusterConnection | None = None  # no call is under way on it
        self.is_lent = False
        self._is_busy = False
        self._watched: ClusterConnection | None = None

    # --- the script's thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry the script out, to its end."""
        self._advance()
        while self._step is not None:
            if self._can_wait_elsewhere():
                self._lend()
            self._do()
        if self._spare is not None:
            self._spare.close()

    def nudge(self, *, is_supervisor: bool) -> None:
        """There may be a reason to go on. With the lock held."""
        if not (self.is_lent and (is_supervisor or isinstance(self._step, Ask))):
            self._turn.notify()

    def take_back(self) -> None:
        """Nobody carries it on but its thread, from now on. With the lock held."""
        self._turn.notify()

    def _can_wait_elsewhere(self) -> bool:
        """Begin the call at hand, if that is what there is to do; True if now there is nothing to do but to wait."""
        if not self._line.is_watched:
            return False
        if self._spare is None and self._flight is None:
            self._spare = self._caller.take()
        if isinstance(self._step, Ask):
            return self._begin()
        return self._step is not None and self._step.seconds is None

    def _lend(self) -> None:
        with self._lock:
            self.is_lent = True
            self._watch()
            while self.is_lent or self._is_busy:
                if self._is_busy:
                    self._turn.wait(BUSY_SECONDS)
                    continue
                left = self._patience()
                if left <= 0.0 or not self._line.is_watched:
                    break
                self._turn.wait(left if left < threading.TIMEOUT_MAX else None)
            self.is_lent = False
            self._unwatch()

    def _patience(self) -> float:
        step, flight = self._step, self._flight
        if isinstance(step, Rest):
            return 0.0 if step.until() else float("inf")
        return 0.0 if flight is None else flight.started + flight.timeout - time.monotonic()

    def _do(self) -> None:
        """The step at hand, waiting as long as it takes."""
        step, flight = self._step, self._flight
        if self._spare is not None:
            self._caller.land(self._spare)
            self._spare = None
        if isinstance(step, Rest):
            with self._lock:
                self._turn.wait_for(step.until, step.seconds)
            self._advance()
        elif step is not None:
            self._flight = None
            try:
                answer = (
                    self._caller.call(step.method, step.said, timeout=step.timeout)
                    if flight is None
                    else flight.finish()
                )
            except Exception as error:  # noqa: BLE001 - the script judges it
                self._advance(failure=error)
            else:
                self._advance(answer)

    # --- the supervisor's thread ----------------------------------------------------------------------------------

    def hear(self) -> None:
        """Take in what has arrived, and let the script go on until it wants to speak, or rests."""
        if not self._borrow():
            return
        is_over = False
        try:
            flight = self._flight
            if flight is None:
                is_over = True  # nothing was asked: it is the connection's end, which the next call finds
            elif (answer := flight.take_in()) is not None:
                self._flight, self._spare = None, flight.connection
                self._land(flight, answer)
            else:
                is_over = flight.is_stuck
        finally:
            self._give_back(is_over=is_over or self._is_for_its_thread())

    def speak(self) -> None:
        """Let the script go on, if there is a reason, until it waits."""
        if not self.is_lent or self._flight is not None or not self._borrow():
            return
        is_over = False
        try:
            while self._step is not None and not self._is_for_its_thread():
                if isinstance(self._step, Ask):
                    is_over = not self._begin()
                    break
                with self._lock:
                    is_due = self._step.until()
                if not is_due:
                    break
                self._advance()
        finally:
            self._give_back(is_over=is_over or self._is_for_its_thread())

    def _borrow(self) -> bool:
        with self._lock:
            self._is_busy = self.is_lent and self._line.is_watched
            return self._is_busy

    def _give_back(self, *, is_over: bool) -> None:
        with self._lock:
            self._is_busy = False
            if is_over:
                self.is_lent = False
                self._unwatch()
                self._turn.notify()

    def _is_for_its_thread(self) -> bool:
        return self._step is None or (isinstance(self._step, Rest) and self._step.seconds is not None)

    # --- either, whoever has it -------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Have the call at hand on its way; False if it isn't, or not whole."""
        step = self._step
        if self._flight is None and self._spare is not None and isinstance(step, Ask):
            try:
                self._flight = self._caller.begin(self._spare, step.method, step.said, step.timeout)
            except ClusterError:
                return False  # the thread's call finds the same, and the script hears of it
            self._spare = None
        return self._flight is not None and self._flight.is_sent

    def _land(self, flight: Flight, answer: Answer) -> None:
        try:
            body = flight.read(answer)
        except Exception as error:  # noqa: BLE001 - the script judges it
            self._advance(failure=error)
        else:
            self._advance(body)

    def _advance(self, answer: Any = None, failure: Exception | None = None) -> None:
        try:
            self._step = self._script.send(answer) if failure is None else self._script.throw(failure)
        except StopIteration:
            self._step = None

    def _watch(self) -> None:
        connection = self._flight.connection if self._flight is not None else self._spare
        if connection is not None:
            self._line.watch(connection.fileno(), self)
            self._watched = connection

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._line.unwatch(self._watched.fileno())
            self._watched = None


class WorkLine:
    """The strands of a desk, as its supervisor's thread carries them on. It watches `fileno` for input."""

    def __init__(self, lock: threading.RLock) -> None:
        self.lock = lock
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Strand] = {}
        self.strands: Sequence[Strand] = ()
        self.is_watched = True
        self._hearer = 0  # the supervisor's thread

    def fileno(self) -> int:
        """Readable when there is something to `hear`."""
        self._hearer = threading.get_ident()
        return self._epoll.fileno()

    def hear(self) -> None:
        """Take in what has arrived. Never blocks."""
        for descriptor, _ in self._epoll.poll(0):
            strand = self._by_descriptor.get(descriptor)
            if strand is not None:
                strand.hear()

    def speak(self) -> None:
        """Say what there is to say. Never blocks."""
        for strand in self.strands:
            strand.speak()

    def let_go(self) -> None:
        """The supervisor's thread comes no more; the strands' own go on alone. With the lock held."""
        self.is_watched = False
        for strand in self.strands:
            strand.take_back()

    def nudge(self) -> None:
        """A strand may have a reason to go on. With the lock held; the supervisor's thread sees to those lent to it."""
        is_supervisor = threading.get_ident() == self._hearer
        for strand in self.strands:
            strand.nudge(is_supervisor=is_supervisor)

    def close(self) -> None:
        """Once the strands are at their end."""
        self._epoll.close()

    def watch(self, descriptor: int, strand: Strand) -> None:
        """With the lock held, as `unwatch`."""
        self._by_descriptor[descriptor] = strand
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Before the descriptor is closed, for its number may be another's then."""
        del self._by_descriptor[descriptor]
        self._epoll.unregister(descriptor)
