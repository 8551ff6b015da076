"""Certificates: who this process is, whom it believes, and the TLS contexts that say so to OpenSSL.

One private authority signs for a whole cluster. Each certificate says its role and name in one URI,
`cluster://worker/node1`; nothing else in it is read. TLS 1.3 only, both sides show a certificate, and both are checked by
the strict rules that Python has by default since 3.13. A caller also checks that the certificate is a master's and names
the host that was dialled.

The files are looked at again for each connection: a renewed certificate is used from the next one on. `ssl` and
`cryptography` are loaded here, when there is TLS, and nowhere else: a program without it pays nothing for it.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

from cluster.errors import ClusterError, Refused
from cluster.wire.certificate_files import read_authorities, read_certificates
from cluster.wire.changes import Changes
from cluster.wire.keys import require_private
from cluster.wire.revocations import Revocations
from cluster.wire.validity import Validity, is_issued_by, validity_of

if TYPE_CHECKING:
    import ssl

    from cryptography import x509

LOG = logging.getLogger("cluster.wire")

MASTER = "master"
_REVOKED_FILE = "revoked.pem"
_PARTS = ("ca", "cert", "key")
_VARIABLES = {part: f"CLUSTER_TLS_{part.upper()}" for part in _PARTS}
_SCHEME = "cluster://"
# X509_V_FLAG_NO_CHECK_TIME: who checks the dates of callers' certificates, and why, stands in `validity`.
_NO_CHECK_TIME = 0x200000
# What a name may be made of, so that it can stand in logs, file names and worker ids: no '#', no control characters.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Contexts of programs that talk to several clusters; one is usual.
_MAX_KEPT = 16


class TlsFiles(Struct, frozen=True):
    """Where one side's certificates are."""

    ca: Path  # of the authority that signed for the whole cluster
    cert: Path  # our own
    key: Path  # the private key that goes with it, mode 0600
    revoked: Path | None = None  # the authority's list; None: `revoked.pem` beside `ca`, if there is one

    @property
    def revocations(self) -> Path:
        """Where the authority's list of revoked certificates is, or would be."""
        return self.revoked or self.ca.with_name(_REVOKED_FILE)


TlsLike: TypeAlias = TlsFiles | Mapping[str, str | os.PathLike[str]]


class Identity(Struct, frozen=True):
    """What a certificate says of whoever shows it."""

    role: str  # "master", or a `Role`
    name: str
    serial: str  # in hexadecimal

    def __str__(self) -> str:
        return f"{self.role} {self.name}, certificate {self.serial}"


def read_files(given: TlsLike | None) -> TlsFiles | None:
    """What a caller has given, as one record; None: no TLS.

    Raises:
        TypeError: an entry is missing, or is none; the text has the nearest.
    """
    if given is None or isinstance(given, TlsFiles):
        return given
    for name in given:
        if name not in _PARTS:
            near = difflib.get_close_matches(str(name), _PARTS, n=1)
            raise TypeError(
                f"tls has no entry {name!r}; {f'did you mean {near[0]!r}?' if near else 'it has ca, cert and key'}"
            )
    if missing := [part for part in _PARTS if part not in given]:
        raise TypeError(f"tls needs {' and '.join(missing)}, as in tls={{'ca': ..., 'cert': ..., 'key': ...}}")
    return TlsFiles(*(Path(given[part]) for part in _PARTS))


def files_from(named: Mapping[str, Path | None], spelling: str) -> TlsFiles | None:
    """The files that some options name: all, or none. Raises `Refused` if some are missing.

    Args:
        named: by "ca", "cert" and "key".
        spelling: how an option is written, as in "--tls-{}".
    """
    if not any(named.values()):
        return None
    if missing := [spelling.format(part) for part in _PARTS if not named.get(part)]:
        raise Refused(f"TLS needs three files, and there is no {' and no '.join(missing)}; name all three, or none")
    ca, cert, key = (named[part] for part in _PARTS)
    return TlsFiles(ca or Path(), cert or Path(), key or Path())


def files_from_environment() -> TlsFiles | None:
    """What CLUSTER_TLS_CA, CLUSTER_TLS_CERT and CLUSTER_TLS_KEY name. Raises `Refused` if only some are set."""
    try:
        return files_from(named_by_environment(), "{}")
    except Refused as error:
        raise Refused(f"{error} (the environment's {', '.join(_VARIABLES.values())})") from None


def named_by_environment() -> dict[str, Path | None]:
    """The same by "ca", "cert" and "key", as far as they are set."""
    return {part: Path(text) if (text := os.environ.get(_VARIABLES[part])) else None for part in _PARTS}


def identity_in(certificate: Mapping[str, Any] | None) -> Identity | None:
    """Who a peer is, by what `SSLSocket.getpeercert()` gives; None if it is nobody's of a cluster."""
    if not certificate:
        return None
    uris = [text for kind, text in certificate.get("subjectAltName", ()) if kind == "URI"]
    found = _split(uris)
    if found is None:
        return None
    return Identity(*found, f"{int(certificate['serialNumber'], 16):x}")


def _split(uris: list[str]) -> tuple[str, str] | None:
    """Role and name of the one URI that tells them."""
    ours = [uri for uri in uris if uri.startswith(_SCHEME)]
    if len(ours) != 1:  # with two it would be either
        return None
    role, _, name = ours[0].removeprefix(_SCHEME).partition("/")
    return (role, name) if _NAME.fullmatch(name) else None


