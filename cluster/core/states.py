"""The life of a job: every state, every cause, and the one table of legal moves.

Rules of this file. Whatever changes a job's state goes through `next_state`; nothing else may write it. A move that
the table does not hold raises `IllegalMove` and changes nothing. The diagram in `docs/` is generated from this table
(`python -m cluster.core.states`), and a test compares the two, so add a move here and nowhere else.

FAILED is never rested in: the policy that reads it moves the job on in the same decision. It is a state of its own
because "an attempt ended badly" is decided in one place and "what now" in another.
"""

from __future__ import annotations

from enum import IntEnum


class JobState(IntEnum):
    """Where a job is in its current run. Integers, because a million records hold one each."""

    SUBMITTED = 1  # admitted, but must not start before its admission is durable
    WAITING = 2  # for the jobs named in `after`
    SCHEDULED = 3  # not due yet
    QUEUED = 4  # may be leased now
    ASSIGNED = 5  # leased to a worker
    RUNNING = 6  # a child has begun with it
    FAILED = 7  # this attempt ended badly; the policy decides at once
    RETRY_QUEUED = 8  # waits for its next attempt's backoff
    COMPLETED = 9
    DEAD_LETTER = 10  # given up; kept with its history
    CANCELLED = 11
    EXPIRED = 12


class Cause(IntEnum):
    """Why a job moves."""

    ADMIT_WAITING = 1
    ADMIT_SCHEDULED = 2
    ADMIT_QUEUED = 3
    DEPENDENCIES_MET = 4
    DUE = 5
    LEASE = 6
    START = 7
    GIVE_BACK = 8
    SUCCEED = 9
    FAIL = 10
    RETRY = 11
    GIVE_UP = 12
    DEPENDENCY_FAILED = 13
    CANCEL = 14
    EXPIRE = 15
    REQUEUE = 16
    NOT_DUE = 17  # its dependencies are met, but its time has not come
    REQUEUE_WAITING = 18  # requeued, and a job it depends on was requeued too and is not done yet


class IllegalMove(AssertionError):
    """The board tried a move that the table does not hold: a defect of the board, never of a user."""


S, C = JobState, Cause

TERMINAL = frozenset({S.COMPLETED, S.DEAD_LETTER, S.CANCELLED, S.EXPIRED})
IS_TERMINAL = [state in TERMINAL for state in range(max(S) + 1)]  # by state: hashing one costs a Python call
# In a worker's hands: only these two carry a lease that can still be reported on.
HELD = frozenset({S.ASSIGNED, S.RUNNING})

_LIVE = [state for state in S if state not in TERMINAL and state is not S.FAILED]

MOVES: dict[JobState, dict[Cause, JobState]] = {
    S.SUBMITTED: {
        C.ADMIT_WAITING: S.WAITING,
        C.ADMIT_SCHEDULED: S.SCHEDULED,
        C.ADMIT_QUEUED: S.QUEUED,
        C.DEPENDENCY_FAILED: S.DEAD_LETTER,
    },
    S.WAITING: {
        C.DEPENDENCIES_MET: S.QUEUED,
        C.NOT_DUE: S.SCHEDULED,
        C.DEPENDENCY_FAILED: S.DEAD_LETTER,
    },
    S.SCHEDULED: {C.DUE: S.QUEUED},
    S.QUEUED: {C.LEASE: S.ASSIGNED},
    S.ASSIGNED: {C.START: S.RUNNING, C.GIVE_BACK: S.QUEUED, C.FAIL: S.FAILED},
    S.RUNNING: {C.SUCCEED: S.COMPLETED, C.GIVE_BACK: S.QUEUED, C.FAIL: S.FAILED},
    S.FAILED: {C.RETRY: S.RETRY_QUEUED, C.GIVE_UP: S.DEAD_LETTER},
    S.RETRY_QUEUED: {C.DUE: S.QUEUED},
}
for _state in sorted(TERMINAL):
    MOVES[_state] = {C.REQUEUE: S.QUEUED, C.REQUEUE_WAITING: S.WAITING}
for _state in _LIVE:
    MOVES[_state][C.CANCEL] = S.CANCELLED
    MOVES[_state][C.EXPIRE] = S.EXPIRED

# The same table as rows of a list, for `Board.move`: hashing an enum member costs a Python call, and this is asked four
# times a job.
ROWS: list[list[JobState | None]] = [[None] * (max(Cause) + 1) for _ in range(max(JobState) + 1)]
for _state, _moves in MOVES.items():
    for _cause, _target in _moves.items():
        ROWS[_state][_cause] = _target


def next_state(state: JobState, cause: Cause) -> JobState:
    """The state that `cause` leads to; `IllegalMove` where the table has none."""
    target = ROWS[state][cause]
    if target is None:
        raise illegal_move(state, cause)
    return target


def illegal_move(state: JobState, cause: Cause) -> IllegalMove:
    """What to raise where the table has no move."""
    return IllegalMove(f"a job that is {state.name} can't move by {cause.name}")


def mermaid() -> str:
    """The table as a Mermaid state diagram, the text that `docs/reference/states.md` carries."""
    lines = ["stateDiagram-v2", "    [*] --> SUBMITTED"]
    for state, moves in MOVES.items():
        lines += [f"    {state.name} --> {target.name}: {cause.name.lower()}" for cause, target in moves.items()]
    lines += [f"    {state.name} --> [*]" for state in S if state in TERMINAL]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
