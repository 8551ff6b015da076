from __future__ import annotations

from cluster.store.leases import LeaseBook
from tests.store.build import leased


def to_write(book: LeaseBook) -> list[tuple[int, list[int]]]:
    return [(batch.first, list(batch.left)) for batch in book.to_write()]


def test_a_batch_that_is_over_before_it_is_written_never_is() -> None:
    book = LeaseBook()

    book.lease(leased("w#1", (7, 1), (8, 2)))
    book.end(1)
    book.give_back(8)

    assert to_write(book) == []


def test_a_written_batch_is_deleted_once_nothing_of_it_is_left() -> None:
    book = LeaseBook()
    book.lease(leased("w#1", (7, 1), (8, 2)))
    written = to_write(book)
    book.written()

    book.end(1)
    half_over = to_write(book)
    book.end(2)

    assert (written, half_over, to_write(book)) == ([(7, [7, 8])], [], [(7, [])])


def test_what_is_given_back_is_taken_out_of_the_row() -> None:
    book = LeaseBook()
    book.lease(leased("w#1", (7, 1), (8, 2)))
    to_write(book)
    book.written()

    book.give_back(7)

    assert to_write(book) == [(7, [8])]
    assert book.holder(1) == (0, "")
    assert book.holder(2) == (8, "w#1")


def test_what_a_failed_commit_should_have_written_is_asked_for_again() -> None:
    book = LeaseBook()
    book.lease(leased("w#1", (7, 1)))
    to_write(book)  # and that commit failed; the row may be there all the same

    book.end(1)

    assert to_write(book) == [(7, [])]
    assert to_write(book) == [(7, [])]
    book.written()
    assert to_write(book) == []


def test_a_batch_told_twice_is_held_once() -> None:
    book = LeaseBook()
    for _ in range(2):
        book.lease(leased("w#1", (7, 1), (8, 2)))

    assert to_write(book) == [(7, [7, 8])]
    book.written()
    book.end(1)
    book.end(2)
    assert to_write(book) == [(7, [])]


def test_a_later_lease_of_a_job_takes_the_place_of_the_earlier() -> None:
    book = LeaseBook()
    book.lease(leased("w#1", (7, 1)))
    to_write(book)
    book.written()

    book.lease(leased("w#2", (9, 1)))

    assert book.holder(1) == (9, "w#2")
    assert to_write(book) == [(7, []), (9, [9])]