class Tls:
    """One side's part in TLS. Thread-safe."""

    def __init__(self, files: TlsFiles, *, is_master: bool, checks_host: bool = True) -> None:
        """Read the files. Raises `ClusterError` that says which is wrong, and what to do.

        Args:
            files: where they are.
            is_master: whether this is the side that listens.
            checks_host: whether the master's certificate must name the host that is dialled; not for UNIX sockets,
                which have none.
        """
        self.files = files
        self._is_master = is_master
        self._checks_host = checks_host
        self._lock = threading.Lock()  # guards the rest
        # Of a master's callers its `Credentials` judge, each second and not only when they connect.
        self._revocations = None if is_master else Revocations(files.revocations, files.ca)
        self._changes = Changes(files.ca, files.cert, files.key)
        self._changes.look()
        self._context, self.identity, self._authorities = self._load()

    def context(self) -> ssl.SSLContext:
        """For the next connection. Files that have changed are read again; what is wrong with them, the log says."""
        with self._lock:
            if self._changes.look():
                try:
                    self._context, self.identity, self._authorities = self._load()
                    LOG.info("certificate was read again: %s", self.identity)
                except ClusterError as error:
                    LOG.warning("a changed certificate is not taken, the earlier one stays in use: %s", error)
            return self._context

    def is_revoked(self, master: Identity) -> bool:
        """For callers: whether the authority has taken this certificate back, by its list as it is now."""
        if self._revocations is None:
            return False
        with self._lock:
            self._revocations.look_again()
            return master.serial in self._revocations.serials

    def validity_of(self, certificate: bytes) -> Validity | None:
        """The dates of what a caller has shown (DER), as `validity.validity_of`."""
        with self._lock:
            authorities = self._authorities
        return validity_of(certificate, authorities)

    def _load(self) -> tuple[ssl.SSLContext, Identity, list[x509.Certificate]]:
        authorities, own = read_authorities(self.files.ca), read_certificates(self.files.cert, "certificate")[0]
        _require_valid(self.files, own, authorities)
        identity = _own_identity(self.files.cert, own)
        if (identity.role == MASTER) is not self._is_master:
            wanted = "a master" if self._is_master else "who connects"
            raise Refused(
                f"certificate {self.files.cert} is of {identity.role} {identity.name}, not of {wanted}; "
                f"have one issued: {'cluster certs issue master HOST' if self._is_master else 'cluster certs issue client NAME'}"
            )
        return self._make_context(), identity, authorities

    def _make_context(self) -> ssl.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._is_master else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = not self._is_master and self._checks_host
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if self._is_master:
            # A resumed session would not show its certificate again, and connections are long-lived.
            context.num_tickets = 0
            # Should an SSL library not know it, it refuses by the dates itself: as strictly, and without a name.
            context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        cert, key = self.files.cert, self.files.key
        _require_private_key(key)
        try:
            context.load_verify_locations(self.files.ca)
            context.load_cert_chain(cert, key, password=lambda: _no_password(key))
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise Refused(
                    f"key {key} is not the one of certificate {cert}; name the two that were made together"
                ) from None
            raise Refused(
                f"key {key} can't be used with certificate {cert}: {error.reason or error}; have both issued again"
            ) from None
        return context


@functools.lru_cache(_MAX_KEPT)
def tls_of_caller(files: TlsFiles, *, checks_host: bool) -> Tls:
    """A caller's part; one for all connections of a process that use the same files."""
    return Tls(files, is_master=False, checks_host=checks_host)


def own_identity(files: TlsFiles) -> Identity:
    """Whose certificate it is that we show. Raises `Refused` if the file is no certificate of a cluster."""
    return _own_identity(files.cert, read_certificates(files.cert, "certificate")[0])


def _require_private_key(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Refused(f"there is no key {path}; `cluster certs issue` makes it beside its certificate") from None
    except OSError as error:
        raise Refused(f"key {path} can't be read: {error.strerror}") from None
    require_private(path, status)


def _require_valid(files: TlsFiles, own: x509.Certificate, authorities: list[x509.Certificate]) -> None:
    now = dt.datetime.now(dt.UTC)
    if now > own.not_valid_after_utc:
        raise Refused(
            f"certificate {files.cert} has expired on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; "
            "have it renewed: cluster certs renew"
        )
    if now < own.not_valid_before_utc:
        raise Refused(
            f"certificate {files.cert} is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "is this host's clock right?"
        )
    if not any(is_issued_by(own, authority) for authority in authorities):
        raise Refused(
            f"certificate {files.cert} was not issued by the authority in {files.ca}; name the two of the same cluster"
        )


def _own_identity(path: Path, own: x509.Certificate) -> Identity:
    from cryptography import x509

    try:
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = _split(names.get_values_for_type(x509.UniformResourceIdentifier))
    except (x509.ExtensionNotFound, ValueError):
        found = None
    if found is None:
        raise Refused(
            f"certificate {path} does not say whose it is in this cluster ({_SCHEME}ROLE/NAME); "
            "have one issued by `cluster certs issue`"
        )
    return Identity(*found, f"{own.serial_number:x}")


def _no_password(key: Path) -> str:
    raise Refused(f"key {key} is encrypted, and nobody is here to ask for its password; have it issued again")
