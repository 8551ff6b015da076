from __future__ import annotations

from cluster.core.shelf import MAX_IDLE_FUNCTIONS, Shelf
from tests.core.builders import function

ONE = function("one")


def test_a_function_that_was_offered_is_here() -> None:
    shelf = Shelf()

    shelf.offer(ONE)

    assert ONE.digest in shelf
    assert shelf.get(ONE.digest) is ONE
    assert shelf.get(b"another") is None


def test_only_its_first_user_has_the_store_told_of_a_function() -> None:
    shelf = Shelf()
    shelf.offer(ONE)

    assert [shelf.acquire(ONE.digest), shelf.acquire(ONE.digest)] == [True, False]


def test_a_function_that_found_a_user_again_is_told_of_again() -> None:
    shelf = Shelf()
    shelf.offer(ONE)
    shelf.acquire(ONE.digest)

    shelf.release(ONE.digest)

    assert shelf.acquire(ONE.digest), "the store may have dropped it meanwhile"


def test_a_function_has_users_until_the_last_one_lets_go() -> None:
    shelf = Shelf()
    shelf.offer(ONE)
    shelf.acquire(ONE.digest)
    shelf.acquire(ONE.digest)

    shelf.release(ONE.digest)
    assert not shelf.acquire(ONE.digest)
    shelf.release(ONE.digest)
    shelf.release(ONE.digest)

    assert shelf.acquire(ONE.digest)


def test_a_function_without_users_stays_for_a_while() -> None:
    shelf = Shelf()
    shelf.offer(ONE)
    shelf.acquire(ONE.digest)
    shelf.release(ONE.digest)

    for number in range(255):
        shelf.offer(function(f"f{number}"))

    assert ONE.digest in shelf

    shelf.offer(function("the last straw"))

    assert ONE.digest not in shelf


def test_a_function_in_use_is_never_dropped() -> None:
    shelf = Shelf()
    shelf.offer(ONE)
    shelf.acquire(ONE.digest)
    shelf.acquire(ONE.digest)
    shelf.release(ONE.digest)

    for number in range(2 * MAX_IDLE_FUNCTIONS):
        shelf.offer(function(f"f{number}"))

    assert ONE.digest in shelf


def test_offering_what_is_here_does_not_make_an_idle_function_younger_than_it_is() -> None:
    shelf = Shelf()
    shelf.offer(ONE)
    for number in range(MAX_IDLE_FUNCTIONS - 1):
        shelf.offer(function(f"f{number}"))

    shelf.offer(ONE)
    shelf.offer(function("the last straw"))

    assert ONE.digest not in shelf
