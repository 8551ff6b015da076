from __future__ import annotations

import msgspec
import pytest

from cluster.core import chunks
from cluster.core.chunks import Judgement, Progress, absorb, start
from cluster.core.policy import CRASH_BACKOFF_SECONDS, Spent
from cluster.core.records import Certificate, Ending, Options, Report, RetryRule, Segment
from tests.core.builders import AT_ONCE, bad, done, failure

NO_RETRIES = Options()
TWO_RETRIES = Options(retry=AT_ONCE)


def told(*segments: Segment, ending: Ending = Ending.SUCCEEDED) -> Report:
    certificate = None if ending is Ending.SUCCEEDED else Certificate(ending=ending, reason="the chunk's")
    return Report(1, ending, b"", certificate, segments=segments)


def take(progress: Progress, report: Report, options: Options = NO_RETRIES) -> Judgement:
    """Absorb a report, and see that no item is lost or counted twice."""
    items = sorted(item for first, end in _all_ranges(progress) for item in range(first, end))

    judgement = absorb(progress, report, options, salt=1)

    assert items == sorted(item for first, end in _all_ranges(progress) for item in range(first, end))
    assert judgement.is_done is not bool(progress.pending)
    return judgement


def _all_ranges(progress: Progress) -> list[tuple[int, int]]:
    return [*progress.pending, *((segment.first, segment.first + segment.count) for segment in progress.segments)]


def endings(progress: Progress) -> list[tuple[int, int, Ending | None]]:
    return [(s.first, s.count, s.certificate.ending if s.certificate else None) for s in progress.segments]


def test_a_chunk_whose_items_all_succeeded_is_done() -> None:
    progress = start(5)

    judgement = take(progress, told(done(0, 5)))

    assert judgement == Judgement(is_done=True)
    assert progress.segments == [done(0, 5)]


def test_segments_end_up_in_the_order_of_their_items() -> None:
    progress = start(6)

    take(progress, told(done(4, 2), done(0, 1), done(1, 3)))

    assert [segment.first for segment in progress.segments] == [0, 1, 4]


def test_an_item_that_raises_without_retries_harms_no_neighbour() -> None:
    progress = start(5)

    judgement = take(progress, told(done(0, 2), bad(2), done(3, 2), ending=Ending.RAISED))

    assert judgement.is_done
    assert judgement.certificate == bad(2).certificate
    assert endings(progress) == [(0, 2, None), (2, 1, Ending.RAISED), (3, 2, None)]


def test_an_item_with_retries_left_is_pending_alone() -> None:
    progress = start(5)

    judgement = take(progress, told(done(0, 2), bad(2), done(3, 2), ending=Ending.RAISED), TWO_RETRIES)

    assert not judgement.is_done
    assert progress.pending == [(2, 3)]
    assert progress.spent == {2: Spent(failures=1)}


def test_retries_count_per_item() -> None:
    progress = start(2)

    judgements = [
        take(progress, told(bad(0), bad(1), ending=Ending.RAISED), TWO_RETRIES).is_done,
        take(progress, told(bad(0), done(1), ending=Ending.RAISED), TWO_RETRIES).is_done,
        take(progress, told(bad(0), ending=Ending.RAISED), TWO_RETRIES).is_done,
    ]

    assert judgements == [False, False, True]
    assert endings(progress) == [(0, 1, Ending.RAISED), (1, 1, None)]


def test_the_chunk_waits_for_the_longest_backoff_among_its_failed_items() -> None:
    options = Options(retry=RetryRule(max_retries=5, backoff=1.0, jitter=0.0))
    progress = start(2)

    take(progress, told(done(1), bad(0), ending=Ending.RAISED), options)
    progress.pending.append((1, 2))
    progress.segments.clear()
    judgement = absorb(progress, told(bad(1), bad(0), ending=Ending.RAISED), options, salt=1)

    assert judgement.delay_seconds == 2.0


