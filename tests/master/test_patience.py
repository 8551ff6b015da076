from __future__ import annotations

from cluster.master.patience import Patience


def test_before_a_commit_was_measured_nothing_waits() -> None:
    assert Patience().seconds() == 0.0


def test_a_commit_waits_as_long_as_one_takes_lately() -> None:
    patience = Patience()
    patience.note_commit(0.0004)
    assert patience.seconds() == 0.0004

    patience.note_commit(0.0008)

    assert patience.seconds() == 0.0005


def test_on_a_slow_disk_it_waits_no_longer_than_the_limit() -> None:
    patience = Patience()
    patience.note_commit(0.5)

    assert patience.seconds() == 0.001


def _passes(patience: Patience) -> int:
    """How many commits do not wait until one does."""
    count = 0
    while not patience.seconds():
        count += 1
    return count


def test_after_each_wait_in_vain_twice_as_many_commits_pass_up_to_a_limit() -> None:
    patience = Patience()
    patience.note_commit(0.0004)
    passes: list[int] = []
    for _ in range(10):
        passes.append(_passes(patience))
        patience.note_wait(was_worth_it=False)

    assert passes == [0, 1, 3, 7, 15, 31, 63, 127, 255, 255]


def test_one_that_was_worth_it_makes_all_wait_again() -> None:
    patience = Patience()
    patience.note_commit(0.0004)
    patience.note_wait(was_worth_it=False)
    patience.note_wait(was_worth_it=False)

    patience.note_wait(was_worth_it=True)

    assert _passes(patience) == 0
    patience.note_wait(was_worth_it=False)
    assert _passes(patience) == 1
