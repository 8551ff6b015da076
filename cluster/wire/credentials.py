"""What lets a caller in, and what shows it out again: role keys, certificates, and the end of either.

    connection's thread ──► admit: TLS ─► role key ─► pass, booked     ──► calls
                                             ▲            │
    watch thread, each second ── reads keys, list of ─────┴──► is the pass still good? else the connection is ended
                                 revocations, clock

The files are authoritative, and this holds what they said at the last look. A key that was taken out of its file, a
certificate that was revoked or has expired ends the connections that came in by it within `LOOK_SECONDS`, less than a
heartbeat. Their callers connect again, with a newer key or certificate if they have one; else they are told why not.

A pass is booked before it is vetted for the last time, and the watch goes through the book after it has read the files:
so whatever changes while a connection comes in, one of the two sees it.

Threads: `admit` and `leave` are called by each connection's own, `look` by the watch; the lock guards the book alone.
If a look fails, by whatever defect, it is logged and the next one is made.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Mapping

from msgspec import Struct

from cluster.errors import Refused
from cluster.wire import handshake
from cluster.wire.audit import AUDIT, Kind
from cluster.wire.connection import ClusterConnection
from cluster.wire.handshake import Code, Stranger
from cluster.wire.keys import Key, Role, Secret
from cluster.wire.revocations import Revocations
from cluster.wire.tls import Identity, Tls, TlsFiles
from cluster.wire.tls_handshake import HANDSHAKE_RECORD, BadTls, Shown, secure_master

LOG = logging.getLogger("cluster.wire")

LOOK_SECONDS = 1.0

# Of those that were let in, and would not be any more.
_KINDS = {
    Code.REVOKED: Kind.HANDSHAKE_REVOKED,
    Code.EXPIRED: Kind.HANDSHAKE_EXPIRED,
    Code.NOT_YET_VALID: Kind.HANDSHAKE_EXPIRED,
    Code.WRONG_PROOF: Kind.HANDSHAKE_WRONG_KEY,
}


class Pass(Struct, frozen=True):
    """By what a connection came in."""

    role: Role
    key: Secret
    shown: Shown | None = None  # None without TLS

    @property
    def identity(self) -> Identity | None:
        """Of its certificate."""
        return None if self.shown is None else self.shown.identity


class Credentials:
    """One server's."""

    def __init__(self, keys: Mapping[Role, Key], tls: TlsFiles | None) -> None:
        """Read the files. Raises `ClusterError` if one is not as it must be: nobody is served by half a list."""
        self._keys = dict(keys)
        self._tls = None if tls is None else Tls(tls, is_master=True)
        self._revocations = None if tls is None else Revocations(tls.revocations, tls.ca)
        _require_not_revoked(self._tls, self._revocations)
        self._lock = threading.Lock()  # guards `_passes`
        self._passes: dict[ClusterConnection, Pass] = {}
        self._stopping = threading.Event()
        self._watch: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._watch = threading.Thread(target=self._run, name="cluster-credentials", daemon=True)
        self._watch.start()

    def stop(self) -> None:
        """Watch no more. May be called twice."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.join()

    # --- a connection's own thread --------------------------------------------------------------------------------

    def admit(self, connection: ClusterConnection, epoch: bytes, deadline: float) -> Pass:
        """Find out who connected; `leave` must follow. Raises `Stranger` when it was refused, else `OSError`."""
        shown = self._secure(connection, deadline)
        connection.identity = None if shown is None else shown.identity
        proven = handshake.receive(connection, self._keys, epoch, deadline, lambda role: self._vet(shown, role))
        given = Pass(proven.role, proven.key, shown)
        with self._lock:
            self._passes[connection] = given
        if objection := self._objection(given):
            raise Stranger(*objection)
        return given

    def leave(self, connection: ClusterConnection) -> None:
        """The connection is about to end."""
        with self._lock:
            self._passes.pop(connection, None)

    def _secure(self, connection: ClusterConnection, deadline: float) -> Shown | None:
        first = connection.peek(deadline - time.monotonic())
        if not first:
            raise EOFError("it left without a word")
        is_tls = first == HANDSHAKE_RECORD
        if self._tls is None:
            if is_tls:
                handshake.send_away(connection, Code.HAS_NO_TLS)
                connection.linger()
                raise Stranger(Code.HAS_NO_TLS, "it speaks TLS, for which this master has no certificate")
            return None
        if not is_tls:
            handshake.send_away(connection, Code.NEEDS_TLS)
            connection.linger()
            raise Stranger(Code.NEEDS_TLS, "it does not speak TLS")
        try:
            return secure_master(connection, self._tls, deadline)
        except BadTls as error:
            connection.linger()
            raise Stranger(Code.BAD_CERTIFICATE, str(error)) from None

    def _vet(self, shown: Shown | None, role: Role) -> None:
        """Raise `Stranger` if this role is not to be had with that certificate."""
        if shown is None:
            return
        if shown.identity.role != role:
            raise Stranger(Code.OTHER_ROLE, f"it wants role {role.value} with the certificate of {shown.identity}")
        if objection := self._objection_to(shown):
            raise Stranger(*objection)

    # --- the watch ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                LOG.exception("credentials could not be looked at; what held at the last look goes on")

    def look(self) -> None:
        """Read what has changed, and end the connections that would not be let in any more."""
        if self._revocations is not None:
            self._revocations.look_again()
        for key in self._keys.values():
            key.secrets()
        with self._lock:
            passes = list(self._passes.items())
        for connection, given in passes:
            if objection := self._objection(given):
                connection.interrupt()
                code, reason = objection
                name = given.identity.name if given.identity is not None else ""
                AUDIT.record(
                    _KINDS[code],
                    origin=connection.origin,
                    role=given.role.value,
                    name=name,
                    reason=f"shown out: {reason}",
                )

    def _objection(self, given: Pass) -> tuple[Code, str] | None:
        """Why a pass is not good any more, for the other side and for the log."""
        if given.shown is not None and (objection := self._objection_to(given.shown)):
            return objection
        if not any(_is_same(given.key, key) for key in self._keys[given.role].secrets()):
            return Code.WRONG_PROOF, f"its {given.role.value} key is not in force any more"
        return None

    def _objection_to(self, shown: Shown) -> tuple[Code, str] | None:
        identity, validity, now = shown.identity, shown.validity, time.time()
        if self._revocations is not None and identity.serial in self._revocations.serials:
            return Code.REVOKED, f"its certificate is revoked ({identity})"
        if validity.ends <= now:
            return Code.EXPIRED, f"its certificate has expired ({identity})"
        if validity.begins > now:
            return Code.NOT_YET_VALID, f"its certificate is not valid yet ({identity})"
        if validity.authority_ends <= now:
            return Code.EXPIRED, f"the authority of its certificate has expired ({identity})"
        if validity.authority_begins > now:
            return Code.NOT_YET_VALID, f"the authority of its certificate is not valid yet ({identity})"
        return None


def _require_not_revoked(tls: Tls | None, revocations: Revocations | None) -> None:
    """Whoever has the list would not speak to this master, and whoever has not should not."""
    if tls is not None and revocations is not None and tls.identity.serial in revocations.serials:
        raise Refused(
            f"this master's certificate {tls.files.cert} is revoked ({tls.identity}); have another one issued: "
            "cluster certs issue master HOST"
        )


def _is_same(one: Secret, other: Secret) -> bool:
    return hmac.compare_digest(one.reveal(), other.reveal())
