"""What a function is called on the wire and in the store: a hash over all that its record says.

Clients make the name, and the master makes it again before it takes a function from one: else whoever may submit could put
a body of his own under the name of another client's function, and that client's jobs would run it.
"""

from __future__ import annotations

from _blake2 import blake2b  # `hashlib` has it from there too, and loads OpenSSL, which takes longer than the digest

from cluster.core.records import Digest, FunctionBlob

_DIGEST_BYTES = 16


def name_function(body: bytes, python: str, pickler: str, name: str, *, reusable: bool) -> FunctionBlob:
    """The record of a pickled function, under its digest."""
    return FunctionBlob(_digest(body, python, pickler, name, reusable=reusable), body, python, pickler, name, reusable)


def is_genuine(blob: FunctionBlob) -> bool:
    """The function is what its digest says. Takes about a second for a gigabyte."""
    return blob.digest == _digest(blob.body, blob.python, blob.pickler, blob.name, reusable=blob.reusable)


def _digest(body: bytes, python: str, pickler: str, name: str, *, reusable: bool) -> Digest:
    content = blake2b(digest_size=_DIGEST_BYTES)
    for part in (body, python.encode(), pickler.encode(), name.encode(), bytes([reusable])):
        # With its length, so that no end of one part can pass for the beginning of the next.
        content.update(len(part).to_bytes(8, "big"))
        content.update(part)
    return content.digest()
