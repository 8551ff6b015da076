"""Reads the outcome of a map's chunk: a result or an error for each of its items, in order, whatever happened.

Results come in runs (lists), unpickled only when the reader reaches them, in the reader's own thread. Items that no
segment speaks of share the error of the whole chunk: it was cancelled, it expired, a dependency failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.client import payload
from cluster.core import chunks
from cluster.core.records import Certificate, Outcome, Segment
from cluster.errors import ClusterError, RemoteError


def read(outcome: Outcome) -> Iterator[list[Any] | BaseException]:
    """Runs of results and single errors that together stand for every item of the chunk, in order."""
    position = 0
    for segment in chunks.decode(outcome.payload):
        yield from _lost(outcome, segment.first - position)
        if segment.certificate is None:
            yield from _results(outcome, segment)
        else:
            yield from _errors(outcome, segment, segment.certificate)
        position = segment.first + segment.count
    yield from _lost(outcome, outcome.items - position)


def gather(outcome: Outcome) -> tuple[list[Any] | None, BaseException | None]:
    """A chunk as one result: the list of its items' results, or the first item's error."""
    results: list[Any] = []
    for run in read(outcome):
        if isinstance(run, BaseException):
            return None, run
        results += run
    return results, None


def _results(outcome: Outcome, segment: Segment) -> Iterator[list[Any] | BaseException]:
    try:
        results = payload.load_result(segment.data, outcome.job)
    except ClusterError as error:
        for _ in range(segment.count):
            yield error
        return
    if isinstance(results, list) and len(results) == segment.count:
        yield results
        return
    reason = (
        f"items {segment.first} to {segment.first + segment.count - 1} of its chunk came back without their results"
    )
    for _ in range(segment.count):
        yield RemoteError(outcome.job, reason)


def _errors(outcome: Outcome, segment: Segment, certificate: Certificate) -> Iterator[BaseException]:
    for _ in range(segment.count):  # one in practice; each gets an exception of its own, with its own traceback
        yield payload.error_of(certificate, segment.data, outcome.job)


def _lost(outcome: Outcome, count: int) -> Iterator[BaseException]:
    for _ in range(count):
        yield payload.rebuild_error(outcome)