def test_a_first_crash_blames_nobody_and_makes_the_chunk_careful() -> None:
    progress = start(5)

    judgement = take(progress, failure(1, Ending.CRASHED))

    assert judgement == Judgement(is_done=False, delay_seconds=CRASH_BACKOFF_SECONDS)
    assert progress == Progress(pending=[(0, 5)], blind=1, careful=True)


def test_a_chunk_that_crashed_once_stays_careful() -> None:
    progress = start(3)
    take(progress, failure(1, Ending.CRASHED), TWO_RETRIES)

    take(progress, told(done(0), bad(1), done(2), ending=Ending.RAISED), TWO_RETRIES)

    assert progress.careful
    assert progress.pending == [(1, 2)]


def test_the_item_that_a_careful_run_catches_is_charged_with_the_blind_crash_too() -> None:
    progress = start(3)
    take(progress, failure(1, Ending.CRASHED))

    take(progress, told(done(0), bad(1, Ending.CRASHED), ending=Ending.CRASHED))

    assert progress.spent == {1: Spent(crashes=2)}
    assert progress.blind == 0
    assert progress.pending == [(1, 3)]


def test_a_poison_item_crashes_once_more_than_its_limit_and_takes_nobody_along() -> None:
    options = Options(crash_limit=2)
    progress = start(3)

    take(progress, failure(1, Ending.CRASHED), options)
    take(progress, told(done(0), bad(1, Ending.CRASHED), ending=Ending.CRASHED), options)
    after_the_third = take(progress, told(bad(1, Ending.CRASHED), ending=Ending.CRASHED), options)
    judgement = take(progress, told(done(2)), options)

    assert not after_the_third.is_done
    assert judgement.is_done
    assert endings(progress) == [(0, 1, None), (1, 1, Ending.CRASHED), (2, 1, None)]


def test_without_a_crash_limit_the_culprit_of_a_careful_run_is_given_up_at_once() -> None:
    options = Options(crash_limit=0, retry=AT_ONCE)
    progress = start(2)

    judgement = take(progress, told(bad(0, Ending.CRASHED), done(1), ending=Ending.CRASHED), options)

    assert judgement.is_done
    assert endings(progress) == [(0, 1, Ending.CRASHED), (1, 1, None)]


def test_blind_crashes_beyond_the_limit_give_up_all_that_is_pending() -> None:
    options = Options(crash_limit=1)
    progress = start(4)
    take(progress, told(done(0, 2), ending=Ending.WORKER_LOST), options)

    judgement = take(progress, failure(1, Ending.WORKER_LOST), options)

    assert judgement.is_done
    assert endings(progress) == [(0, 2, None), (2, 1, Ending.WORKER_LOST), (3, 1, Ending.WORKER_LOST)]


def test_a_timeout_is_the_item_s_own() -> None:
    options = Options(retry=AT_ONCE, timeout=1.0)
    progress = start(3)

    take(progress, told(done(0), bad(1, Ending.TIMED_OUT), ending=Ending.TIMED_OUT), options)

    assert progress.spent == {1: Spent(failures=1)}
    assert progress.pending == [(1, 3)]
    assert not progress.careful, "a chunk with a timeout tells of each item anyway"


def test_a_function_that_can_t_be_loaded_is_every_pending_item_s_failure() -> None:
    progress = start(3)
    take(progress, told(done(1), bad(0), bad(2), ending=Ending.RAISED), TWO_RETRIES)

    judgement = take(progress, failure(1, Ending.UNPICKLABLE), TWO_RETRIES)

    assert not judgement.is_done
    assert progress.spent == {0: Spent(failures=2), 2: Spent(failures=2)}


def test_a_function_that_can_t_be_loaded_ends_a_chunk_without_retries() -> None:
    progress = start(2)

    judgement = take(progress, failure(1, Ending.UNPICKLABLE))

    assert judgement.is_done
    assert endings(progress) == [(0, 1, Ending.UNPICKLABLE), (1, 1, Ending.UNPICKLABLE)]


