from __future__ import annotations

from cluster.core.records import JobInfo, Outcome
from cluster.core.states import JobState
from cluster.wire.books import Books
from cluster.wire.calls import Told
from cluster.wire.messages import Refusal
from tests.core.builders import TASK, function, spec

OTHER = function("other")


def entered(*names: str) -> Books:
    books = Books()
    books.enter([spec(name) for name in names], [TASK])
    return books


def ended(job: str, run: int = 1) -> Outcome:
    return Outcome(job, run, JobState.COMPLETED, 1.0)


def test_an_acknowledged_job_is_awaited_and_its_function_let_go_of() -> None:
    books = entered("a")

    books.take(Told(1, accepted=("a",)))

    assert (books.unacknowledged, books.awaited) == ({}, {"a": 0})
    assert books.functions_of([spec("a")]) == ()


def test_a_function_is_kept_as_long_as_one_job_of_it_is_unacknowledged() -> None:
    books = entered("a", "b")
    books.enter([spec("c", function=OTHER.digest)], [OTHER])

    books.take(Told(1, accepted=("a", "c")))

    assert books.functions_of([spec("b"), spec("c", function=OTHER.digest)]) == (TASK,)


def test_a_job_entered_twice_is_there_once() -> None:
    books = entered("a")
    books.enter([spec("a")], [TASK])

    books.take(Told(1, accepted=("a",)))

    assert books.functions_of([spec("a")]) == ()


def test_an_answer_for_an_earlier_submission_passes_no_later_one_of_the_same_job() -> None:
    books = Books()
    first, again = spec("a", key="k"), spec("a", key="k")
    books.enter([first], [TASK])
    books.take(Told(1, refused=(Refusal("a", "store", "the disk is full"),)))
    books.enter([again], [TASK])

    books.note_passed([first])  # its answer had been lost, and it was sent again
    assert books.rest() == [again]

    books.note_passed([again])
    assert books.rest() == []


def test_a_job_that_is_submitted_again_while_the_master_has_it_is_passed_on_again() -> None:
    books = Books()
    first, again = spec("a", key="k"), spec("a", key="k")
    books.enter([first], [TASK])
    books.note_passed([first])

    books.enter([again], [TASK])

    assert books.rest() == [again]


def test_an_end_acknowledges_and_a_refusal_strikes_out() -> None:
    books = entered("a", "b", "c")

    books.take(Told(1, refused=(Refusal("b", "refused", "no"),), ended=(ended("a"),)))

    assert [job.id for job in books.rest()] == ["c"]
    assert books.awaited == {}


def test_the_outcome_of_an_earlier_run_is_not_the_awaited_one() -> None:
    books = Books()
    books.ask("a")
    books.answered("a", JobInfo(id="a", name="a", state=JobState.QUEUED, run=2))

    books.take(Told(1, ended=(ended("a", run=1),)))
    is_kept = dict(books.awaited)
    books.take(Told(2, ended=(ended("a", run=2),)))

    assert (is_kept, books.awaited) == ({"a": 2}, {})


def test_an_outcome_that_overtakes_the_answer_of_the_question_is_not_awaited_again() -> None:
    books = Books()
    books.ask("a")

    books.take(Told(1, ended=(ended("a"),)))
    books.answered("a", JobInfo(id="a", name="a", state=JobState.QUEUED, run=1))

    assert books.awaited == {}


def test_a_question_that_was_not_answered_leaves_nothing() -> None:
    books = Books()
    books.ask("a")

    books.answered("a", None)

    assert books.awaited == {}


def test_an_answer_of_an_earlier_session_is_not_believed() -> None:
    books = Books()
    books.ask("a")
    books.outdate()

    books.take(Told(1, ended=(ended("a"),)))  # as the next master has it
    books.answered("a", JobInfo(id="a", name="a", state=JobState.QUEUED, run=2))  # died undurable with the last one

    assert books.awaited == {}


def test_a_run_that_died_undurable_with_its_master_is_not_awaited_from_the_next() -> None:
    books = Books()
    books.ask("a")
    books.answered("a", JobInfo(id="a", name="a", state=JobState.QUEUED, run=2))

    books.expect_at_most("a", 1)
    books.take(Told(1, ended=(ended("a", run=1),)))

    assert books.awaited == {}


def test_what_was_struck_out_stays_out_whatever_an_older_answer_says() -> None:
    books = Books()
    books.ask("a")

    books.strike(["a"])
    books.answered("a", JobInfo(id="a", name="a", state=JobState.QUEUED, run=1))

    assert books.awaited == {}


def test_an_acknowledgement_that_comes_twice_changes_nothing() -> None:
    books = entered("a")
    books.take(Told(1, accepted=("a",), ended=(ended("a"),)))

    books.take(Told(1, accepted=("a",)))

    assert (books.unacknowledged, books.awaited) == ({}, {})
