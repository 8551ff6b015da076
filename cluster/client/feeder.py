"""The thread that reads a map's input and submits it, a little ahead of the workers.

It is the only one that touches the input's iterator, the only one that pickles arguments, and a daemon: an input that
never yields again can't keep the program from ending.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeGuard

from cluster.client import payload
from cluster.client.batch import Batch, MapCall, Piece
from cluster.client.chunking import MAX_BYTES, ChunkSizer
from cluster.client.job import Job, detach
from cluster.client.progress_bar import show_progress
from cluster.client.session import Session
from cluster.client.submission import spec_of

Items: TypeAlias = Sequence[Any]  # argument tuples, or, of a column, the one argument of each


def start_map(session: Session, call: MapCall, inputs: Iterable[Any], total: int | None) -> Batch[Any]:
    """Begin a map and return it at once."""
    source = _Cut(inputs) if _is_cut(inputs) else _Read(iter(inputs))
    batch: Batch[Any] = Batch(session, session.new_id(), ordered=call.ordered, errors=call.errors)
    batch.set_total(total)
    feeder = Feeder(session, call, source, batch)
    _start(session, feeder.run, f"cluster-map-{batch.id}")
    if call.progress:
        batch.bar = _start(session, lambda: show_progress(batch, call.name), f"cluster-bar-{batch.id}")
    return batch


def _is_cut(inputs: Iterable[Any]) -> TypeGuard[Items]:
    """Whether it is cut and not iterated over, which takes a tenth of the time, and of a range none."""
    return type(inputs) in {range, list, tuple}  # exactly: a subclass may iterate in another way


def _start(session: Session, duty: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that the session's `with` block waits for."""

    def run() -> None:
        try:
            duty()
        finally:
            session.end_feeding(thread)

    thread = threading.Thread(target=run, name=name, daemon=True)
    session.begin_feeding(thread)
    thread.start()
    return thread


class _Read:
    """An input that is iterated over."""

    def __init__(self, inputs: Iterator[Any]) -> None:
        self._inputs = inputs

    def take(self, size: int) -> tuple[Items, BaseException | None]:
        """The next items; fewer at the end, or before what the input raised."""
        taken: list[Any] = []
        try:
            taken.extend(itertools.islice(self._inputs, size))
        except BaseException as error:  # noqa: BLE001 - `extend` keeps what came before, and that is run
            return taken, error
        return taken, None


class _Cut:
    """An input that is cut into slices: the same items, if it changes meanwhile too, for it is always read by place."""

    def __init__(self, inputs: Items) -> None:
        self._inputs = inputs
        self._place = 0

    def take(self, size: int) -> tuple[Items, None]:
        """The next items; fewer at the end."""
        taken = self._inputs[self._place : self._place + size]
        self._place += len(taken)
        return taken, None


class Feeder:
    """Feeds one batch. Everything here belongs to its thread."""

    def __init__(self, session: Session, call: MapCall, inputs: _Read | _Cut, batch: Batch[Any]) -> None:
        self._session = session
        self._call = call
        self._inputs = inputs
        self._batch = batch
        self._first = 0  # index of the next item to submit

    def run(self) -> None:
        """Feed until the input ends, the batch is cancelled, or nothing can be submitted any more."""
        error: BaseException | None = None
        try:
            error = self._feed()
        except BaseException as obstacle:  # noqa: BLE001 - it is for whoever iterates, not for this thread
            error = obstacle
        self._batch.end_of_input(error)

    def _feed(self) -> BaseException | None:
        """Submit chunk after chunk; what the input raised, if it did."""
        sizer = self._sizer()
        is_first = True
        while size := self._batch.wait_for_room(sizer):
            taken, error = self._inputs.take(size)
            if taken and not self._submit(taken, sizer):
                return None
            if error is not None or len(taken) < size:
                return error
            if is_first:
                is_first = False
                self._batch.set_slots(sizer, self._session.reach().stats().slots)
        return None

    def _sizer(self) -> ChunkSizer:
        options = self._call.wanted.options
        # An item must not run again because its neighbour killed the child: at most once means one by one.
        is_at_most_once = options.crash_limit == 0 and options.retry.max_retries == 0
        return ChunkSizer(1 if is_at_most_once else self._call.chunksize)

    def _submit(self, taken: Items, sizer: ChunkSizer) -> bool:
        """Submit items as one chunk, or as several if they are too large or can't all be pickled."""
        try:
            body, inputs = payload.dump_items(taken, is_column=self._call.is_column)
        except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything; it is that item's error
            if len(taken) == 1:
                self._first += 1
                return self._batch.add(Piece(1, error=error))
            return self._submit_halves(taken, sizer)
        sizer.on_sent(len(taken), len(body))
        if len(body) > 2 * MAX_BYTES and len(taken) > 1:
            return self._submit_halves(taken, sizer)
        return self._submit_chunk(len(taken), body, inputs, sizer)

    def _submit_halves(self, taken: Items, sizer: ChunkSizer) -> bool:
        middle = len(taken) // 2
        return self._submit(taken[:middle], sizer) and self._submit(taken[middle:], sizer)

    def _submit_chunk(self, count: int, body: bytes, inputs: tuple[str, ...], sizer: ChunkSizer) -> bool:
        call, session = self._call, self._session
        spec = spec_of(
            call.wanted,
            session.new_id(),
            call.function.digest,
            (body, inputs),
            chunk=(count, self._batch.id, self._first),
        )
        job: Job[Any] = Job(session, spec.id, call.name)
        with self._batch.submitting:
            if not self._batch.add(Piece(count, job=job), sizer):
                return False
            if call.wanted.options.echo:
                session.echo(spec.id)
            try:
                _ = session.submit(job, spec, call.function)
            except BaseException as error:
                detach(job, error)
                raise
        session.pass_on()  # from here: this thread has nothing better to do, and the workers wait
        self._first += count
        return True
