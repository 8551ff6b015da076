"""`Batch`: a map on its way, and the iterator over its results.

    the input ──► feeder thread ──► chunks as jobs ──► session ──► (cluster)
                     ▲  │ pieces, in order of input                     │
       room in the   │  ▼                                              ▼
       window ◄──── Batch (one lock) ◄──── a chunk ended ◄──── threads of the master
                        │
                        ▼
                  whoever iterates: takes piece after piece, and unpickles it there

The feeder (see `feeder.py`) runs on its own, so all items are run even if nobody iterates. A *piece* is what stands at
one place of the input: a chunk that was submitted, or an error for items that could not be. The lock guards pieces,
counters and the sizer; the master's threads hold it for a few instructions when a chunk ends, and nobody holds it while
something is pickled, unpickled or called.

What dies: a crash in an item costs that item (the chunk is split by the board). If the input's iterator raises, what
was read runs, and the error is raised at its place. If the handle closes, what is pending is `Detached`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Generic, Literal, Self, TypeVar

from msgspec import Struct

from cluster.client import items
from cluster.client.chunking import ChunkSizer
from cluster.client.gate import Gate
from cluster.client.job import MAX_CANCEL_SECONDS, EndWaiter, Job
from cluster.client.options import Submission
from cluster.client.session import Session
from cluster.core import chunks
from cluster.core.records import Certificate, Ending, FunctionBlob, JobId, JobInfo, Outcome
from cluster.errors import Detached, JobCancelled, UnknownJob

R = TypeVar("R")
Errors = Literal["raise", "return", "skip"]
_BAR_SECONDS = 1.0
ERRORS = ("raise", "return", "skip")


class MapCall(Struct, frozen=True, kw_only=True):
    """What the caller of `map` asked for."""

    function: FunctionBlob
    wanted: Submission
    chunksize: int | None
    ordered: bool
    errors: Errors
    progress: bool
    is_column: bool = False  # its inputs are the one argument of each item, not tuples of arguments

    def __post_init__(self) -> None:
        check_errors(self.errors)
        size = self.chunksize
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"chunksize must be a whole number from 1 on, or None to have it measured; not {size!r}")

    @property
    def name(self) -> str:
        """The map's name, for people."""
        return self.wanted.options.name or self.function.name


class BatchProgress(Struct, frozen=True):
    """How far a map is, in items."""

    done: int  # with a result or an error
    failed: int
    total: int | None  # None while the input's length is not known
    submitted: int
    seconds: float  # since the map began, until it ended


class Piece:
    """What stands at one place of the input: a chunk, or an error for `count` items that never became one."""

    __slots__ = ("count", "error", "job", "sent")

    def __init__(self, count: int, *, job: Job[Any] | None = None, error: BaseException | None = None) -> None:
        self.count = count
        self.job = job
        self.error = error
        self.sent = 0.0  # monotonic

    def outcome(self) -> Outcome | BaseException:
        """Of a piece that is done: the chunk's outcome, or the one error of all its items."""
        if self.job is not None:
            return self.job.outcome()
        return self.error or Detached("")


