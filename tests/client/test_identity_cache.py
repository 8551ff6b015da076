from __future__ import annotations

import gc

from cluster.client.identity_cache import IdentityCache


class Subject:
    __slots__ = ("__weakref__",)

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_a_value_is_found_by_identity_and_never_by_equality() -> None:
    cache: IdentityCache[str] = IdentityCache(max_entries=10)
    one, other = Subject(), Subject()

    cache.put(one, "one")

    assert cache.get(one) == "one"
    assert cache.get(other) is None


def test_a_value_goes_with_its_subject() -> None:
    cache: IdentityCache[str] = IdentityCache(max_entries=10)
    subject = Subject()
    cache.put(subject, "value")

    del subject
    gc.collect()

    assert len(cache) == 0


def test_a_value_with_another_owner_goes_with_that_one() -> None:
    cache: IdentityCache[str] = IdentityCache(max_entries=10)
    subject, owner = Subject(), Subject()
    cache.put(subject, "value", owner=owner)
    assert cache.get(subject) == "value"

    del owner
    gc.collect()

    assert cache.get(subject) is None


def test_an_id_that_comes_back_is_not_the_old_object() -> None:
    cache: IdentityCache[str] = IdentityCache(max_entries=10)
    subject, owner = Subject(), Subject()
    cache.put(subject, "value", owner=owner)
    key = id(subject)

    del subject
    # Where the interpreter puts it elsewhere, it is made again and again until it comes to lie there.
    successor = next(made for made in (Subject() for _ in range(100_000)) if id(made) == key)

    assert cache.get(successor) is None


def test_the_death_of_an_earlier_owner_leaves_the_newer_value() -> None:
    cache: IdentityCache[str] = IdentityCache(max_entries=10)
    subject, owner = Subject(), Subject()
    cache.put(subject, "old", owner=owner)
    cache.put(subject, "new")

    del owner
    gc.collect()

    assert cache.get(subject) == "new"


def test_the_oldest_value_makes_room() -> None:
    cache: IdentityCache[int] = IdentityCache(max_entries=2)
    subjects = [Subject() for _ in range(3)]

    for n, subject in enumerate(subjects):
        cache.put(subject, n)

    assert [cache.get(subject) for subject in subjects] == [None, 1, 2]


def test_sizes_are_bounded_and_the_newest_value_stays_whatever_its_size() -> None:
    cache: IdentityCache[int] = IdentityCache(max_entries=10, max_bytes=100)
    subjects = [Subject() for _ in range(3)]

    for n, subject in enumerate(subjects):
        cache.put(subject, n, size=60 if n < 2 else 1000)

    assert [cache.get(subject) for subject in subjects] == [None, None, 2]
