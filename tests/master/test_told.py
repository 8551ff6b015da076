from __future__ import annotations

import threading

from cluster.core.records import Outcome
from cluster.core.states import JobState
from cluster.master import told
from cluster.master.told import ToldBook
from cluster.wire.calls import Said, Told
from cluster.wire.messages import Progress, Refusal
from cluster.wire.reply import MAX_GIVEN_BYTES
from tests.acceptance.programs import wait_until
from tests.master.noted_reply import NotedReply
from tests.master.rig import DEADLINE_SECONDS


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def outcome(job: str, payload: bytes = b"") -> Outcome:
    return Outcome(job, 1, JobState.COMPLETED, 1.0, payload)


def test_everything_is_told_again_until_its_mark_comes_back() -> None:
    book = ToldBook(Clock())
    book.accepted(["a", "b"])
    book.ended([outcome("a")])
    book.refused([Refusal("c", "refused", "no")])

    first = book.listen(0, 0.0)
    again = book.listen(0, 0.0)
    rest = book.listen(first.mark, 0.0)

    assert first == again
    assert (first.accepted, first.ended, first.refused) == (
        ("a", "b"),
        (outcome("a"),),
        (Refusal("c", "refused", "no"),),
    )
    assert rest == Told(first.mark)


def test_listening_waits_until_there_is_something() -> None:
    book = ToldBook(Clock())
    heard: list[Told] = []
    thread = threading.Thread(target=lambda: heard.append(book.listen(0, DEADLINE_SECONDS)))
    thread.start()

    book.accepted(["a"])

    thread.join(DEADLINE_SECONDS)
    assert heard[0].accepted == ("a",)


def test_an_answer_has_so_many_records_and_no_more() -> None:
    book = ToldBook(Clock())
    names = [f"j{n}" for n in range(told.MAX_ANSWER_RECORDS + 1)]
    book.accepted(names)

    first = book.listen(0, 0.0)
    second = book.listen(first.mark, 0.0)

    assert [*first.accepted, *second.accepted] == names
    assert len(second.accepted) == 1


def test_an_answer_has_so_many_bytes_but_a_bigger_outcome_passes_alone() -> None:
    book = ToldBook(Clock())
    big = outcome("big", b"x" * (told.MAX_ANSWER_BYTES + 1))
    book.ended([outcome("a"), big, outcome("b")])

    first = book.listen(0, 0.0)
    second = book.listen(first.mark, 0.0)
    third = book.listen(second.mark, 0.0)

    assert [first.ended, second.ended, third.ended] == [(outcome("a"),), (big,), (outcome("b"),)]


def test_of_progress_only_the_latest_word_of_a_job_is_given_and_once() -> None:
    book = ToldBook(Clock())
    for done in (1.0, 2.0):
        book.progressed("a", Progress(7, done, 9.0))

    first = book.listen(0, 0.0)

    assert first.progress == (Said("a", Progress(7, 2.0, 9.0)),)
    assert first.mark == 0
    assert book.listen(0, 0.0).progress == ()


def test_a_client_that_was_silent_for_too_long_is_given_up_and_costs_nothing() -> None:
    clock = Clock()
    book = ToldBook(clock)
    book.accepted(["a"])
    clock.seconds = told.MAX_SILENCE_SECONDS + 1.0

    assert book.is_over()
    book.ended([outcome("a", b"x" * 1000)])

    assert book.listen(0, 0.0) == Told(0, is_gone=True)
    assert not book._entries


def test_a_client_that_listens_is_not_silent_however_long_that_takes() -> None:
    clock = Clock()
    book = ToldBook(clock)
    heard: list[Told] = []
    thread = threading.Thread(target=lambda: heard.append(book.listen(0, DEADLINE_SECONDS)))
    thread.start()
    wait_until(lambda: book._listening)
    clock.seconds = 10 * told.MAX_SILENCE_SECONDS

    book.accepted(["a"])

    thread.join(DEADLINE_SECONDS)
    assert heard[0].accepted == ("a",)


def test_a_session_with_too_much_untold_is_dropped() -> None:
    book = ToldBook(Clock(), max_untold_bytes=1000)
    book.ended([outcome("a", b"x" * 2000)])

    book.ended([outcome("b")])

    assert book.listen(0, 0.0).is_gone
    assert book.is_over()


def test_closing_ends_the_wait_of_whoever_listens() -> None:
    book = ToldBook(Clock())
    heard: list[Told] = []
    thread = threading.Thread(target=lambda: heard.append(book.listen(0, DEADLINE_SECONDS)))
    thread.start()

    book.close()

    thread.join(DEADLINE_SECONDS)
    assert heard == [Told(0, is_gone=True)]


def test_that_a_job_printed_is_told_once_for_all_words_of_it() -> None:
    book = ToldBook(lambda: 0.0)
    for job in ("a", "b", "a"):
        book.printed(job)

    first, second = book.listen(0, 0.0), book.listen(0, 0.0)

    assert (sorted(first.printed), second.printed) == (["a", "b"], ())


def test_a_closed_book_keeps_no_word_of_what_printed() -> None:
    book = ToldBook(lambda: 0.0)
    book.printed("a")

    book.close()
    book.printed("b")

    assert book.listen(0, 0.0).printed == ()


class Listening:
    """A `listen` that waits in a thread of its own."""

    def __init__(self, book: ToldBook) -> None:
        self.reply = NotedReply()
        self.returned: list[Told] = []
        self.thread = threading.Thread(
            target=lambda: self.returned.append(book.listen(0, DEADLINE_SECONDS, self.reply))
        )
        self.thread.start()
        wait_until(lambda: book._waiting is not None, DEADLINE_SECONDS)

    def ended(self) -> None:
        self.thread.join(DEADLINE_SECONDS)
        assert not self.thread.is_alive()


def test_outcomes_are_told_by_the_thread_that_has_committed_them_with_all_that_came_before() -> None:
    book = ToldBook(Clock())
    listening = Listening(book)

    with book._changed:  # as if its thread were not on its way yet
        book.accepted(["a"])
        book.ended([outcome("a")])

    listening.ended()
    assert listening.reply.given == [Told(2, ("a",), (), (outcome("a"),))]
    assert listening.reply.giver is threading.current_thread()
    assert book.listen(0, 0.0) == listening.reply.given[0], "it was not acknowledged: it must come again"


def test_outcomes_of_many_bytes_are_told_by_the_thread_that_listens() -> None:
    book = ToldBook(Clock())
    listening = Listening(book)

    book.ended([outcome("a", bytes(MAX_GIVEN_BYTES))])

    listening.ended()
    assert listening.reply.given == []
    assert [one.job for one in listening.returned[0].ended] == ["a"]


def test_a_listen_that_is_over_is_given_nothing() -> None:
    book = ToldBook(Clock())
    reply = NotedReply()

    book.listen(0, 0.0, reply)
    book.ended([outcome("a")])

    assert reply.given == []
    assert [one.job for one in book.listen(0, 0.0).ended] == ["a"]
