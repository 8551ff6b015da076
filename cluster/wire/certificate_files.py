"""Certificates as files in PEM form, and a sentence for each way in which one is no good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import Refused

if TYPE_CHECKING:
    from cryptography import x509


def read_authorities(path: Path) -> list[x509.Certificate]:
    """The certificates in a CA's file. Raises `Refused`."""
    return read_certificates(path, "the authority's certificate")


def read_certificates(path: Path, what: str) -> list[x509.Certificate]:
    """The certificates in a file. Raises `Refused`, in whose sentence `what` says what the file should be."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise Refused(f"there is no {path}, {what}; `cluster certs` makes it: copy it from there") from None
    except OSError as error:
        raise Refused(f"{what} {path} can't be read: {error.strerror}") from None
    except ValueError:
        raise Refused(f"{path} is no certificate in PEM form; give {what} as `cluster certs` made it") from None
