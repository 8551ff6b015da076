"""A real authority and real certificates for tests, with whatever is wrong with them on purpose."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.wire.tls import TlsFiles

HOUR = dt.timedelta(hours=1)


class Maker:
    """An authority in a folder of its own."""

    def __init__(self, folder: Path, *, above: Maker | None = None, path_length: int = 0) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.ca, self.revoked = folder / "ca.pem", folder / "revoked.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
        self._above, self._path_length = above or self, path_length
        self.certify(-HOUR, 24 * HOUR)

    def certify(self, begins: dt.timedelta, ends: dt.timedelta) -> None:
        """Write the authority's own certificate, anew with the same key."""
        builder = self._above._begin(self._name, self._key, begins, ends)
        limits = x509.BasicConstraints(ca=True, path_length=self._path_length)
        builder = builder.add_extension(limits, critical=True)
        certificate = self._above._finish(builder, is_authority=True)
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        role: str,
        name: str,
        hosts: tuple[str, ...] = ("localhost", "127.0.0.1"),
        *,
        begins: dt.timedelta = -HOUR,
        ends: dt.timedelta = HOUR,
    ) -> TlsFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [(NameOID.ORGANIZATIONAL_UNIT_NAME, role), (NameOID.COMMON_NAME, name)]
        subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"cluster://{role}/{name}")]
        if role == "master":
            names += [_general_name(host) for host in hosts]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == "master" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._begin(subject, key, begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        certificate = self._finish(builder, is_authority=False)
        files = TlsFiles(self.ca, self.folder / f"{role}-{name}.pem", self.folder / f"{role}-{name}.key")
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.touch(0o600)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def revoke(self, *files: TlsFiles) -> None:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - HOUR).next_update(now + HOUR)
        for each in files:
            serial = x509.load_pem_x509_certificate(each.cert.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        new = self.revoked.with_suffix(".new")
        new.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        new.replace(self.revoked)

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: dt.timedelta, ends: dt.timedelta
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now + begins).not_valid_after(now + ends)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )

    def _finish(self, builder: x509.CertificateBuilder, *, is_authority: bool) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        return builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
