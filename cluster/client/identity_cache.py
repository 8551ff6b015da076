"""What is remembered about an object, found by the object's identity and forgotten with its owner.

Functions and code objects can't be keys of an ordinary dictionary here: code objects compare by content, callables may
define any `__eq__`, and a strong key would keep a notebook's every lambda alive. So the key is `id(subject)`, proved by
a weak reference to the subject at each look-up, because ids come back.

Any thread may call anything. Look-ups take no lock. Forgetting happens inside the garbage collector, in whatever thread
it runs and even halfway through a `put` of the same thread, so it takes no lock either: it is one `dict.pop`.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from msgspec import Struct

Value = TypeVar("Value")


class _Entry(Struct, Generic[Value], frozen=True):
    subject: weakref.ref[object]
    owner: weakref.ref[object]
    value: Value
    size: int


class IdentityCache(Generic[Value]):
    """At most `max_entries` values and `max_bytes` of declared size; the oldest goes first."""

    def __init__(self, max_entries: int, max_bytes: int = 0) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[int, _Entry[Value]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, subject: object) -> Value | None:
        """The value remembered for exactly this object, or None."""
        entry = self._entries.get(id(subject))
        if entry is None or entry.subject() is not subject:
            return None
        return entry.value

    def put(self, subject: object, value: Value, *, owner: object | None = None, size: int = 0) -> None:
        """Remember `value` until `owner` (the subject itself, if not given) is gone, or room is needed."""
        key = id(subject)
        entries = self._entries

        def forget(_owner: weakref.ref[object]) -> None:
            entries.pop(key, None)  # at worst a newer value, put at this very moment, is forgotten too

        entries.pop(key, None)  # so that it counts as the newest
        owner_ref = weakref.ref(subject if owner is None else owner, forget)
        entries[key] = _Entry(weakref.ref(subject), owner_ref, value, size)
        self._make_room()

    def _make_room(self) -> None:
        entries = self._entries
        while len(entries) > self._max_entries or (
            self._max_bytes and len(entries) > 1 and sum(e.size for e in tuple(entries.values())) > self._max_bytes
        ):
            # Another thread may have taken the oldest one at this moment; then the next is looked at.
            entries.pop(next(iter(tuple(entries)), 0), None)
