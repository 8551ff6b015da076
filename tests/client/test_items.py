from __future__ import annotations

import pickle
from typing import Any

import pytest

from cluster.client import items
from cluster.core import chunks
from cluster.core.records import Certificate, Ending, Outcome, Segment
from cluster.core.states import JobState
from cluster.errors import JobCancelled, JobCrashed, RemoteError

CRASHED = Certificate(ending=Ending.CRASHED, reason="killed by SIGSEGV")


def outcome(*segments: Segment, count: int, certificate: Certificate | None = None) -> Outcome:
    state = JobState.COMPLETED if certificate is None else JobState.DEAD_LETTER
    return Outcome("j", 1, state, 0.0, chunks.encode(list(segments)), certificate, items=count)


def good(first: int, *results: Any) -> Segment:
    return Segment(first, len(results), pickle.dumps(list(results)))


def test_results_and_errors_come_in_order_of_the_items() -> None:
    chunk = outcome(good(0, "a", "b"), Segment(2, 1, b"", CRASHED), good(3, "d"), count=4, certificate=CRASHED)

    first, error, last = items.read(chunk)

    assert (first, last) == (["a", "b"], ["d"])
    assert isinstance(error, JobCrashed)
    assert error.job == "j"
    assert chunks.survey(chunk.payload).good == 3


def test_items_that_no_segment_speaks_of_share_the_chunks_error() -> None:
    cancelled = Certificate(ending=Ending.CANCELLED, reason="it was cancelled")
    chunk = outcome(good(1, "b"), count=4, certificate=cancelled)

    told = list(items.read(chunk))

    assert told[1] == ["b"]
    lost = [told[0], *told[2:]]
    assert all(isinstance(error, JobCancelled) for error in lost)
    assert len({id(error) for error in lost}) == 3, "each with a traceback of its own"
    assert chunks.survey(chunk.payload).good == 1


def test_a_chunk_that_never_ran_is_an_error_for_each_item() -> None:
    expired = Outcome("j", 1, JobState.EXPIRED, 0.0, certificate=None, items=3)

    assert len(list(items.read(expired))) == 3


def test_results_that_cannot_be_unpickled_are_an_error_for_each_of_their_items() -> None:
    chunk = outcome(Segment(0, 2, b"junk"), good(2, "c"), count=3)

    first, second, last = items.read(chunk)

    assert isinstance(first, RemoteError)
    assert isinstance(second, RemoteError)
    assert last == ["c"]


@pytest.mark.parametrize("data", [pickle.dumps(["only one"]), pickle.dumps("no list")])
def test_a_segment_with_other_than_its_results_is_not_believed(data: bytes) -> None:
    first, second = items.read(outcome(Segment(0, 2, data), count=2))

    assert isinstance(first, RemoteError)
    assert isinstance(second, RemoteError)


def test_a_chunk_as_one_job_is_its_list_of_results_or_its_first_error() -> None:
    assert items.gather(outcome(good(0, 1), good(1, 2, 3), count=3)) == ([1, 2, 3], None)

    results, error = items.gather(outcome(good(0, 1), Segment(1, 1, b"", CRASHED), count=2, certificate=CRASHED))

    assert results is None
    assert isinstance(error, JobCrashed)
