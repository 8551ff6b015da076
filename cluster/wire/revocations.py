"""Which certificates are taken back: the authority's list, as its file says now.

The list is believed only if the authority signed it. Whoever has had one never goes back to none: a file that is gone,
can't be read or was signed by somebody else leaves the last good list in force, and the log says so. At the start there is
no last good list, so the same is an error. A master looks each second, and ends connections; a caller looks when it connects.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import Refused
from cluster.wire.certificate_files import read_authorities
from cluster.wire.changes import Changes

if TYPE_CHECKING:
    from cryptography import x509

LOG = logging.getLogger("cluster.wire")

MAX_LIST_BYTES = 16 << 20  # some hundred thousand certificates


class Revocations:
    """One process's. `look_again` is for one thread at a time; `serials` may be read by any."""

    def __init__(self, path: Path, authority: Path) -> None:
        """Read the list; a file that was never there is an empty one. Raises `Refused` if it is no good."""
        self._path = path
        self._authority = authority
        self._changes = Changes(path)
        self._changes.look()
        self._was_there = path.exists()
        self.serials: frozenset[str] = self._read() if self._was_there else frozenset()  # replaced, never changed

    def look_again(self) -> None:
        """Read the file if it has changed."""
        if not self._changes.look():
            return
        if not self._was_there and not self._path.exists():
            return
        self._was_there = True
        try:
            self.serials = self._read()
            LOG.info("revocations were read again: file=%s revoked=%d", self._path, len(self.serials))
        except Refused as error:
            LOG.warning("changed revocations are not taken, the last good list stays in force: %s", error)

    def _read(self) -> frozenset[str]:
        from cryptography import x509

        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except OSError as error:
            raise Refused(f"the list of revoked certificates, {self._path}, can't be read: {error.strerror}") from None
        if len(data) > MAX_LIST_BYTES:
            raise Refused(
                f"{self._path} has more than {MAX_LIST_BYTES >> 20} MiB; is it a list of revoked certificates?"
            )
        try:
            revoked = x509.load_pem_x509_crl(data)
        except ValueError:
            raise Refused(
                f"{self._path} is no list of revoked certificates in PEM form; `cluster certs revoke` writes one"
            ) from None
        if not any(_is_signed_by(revoked, authority) for authority in read_authorities(self._authority)):
            raise Refused(
                f"the list of revoked certificates, {self._path}, was not signed by the authority in "
                f"{self._authority}; name the two of the same cluster"
            )
        return frozenset(f"{entry.serial_number:x}" for entry in revoked)


def _is_signed_by(revoked: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if revoked.issuer != authority.subject:
        return False
    try:
        return revoked.is_signature_valid(key)  # type: ignore[arg-type]
    except TypeError:  # a kind of key that signs nothing
        return False
