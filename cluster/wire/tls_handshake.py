"""TLS's handshake on both sides, and what went wrong with it in words.

    caller                                master
      │ TLS hello                           │ peeks: is it TLS at all?
      ├────────────────────────────────────►│
      │ is the answer TLS? ours, in plain?  │
      │◄────────────────────────────────────┤ certificate: a master's, for this host, of our authority?
      │ certificate                         │
      ├────────────────────────────────────►│ of our authority, whose? in its time: by the frames
      │     (an alert, perhaps much later)  │
      │◄────────────────────────────────────┤

Done in the thread of the connection, within the one deadline of its handshake; nobody else waits for it. A program without
TLS, or a master that is too busy to begin any, is answered and understood in the handshake's plain frames: the master
looks at the first byte before OpenSSL does, and a caller reads on where OpenSSL has given up.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.errors import Refused
from cluster.wire.address import Address
from cluster.wire.connection import ClusterConnection
from cluster.wire.tls import MASTER, Identity, Tls, identity_in
from cluster.wire.tls_stream import TlsStream
from cluster.wire.validity import Validity

if TYPE_CHECKING:
    import ssl

# What a caller's side of TLS begins with. A plain frame begins with 0.
HANDSHAKE_RECORD = b"\x16"
# OpenSSL reads five bytes before it finds that they head no record: of a plain answer its length and its first byte.
_MAGIC, _REST = b"\x89", b"CLUSTER"
_MAX_ANSWER_BYTES = 64

# By OpenSSL's names for X.509 errors (X509_V_ERR_...): those that mean something to do.
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10
_OTHER_AUTHORITY = {2, 7, 18, 19, 20, 21}
_OTHER_PURPOSE = 26
_OTHER_HOST = {62, 64}

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it showed none",
    "BAD_CERTIFICATE": "it is damaged; have another one issued",
    "UNKNOWN_CA": "it is not of the master's authority; have one issued by that",
}
# Bytes that were changed on their way: nothing is said of anybody's certificate, and the next attempt may go well.
_DAMAGED = re.compile("BAD_RECORD_MAC|DECODE_ERROR|DECRYPT_ERROR|UNEXPECTED_MESSAGE")


class BadTls(Exception):
    """A caller's side of the handshake was no good; the text is for the master's log."""


class Shown(Struct, frozen=True):
    """A caller's certificate: of a chain that is good but for its dates, which are still to be compared with a clock."""

    identity: Identity
    validity: Validity


# --- the master's side ----------------------------------------------------------------------------------------------


def secure_master(connection: ClusterConnection, tls: Tls, deadline: float) -> Shown:
    """Have the caller show its certificate. Raises `BadTls`, or `OSError` for what is nobody's fault."""
    import ssl

    context = tls.context()
    stream = connection.secure(
        lambda sock: TlsStream(context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False))
    )
    try:
        stream.shake_hands(_left(deadline))
    except ssl.SSLError as error:
        raise _fault_of_caller(error) from None
    identity = identity_in(stream.peer())
    if identity is None:
        raise BadTls("its certificate says no role and name in this cluster")
    validity = tls.validity_of(stream.peer_bytes())
    if validity is None:
        raise BadTls(f"its certificate was not issued by the authority in {tls.files.ca} itself ({identity})")
    return Shown(identity, validity)


def _fault_of_caller(error: ssl.SSLError) -> BadTls:
    import ssl

    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BadTls(f"its certificate is not taken: {error.verify_message}")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return BadTls("it showed no certificate")
    if "_ALERT_" in reason and not _DAMAGED.search(reason):
        return BadTls(f"it did not take this master's certificate: {_plainly(reason)}")
    return BadTls(f"its TLS handshake failed: {_plainly(reason) or 'it broke off'}")


# --- the caller's side ----------------------------------------------------------------------------------------------


