from __future__ import annotations

import pytest

from cluster.core.records import Ending, Report
from cluster.wire import untold
from cluster.wire.messages import Progress
from cluster.wire.untold import Untold


def report(fence: int, size: int = 1) -> Report:
    return Report(fence, Ending.SUCCEEDED, b"x" * size)


def test_a_batch_is_the_front_of_what_is_untold_and_what_comes_later_stays() -> None:
    box = Untold(reports=[report(1)], stopped=[2], given_back=[3], progress=[Progress(4, 1, 2)])
    said = box.batch("w", 5, 6)

    box.reports.append(report(7))
    ended = box.told(said)

    assert (said.worker, said.credit, said.number) == ("w", 5, 6)
    assert ended == {1, 2, 3}
    assert [one.fence for one in box.reports] == [7]
    assert box.stopped == box.given_back == []


def test_progress_is_told_once_whatever_comes_of_it() -> None:
    box = Untold(progress=[Progress(1, 1, 2)])

    first, second = box.batch("w", 0, 1), box.batch("w", 0, 1)

    assert (len(first.progress), second.progress) == (1, ())
    assert box.is_empty


def test_a_batch_is_bounded_and_the_last_one_confirms_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untold, "MAX_BATCH_BYTES", 100)
    box = Untold(reports=[report(1, 1000), report(2, 60), report(3, 60)], stopped=[1])

    batches = []
    while not box.is_empty:
        said = box.batch("w", 0, 1)
        box.told(said)
        batches.append(([one.fence for one in said.reports], said.stopped))

    assert batches == [([1], ()), ([2], ()), ([3], (1,))]


def test_of_too_much_progress_the_newest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untold, "MAX_PROGRESS", 3)
    monkeypatch.setattr(untold, "MAX_BATCH_BYTES", 10)
    many = Untold(progress=[Progress(fence, 0.0, 0.0) for fence in range(5)])
    wordy = Untold(progress=[Progress(fence, 0.0, 0.0, output=b"12345678") for fence in range(5)])

    assert [said.fence for said in many.batch("w", 0, 1).progress] == [2, 3, 4]
    assert [said.fence for said in wordy.batch("w", 0, 1).progress] == [4]


def word(fence: int, output: bytes, offset: int) -> Progress:
    return Progress(fence, 0.0, 0.0, output=output, offset=offset)


def test_what_running_attempts_printed_is_told_again_where_it_may_not_have_arrived() -> None:
    box = Untold(progress=[word(1, b"one ", 0), word(2, b"other", 0), Progress(1, 1, 2)])
    box.batch("w", 0, 1)
    box.progress.append(word(1, b"two ", 4))
    box.batch("w", 0, 1)
    box.progress.append(word(1, b"three", 8))

    box.say_again()
    box.say_again()

    assert box.batch("w", 0, 1).progress == (word(1, b"one two ", 0), word(2, b"other", 0), word(1, b"three", 8))


def test_of_what_an_attempt_printed_a_gap_or_too_much_leaves_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untold, "MAX_SPOKEN_BYTES", 6)
    box = Untold(progress=[word(1, b"abcd", 0), word(1, b"efgh", 4), word(2, b"lost", 0), word(2, b"kept", 10)])
    box.batch("w", 0, 1)

    box.say_again()

    assert box.progress == [word(1, b"cdefgh", 2), word(2, b"kept", 10)]


def test_an_attempt_that_has_ended_is_not_told_again() -> None:
    box = Untold(progress=[word(fence, b"text", 0) for fence in range(1, 5)])
    box.batch("w", 0, 1)
    box.reports, box.stopped, box.given_back = [report(1)], [2], [3]
    box.told(box.batch("w", 0, 1))

    box.say_again()

    assert box.progress == [word(4, b"text", 0)]


def test_of_what_very_many_attempts_printed_the_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untold, "MAX_ALL_SPOKEN_BYTES", 40)
    box = Untold(progress=[word(fence, b"0123456789", 0) for fence in range(20)])

    for _ in range(3):
        box.batch("w", 0, 1)
        assert sorted(box.spoken) == [16, 17, 18, 19]
        assert box.spoken_bytes == 40
        box.say_again()

    box.batch("w", 0, 1)
    box.reports = [report(17)]
    box.told(box.batch("w", 0, 1))
    assert (sorted(box.spoken), box.spoken_bytes) == ([16, 18, 19], 30)
