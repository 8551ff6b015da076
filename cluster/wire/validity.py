"""When a caller's certificate holds: what OpenSSL is told not to ask, so that whoever is refused for it has a name.

OpenSSL looks at dates while it builds the chain, and breaks off before anybody has seen whose certificate it is. So the
master's context leaves out the dates, and nothing else: signatures, purposes, the strict rules and the trust in an
authority stay OpenSSL's. The dates are compared here, by the same rules, of the certificate and of the authority that
signed it; `credentials` does so before the caller's role is answered, again before it is let in, and each second from
then on. A chain that is longer than these two, of which a third certificate would have dates, is refused.

Callers leave the dates of a master's certificate to OpenSSL: there the name is no news.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from cryptography import x509


class Validity(Struct, frozen=True):
    """From when to when, by wall time; `begins` holds, `ends` does not any more."""

    begins: float
    ends: float
    authority_begins: float
    authority_ends: float


def validity_of(certificate: bytes, authorities: Sequence[x509.Certificate]) -> Validity | None:
    """The dates of a certificate (DER) that OpenSSL has verified; None: no authority of ours has signed it itself."""
    from cryptography import x509

    try:
        leaf = x509.load_der_x509_certificate(certificate)
        # An authority's certificate may have been renewed with its key: the one that holds for longest counts.
        signers = [authority for authority in authorities if is_issued_by(leaf, authority)]
        signer = max(signers, key=lambda one: one.not_valid_after_utc, default=None)
        if signer is None:
            return None
        begins, ends, *of_signer = (
            moment.timestamp()
            for one in (leaf, signer)
            for moment in (one.not_valid_before_utc, one.not_valid_after_utc)
        )
    except ValueError:  # dates that can't be read
        return None
    return Validity(begins, ends, *of_signer)


def is_issued_by(own: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether it was signed by that authority itself."""
    from cryptography.exceptions import InvalidSignature

    try:
        own.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
