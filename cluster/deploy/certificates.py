"""What the kit's certificates say, in X.509: the one place that knows.

They pass `VERIFY_X509_STRICT`, which Python 3.13 sets by default: basic constraints and key usage are critical and say
all, each certificate names its own key and its signer's. The authority signs leaves and revocations and no further
authority (path length 0). It has no name constraints: a master's hosts may be anything, and OpenSSL's rules for URIs fit
no `cluster://`. Keys are P-256, signatures ECDSA with SHA-256: what TLS 1.3 has to offer everywhere.

`cryptography` is loaded when the first of these functions is called, by the commands and the bring-ups that need it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.deploy.identity import MASTER, is_ip, uri_of
from cluster.errors import Refused

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

DAY_SECONDS = 86400.0
# Clocks of hosts differ a little, and nobody should wait for a new certificate to begin.
BACKDATED_SECONDS = 300.0

_SIGNING = {"digital_signature": True, "key_cert_sign": False, "crl_sign": False}
_CERTIFYING = {"digital_signature": False, "key_cert_sign": True, "crl_sign": True}


def new_key() -> EllipticCurvePrivateKey:
    """A private key that nobody has had."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def sign_authority(key: EllipticCurvePrivateKey, label: str, now: float, days: float) -> x509.Certificate:
    """The authority's own certificate. `label` tells it from others: no two have the same name."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"cluster authority {label}"),
        ]
    )
    builder = _begin(name, name, key.public_key(), now, now + days * DAY_SECONDS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(_CERTIFYING), critical=True)
    return _sign(builder, key, key.public_key())


def sign_leaf(
    authority: x509.Certificate,
    signer: EllipticCurvePrivateKey,
    key: EllipticCurvePublicKey,
    wanted: tuple[str, str, Sequence[str]],
    validity: tuple[float, float],
) -> x509.Certificate:
    """A certificate for one identity.

    Args:
        authority: who signs.
        signer: the authority's key.
        key: the public one that is certified.
        wanted: role, name, and a master's hosts.
        validity: from now until then, in wall time.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    role, name, hosts = wanted
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == MASTER else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _begin(subject, authority.subject, key, *validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(_SIGNING), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(role, name, hosts)), critical=False)
    return _sign(builder, signer, signer.public_key())


def sign_revocations(
    authority: x509.Certificate, signer: EllipticCurvePrivateKey, revoked: Mapping[int, float], number: int, now: float
) -> x509.CertificateRevocationList:
    """The list of serial numbers that are refused, and since when.

    It is valid for as long as the authority is: the list lies beside the master, which reads it again when it changes, so
    an old list is no attack that an earlier end would stop, and an end would lock out everybody on a day nobody knows.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    # An expired authority may still revoke; a list must not end before it begins.
    end = max(authority.not_valid_after_utc, _moment(now + DAY_SECONDS))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(_moment(now - BACKDATED_SECONDS))
        .next_update(end)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for serial, since in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(since)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer, hashes.SHA256())


# --- as text and back -----------------------------------------------------------------------------------------------


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """A private key as text, not encrypted: a master that starts by itself has nobody to ask for a word."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """A certificate or a list of revocations as text."""
    from cryptography.hazmat.primitives import serialization

    return signed.public_bytes(serialization.Encoding.PEM)


def read_key(data: bytes, path: object) -> EllipticCurvePrivateKey:
    """The private key in a file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Nothing of the file is quoted: it may be another secret.
        raise Refused(f"{path} is no private key, or an encrypted one; restore it from a backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused(f"{path} is no key that this kit makes; restore it from a backup")
    return key


def read_certificate(data: bytes, path: object) -> x509.Certificate:
    """The certificate in a file."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise Refused(f"{path} is no certificate; restore it from a backup") from None


def read_revocations(data: bytes, path: object, authority: x509.Certificate) -> x509.CertificateRevocationList:
    """The list in a file, if the authority has signed it."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_crl(data)
    except ValueError:
        raise Refused(f"{path} is no list of revocations; restore it from a backup") from None
    if not found.is_signature_valid(public_key_of(authority)):
        raise Refused(f"{path} was not signed by this authority; restore it from a backup")
    return found


def public_key_of(certificate: x509.Certificate) -> EllipticCurvePublicKey:
    """The key that a certificate of ours certifies."""
    from cryptography.hazmat.primitives.asymmetric import ec

    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Refused("that certificate is none that this kit makes: its key is of another kind")
    return key


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority has signed a certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


# --- pieces ---------------------------------------------------------------------------------------------------------


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey, now: float, until: float
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - BACKDATED_SECONDS))
        .not_valid_after(_moment(until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, signer: EllipticCurvePrivateKey, signer_key: EllipticCurvePublicKey
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    whose = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key)
    return builder.add_extension(whose, critical=False).sign(signer, hashes.SHA256())


def _usage(said: Mapping[str, bool]) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        **said,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(role: str, name: str, hosts: Iterable[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    found: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri_of(role, name))]
    found += [x509.IPAddress(ipaddress.ip_address(host)) if is_ip(host) else x509.DNSName(host) for host in hosts]
    return found
