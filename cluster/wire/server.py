"""The master's side of the network: a `multiprocessing.managers.Server` that believes nobody.

    accept thread (one)          connection threads (one each)                      a desk
    ───────────────────          ──────────────────────────────────────────         ──────────────────────
    accept ─► door ─► start ───► TLS, handshake (10 s in all) ─► who                any connection's thread
                 │               ┌► frame ─► envelope ─► in the table? role? types? ─► method(peer, said)
                 └ full: "busy"  └──────────────────────── answer or fault ◄──────────┘

What a hostile peer may take is bounded before it is given: connections by the door, the bytes of long frames and answers
by the intake, their time by the connection, and what each field may say by the types of the table. Whoever oversteps is
refused or cut off, and told of by the audit (audit.py), never by a log line of its own for each attempt.

What is kept of the standard library's server: that there is a listener, found by the serializer's name, an accepting
thread, one thread per connection, and a table `id_to_obj` of objects with the methods that each exposes. What is
replaced is all that trusts: pickles, `create`, reference counts, `shutdown` by anyone, and an accept loop that ends
with the first surprise.

Who is authoritative: the table of calls (calls.py) for what may be called by whom, and a desk for what happens then.
No thread here holds a lock while it waits for the network or for a desk, but for the door's own bookkeeping.
A long poll may be answered by the thread that has the answer, while its own waits in the desk (reply.py).

Who dies, and what happens:
- a caller: its connection ends (or keepalive ends it), its thread leaves; a call in hand is finished, unanswered;
- a desk's method, by whatever exception, even `SystemExit`: the caller is told, the connection goes on;
- the accept loop never: when threads or descriptors run short it sheds the connection at hand and takes a breath;
- the server, orderly: no more connections, calls in hand are finished up to a deadline, then all is closed;
- the process: callers see the end of their connections and come back with the same request ids.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import managers
from typing import Any, cast

import msgspec

from cluster.errors import MasterUnavailable, Refused
from cluster.wire import codec, handshake
from cluster.wire.address import Address
from cluster.wire.audit import AUDIT, Kind
from cluster.wire.calls import CALLS, Call
from cluster.wire.codec import ProtocolError, Request
from cluster.wire.connection import MAX_FRAME_BYTES, ClusterConnection, FrameError
from cluster.wire.credentials import Credentials
from cluster.wire.door import Door, Entry, Limits
from cluster.wire.faults import fault_of
from cluster.wire.handshake import Code, Stranger
from cluster.wire.intake import Intake, NoRoomError, Share
from cluster.wire.keys import Key, Role
from cluster.wire.listener import SERIALIZER, ClusterListener
from cluster.wire.peer import Peer
from cluster.wire.reply import Reply
from cluster.wire.tls import TlsFiles

LOG = logging.getLogger("cluster.wire")

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BREATH_SECONDS = 0.1  # between two attempts to accept while the system is short of something
_LAST_WORD_SECONDS = 5.0  # for threads to leave once their connections were closed by force
_MAX_REQUEST_ID = 128  # characters; ours have 32, and they are kept for a day
_KINDS = {
    Code.NO_SENSE: Kind.HANDSHAKE_MALFORMED,
    Code.OTHER_VERSION: Kind.HANDSHAKE_VERSION,
    Code.NO_SUCH_ROLE: Kind.HANDSHAKE_ROLE,
    Code.WRONG_PROOF: Kind.HANDSHAKE_WRONG_KEY,
    Code.NEEDS_TLS: Kind.HANDSHAKE_CERTIFICATE,
    Code.HAS_NO_TLS: Kind.HANDSHAKE_MALFORMED,
    Code.BAD_CERTIFICATE: Kind.HANDSHAKE_CERTIFICATE,
    Code.OTHER_ROLE: Kind.HANDSHAKE_NAME,
    Code.REVOKED: Kind.HANDSHAKE_REVOKED,
    Code.EXPIRED: Kind.HANDSHAKE_EXPIRED,
    Code.NOT_YET_VALID: Kind.HANDSHAKE_EXPIRED,
}


class ClusterServer(managers.Server):
    """Serves desks at an address: bound when it is made, accepting once it is started."""

    public: list[str] = []  # noqa: RUF012  # the library's own shape. What the standard library lets any authenticated caller do to the server itself: nothing

    def __init__(
        self,
        address: Address,
        *,
        keys: Mapping[Role, Key],
        desks: Mapping[str, object],
        limits: Limits | None = None,
        tls: TlsFiles | None = None,
        insecure: bool = False,
    ) -> None:
        methods = _methods_of(desks)
        self._credentials = Credentials(keys, tls)  # first: nothing is bound that could not be served
        reach = msgspec.structs.replace(address, may_leave_host=insecure or tls is not None)
        codec.make_ready()
        # The library's own key is never used: who may come in is the handshake's to say.
        super().__init__({}, cast("Any", reach), os.urandom(32), SERIALIZER)
        self.address: Address  # type: ignore[assignment]  # the real one: port 0 has become a port
        self.listener: ClusterListener
        # Fixed names instead of the objects' memory addresses; they count for as long as this server's epoch, which
        # every caller is told when it connects.
        self.id_to_obj = {
            name: (desk, {method for owner, method in methods if owner == name}, {}) for name, desk in desks.items()
        }
        self.epoch = handshake.new_epoch()
        self.stop_event = threading.Event()
        self._methods = methods
        self._limits = limits or Limits()
        self._door = Door(self._limits)
        self._intake = Intake(
            self._limits.max_bytes_in_flight,
            self._limits.max_bytes_in_flight_per_identity,
            self._limits.max_heavy_calls_per_identity,
        )
        self._numbers = itertools.count(1)
        self._spare: int | None = None  # a descriptor to give up when there are no others
        self._accept_thread: threading.Thread | None = None
        self._stop_lock = threading.Lock()
        self._is_closed = False

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to accept. Connections made since the server was bound are waiting already."""
        self._spare = _open_spare()
        self._credentials.start()
        self._accept_thread = threading.Thread(target=self.accepter, name="cluster-accept", daemon=True)
        self._accept_thread.start()
        LOG.info("listening: address=%s", self.address)

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Accept no more, let calls in hand finish until the deadline, close everything. May be called twice."""
        with self._stop_lock:
            self.stop_event.set()
            self.listener.wake()
            if self._accept_thread is not None:
                self._accept_thread.join()
            if not self._is_closed:
                self._is_closed = True
                self.listener.close()
            if not self._door.empty(deadline_seconds):
                LOG.warning("stopped before every call was finished: connections=%d", len(self._door))
                if not self._door.wait_empty(_LAST_WORD_SECONDS):
                    LOG.error("threads of connections are held by their desks: connections=%d", len(self._door))
            self._credentials.stop()
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None
            AUDIT.flush()

    def serve_forever(self) -> None:
        """Start, and return once `stop` was called elsewhere or Ctrl-C was pressed here."""
        self.start()
        try:
            self.stop_event.wait()
        finally:
            self.stop()

    @property
    def connections(self) -> int:
        """How many connections there are, strangers included."""
        return len(self._door)

    # --- accepting ------------------------------------------------------------------------------------------------

    def accepter(self) -> None:
        """Accept until stopped; whatever goes wrong costs one connection and a breath."""
        while not self.stop_event.is_set():
            try:
                connection = self.listener.accept()
            except EOFError:
                return
            except Exception as error:  # noqa: BLE001  # logged, and the loop goes on: that is its whole duty
                self._on_accept_failed(error)
                continue
            try:
                self._take_in(connection)
            except Exception:  # noqa: BLE001 - told of by the audit
                # RuntimeError: no thread can be started. The connection is lost, the server is not.
                connection.close()
                AUDIT.record(
                    Kind.SHORTAGE, origin=connection.origin, reason="can't serve a connection: no thread can be started"
                )
                self.stop_event.wait(_BREATH_SECONDS)

    def _take_in(self, connection: ClusterConnection) -> None:
        if not self._door.admit(connection):
            AUDIT.record(Kind.CONNECTIONS_FULL, origin=connection.origin, reason="too many connections: sent away")
            with contextlib.suppress(OSError):
                handshake.send_away_busy(connection)
            connection.close()
            return
        thread = threading.Thread(target=self.handle_request, args=(connection,), name="cluster-stranger", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._door.leave(connection)
            raise

    def _on_accept_failed(self, error: Exception) -> None:
        AUDIT.record(Kind.SHORTAGE, origin=str(self.address), reason=f"accept failed: {error}")
        if isinstance(error, OSError) and error.errno in _SHORTAGES and self._spare is not None:
            # The connection that can't be had would stay in the backlog, unanswered: take it with the spare
            # descriptor and close it, so that its caller hears at once and tries again later.
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(Exception):
                self.listener.accept().close()
        if self._spare is None:
            self._spare = _open_spare()
        self.stop_event.wait(_BREATH_SECONDS)

    # --- one connection, in its own thread ------------------------------------------------------------------------

    def handle_request(self, conn: Any) -> None:
        """A connection's life, from its handshake to its end."""
        connection: ClusterConnection = conn
        try:
            self._greet(connection)
            self._let_in(connection)
        except Stranger as stranger:
            self._note(connection, _KINDS.get(stranger.code, Kind.HANDSHAKE_REFUSED), f"refused: {stranger.reason}")
        except (OSError, EOFError) as error:
            self._on_lost(connection, error)
        except Exception:
            LOG.exception("connection failed: origin=%s", connection.origin)
        finally:
            self._credentials.leave(connection)
            connection.close()
            self._door.leave(connection)

    def _greet(self, connection: ClusterConnection) -> None:
        deadline = time.monotonic() + self._limits.handshake_seconds
        given = self._credentials.admit(connection, self.epoch, deadline)
        connection.max_frame_bytes = MAX_FRAME_BYTES
        number = next(self._numbers)
        threading.current_thread().name = f"cluster-{given.role.value}-{number}"
        name, serial = (given.identity.name, given.identity.serial) if given.identity else ("", "")
        connection.peer = Peer(number, given.role, connection.origin, name, serial)

    def _let_in(self, connection: ClusterConnection) -> None:
        peer = _peer_of(connection)
        match self._door.recognise(connection, peer.identity):
            case Entry.INSIDE:
                self.serve_client(connection)
            case Entry.SHOWN_OUT:
                raise EOFError("it was shown out while its handshake ended")
            case Entry.CROWDED:
                reason = (
                    f"there are as many connections of {peer.role.value}s at {peer.address} as there may be "
                    f"({self._limits.max_connections_per_identity}); close some, or try again later"
                )
                self._note(connection, Kind.CONNECTIONS_FULL, reason)
                request = codec.open_request(connection.receive_frame(self._limits.handshake_seconds))
                connection.send_frame(codec.encode_fault(request, fault_of(MasterUnavailable(reason), "connect")))

    def serve_client(self, conn: Any) -> None:
        """Answer calls, one after the other, until the caller leaves or the server stops."""
        connection: ClusterConnection = conn
        peer = _peer_of(connection)
        share = self._intake.share(peer.identity)
        connection.take_room = share.take
        receive, send, answer_to = connection.receive_frame, connection.send_frame, self._answer
        try:
            while not self.stop_event.is_set():
                frame = receive()
                request = codec.open_request(frame)
                reply = Reply(connection, request)
                answer = answer_to(peer, request, reply, share)
                if reply.is_given:
                    reply.finish()
                else:
                    send(answer)
                del frame, request, reply, answer  # nothing of a call is kept while waiting for the next
                share.give_back()
        finally:
            share.give_back()

    def _answer(self, peer: Peer, request: Request, reply: Reply, share: Share) -> bytes:
        try:
            call, method = self._find(peer, request)
            said = self._read_arguments(peer, request)
            if call.is_long:
                body = method(peer, said, reply)
                return b"" if reply.is_given else codec.encode_answer(request, body)
            if call.is_once:
                return codec.encode_answer(request, method(peer, said, request=self._id_of(peer, request)))
            if not call.is_heavy:
                return codec.encode_answer(request, method(peer, said))
            with share.heavy():
                answer = codec.encode_answer(request, method(peer, said))
                share.take_for_answer(len(answer))
                return answer
        except BaseException as error:  # noqa: BLE001  # SystemExit of a desk ends neither this thread nor the caller's
            return codec.encode_fault(request, fault_of(error, f"{request.desk}.{request.method}"))

    def _find(self, peer: Peer, request: Request) -> tuple[Call, Callable[..., object]]:
        """What is to be done, if the peer may have it done."""
        served = self._methods.get((request.desk, request.method))
        if served is None:
            name = f"{request.desk[:_MAX_REQUEST_ID]}.{request.method[:_MAX_REQUEST_ID]}"
            raise self._refusal(
                peer, Kind.CALL_UNKNOWN, f"this master knows no call {name}; is it of an older version?"
            )
        # An `if`, not an `assert`: it must hold under `python -O` too.
        if peer.role not in served[0].roles:
            allowed = " or ".join(sorted(role.value for role in served[0].roles))
            raise self._refusal(
                peer,
                Kind.CALL_NOT_FOR_ROLE,
                f"{request.desk}.{request.method} is not for role {peer.role.value}; connect with the {allowed} key",
            )
        return served

    def _read_arguments(self, peer: Peer, request: Request) -> Any:
        try:
            return codec.read_arguments(request)
        except Refused as refused:
            raise self._refusal(peer, Kind.CALL_MALFORMED, str(refused)) from None

    def _id_of(self, peer: Peer, request: Request) -> str:
        """What a call that must have one effect is known by."""
        if len(request.request) > _MAX_REQUEST_ID:
            raise self._refusal(
                peer, Kind.CALL_MALFORMED, f"the id of a request may have {_MAX_REQUEST_ID} characters at most"
            )
        return request.request

    # --- what is told of it ---------------------------------------------------------------------------------------

    def _on_lost(self, connection: ClusterConnection, error: OSError | EOFError) -> None:
        """A connection ended otherwise than by a refusal: most often its caller has just gone."""
        is_known = connection.peer is not None
        if self._door.was_shown_out(connection):
            self._note(connection, Kind.STRANGER_DISPLACED, "too many strangers, and it had waited the longest")
        elif isinstance(error, NoRoomError):
            self._note(connection, Kind.BYTES_FULL, f"closed: {error}")
        elif isinstance(error, TimeoutError):
            self._note(connection, Kind.FRAME_TOO_SLOW if is_known else Kind.HANDSHAKE_TIMEOUT, f"closed: {error}")
        elif isinstance(error, FrameError):
            self._note(connection, Kind.FRAME_TOO_LONG if is_known else Kind.HANDSHAKE_MALFORMED, f"closed: {error}")
        elif isinstance(error, ProtocolError):
            self._note(connection, Kind.FRAME_MALFORMED, f"closed: {error}")
        else:
            LOG.debug("connection ended: origin=%s: %s", connection.origin, error)

    def _note(self, connection: ClusterConnection, kind: Kind, reason: str) -> None:
        peer, identity = connection.peer, connection.identity
        role, name = (peer.role.value, peer.name) if peer is not None else ("", "")
        if peer is None and identity is not None:
            role, name = identity.role, identity.name
        AUDIT.record(kind, origin=connection.origin, role=role, name=name, reason=reason)

    def _refusal(self, peer: Peer, kind: Kind, reason: str) -> Refused:
        AUDIT.record(kind, origin=peer.address, role=peer.role.value, name=peer.name, reason=reason)
        return Refused(reason)


def _peer_of(connection: ClusterConnection) -> Peer:
    if connection.peer is None:
        raise ProtocolError("no handshake was made on this connection")
    return connection.peer


def _methods_of(desks: Mapping[str, object]) -> dict[tuple[str, str], tuple[Call, Callable[..., object]]]:
    """What can be called: for each desk every entry of the table, and nothing else that the object may have."""
    known = {desk for desk, _ in CALLS}
    for name in desks:
        if name not in known:
            raise TypeError(f"no desk is called {name!r}; the table of calls has {', '.join(sorted(known))}")
    return {(desk, name): (call, getattr(desks[desk], name)) for (desk, name), call in CALLS.items() if desk in desks}


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