def secure_caller(connection: ClusterConnection, tls: Tls, address: Address, deadline: float) -> bytes:
    """Have the master show its certificate, and show one's own. Empty; or the plain frame that was the answer.

    Raises `Refused` when another attempt would end alike, `OSError` or `EOFError` when it might not.
    """
    import ssl

    context = tls.context()
    host = address.host or None
    stream = connection.secure(
        lambda sock: TlsStream(
            context.wrap_socket(sock, server_side=False, server_hostname=host, do_handshake_on_connect=False)
        )
    )
    try:
        stream.shake_hands(_left(deadline))
    except ssl.SSLCertVerificationError as error:
        raise Refused(_fault_of_master(error, address, tls)) from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise EOFError("it closed the connection instead of speaking TLS") from None
    except ssl.SSLError as error:
        if _DAMAGED.search(error.reason or ""):
            raise
        if refused := certificate_refused(error, address, tls):
            raise refused from None
        if plain := _plain_answer(stream, deadline):
            return plain
        raise Refused(
            f"what listens at {address} speaks no TLS ({_plainly(error.reason or str(error))}); is the port right?"
        ) from None
    identity = identity_in(stream.peer())
    if identity is None or identity.role != MASTER:
        whose = "nobody's in this cluster" if identity is None else f"of {identity}"
        raise Refused(
            f"who answers at {address} is no master: its certificate is {whose}; have one issued: "
            f"cluster certs issue master {address.host or 'HOST'}"
        )
    if tls.is_revoked(identity):
        raise Refused(
            f"the certificate of the master at {address} is revoked ({identity}), so somebody else may have its key; "
            f"have another one issued there: cluster certs issue master {address.host or 'HOST'}"
        )
    return b""


def certificate_refused(error: OSError, address: Address, tls: Tls) -> Refused | None:
    """What an alert of the master says of this program's certificate; None: the error is no such alert."""
    reason = str(getattr(error, "reason", None) or "")
    if "_ALERT_" not in reason or _DAMAGED.search(reason):
        return None
    said = next((sentence for part, sentence in _ALERTS.items() if part in reason), _plainly(reason))
    return Refused(
        f"the master at {address} refused this program's certificate {tls.files.cert} ({tls.identity}): {said}"
    )


def _plain_answer(stream: TlsStream, deadline: float) -> bytes:
    """The frame of a master that does not speak TLS (now); empty: it is something else."""
    data = b""
    with contextlib.suppress(OSError):
        while len(data) < _MAX_ANSWER_BYTES and (more := stream.receive_bare(_left(deadline), _MAX_ANSWER_BYTES)):
            data += more
    return _MAGIC + data if data.startswith(_REST) else b""


def _fault_of_master(error: ssl.SSLCertVerificationError, address: Address, tls: Tls) -> str:
    code = error.verify_code
    if code in _OTHER_HOST:
        return (
            f"the certificate of the master at {address} does not name {address.host!r}; use a name that it has, or "
            f"issue it for this one too: cluster certs issue master {address.host}"
        )
    if code == _OTHER_PURPOSE:
        return (
            f"who answers at {address} is no master: its certificate was issued for a worker, a client or an admin; "
            f"have one issued: cluster certs issue master {address.host or 'HOST'}"
        )
    if code == _HAS_EXPIRED:
        return f"the certificate of the master at {address} has expired; renew it there: cluster certs renew"
    if code == _NOT_YET_VALID:
        return f"the certificate of the master at {address} is not valid yet; are both hosts' clocks right?"
    if code in _OTHER_AUTHORITY:
        return (
            f"who answers at {address} has no certificate of the authority in {tls.files.ca}: it is another cluster's "
            f"master, or somebody who only says that it is one; give the ca.pem of that cluster if you trust it"
        )
    return f"the certificate of the master at {address} is not taken: {error.verify_message}"


def _plainly(reason: str) -> str:
    """OpenSSL's name for an error, as words."""
    return re.sub(r"^(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?", "", reason).replace("_", " ").lower()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the handshake took too long")
    return left
