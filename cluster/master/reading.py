"""Reading a job's output, while it runs and afterwards, from where somebody left off.

    worker ── progress ──► live output ─┐
                                        ├──► read(job, place) ──► piece, next place
    worker ── report ────► store ───────┘

The board says which attempts are over. Of those the store has the text, once their report is durable; of the one in
hand, and of those that never reported (cancelled, lost), what was told while they ran is all there is. A place names an
attempt by its fence, which means the same to every master that the store ever has: so a reader goes on after a restart.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.core.printed import Piece, Place, Runs, after, runs_of, text_of
from cluster.core.records import Fence, JobId
from cluster.errors import UnknownJob

if TYPE_CHECKING:
    from cluster.master.master import Master

# Of one answer.
MAX_PIECE_BYTES = 256 * 1024
# How often a reader looks whether an attempt that printed nothing has ended: nobody rings for that.
LOOK_SECONDS = 0.1
# A disk that takes longer is not well: the reader hears nothing, and asks again.
MAX_COMMIT_SECONDS = 5.0


class _Standing(Struct, frozen=True):
    """How a job stands; while it stands so, no attempt of it ends."""

    run: int
    attempts: int
    fence: Fence  # of the attempt in hand; 0: none
    is_over: bool
    is_settled: bool

    @property
    def has_ends(self) -> bool:
        """Attempts of it have ended, so the store has something, or will have."""
        return self.is_over or self.run > 1 or self.attempts > (self.fence != 0)


def whole(master: Master, job: JobId) -> bytes:
    """All that the job's attempts printed, oldest first. Raises `UnknownJob`."""
    runs = _attempts(master, job, _stand(master, job))
    return b"".join(text_of(runs[fence]) for fence in sorted(runs))


def read(master: Master, job: JobId, place: Place, timeout: float) -> Piece:
    """What came after `place`, waited for no longer than `timeout` seconds; nothing, if nothing came.

    Raises `UnknownJob`.
    """
    deadline = time.monotonic() + timeout
    asked: _Standing | None = None
    while True:
        standing = _stand(master, job)
        if standing.fence and place.fence == standing.fence:
            runs = master.live_output.of(job).get(place.fence, ())
            text, seen = after(runs, place.seen, MAX_PIECE_BYTES)
            if text:
                return Piece(text, Place(place.fence, seen))
        elif standing != asked:
            if standing.has_ends and not standing.is_settled and not _wait_durable(master):
                return Piece(b"", place)
            piece = _read_ended(master, job, place, standing)
            if piece.text or piece.is_over:
                return piece
            asked, place = standing, piece.place
            continue  # there may be something of the attempt in hand
        left = deadline - time.monotonic()
        if left <= 0:
            return Piece(b"", place)
        master.live_output.wait(standing.fence, place.seen, min(left, LOOK_SECONDS))


def _stand(master: Master, job: JobId) -> _Standing:
    with master.lock:
        held = master.board.jobs.get(job)
        if held is not None:
            return _Standing(held.run, held.attempts, held.fence, held.is_terminal, held.is_settled)
    if master.find(job) is None:
        raise UnknownJob(job)
    return _Standing(0, 0, 0, is_over=True, is_settled=True)


def _read_ended(master: Master, job: JobId, place: Place, standing: _Standing) -> Piece:
    """What attempts that are over have printed after `place`; with it the place of the one in hand."""
    runs = _attempts(master, job, standing)
    pieces: list[bytes] = []
    left = MAX_PIECE_BYTES
    for fence in sorted(runs):
        if fence < place.fence or fence == standing.fence:
            continue
        text, seen = after(runs[fence], place.seen if fence == place.fence else 0, left)
        pieces.append(text)
        left -= len(text)
        if left <= 0:
            return Piece(b"".join(pieces), Place(fence, seen))
        place = Place(fence + 1)
    if standing.fence:
        place = Place(standing.fence, place.seen if place.fence == standing.fence else 0)
    return Piece(b"".join(pieces), place, is_over=standing.is_over)


def _attempts(master: Master, job: JobId, standing: _Standing) -> dict[Fence, Runs]:
    # The live ones first: what moves to the store meanwhile is seen twice, not lost.
    runs = master.live_output.of(job)
    if standing.has_ends:
        runs.update((fence, runs_of(text)) for fence, text in master.store.outputs(job))
    return runs


def _wait_durable(master: Master) -> bool:
    """Wait until what the board has decided is in the store; False if that took too long."""
    is_durable = threading.Event()
    with master.lock:
        master.committer.append([], is_durable.set)
    master.committer.kick()
    return is_durable.wait(MAX_COMMIT_SECONDS)
