"""A chunk of a map: one job, many items, and the promise that one bad item harms no other.

`retries`, `timeout` and crashes count per item. The first attempt runs all items in one go. Once an attempt died (or
an item failed and has budget left) the chunk is run *carefully*: item by item, each told of as it starts and ends, so
that a crash is blamed on exactly one. Finished items are kept with each attempt and never run again.

    pending     half-open ranges of items that still need a result
    segments    finished items, good and bad; together with `pending` they cover every item exactly once
    blind       deaths that could not be blamed on an item yet; the first careful crash is charged with them
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from cluster.core import policy
from cluster.core.policy import Spent
from cluster.core.records import Certificate, Ending, Options, Payload, Report, Segment

Range = tuple[int, int]


class Progress(Struct, omit_defaults=True):
    """Where a chunk stands. Written by `absorb` only."""

    pending: list[Range]
    segments: list[Segment] = []
    spent: dict[int, Spent] = {}  # by item, only those that failed so far
    blind: int = 0
    careful: bool = False


class Judgement(Struct, frozen=True):
    """What a report means for its chunk."""

    is_done: bool
    delay_seconds: float = 0.0
    certificate: Certificate | None = None  # of the first item that was given up, once done


class Survey(Struct, frozen=True):
    """All of an ended chunk."""

    good: int  # items with a result
    seconds: float  # that running its items took; 0 if nobody knows


class _Glance(Struct, frozen=True, array_like=True):
    """A `Segment`, decoded in place."""

    first: int
    count: int
    data: memoryview
    certificate: Certificate | None = None
    seconds: float = 0.0


def start(items: int) -> Progress:
    """A chunk of which nothing has run."""
    return Progress(pending=[(0, items)])


def absorb(progress: Progress, report: Report, options: Options, salt: int) -> Judgement:
    """Take a report's items in, judge its failed ones, and say whether the chunk goes on.

    Items that the report does not mention, or that are not pending (a confused worker), change nothing.
    """
    delay = 0.0
    is_blamed = False
    for segment in report.segments:
        if not _is_pending(progress.pending, segment.first, segment.count):
            continue
        if segment.certificate is not None and segment.count != 1:
            continue  # blame is of one item
        if segment.certificate is None:
            _finish(progress, segment)
            continue
        is_blamed = True
        delay = max(delay, _judge_item(progress, segment, options, salt))
    if not is_blamed and progress.pending:
        delay = _judge_blindly(progress, report, options, salt)
    if progress.pending:
        progress.careful = progress.careful or report.ending in policy.SPENDS_CRASHES
        return Judgement(is_done=False, delay_seconds=delay)
    progress.segments.sort(key=lambda segment: segment.first)
    bad = (segment.certificate for segment in progress.segments if segment.certificate is not None)
    return Judgement(is_done=True, certificate=next(bad, None))


def encode(segments: list[Segment]) -> Payload:
    """An ended chunk's payload."""
    return _ENCODER.encode(segments)


def decode(payload: Payload) -> tuple[Segment, ...]:
    """The segments of an ended chunk, ordered by `first`. Empty for a chunk that ended without running."""
    return _SEGMENTS.decode(payload) if payload else ()


def survey(payload: Payload) -> Survey:
    """What an ended chunk's payload says as a whole, without a copy of any result."""
    good, seconds = 0, 0.0
    for segment in _GLANCES.decode(payload) if payload else ():
        if segment.certificate is None:
            good += segment.count
        seconds += segment.seconds
    return Survey(good, seconds)


def encode_progress(progress: Progress) -> bytes:
    """For the store: what a restarted master needs to go on with the chunk."""
    return _ENCODER.encode(progress)


def decode_progress(data: bytes) -> Progress:
    """The inverse of `encode_progress`."""
    return _PROGRESS.decode(data)


_ENCODER = msgspec.msgpack.Encoder()
_GLANCES = msgspec.msgpack.Decoder(tuple[_Glance, ...])
_SEGMENTS = msgspec.msgpack.Decoder(tuple[Segment, ...])
_PROGRESS = msgspec.msgpack.Decoder(Progress)


def _judge_item(progress: Progress, segment: Segment, options: Options, salt: int) -> float:
    """Charge one failed item; the delay of its next attempt, or 0 once it is given up."""
    certificate = segment.certificate
    assert certificate is not None  # noqa: S101 - the caller's condition, told to the type checker
    item = segment.first
    spent = policy.spend(progress.spent.get(item, Spent()), certificate.ending)
    if certificate.ending in policy.SPENDS_CRASHES and progress.blind:
        spent = Spent(spent.failures, spent.crashes + progress.blind)
        progress.blind = 0
    progress.spent[item] = spent
    verdict = policy.decide(options, certificate.ending, spent, error_types=certificate.error_types, salt=salt + item)
    if verdict.retry:
        return verdict.delay_seconds
    _finish(progress, segment)
    return 0.0


def _judge_blindly(progress: Progress, report: Report, options: Options, salt: int) -> float:
    """Nobody knows which item it was: charge the chunk, and give up all that is pending once that is too much."""
    # "Succeeded" with items left out is a confused worker; charged as a crash, so that it can't go on for ever.
    ending = Ending.CRASHED if report.ending is Ending.SUCCEEDED else report.ending
    certificate = report.certificate or Certificate(ending=ending, reason="its worker left items out")
    spent = Spent()
    if ending in policy.SPENDS_CRASHES:
        progress.blind += 1
        spent = Spent(crashes=progress.blind)
    else:  # its function or its item list could not even be loaded: every item shares that failure
        for first, end in progress.pending:
            for item in range(first, end):
                spent = progress.spent[item] = policy.spend(progress.spent.get(item, Spent()), ending)
    verdict = policy.decide(options, ending, spent, error_types=certificate.error_types, salt=salt)
    if verdict.retry:
        return verdict.delay_seconds
    for first, end in list(progress.pending):
        for item in range(first, end):
            _finish(progress, Segment(item, 1, report.payload, certificate))
    return 0.0


def _is_pending(pending: list[Range], first: int, count: int) -> bool:
    return count > 0 and any(low <= first and first + count <= high for low, high in pending)


def _finish(progress: Progress, segment: Segment) -> None:
    """Move a segment's items from `pending` to `segments`."""
    first, end = segment.first, segment.first + segment.count
    pending: list[Range] = []
    for low, high in progress.pending:
        if end <= low or high <= first:
            pending.append((low, high))
            continue
        if low < first:
            pending.append((low, first))
        if end < high:
            pending.append((end, high))
    progress.pending = pending
    progress.segments.append(segment)
