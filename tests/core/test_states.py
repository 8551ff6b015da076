from __future__ import annotations

from pathlib import Path

import pytest

from cluster.core import states
from cluster.core.states import HELD, MOVES, TERMINAL, Cause, IllegalMove, JobState, next_state

EVERY_PAIR = [(state, cause) for state in JobState for cause in Cause]
LEGAL = [(state, cause) for state, cause in EVERY_PAIR if cause in MOVES[state]]
ILLEGAL = [(state, cause) for state, cause in EVERY_PAIR if cause not in MOVES[state]]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "states.md"


def reachable_from(start: JobState) -> set[JobState]:
    seen: set[JobState] = set()
    frontier = [start]
    while frontier:
        state = frontier.pop()
        if state not in seen:
            seen.add(state)
            frontier += MOVES[state].values()
    return seen


@pytest.mark.parametrize(("state", "cause"), LEGAL, ids=lambda value: value.name.lower())
def test_a_legal_move_leads_where_the_table_says(state: JobState, cause: Cause) -> None:
    assert next_state(state, cause) is MOVES[state][cause]


@pytest.mark.parametrize(("state", "cause"), ILLEGAL, ids=lambda value: value.name.lower())
def test_an_illegal_move_raises_and_names_both_state_and_cause(state: JobState, cause: Cause) -> None:
    before = {one: dict(moves) for one, moves in MOVES.items()}

    with pytest.raises(IllegalMove, match=f"{state.name} can't move by {cause.name}"):
        next_state(state, cause)

    assert before == MOVES


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(MOVES) == set(JobState)


def test_states_are_stored_by_these_numbers() -> None:
    assert [(int(one), one.name) for one in JobState] == [
        (1, "SUBMITTED"), (2, "WAITING"), (3, "SCHEDULED"), (4, "QUEUED"), (5, "ASSIGNED"), (6, "RUNNING"),
        (7, "FAILED"), (8, "RETRY_QUEUED"), (9, "COMPLETED"), (10, "DEAD_LETTER"), (11, "CANCELLED"), (12, "EXPIRED"),
    ]  # fmt: skip


def test_every_cause_moves_some_job() -> None:
    assert {cause for moves in MOVES.values() for cause in moves} == set(Cause)


def test_every_state_is_reachable_from_submitted() -> None:
    assert reachable_from(JobState.SUBMITTED) == set(JobState)


def test_every_state_can_still_reach_every_terminal_one() -> None:
    for state in JobState:
        assert reachable_from(state) >= TERMINAL, state.name


def test_only_a_requeue_leaves_a_terminal_state() -> None:
    for state in TERMINAL:
        assert set(MOVES[state]) == {Cause.REQUEUE, Cause.REQUEUE_WAITING}


def test_a_requeue_leaves_terminal_states_only() -> None:
    for state in set(JobState) - TERMINAL:
        assert not {Cause.REQUEUE, Cause.REQUEUE_WAITING} & set(MOVES[state])


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL - {JobState.FAILED}))
def test_every_live_job_can_be_cancelled_and_can_expire(state: JobState) -> None:
    assert next_state(state, Cause.CANCEL) is JobState.CANCELLED
    assert next_state(state, Cause.EXPIRE) is JobState.EXPIRED


def test_a_failed_attempt_is_only_retried_or_given_up() -> None:
    assert MOVES[JobState.FAILED] == {Cause.RETRY: JobState.RETRY_QUEUED, Cause.GIVE_UP: JobState.DEAD_LETTER}


def test_only_a_held_job_can_fail_or_be_given_back() -> None:
    assert {state for state, moves in MOVES.items() if Cause.FAIL in moves} == HELD
    assert {state for state, moves in MOVES.items() if Cause.GIVE_BACK in moves} == HELD


def test_only_a_running_job_can_succeed() -> None:
    assert [state for state, moves in MOVES.items() if Cause.SUCCEED in moves] == [JobState.RUNNING]


def test_a_job_is_leased_from_the_queue_only() -> None:
    assert [state for state, moves in MOVES.items() if Cause.LEASE in moves] == [JobState.QUEUED]


def test_the_documented_diagram_is_the_table_s() -> None:
    text = PAGE.read_text()

    drawn = text.split("```mermaid\n", 1)[1].split("\n```", 1)[0]

    assert drawn == states.mermaid(), "run `python -m cluster.core.states` and paste what it prints"


def test_the_documentation_says_what_each_state_means() -> None:
    text = PAGE.read_text()

    described = [line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")]

    assert described == [state.name for state in JobState]
