"""Commit groups as they were decided, each as one sealed blob: what the durable store writes first.

A commit must be durable before anyone is told of it, so whoever waits for a job waits for it. Filing each record in
its table, with keys and indexes, costs four times as much as the job's whole way through the board; none of that is
needed for durability. So a commit appends its group here, and the records are filed later: when there is nothing else
to do, when something is read, or when too much has gathered. A store that was killed in between files what it finds at
its next opening. Filing twice does no harm, since every record is written idempotently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import msgspec
from msgspec import Raw

from cluster.core.effects import (
    Admitted,
    Answered,
    AttemptFailed,
    Ended,
    FunctionAdded,
    GivenBack,
    Leased,
    Purged,
    QueuePaused,
    Rebudgeted,
    Record,
    Requeued,
    Undone,
)

# A record's kind is its place in this list. New ones go last: older journals name the others by number.
KINDS: tuple[type, ...] = (
    FunctionAdded,
    Admitted,
    Undone,
    Leased,
    GivenBack,
    AttemptFailed,
    Ended,
    Requeued,
    QueuePaused,
    Answered,
    Purged,
    Rebudgeted,
)

_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_encode = msgspec.msgpack.Encoder().encode
_decode_group = msgspec.msgpack.Decoder(list[tuple[int, Raw]]).decode
_decoders: dict[int, Callable[[Raw], object]] = {
    number: msgspec.msgpack.Decoder(kind).decode for number, kind in enumerate(KINDS)
}


def encode(records: Sequence[Record]) -> bytes:
    """One commit group."""
    numbers = _NUMBERS
    return _encode([(numbers[type(record)], record) for record in records])


def decode(body: bytes) -> list[Record]:
    """The records of a group, in their order. Raises one of `rows.UNREADABLE` at one that this version does not know."""
    found: list[Record] = []
    for number, raw in _decode_group(body):
        read = _decoders.get(number)
        if read is None:
            raise ValueError(f"a record of kind {number}")
        found.append(cast("Record", read(raw)))
    return found


def pieces(entries: Iterable[tuple[int, bytes]], most: int) -> Iterator[tuple[list[Record], int]]:
    """The records of several groups together, so that filing them costs few commits.

    Args:
        entries: number and body of each group, in order.
        most: records in a piece; the group with which it reaches them is its last.

    Returns:
        Each piece with the number of its last group.
    """
    piece: list[Record] = []
    last = 0
    for last, body in entries:
        piece += decode(body)
        if len(piece) >= most:
            yield piece, last
            piece = []
    if piece:
        yield piece, last
