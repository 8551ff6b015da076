"""The caller's side of the network: a proxy that comes back when the connection breaks, and never mixes up answers.

    thread A ── its own connection ──┐
    thread B ── its own connection ──┼──► master's server, one thread there for each
    thread C ── its own connection ──┘

As in the standard library a thread has a connection of its own, here per proxy, since a connection has one role. While
a call is on its way its connection is taken out of the thread's hands, and put back only after a complete round trip.
So whatever comes between, Ctrl-C in the middle or a signal handler that makes a call itself, finds no connection with
an answer still in it; and the id in each answer is compared with the request's all the same.

A call that broke is sent again with the same request id: after a moment (full jitter, so that a thousand workers don't
come back in step), until `patience_seconds` have passed without the master being reached. Every call of the table is
either harmless to repeat or known by its request id to the master (`is_once`). What the master refuses in the
handshake, another key or version, is not tried again.

Who dies, and what happens:
- the master: calls wait for it to return, up to their patience, then raise `MasterUnavailable`;
- this process, by fork: the child makes connections and request ids of its own; the parent's are untouched;
- this thread: its connection is closed with it.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
import weakref
from multiprocessing import util
from multiprocessing.managers import BaseProxy, Token
from typing import Any, NoReturn, cast

import msgspec
from msgspec import Struct

from cluster.errors import MasterUnavailable, Refused
from cluster.wire import codec, handshake
from cluster.wire.address import Address
from cluster.wire.codec import Answer
from cluster.wire.connection import MAX_FRAME_BYTES, ClusterConnection
from cluster.wire.flight import Flight
from cluster.wire.handshake import Greeting
from cluster.wire.keys import Key, Role
from cluster.wire.listener import DIAL_SECONDS, SERIALIZER, dial
from cluster.wire.tls import TlsFiles, tls_of_caller

CALL_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 2.0
_MIN_ATTEMPT_SECONDS = 0.2  # even at the end of its patience an attempt has this long to connect


def connect_desk(
    desk: str,
    address: Address,
    role: Role,
    key: Key,
    *,
    patience_seconds: float,
    tls: TlsFiles | None = None,
    insecure: bool = False,
) -> DeskProxy:
    """A proxy of one of a master's desks; it connects with its first call.

    Args:
        desk: which.
        address: the master's.
        role: what we are; with TLS, what our certificate says.
        key: of that role.
        patience_seconds: how long a call goes on trying while the master can't be reached.
        tls: our certificate; the master must then show one too.
        insecure: go to other hosts without TLS.

    Raises:
        ClusterError: a file of `tls` is not as it must be; the text says what to do.
    """
    side = None if tls is None else tls_of_caller(tls, checks_host=not address.path)
    if side is not None and side.identity.role != role:
        raise Refused(
            f"certificate {side.files.cert} is of {side.identity.role} {side.identity.name}, and this connects as "
            f"{role.value}; name a certificate of that role: cluster certs issue {role.value} NAME"
        )
    return DeskProxy(desk, Greeting(role, key, address, tls=side), patience_seconds=patience_seconds, insecure=insecure)


class DeskProxy(BaseProxy):
    """Calls of one desk, from any thread of any process that has forked from the one that made it."""

    def __init__(self, desk: str, greeting: Greeting, *, patience_seconds: float, insecure: bool = False) -> None:
        token = Token(desk, cast("Any", greeting.address), desk)
        super().__init__(token, SERIALIZER, authkey=b"", incref=False)
        self.desk = desk
        self.address = greeting.address
        # Which server answered last; another one than before means that the master was restarted.
        self.epoch = ""
        self._greeting = greeting
        self._target = msgspec.structs.replace(greeting.address, may_leave_host=insecure or greeting.tls is not None)
        self._patience_seconds = patience_seconds
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """What a process has for itself; so a forked child starts anew."""
        self._pid = os.getpid()
        self._tls: Any = util.ForkAwareLocal()
        self._wake = threading.Event()
        self._lock = threading.Lock()  # guards _open and _closed
        self._open: weakref.WeakSet[ClusterConnection] = weakref.WeakSet()
        # Unique among all callers for all time: a once-call's id is kept by the master.
        self._prefix = os.urandom(12).hex() + "-"
        self._numbers = itertools.count(1)

    # --- calling --------------------------------------------------------------------------------------------------

    def call(self, method: str, said: Struct, *, timeout: float = CALL_SECONDS) -> Any:
        """Carry out one call of the table; `timeout` bounds each round trip.

        Raises what the master raised, `Refused` if it takes neither call nor caller, or `MasterUnavailable`.
        """
        if self._pid != os.getpid():
            self._begin()
        request = f"{self._prefix}{next(self._numbers)}"
        frame = codec.encode_request(request, self.desk, method, said)
        connection = self._tls.__dict__.pop("connection", None)
        if connection is None:
            answer = self._patiently(request, frame, timeout, None)
        else:
            started = time.monotonic()
            try:
                answer = self._round_trip(connection, request, frame, timeout)
            except (OSError, EOFError) as error:
                # It was idle, and the master may have been restarted since: try a new one at once.
                give_up = started + self._patience_seconds if isinstance(error, TimeoutError) else None
                answer = self._patiently(request, frame, timeout, give_up)
        return codec.read_answer(answer, self.desk, method)

    def begin(self, connection: ClusterConnection, method: str, said: Struct, timeout: float) -> Flight:
        """Send a call as far as that needs no waiting, on a connection that is in no thread's hands.

        Raises `Refused` if the call is too long to be sent, and then nothing of it was.
        """
        request = f"{self._prefix}{next(self._numbers)}"
        frame = codec.encode_request(request, self.desk, method, said)
        connection.send_at_once(frame)
        return Flight(self, connection, method, request, frame, timeout, time.monotonic())

    def take(self) -> ClusterConnection | None:
        """Take the connection out of this thread's hands, if it has one."""
        connection: ClusterConnection | None = self._tls.__dict__.pop("connection", None)
        return connection

    def land(self, connection: ClusterConnection) -> None:
        """Give it to this thread, for its calls; none is on its way on it."""
        self._tls.connection = connection

    def finish(self, flight: Flight) -> Answer:
        """Wait for a flight's answer, on its connection or on new ones. Raises `MasterUnavailable`."""
        try:
            answer = flight.receive()
        except (OSError, EOFError) as error:
            flight.connection.close()
            give_up = flight.started + self._patience_seconds if isinstance(error, TimeoutError) else None
            return self._patiently(flight.request, flight.frame, flight.timeout, give_up)
        except BaseException:
            flight.connection.close()
            raise
        self._tls.connection = flight.connection
        return answer

    def _round_trip(self, connection: ClusterConnection, request: str, frame: bytes, timeout: float) -> Answer:
        """Send and receive; keep the connection only if both were done whole."""
        try:
            connection.send_frame(frame)
            answer = codec.open_answer(connection.receive_frame(timeout), request)
        except BaseException:  # KeyboardInterrupt too: the answer is still on its way
            connection.close()
            raise
        self._tls.connection = connection
        return answer

    def _patiently(self, request: str, frame: bytes, timeout: float, give_up: float | None) -> Answer:
        """The round trip, on new connections, until it succeeds or `give_up` has come (None: nothing has failed yet)."""
        for attempt in itertools.count():
            started = time.monotonic()
            try:
                left = self._patience_seconds if give_up is None else give_up - started
                return self._round_trip(self._connected(left), request, frame, timeout)
            except (OSError, EOFError) as error:
                if self._closed:
                    raise self._closed_here() from None
                now = time.monotonic()
                if give_up is None:
                    # An answer that didn't come in time was missed since it was asked for; a connection that broke
                    # after a long wait, since now.
                    give_up = (started if isinstance(error, TimeoutError) else now) + self._patience_seconds
                pause = random.uniform(0, _backoff_seconds(attempt))  # noqa: S311  # chance, not a secret
                if now + pause >= give_up:
                    raise self._unreachable(error) from error
                self._wake.wait(pause)
        raise AssertionError  # count() does not end

    def _unreachable(self, error: Exception) -> MasterUnavailable:
        reason = str(error) or type(error).__name__
        return MasterUnavailable(
            f"the master at {self.address} can't be reached: {reason} (tried for {self._patience_seconds:g} s); "
            "is it running there?"
        )

    # --- connections ----------------------------------------------------------------------------------------------

    def _connected(self, patience_seconds: float) -> ClusterConnection:
        """A new connection on which the handshake was made."""
        patience = max(patience_seconds, _MIN_ATTEMPT_SECONDS)
        if self._closed:
            raise self._closed_here()
        connection = dial(self._target, timeout=min(DIAL_SECONDS, patience))
        try:
            with self._lock:
                self._open.add(connection)
                if self._closed:
                    raise self._closed_here()
            seconds = min(handshake.HANDSHAKE_SECONDS, patience)
            self.epoch = handshake.introduce(connection, self._greeting, seconds)
            connection.max_frame_bytes = MAX_FRAME_BYTES
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close every connection; calls on their way raise `MasterUnavailable`, and so do later ones."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            self._closed = True
            for connection in list(self._open):
                connection.interrupt()
        self._wake.set()
        # Idle connections are held by nothing but their threads' slots in this; it closes those of all threads.
        self._tls = util.ForkAwareLocal()

    def _closed_here(self) -> MasterUnavailable:
        return MasterUnavailable(f"the connection to the master at {self.address} was closed by this program")

    # --- what the standard library's proxy would do -----------------------------------------------------------------

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = None) -> Any:
        return self.call(methodname, *args, **(kwds or {}))

    def _incref(self) -> None:
        """Nobody counts: a desk lives as long as its server. Also what a forked child calls on what it inherits."""

    def _getvalue(self) -> NoReturn:
        raise Refused("a desk stays with its master")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a connection is not copied; connect again")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection is not pickled; connect in the other process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.desk} of {self.address} as {self._greeting.role.value}>"

    __str__ = __repr__


def _backoff_seconds(attempt: int) -> float:
    # The exponent is bounded: patience may outlast any power of two that a float can hold.
    return min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt, 10))
