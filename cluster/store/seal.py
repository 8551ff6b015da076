"""Seals: proof that a stored row says what this cluster wrote.

Each row carries a keyed BLAKE2b of what it says, the name of its table included, so that a row can't be altered, nor
moved to another table or job. The key lies in its own file beside the store and goes to no worker, child or client:
whoever may write the database, but not read the key, can neither plant a pickle nor change one.

What a seal can't show is what is missing: rows deleted, or put back as they once were, look like the store of an
earlier day.
"""

from __future__ import annotations

from _blake2 import blake2b  # as in `core.digests`
from _operator import _compare_digest as compare_digest  # that of `hmac`, which loads OpenSSL too
from typing import NoReturn

import msgspec

KEY_BYTES = 32
_MAC_BYTES = 16
_DIGEST_BYTES = 32
# A longer payload is sealed by its digest, kept in a column of its own: a listing then checks the row without it, and
# no second copy of the payload is made for the seal. A shorter one costs less whole than a second hash would.
MAX_SEALED_WHOLE_BYTES = 1024

# What a column may hold.
Value = str | int | float | bytes | None

_encode = msgspec.msgpack.Encoder().encode


class Seal:
    """Makes and checks the seals of one store. May be used from any thread."""

    __slots__ = ("_key",)  # and so nothing that `vars` would show

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a store's key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def __reduce__(self) -> NoReturn:
        raise TypeError("a store's seal is not pickled: it holds the key")

    def over(self, *said: Value) -> bytes:
        """The seal of a row; msgpack keeps "a", "bc" apart from "ab", "c"."""
        return blake2b(_encode(said), key=self._key, digest_size=_MAC_BYTES).digest()

    def fits(self, mac: object, *said: Value) -> bool:
        """Whether a row read back is what was written."""
        return isinstance(mac, bytes) and compare_digest(mac, self.over(*said))


def digest_of(payload: bytes) -> bytes | None:
    """What stands for a payload in a seal; None if that is the payload itself."""
    return blake2b(payload, digest_size=_DIGEST_BYTES).digest() if len(payload) > MAX_SEALED_WHOLE_BYTES else None


def is_payload_of(digest: bytes | None, payload: object) -> bool:
    """Whether a payload read back belongs to the digest that its row's seal covers."""
    return digest is None or (isinstance(payload, bytes) and digest_of(payload) == digest)
