"""New inputs from old ones: bytes cut, copied and flipped, and msgpack taken apart and put together wrongly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.fuzz.samples import BLOBS, FLOATS, INTEGERS, TEXTS

MAX_INPUT_BYTES = 4096
_VALUES: tuple[Any, ...] = (None, True, False, [], {}, *INTEGERS, *FLOATS, *TEXTS, *BLOBS)
_MARKERS = bytes(range(0xC0, 0xE0)) + b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xff"


class Mutator:
    """Used by one thread. The same seed and the same inputs give the same outputs."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def mutate(self, data: bytes, others: Sequence[bytes], skip: int = 0) -> bytes:
        """A variation of `data`.

        Args:
            data: what to vary.
            others: other inputs, to take pieces from.
            skip: bytes before the msgpack in it.
        """
        for _ in range(1 + int(self._chance.random() < 0.3)):
            if self._chance.random() < 0.5:
                data = self._restructure(data, skip) or self._bend(data, others)
            else:
                data = self._bend(data, others)
        return data[:MAX_INPUT_BYTES]

    # --- as bytes -------------------------------------------------------------------------------------------------

    def _bend(self, data: bytes, others: Sequence[bytes]) -> bytes:
        chance = self._chance
        at = int(chance.random() * (len(data) + 1))
        to = min(len(data), at + 1 + int(chance.random() ** 3 * 16))
        which = int(chance.random() * 8)
        if which == 0:
            return data[:at]
        if which == 1:
            return data[:at] + data[to:]
        if which == 2:
            return data[:at] + data[at:to] * 2 + data[to:]
        if which == 3:
            return data[:at] + chance.randbytes(1 + int(chance.random() * 8)) + data[to:]
        if which == 4 and others:
            other = others[int(chance.random() * len(others))]
            cut = int(chance.random() * (len(other) + 1))
            return data[:at] + other[cut : cut + 64] + data[to:]
        if which == 5:
            size = 1 << int(chance.random() * 4)
            number = INTEGERS[int(chance.random() * len(INTEGERS))] % (1 << 8 * size)
            return data[:at] + number.to_bytes(size, "big") + data[at + size :]
        if at >= len(data):
            return data + _MARKERS[int(chance.random() * len(_MARKERS)) :][:1]
        if which == 6:
            return data[:at] + _MARKERS[int(chance.random() * len(_MARKERS)) :][:1] + data[at + 1 :]
        return data[:at] + bytes((data[at] ^ (1 << int(chance.random() * 8)),)) + data[at + 1 :]

    # --- as msgpack -----------------------------------------------------------------------------------------------

    def _restructure(self, data: bytes, skip: int) -> bytes | None:
        """The same with one value of its structure replaced, dropped, doubled or wrapped; None if it has none."""
        try:
            tree = msgspec.msgpack.decode(data[skip:])
            return data[:skip] + msgspec.msgpack.encode(self._change(tree))
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, TypeError):
            return None

    def _change(self, tree: Any) -> Any:
        chance = self._chance
        if isinstance(tree, list) and tree and chance.random() < 0.85:
            at = int(chance.random() * len(tree))
            which = chance.random()
            if which < 0.7:
                tree[at] = self._change(tree[at])
            elif which < 0.8:
                del tree[at]
            elif which < 0.9:
                tree.insert(at, tree[at])
            else:
                tree.append(_VALUES[int(chance.random() * len(_VALUES))])
            return tree
        if isinstance(tree, dict) and tree and chance.random() < 0.85:
            keys = list(tree)
            key = keys[int(chance.random() * len(keys))]
            if chance.random() < 0.9:
                tree[key] = self._change(tree[key])
            else:
                del tree[key]
            return tree
        return [tree] if chance.random() < 0.05 else _VALUES[int(chance.random() * len(_VALUES))]