class Batch(Generic[R]):
    """The results of a map, as an iterator; made by `c.map(...)`. One thread may iterate, any may ask."""

    def __init__(self, session: Session, batch_id: str, *, ordered: bool, errors: Errors) -> None:
        self.id = batch_id
        self._session = session
        self._errors = errors
        self._ordered = ordered
        self._results = self._iterate()  # made anew if Ctrl-C ends it; what it reads is therefore kept here:
        self._runs: list[Any] = []  # of the piece in hand: results in lists, and errors
        self._begun = time.monotonic()
        self.bar: threading.Thread | None = None  # draws the progress, if that is wanted
        # Held by the feeder from `add` until the chunk is in the outbox; so that `cancel` finds each chunk in both or
        # in neither. Taken before `_changed`.
        self.submitting = threading.Lock()
        self._changed = Gate()
        # Guarded by `_changed`. `_arrivals` are pieces in the order in which they are to be read: of the input, or of
        # completion. `_job_ids` are all chunks, for whoever wants to look at them.
        self._arrivals: deque[Piece] = deque()
        self._job_ids: list[JobId] = []
        self._pending: dict[JobId, Piece] = {}
        self._pending_items = 0
        self._submitted = 0
        self._done = 0
        self._failed = 0
        self._total: int | None = None
        self._ended: float | None = None
        self._is_fed = False
        self._is_cancelled = False
        self._broken: BaseException | None = None  # what the input, or the submitting of it, raised

    @classmethod
    def attach(
        cls, session: Session, batch_id: str, infos: Sequence[JobInfo], *, ordered: bool, errors: Errors
    ) -> Self:
        """A map by its id, with the chunks that were submitted."""
        if not infos:
            raise UnknownJob(batch_id)
        batch = cls(session, batch_id, ordered=ordered, errors=errors)
        for info in infos:  # listings are in order of admission, which is that of the input
            batch.add(Piece(info.items, job=session.attach(info.id)))
        batch.end_of_input()
        return batch

    # --- reading ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[R]:
        # Not self: the iterator behind it is the same iteration, and a `for` over it runs without a call per item.
        return self._results

    def __next__(self) -> R:
        return next(self._results)

    def __len__(self) -> int:
        """Items of the input. Raises TypeError while that is not known."""
        if self._total is None:
            raise TypeError(f"batch {self.id} still reads an input of unknown length; ask its progress()")
        return self._total

    def __bool__(self) -> bool:
        return True

    def results(self) -> list[R]:
        """What is left to iterate over, as a list; waits for it."""
        return list(self._results)

    # --- asking and ordering ------------------------------------------------------------------------------------------

    def progress(self) -> BatchProgress:
        """How far the map is. No round trip."""
        with self._changed:
            end = time.monotonic() if self._ended is None else self._ended
            return BatchProgress(self._done, self._failed, self._total, self._submitted, end - self._begun)

    def jobs(self) -> list[Job[Any]]:
        """The chunks submitted so far, in order of the input, as jobs: the result of each is the list of its items'."""
        with self._changed:
            known = list(self._job_ids)
        return [self._session.attach(job_id) for job_id in known]

    def cancel(self) -> bool:
        """Read no more input and kill what runs; True if every chunk that had not ended is cancelled, for certain."""
        with self.submitting, self._changed:
            self._is_cancelled = True
            self._changed.notify_all()
            pending = list(self._pending)
        if not pending:
            return True
        verdicts = self._session.reach().cancel(pending, MAX_CANCEL_SECONDS)
        with self._changed:
            # The verdicts are committed, and their outcomes about to be told.
            self._changed.wait_for(lambda: self._pending.keys().isdisjoint(pending), MAX_CANCEL_SECONDS)
        return all(verdicts)

    def __repr__(self) -> str:
        now = self.progress()
        return f"<Batch {self.id} {now.done}/{'?' if now.total is None else now.total}>"

    # --- the feeder's side ----------------------------------------------------------------------------------------------

    def set_total(self, total: int | None) -> None:
        """Tell how long the input is, where that is known beforehand."""
        with self._changed:
            self._total = total

    def set_slots(self, sizer: ChunkSizer, slots: int) -> None:
        """Tell how many slots there are; asked for when the first chunk is on its way, because it takes a round trip."""
        with self._changed:
            sizer.slots = max(1, slots)

    def wait_for_room(self, sizer: ChunkSizer) -> int:
        """Wait until another chunk may leave; its size, or 0 if none shall."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_cancelled or sizer.can_send(len(self._pending), self._pending_items)
            )
            if self._is_cancelled:
                return 0
            return sizer.size(None if self._total is None else self._total - self._submitted)

    def add(self, piece: Piece, sizer: ChunkSizer | None = None) -> bool:
        """Take the next piece of the input in; False if the batch was cancelled, and it must not be submitted."""
        job = piece.job
        with self._changed:
            if self._is_cancelled and job is not None:
                return False
            self._submitted += piece.count
            if self._ordered or job is None:
                self._arrivals.append(piece)
            if job is None:
                self._count(piece.count, piece.count)
            else:
                self._job_ids.append(job.id)
                self._pending[job.id] = piece
                self._pending_items += piece.count
                piece.sent = time.monotonic()
        if job is not None and not job.watch(EndWaiter(lambda: self._on_ended(piece, sizer))):
            self._on_ended(piece, sizer)
        return True

    def end_of_input(self, error: BaseException | None = None) -> None:
        """Nothing follows any more, for the reason given if it is not the natural one."""
        with self._changed:
            self._is_fed = True
            self._broken = error
            if error is None and not self._is_cancelled:
                self._total = self._submitted
            self._note_end()
            self._changed.notify_all()

    def wait_changed(self, timeout: float) -> bool:
        """Wait a while for news; True once everything that was submitted has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None, timeout)
            return self._ended is not None

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _on_ended(self, piece: Piece, sizer: ChunkSizer | None) -> None:
        """A chunk is done: in the deliverer's thread."""
        journey_seconds = time.monotonic() - piece.sent
        outcome = piece.outcome()
        payload = outcome.payload if isinstance(outcome, Outcome) else b""
        survey = chunks.survey(payload)
        with self._changed:
            if piece.job is None or self._pending.pop(piece.job.id, None) is None:
                return
            self._pending_items -= piece.count
            self._count(piece.count, piece.count - survey.good)
            if sizer is not None:
                sizer.on_ended(piece.count, survey.seconds or journey_seconds, len(payload))
            if not self._ordered:
                self._arrivals.append(piece)
            self._note_end()
            self._changed.notify_all()

    def _count(self, items_done: int, failed: int) -> None:
        self._done += items_done
        self._failed += failed
        self._changed.notify_all()

    def _note_end(self) -> None:
        if self._is_fed and not self._pending:
            self._ended = time.monotonic()

    def _iterate(self) -> Iterator[R]:
        # Item by item in C: this is most of what a small item costs its reader.
        return itertools.chain.from_iterable(self._read())

    def _read(self) -> Generator[Sequence[R], None, None]:
        """The results in runs. Whoever asks for the next run has had all items of the one before."""
        try:
            while True:
                if self._runs:
                    run = self._runs[0] if isinstance(self._runs[0], list) else self._stand_in()
                    # No call between the two, here and below: Ctrl-C must find results in one place (see `gate`).
                    del self._runs[0]
                    yield run
                    run = []  # it is read, and the next one may be long in coming
                elif not self._load_piece():
                    break
            if self.bar is not None:
                self.bar.join(_BAR_SECONDS)  # so that it is whole before the program prints what comes next
            self._check_complete()
        except KeyboardInterrupt:
            # It stops this reader, not the map; a finished generator would look like the end of the results.
            self._results = self._iterate()
            raise

    def _load_piece(self) -> bool:
        """Wait for the next piece, and decode it; False after the last one."""
        self._session.pass_on()
        with self._changed:
            self._changed.wait_for(self._has_next)
            if not self._arrivals:
                return False
            piece = self._arrivals[0]
        outcome = piece.outcome()
        runs = list(items.read(outcome)) if isinstance(outcome, Outcome) else [outcome] * piece.count
        self._runs = runs
        del self._arrivals[0]
        return True

    def _stand_in(self) -> list[Any]:
        """What is read in place of the next item, which has failed."""
        error = self._runs[0]
        if self._errors == "raise":
            del self._runs[0]
            try:
                raise error
            finally:
                del error  # else the error's traceback holds this frame, and this frame the error
        return [error] if self._errors == "return" else []

    def _has_next(self) -> bool:
        if self._arrivals:
            job = self._arrivals[0].job
            return job is None or job.done()
        return self._is_fed and not self._pending

    def _check_complete(self) -> None:
        """After the last piece: what kept the input from being read to its end."""
        if self._broken is not None:
            raise self._broken
        if self._is_cancelled and self._errors == "raise" and self._submitted != self._total:
            reason = f"the map was cancelled before item {self._submitted} was submitted"
            raise JobCancelled(self.id, reason, Certificate(ending=Ending.CANCELLED, reason=reason))


def check_errors(errors: str) -> None:
    """Raise unless it is one of the ways to treat errors."""
    if errors not in ERRORS:
        raise ValueError(f"errors must be one of {', '.join(map(repr, ERRORS))}, not {errors!r}")