def test_another_python_ends_a_chunk_whatever_its_budgets() -> None:
    progress = start(2)

    assert take(progress, failure(1, Ending.ENVIRONMENT), TWO_RETRIES).is_done


def test_a_success_that_leaves_items_out_is_charged_as_a_crash() -> None:
    options = Options(crash_limit=1)
    progress = start(2)

    first = take(progress, told(done(0)), options)
    second = take(progress, told(), options)

    assert not first.is_done
    assert second.certificate == Certificate(ending=Ending.CRASHED, reason="its worker left items out")
    assert endings(progress) == [(0, 1, None), (1, 1, Ending.CRASHED)]


@pytest.mark.parametrize(
    "garbage",
    [
        done(-1, 1),
        done(3, 2),
        done(0, 0),
        done(0, -2),
        done(99),
        bad(-1),
        bad(99),
        Segment(0, 2, b"", Certificate(ending=Ending.RAISED, reason="of two items")),
    ],
    ids=["before the first", "past the last", "nothing", "less than nothing", "far off", "-1", "99", "two at once"],
)
def test_items_that_are_not_pending_change_nothing(garbage: Segment) -> None:
    progress = start(4)

    judgement = take(progress, told(garbage, done(0, 4)))

    assert judgement == Judgement(is_done=True)
    assert progress.segments == [done(0, 4)]


def test_an_item_that_is_told_twice_counts_as_first_told() -> None:
    progress = start(2)

    take(progress, told(done(0, 2), bad(1), done(0)))

    assert progress.segments == [done(0, 2)]
    assert progress.spent == {}


def test_finished_items_split_what_is_pending() -> None:
    progress = start(10)

    take(progress, told(done(3, 2), done(7), bad(0)), TWO_RETRIES)

    assert progress.pending == [(0, 3), (5, 7), (8, 10)]


def test_segments_survive_encoding() -> None:
    segments = [done(0, 2), bad(2)]

    assert chunks.decode(chunks.encode(segments)) == tuple(segments)


def test_a_chunk_that_ended_without_running_has_no_segments() -> None:
    assert chunks.decode(b"") == ()


def test_progress_survives_encoding() -> None:
    progress = start(4)
    take(progress, told(done(0), bad(2), ending=Ending.RAISED), TWO_RETRIES)
    take(progress, failure(1, Ending.CRASHED), TWO_RETRIES)

    assert chunks.decode_progress(chunks.encode_progress(progress)) == progress


def test_deaths_that_nobody_was_blamed_for_are_not_charged_to_an_item_that_raises() -> None:
    progress = start(2)
    options = Options(crash_limit=1, retry=AT_ONCE)
    take(progress, told(ending=Ending.CRASHED), options)

    take(progress, told(bad(0), ending=Ending.RAISED), options)

    assert (progress.blind, progress.spent[0]) == (1, Spent(failures=1, crashes=0))


def test_an_item_that_is_given_up_delays_no_other() -> None:
    progress = start(2)
    options = Options(crash_limit=0, retry=AT_ONCE)

    judgement = take(progress, told(bad(0), bad(1, Ending.CRASHED), ending=Ending.RAISED), options)

    assert judgement == Judgement(is_done=False, delay_seconds=0.0)


def test_a_survey_counts_the_results_and_adds_up_what_they_took() -> None:
    crashed = Certificate(ending=Ending.CRASHED, reason="killed")
    payload = chunks.encode([Segment(0, 3, b"abc", None, 0.5), Segment(3, 1, b"", crashed, 2.0), Segment(4, 2, b"de")])

    assert chunks.survey(payload) == chunks.Survey(good=5, seconds=2.5)
    assert chunks.survey(b"") == chunks.Survey(good=0, seconds=0.0)


def test_segments_that_tell_no_time_are_still_read() -> None:
    """As a store holds them that was written before there was one."""
    payload = msgspec.msgpack.encode([[0, 2, b"ab", None]])

    assert chunks.decode(payload) == (Segment(0, 2, b"ab"),)
    assert chunks.survey(payload) == chunks.Survey(good=2, seconds=0.0)
