"""What one session is still to be told: a book of entries, each with a number, kept until the client acknowledges it.

    commit threads ── Sink ──► entries  n+1, n+2, ...  ◄── listen(seen): drop up to `seen`, wait, give the next ones
                                        │                        └── waits with its `Reply`: outcomes are sent through it
                                        └──────────────────────────► by the thread that committed them

An answer may be lost on its way, so nothing is dropped because it was given, only because a later `listen` has seen its
number. Progress is the exception: only the latest word of a job matters, so it is given once, and may be lost. So is the
word that there is output to read: who missed it reads all the same once the job has ended.

The book is bounded twice. It closes itself when nobody has listened for `MAX_SILENCE_SECONDS`, or when more than
`MAX_UNTOLD_BYTES` wait: its client then opens another session and asks anew for what it does not know. So a client that
was stopped, or has vanished, costs nothing for long.

Threads: the sink's methods come from whoever commits or decides and must not block; `listen` is a thread of a
connection, and normally there is one. All state is guarded by `_changed`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

from msgspec import Struct

from cluster.core.records import DEFAULT_OPTIONS, JobId, Options, Outcome
from cluster.wire.calls import Said, Told
from cluster.wire.messages import Progress, Refusal
from cluster.wire.reply import MAX_GIVEN_BYTES, Reply

MAX_SILENCE_SECONDS = 60.0
MAX_UNTOLD_BYTES = 256 << 20
# Of one answer. A single bigger outcome goes alone.
MAX_ANSWER_BYTES = 4 << 20
MAX_ANSWER_RECORDS = 2000
# Of what one entry holds.
MAX_PART_BYTES = 1 << 20
MAX_PART_RECORDS = 500
# What an entry costs besides its payload, roughly.
RECORD_BYTES = 200

Thing: TypeAlias = JobId | Refusal | Outcome


class Entry(Struct, frozen=True, gc=False):
    """Things of one kind that were told in one go: an answer has all of them or none."""

    number: int
    things: Sequence[Thing]  # ids: these jobs are accepted
    size: int


class ToldBook:
    """A session's side of the master: a `cluster.wire.desks.Sink` that keeps what it is told."""

    def __init__(self, mono: Callable[[], float], *, max_untold_bytes: int = MAX_UNTOLD_BYTES) -> None:
        self._mono = mono
        self._max_untold_bytes = max_untold_bytes
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._number = 0
        self._size = 0
        self._progress: dict[JobId, Progress] = {}
        self._printed: set[JobId] = set()
        self._heard = mono()  # when the client last began or ended to listen
        self._listening = 0
        self._waiting: tuple[Reply, int] | None = None  # of the `listen` that waits, and what it has seen
        self._is_closed = False
        self.defaults = DEFAULT_OPTIONS  # told in the answer to `open`

    # --- the Sink -----------------------------------------------------------------------------------------------

    def opened(self, defaults: Options) -> None:
        """See `Sink.opened`."""
        self.defaults = defaults

    def accepted(self, jobs: Sequence[JobId]) -> None:
        """See `Sink.accepted`."""
        self._put(jobs)

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """See `Sink.refused`."""
        self._put(refusals)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """See `Sink.ended`."""
        self._put(outcomes)
        self._tell_at_once()

    def progressed(self, job: JobId, progress: Progress) -> None:
        """See `Sink.progressed`."""
        with self._changed:
            if self._is_silent():
                self._close()
            if not self._is_closed:
                self._progress[job] = progress
                self._changed.notify_all()

    def printed(self, job: JobId) -> None:
        """See `Sink.printed`."""
        with self._changed:
            if self._is_silent():
                self._close()
            if not self._is_closed:
                self._printed.add(job)
                self._changed.notify_all()

    # --- the client's side --------------------------------------------------------------------------------------

    def listen(self, seen: int, timeout: float, reply: Reply | None = None) -> Told:
        """What came after `seen`, as soon as there is something; an empty answer after `timeout` seconds.

        If another thread has given the answer through `reply`, what is returned is not it.
        """
        with self._changed:
            self._heard = self._mono()
            self._listening += 1
            try:
                if self._entries and self._entries[0].number <= seen:
                    while self._entries and self._entries[0].number <= seen:
                        self._size -= self._entries.popleft().size
                    self._changed.notify_all()  # `wait_told`
                if reply is None:
                    self._changed.wait_for(self._has_something, timeout)
                else:
                    self._waiting = (reply, seen)
                    self._changed.wait_for(lambda: reply.is_given or self._has_something(), timeout)
                    if self._waiting is not None and self._waiting[0] is reply:
                        self._waiting = None
                    if reply.is_given:
                        return Told(mark=seen)
                return Told(mark=seen, is_gone=True) if self._is_closed else self._next(seen)
            finally:
                self._listening -= 1
                self._heard = self._mono()

    def _tell_at_once(self) -> None:
        """Answer whoever waits in this thread, which has just committed, unless it is so much that others would wait."""
        with self._changed:
            if self._waiting is None or self._is_closed or self._size > MAX_GIVEN_BYTES:
                return
            (reply, seen), self._waiting = self._waiting, None
            reply.give(self._next(seen))

    def wait_told(self, timeout: float) -> None:
        """Wait, no longer than that, until the client has seen everything."""
        with self._changed:
            self._changed.wait_for(lambda: not self._entries or self._is_closed, timeout)

    def is_over(self) -> bool:
        """Whether the session is closed, or its client has been silent for too long."""
        with self._changed:
            return self._is_closed or self._is_silent()

    def close(self) -> None:
        """Keep nothing more; whoever listens is told that the session is gone."""
        with self._changed:
            self._close()

    def _has_something(self) -> bool:
        return bool(self._entries or self._progress or self._printed or self._is_closed)

    def _next(self, seen: int) -> Told:
        accepted: list[JobId] = []
        refused: list[Refusal] = []
        ended: list[Outcome] = []
        mark, size, count = seen, 0, 0
        for entry in self._entries:
            size += entry.size
            count += len(entry.things)
            if mark != seen and (count > MAX_ANSWER_RECORDS or size > MAX_ANSWER_BYTES):
                break
            mark = entry.number
            match entry.things[0]:
                case str():
                    accepted += cast("Sequence[JobId]", entry.things)
                case Outcome():
                    ended += cast("Sequence[Outcome]", entry.things)
                case _:
                    refused += cast("Sequence[Refusal]", entry.things)
        said, self._progress = self._progress, {}
        progress = tuple(Said(job, progress) for job, progress in said.items())
        printed, self._printed = self._printed, set()
        return Told(mark, tuple(accepted), tuple(refused), tuple(ended), progress, tuple(printed))

    def _put(self, things: Sequence[Thing]) -> None:
        with self._changed:
            if self._is_closed:
                return
            if self._size > self._max_untold_bytes or self._is_silent():
                self._close()
                return
            for part in _parts(things):
                self._number += 1
                self._entries.append(Entry(self._number, part, _size_of(part)))
                self._size += self._entries[-1].size
            self._changed.notify_all()

    def _is_silent(self) -> bool:
        return not self._listening and self._mono() - self._heard > MAX_SILENCE_SECONDS

    def _close(self) -> None:
        self._is_closed = True
        self._entries.clear()
        self._progress.clear()
        self._printed.clear()
        self._size = 0
        self._changed.notify_all()


def _parts(things: Sequence[Thing]) -> Iterator[Sequence[Thing]]:
    """Cut so that an answer has room for any part, or the part is one thing."""
    first = size = 0
    if len(things) > MAX_PART_RECORDS or _size_of(things) > MAX_PART_BYTES:
        for at, thing in enumerate(things):
            size += _size_of((thing,))
            if at > first and (at - first >= MAX_PART_RECORDS or size > MAX_PART_BYTES):
                yield things[first:at]
                first, size = at, _size_of((thing,))
    if first < len(things):
        yield things[first:]


def _size_of(things: Sequence[Thing]) -> int:
    size = RECORD_BYTES * len(things)
    if things and isinstance(things[0], Outcome):
        size += sum([len(thing.payload) for thing in cast("Sequence[Outcome]", things)])
    return size
