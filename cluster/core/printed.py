"""What a job printed, as far as it was kept: runs of bytes with their places, and a mark where the middle is missing.

An attempt's output is a row of bytes, counted from its beginning. Too long a one loses its middle; so what is kept of it
is one run or two, each with the place where it begins. Whoever reads along remembers how far he came (`Place`) and is
given what comes after, from whichever copy there is by then: the attempt's live text, or what the store has at its end.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from msgspec import Struct

from cluster.core.bounds import Natural
from cluster.core.records import Fence

Runs: TypeAlias = tuple[tuple[int, bytes], ...]  # (place of its first byte, bytes), ascending and apart

_MARK = rb"\n\[\.\.\. (\d+) bytes cut \.\.\.\]\n"  # compiled when first used, which most processes never do
# The part of what is kept that comes from the beginning: one in so many.
HEAD_SHARE = 4


class Place(Struct, frozen=True, gc=False):
    """How far somebody has read a job's output: everything of attempts with a smaller fence, `seen` bytes of this."""

    fence: Fence = 0
    seen: Natural = 0


class Piece(Struct, frozen=True, gc=False):
    """What came after a place, and the place after that."""

    text: bytes
    place: Place
    is_over: bool = False  # the job has ended, and this is the last of it


def mark(count: int) -> bytes:
    """What stands where so many bytes are missing."""
    return b"\n[... %d bytes cut ...]\n" % count


def shares(max_bytes: int) -> tuple[int, int]:
    """How much is kept of a long text's beginning, and of its end."""
    head = max_bytes // HEAD_SHARE
    return head, max_bytes - head


def join(beginning: bytes, cut: int, end: bytes) -> bytes:
    """Beginning and end of a text that lost its middle."""
    return b"%b%b%b" % (beginning, mark(cut), end)


def text_of(runs: Runs) -> bytes:
    """The runs as one text, with a mark wherever something is missing."""
    text, _ = after(runs, 0)
    return text


def runs_of(text: bytes) -> Runs:
    """What `join` was made of; a text of any other shape is whole."""
    for found in re.finditer(_MARK, text):
        # A job may print such a line itself, but hardly just there.
        if found.start() == (len(text) - len(found[0])) // HEAD_SHARE:
            return (0, text[: found.start()]), (found.start() + int(found[1]), text[found.end() :])
    return ((0, text),)


def after(runs: Runs, seen: int, limit: int | None = None) -> tuple[bytes, int]:
    """What the runs have from a place on, no more than `limit` bytes of them, and the place after that."""
    pieces: list[bytes] = []
    for start, run in runs:
        if start + len(run) <= seen or limit == 0:
            continue
        if start > seen:
            pieces.append(mark(start - seen))
            seen = start
        piece = run[seen - start :] if limit is None else run[seen - start : seen - start + limit]
        pieces.append(piece)
        seen += len(piece)
        if limit is not None:
            limit -= len(piece)
    return b"".join(pieces), seen
