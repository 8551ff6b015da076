from __future__ import annotations

import pytest

from cluster.core.records import Outcome
from cluster.core.states import JobState
from cluster.master.sessions import Sessions
from cluster.wire.messages import Progress, Refusal
from tests.master.rig import Notes

NO = Refusal("a", "refused", "no")
DONE = Outcome("a", 1, JobState.COMPLETED, 0.0)
HALF = Progress(1, 1.0, 2.0)


class BrokenSink(Notes):
    def ended(self, outcomes: object) -> None:
        raise ZeroDivisionError("a defect of the client's")


def test_each_session_has_its_own_number_and_none_is_nobody_s() -> None:
    sessions = Sessions()

    numbers = [sessions.open(Notes()) for _ in range(3)]

    assert len(set(numbers)) == 3
    assert 0 not in numbers


def test_a_session_is_told_what_is_said_to_it_and_nothing_else() -> None:
    sessions, mine, other = Sessions(), Notes(), Notes()
    number = sessions.open(mine)
    sessions.open(other)

    sessions.accepted(number, ["a"])
    sessions.refused(number, [NO])
    sessions.ended(number, [DONE])
    sessions.progressed(number, "a", HALF)

    assert mine.told == [("accepted", "a"), ("refused", NO), ("ended", DONE), ("progressed", ("a", HALF))]
    assert other.told == []


def test_a_closed_session_is_told_nothing_more() -> None:
    sessions, notes = Sessions(), Notes()
    number = sessions.open(notes)
    sessions.watch(number, "a", 1)

    sessions.close(number)
    sessions.close(number)
    sessions.ended(number, [DONE])

    assert notes.told == []
    assert sessions.interested(0, "a", 1) == (0,)


def test_a_sink_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    sessions, notes = Sessions(), Notes()
    broken, sound = sessions.open(BrokenSink()), sessions.open(notes)

    for number in (broken, sound):
        sessions.ended(number, [DONE])

    assert notes.of("ended") == [DONE]
    assert f"session {broken}: its sink failed" in caplog.text


def test_an_outcome_concerns_the_owner_and_whoever_watches_and_ends_the_watching() -> None:
    sessions = Sessions()
    sessions.watch(2, "a", 1)
    sessions.watch(3, "a", 1)
    sessions.watch(1, "a", 1)

    assert sessions.interested(1, "a", 1) == (1, 2, 3)
    assert sessions.interested(1, "a", 1) == (1,)


def test_who_waits_for_a_later_run_is_not_served_with_an_earlier_one() -> None:
    sessions = Sessions()
    sessions.watch(2, "a", 1)
    sessions.watch(3, "a", 2)

    assert sessions.interested(1, "a", 1) == (1, 2)
    assert sessions.interested(1, "a", 2) == (1, 3)


def test_progress_concerns_the_same_and_ends_nothing() -> None:
    sessions = Sessions()
    sessions.watch(2, "a", 1)
    sessions.watch(1, "a", 1)

    assert sessions.audience(1, "a") == (1, 2)
    assert sessions.audience(1, "a") == (1, 2)
    assert sessions.audience(1, "b") == (1,)


def test_watching_can_be_undone_and_twice_is_as_good_as_once() -> None:
    sessions = Sessions()
    sessions.watch(2, "a", 1)
    sessions.watch(3, "a", 1)

    sessions.unwatch(2, "a", 1)
    sessions.unwatch(2, "a", 1)
    sessions.unwatch(2, "never watched", 1)

    assert sessions.interested(1, "a", 1) == (1, 3)


def test_who_waits_for_a_later_run_is_not_forgotten_with_an_earlier_one() -> None:
    sessions = Sessions()
    sessions.watch(2, "a", 2)

    sessions.unwatch(2, "a", 1)

    assert sessions.interested(1, "a", 2) == (1, 2)
