"""Values of any record type, drawn from one source of chance: `random.Random`, or Hypothesis's stand-in for it."""

from __future__ import annotations

import enum
import random
from typing import Any

import msgspec
from msgspec import inspect

# What tends to be off by one, at a bound, or not a number at all.
INTEGERS = (0, 1, -1, 2, 127, 255, 1000, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e9, 1e18, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "default", "jobs", "w#1", "\0", "é", "\U0001f980", "x" * 300, "../../etc", "'; --", "#TRACEBACK")
BLOBS = (b"", b"\0", b"args", b"\xff" * 40, b"cos\nsystem\n(S'true'\ntR.", b"\x80\x05\x95", b"x" * 1025)
MAX_ITEMS = 3
MAX_DEPTH = 6


def sample(kind: Any, chance: random.Random, *, is_sane: bool = False) -> Any:
    """A value of this type. `is_sane`: only numbers that an honest peer may send."""
    return _Sampler(chance, is_sane=is_sane).of(inspect.type_info(kind), 0)


class _Sampler:
    def __init__(self, chance: random.Random, *, is_sane: bool) -> None:
        self._chance = chance
        self._is_sane = is_sane

    def of(self, info: inspect.Type, depth: int) -> Any:
        chance = self._chance
        match info:
            case inspect.StructType():
                return self._struct(info, depth)
            case inspect.UnionType():
                return self.of(chance.choice(info.types), depth)
            case inspect.VarTupleType():
                return tuple(self._items(info.item_type, depth))
            case inspect.ListType():
                return self._items(info.item_type, depth)
            case inspect.TupleType():
                return tuple(self.of(item, depth) for item in info.item_types)
            case inspect.DictType():
                keys = self._items(info.key_type, depth)
                return {key: self.of(info.value_type, depth) for key in keys}
            case inspect.EnumType():
                return chance.choice(list[enum.Enum](info.cls))
            case inspect.RawType():
                return msgspec.Raw(msgspec.msgpack.encode(chance.choice(TEXTS)))
            case _:
                return self._leaf(info)

    def _leaf(self, info: inspect.Type) -> Any:
        chance = self._chance
        match info:
            case inspect.IntType():
                low, high = _bounds(info, -(2**63), 2**64 - 1)
                if self._is_sane:
                    low, high = max(low, 0), min(high, 1000)
                return int(min(max(chance.choice(INTEGERS), low), high))
            case inspect.FloatType():
                low, high = _bounds(info, float("-inf"), float("inf"))
                if self._is_sane:
                    low, high = max(low, 0.0), min(high, 1e6)
                value = chance.choice(FLOATS)
                is_bounded = (low, high) != (float("-inf"), float("inf"))
                value = 0.0 if value != value and is_bounded else value  # noqa: PLR0124 - not a number
                return min(max(value, low), high)
            case inspect.StrType():
                return chance.choice([text for text in TEXTS if _fits(info, text)])
            case inspect.BytesType():
                return chance.choice([blob for blob in BLOBS if _fits(info, blob)])
            case inspect.AnyType():
                return chance.choice(BLOBS)
            case inspect.BoolType():
                return chance.random() < 0.5
            case inspect.NoneType():
                return None
        raise TypeError(f"no sample of {info}; teach this module")

    def _struct(self, info: inspect.StructType, depth: int) -> Any:
        given = {}
        for field in info.fields:
            if not field.required and (depth >= MAX_DEPTH or self._chance.random() < 0.4):
                continue
            given[field.name] = self.of(field.type, depth + 1)
        return info.cls(**given)

    def _items(self, item: inspect.Type, depth: int) -> list[Any]:
        count = 0 if depth >= MAX_DEPTH else self._chance.randrange(MAX_ITEMS + 1)
        return [self.of(item, depth + 1) for _ in range(count)]


def _bounds(info: inspect.IntType | inspect.FloatType, low: float, high: float) -> tuple[Any, Any]:
    low = info.ge if info.ge is not None else low if info.gt is None else info.gt
    high = info.le if info.le is not None else high if info.lt is None else info.lt
    return low, high


def _fits(info: inspect.StrType | inspect.BytesType, value: str | bytes) -> bool:
    return (info.min_length or 0) <= len(value) <= (len(value) if info.max_length is None else info.max_length)
