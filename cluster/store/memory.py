"""The store that lasts as long as its master: records in dictionaries, by reference.

It exists so that embedded mode without a file, and the simulator, run the very same master. `commit` cannot fail and
takes microseconds, so whoever appended to the commit log carries it out (`is_instant`). Opened again, it goes on: the
simulator restarts masters on it.

Nothing is copied. A queued job costs its `Admitted` record, which the board holds too, and two dictionary entries
(about 75 bytes at a million jobs). Ended jobs are bounded by number and by payload bytes; `prune` enforces that, so a
master calls it as it goes.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from msgspec.structs import replace

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
    StoredJob,
    Undone,
)
from cluster.core.records import Certificate, Digest, Fence, FunctionBlob, JobId, Outcome, WorkerId
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreTampered
from cluster.store.port import Opening, Room, without_payloads

MAX_ENDED = 100_000
MAX_ENDED_BYTES = 256 << 20
MAX_ANSWERS = 10_000


class MemoryStore:
    """A store in this process's memory. One lock guards everything; it is held for microseconds.

    Args:
        max_ended: ended jobs kept; beyond it `prune` drops the oldest ones that nobody needs.
        max_ended_bytes: the same for the bytes of their arguments, results and output.
    """

    url = "memory:"
    is_instant = True

    def __init__(self, max_ended: int = MAX_ENDED, max_ended_bytes: int = MAX_ENDED_BYTES) -> None:
        self.tampered: list[str] = []  # of the port; nothing here can be
        self.on_tampered: Callable[[str], None] = lambda _: None
        self._max_ended = max_ended
        self._max_ended_bytes = max_ended_bytes
        self._lock = threading.Lock()
        self._is_open = False
        self._epoch = 0
        self._next_seq = 1
        self._max_fence = 0
        self._jobs: dict[int, Admitted] = {}
        self._ids: dict[JobId, Admitted] = {}
        self._keys: dict[str, Admitted] = {}
        self._functions: dict[Digest, FunctionBlob] = {}
        # Digests and how many jobs refer to each; 0 for one whose first job is still to come.
        self._uses: dict[Digest, int] = {}
        self._leases: dict[int, tuple[Fence, WorkerId]] = {}
        # Current runs' ends, the oldest first: an insertion order that `prune` relies on.
        self._ended: dict[int, Ended] = {}
        self._ended_bytes = 0
        # No ended job's retention is over before this, so that most prunes need not look.
        self._next_overdue = float("inf")
        # Only of jobs that have such: failed attempts and earlier runs' ends, in order; the current run, if not 1.
        self._past: dict[int, list[AttemptFailed | Ended]] = {}
        self._runs: dict[int, int] = {}
        # Ended runs that printed something, by number and run, with the wall time of their end; the oldest first.
        self._printed: dict[tuple[int, int], float] = {}
        self._paused: set[str] = set()
        self._answers: dict[str, Answered] = {}  # the oldest first
        self._handlers: dict[type, Callable[[Any], None]] = {
            Admitted: self._admitted,
            Ended: self._end,
            Leased: self._leased,
            GivenBack: self._given_back,
            AttemptFailed: self._attempt_failed,
            FunctionAdded: self._function_added,
            Requeued: self._requeued,
            QueuePaused: self._queue_paused,
            Undone: self._undone,
            Answered: self._answered,
            Purged: self._purged,
            Rebudgeted: self._rebudgeted,
        }

    # --- opening and closing ------------------------------------------------------------------------------------

    def open(self) -> Opening:
        """See `Store.open`."""
        with self._lock:
            if self._is_open:
                raise StoreError(self.url, "it is open already")
            self._is_open = True
            self._epoch += 1
            return Opening(self._epoch, self._next_seq, self._max_fence, tuple(sorted(self._paused)), ())

    def close(self) -> None:
        """See `Store.close`. The records stay, for another opening of the same object."""
        self._is_open = False

    # --- writing ------------------------------------------------------------------------------------------------

    def commit(self, records: Sequence[Record]) -> None:
        """See `Store.commit`. Durable as long as this process lives."""
        handlers = self._handlers
        with self._lock:
            for record in records:
                handlers[type(record)](record)

    def tidy(self) -> bool:
        """See `Store.tidy`. Nothing is put off here."""
        return False

    def _admitted(self, record: Admitted) -> None:
        seq, spec = record.seq, record.spec
        if seq not in self._jobs:
            self._uses[spec.function] = self._uses.get(spec.function, 0) + 1
        self._jobs[seq] = record
        self._ids[spec.id] = record
        if spec.key:
            self._keys[spec.key] = record
        if seq >= self._next_seq:
            self._next_seq = seq + 1

    def _undone(self, record: Undone) -> None:
        # Even if it was never written: its number must not be given out again.
        self._next_seq = max(self._next_seq, record.seq + 1)
        self._drop(record.seq)

    def _end(self, record: Ended) -> None:
        seq = record.seq
        self._end_lease(seq, record.fence)
        admitted = self._jobs.get(seq)
        if admitted is None or (self._runs and record.outcome.run < self._runs.get(seq, 1)):
            return
        if seq in self._ended:
            self._forget_end(seq)
        self._ended[seq] = record
        self._ended_bytes += _weight(admitted, record)
        if record.keep_until < self._next_overdue:  # noqa: PLR1730 - as in `_end_lease`
            self._next_overdue = record.keep_until
        if record.output or seq in self._past:
            self._note_printed(record)

    def _note_printed(self, ended: Ended) -> None:
        seq, run = ended.seq, ended.outcome.run
        failed = [each for each in self._past.get(seq, ()) if isinstance(each, AttemptFailed) and each.run == run]
        if ended.output or any(each.output for each in failed):
            self._printed[seq, run] = ended.outcome.ended

    def _attempt_failed(self, record: AttemptFailed) -> None:
        seq = record.seq
        self._end_lease(seq, record.fence)
        if seq not in self._jobs:
            return
        past = self._past.setdefault(seq, [])
        if not any(type(each) is AttemptFailed and each.fence == record.fence for each in past):
            past.append(record)

    def _requeued(self, record: Requeued) -> None:
        seq = record.seq
        if seq not in self._jobs or self._runs.get(seq, 1) >= record.run:
            return
        self._runs[seq] = record.run
        ended = self._forget_end(seq)
        if ended is not None:
            self._past.setdefault(seq, []).append(ended)

    def _rebudgeted(self, record: Rebudgeted) -> None:
        if record.seq in self._jobs:
            self._admitted(record.admitted)

    def _leased(self, record: Leased) -> None:
        leases, worker = self._leases, record.worker
        for job in record.jobs:
            leases[job.seq] = (job.fence, worker)
        self._max_fence = max(self._max_fence, record.jobs[-1].fence)  # issued in this order

    def _given_back(self, record: GivenBack) -> None:
        self._max_fence = max(self._max_fence, *record.fences)
        # Rare, and there are no more leases than slots with what is prefetched: no index is kept for it.
        for seq in [seq for seq, (fence, _) in self._leases.items() if fence in record.fences]:
            del self._leases[seq]

    def _function_added(self, record: FunctionAdded) -> None:
        digest = record.blob.digest
        self._functions[digest] = record.blob
        self._uses.setdefault(digest, 0)

    def _queue_paused(self, record: QueuePaused) -> None:
        (self._paused.add if record.paused else self._paused.discard)(record.queue)

    def _answered(self, record: Answered) -> None:
        self._answers[record.request] = record
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def _purged(self, record: Purged) -> None:
        if record.seq in self._ended:
            self._drop(record.seq)

    def _end_lease(self, seq: int, fence: Fence) -> None:
        self._leases.pop(seq, None)
        if fence > self._max_fence:  # noqa: PLR1730 - `max` costs three times as much, for every job
            self._max_fence = fence

    def _forget_end(self, seq: int) -> Ended | None:
        ended = self._ended.pop(seq, None)
        if ended is not None:
            self._ended_bytes -= _weight(self._jobs[seq], ended)
        return ended

    # --- bounds -------------------------------------------------------------------------------------------------

    def prune(self, wall: float, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> int:
        """See `Store.prune`. Drops the oldest ended jobs as well while there are more than the bounds allow."""
        with self._lock:
            for record in list(self._answers.values()):
                if record.keep_until >= wall:
                    break  # they are kept equally long, so the others are younger
                del self._answers[record.request]
            surplus = self._surplus()
            is_overdue = wall > self._next_overdue
            if not surplus and not is_overdue:
                return 0
            # The oldest come first. A surplus is dropped from among them; only retention needs a look at all.
            ends = list(self._by_age() if is_overdue else islice(self._by_age(), surplus + limit))
            if is_overdue:
                self._next_overdue = float("inf")
        over: list[Ended] = []
        next_overdue = float("inf")
        # Without the lock: whoever knows what is needed may be waiting for it.
        for ended in ends:
            is_over = ended.keep_until < wall or surplus > len(over)
            if is_over and len(over) < limit and not is_needed(ended.outcome.job):
                over.append(ended)
            elif is_overdue:
                next_overdue = min(next_overdue, ended.keep_until)
            elif len(over) >= min(surplus, limit):
                break
        with self._lock:
            self._next_overdue = min(self._next_overdue, next_overdue)
            for ended in over:
                if self._ended.get(ended.seq) is ended:  # else it was requeued meanwhile
                    self._drop(ended.seq)
        return len(over)

    def _surplus(self) -> int:
        """How many of the oldest ended jobs are too many."""
        surplus = max(0, len(self._ended) - self._max_ended)
        excess = self._ended_bytes - self._max_ended_bytes
        if excess > 0:
            for count, ended in enumerate(self._by_age(), 1):
                excess -= _weight(self._jobs[ended.seq], ended)
                if excess <= 0:
                    return max(surplus, count)
        return surplus

    def _by_age(self) -> Iterator[Ended]:
        """Ended jobs in the order in which they go where there is no room: the oldest first, dead letters last."""
        ended, dead = self._ended.values(), JobState.DEAD_LETTER
        return chain(
            (each for each in ended if each.outcome.state is not dead),
            (each for each in ended if each.outcome.state is dead),
        )

    def drop_outputs(self, before: float, limit: int = 10_000) -> int:
        """See `Store.drop_outputs`."""
        dropped = 0
        with self._lock:
            while self._printed and dropped < limit:
                seq, run = next(iter(self._printed))
                if self._printed[seq, run] >= before:
                    break
                del self._printed[seq, run]
                self._silence(seq, run)
                dropped += 1
        return dropped

    def _silence(self, seq: int, run: int) -> None:
        ended = self._ended.get(seq)
        if ended is not None and ended.outcome.run == run:
            self._ended_bytes -= len(ended.output)
            self._ended[seq] = replace(ended, output=b"")  # keeps its place in the order
        past = self._past.get(seq, [])
        for at, each in enumerate(past):
            if (each.run if isinstance(each, AttemptFailed) else each.outcome.run) == run:
                past[at] = replace(each, output=b"")

    def make_room(self, max_bytes: int, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> Room:
        """See `Store.make_room`. Only what `size` counts can be in the way."""
        with self._lock:
            excess = self._ended_bytes - max_bytes
            if excess <= 0:
                return Room(0, 0, is_exhausted=False)
            oldest = [(ended, _weight(self._jobs[ended.seq], ended)) for ended in self._by_age()]
        over: list[Ended] = []
        # Without the lock: whoever knows what is needed may be waiting for it.
        for ended, weight in oldest:
            if excess <= 0 or len(over) == limit:
                break
            if not is_needed(ended.outcome.job):
                over.append(ended)
                excess -= weight
        with self._lock:
            for ended in over:
                if self._ended.get(ended.seq) is ended:  # else it was requeued meanwhile
                    self._drop(ended.seq)
            return Room(len(over), max(0, self._ended_bytes - max_bytes), is_exhausted=len(over) < limit)

    def _drop(self, seq: int) -> None:
        self._leases.pop(seq, None)
        self._forget_end(seq)
        admitted = self._jobs.pop(seq, None)
        if self._printed:
            for run in range(1, self._runs.get(seq, 1) + 1):
                self._printed.pop((seq, run), None)
        self._past.pop(seq, None)
        self._runs.pop(seq, None)
        if admitted is None:
            return
        spec = admitted.spec
        if self._ids.get(spec.id) is admitted:
            del self._ids[spec.id]
        if self._keys.get(spec.key) is admitted:
            del self._keys[spec.key]
        self._uses[spec.function] -= 1
        # The board writes a function again with the first live job that needs it.
        if not self._uses[spec.function]:
            del self._uses[spec.function]
            self._functions.pop(spec.function, None)

    # --- reading ------------------------------------------------------------------------------------------------

    def live_jobs(self) -> Iterator[StoredJob]:
        """See `Store.live_jobs`."""
        with self._lock:
            seqs = sorted(seq for seq in self._jobs if seq not in self._ended)
        for seq in seqs:
            with self._lock:
                admitted = self._jobs.get(seq)
                stored = self._story(admitted) if admitted is not None and seq not in self._ended else None
            if stored is not None:
                yield stored

    def functions(self, digests: Sequence[Digest]) -> Iterator[FunctionBlob]:
        """See `Store.functions`."""
        for digest in digests:
            blob = self._functions.get(digest)
            if blob is not None:
                yield blob

    def find(self, job: JobId) -> StoredJob | None:
        """See `Store.find`."""
        with self._lock:
            admitted = self._ids.get(job)
            return self._story(admitted) if admitted is not None else None

    def find_all(self, jobs: Sequence[JobId]) -> Iterator[tuple[JobId, StoredJob | StoreTampered]]:
        """See `Store.find_all`."""
        for job in jobs:
            stored = self.find(job)
            if stored is not None:
                yield job, stored

    def find_key(self, key: str) -> StoredJob | None:
        """See `Store.find_key`."""
        with self._lock:
            admitted = self._keys.get(key)
            return self._story(admitted) if admitted is not None else None

    def outcome(self, job: JobId) -> Outcome | None:
        """See `Store.outcome`."""
        with self._lock:
            admitted = self._ids.get(job)
            ended = self._ended.get(admitted.seq) if admitted is not None else None
            return ended.outcome if ended is not None else None

    def result(self, job: JobId) -> Outcome | None:
        """See `Store.result`."""
        for record in reversed(self._ends(job)):
            if isinstance(record, Ended) and record.outcome.state is JobState.COMPLETED:
                return record.outcome
        return None

    def answer(self, request: str) -> bytes | None:
        """See `Store.answer`."""
        with self._lock:
            record = self._answers.get(request)
            return record.answer if record is not None else None

    def history(self, job: JobId) -> list[tuple[int, Certificate]]:
        """See `Store.history`."""
        found: list[tuple[int, Certificate]] = []
        for record in self._ends(job):
            if isinstance(record, AttemptFailed):
                found.append((record.run, record.certificate))
            elif record.outcome.certificate is not None:
                found.append((record.outcome.run, record.outcome.certificate))
        return found

    def outputs(self, job: JobId) -> list[tuple[Fence, bytes]]:
        """See `Store.outputs`."""
        return [(record.fence, record.output) for record in self._ends(job) if record.output]

    def output(self, job: JobId) -> bytes:
        """See `Store.output`."""
        return b"".join(output for _, output in self.outputs(job))

    def page(self, after: int, limit: int, state: JobState | None = None) -> list[StoredJob]:
        """See `Store.page`."""
        with self._lock:
            if state is not None:
                seqs = [seq for seq, ended in self._ended.items() if seq > after and ended.outcome.state is state]
            elif self._next_seq - after <= 2 * len(self._jobs) + limit:
                # Few gaps ahead: counting up finds the page without a look at all jobs.
                seqs = []
                for seq in range(after + 1, self._next_seq):
                    if len(seqs) == limit:
                        break
                    if seq in self._jobs:
                        seqs.append(seq)
            else:
                seqs = [seq for seq in self._jobs if seq > after]
            return [without_payloads(self._story(self._jobs[seq])) for seq in heapq.nsmallest(limit, seqs)]

    def size(self) -> int:
        """See `Store.size`. Payloads only, and of ended jobs only: those that the board does not count."""
        return self._ended_bytes

    def _ends(self, job: JobId) -> list[AttemptFailed | Ended]:
        """Each attempt that is over, oldest first."""
        with self._lock:
            admitted = self._ids.get(job)
            if admitted is None:
                return []
            ended = self._ended.get(admitted.seq)
            return [*self._past.get(admitted.seq, ()), *([ended] if ended is not None else [])]

    def _story(self, admitted: Admitted) -> StoredJob:
        seq = admitted.seq
        run = self._runs.get(seq, 1)
        ended = self._ended.get(seq)
        outcome = ended.outcome if ended is not None else None
        fence, worker = (0, "") if outcome else self._leases.get(seq, (0, ""))
        failed = [each for each in self._past.get(seq, ()) if isinstance(each, AttemptFailed) and each.run == run]
        last = failed[-1] if failed else None
        return StoredJob(
            seq=seq,
            spec=admitted.spec,
            submitted=admitted.submitted,
            run=run,
            due=last.due if last else admitted.due,
            expires=admitted.expires,
            attempts=outcome.attempts if outcome else len(failed) + bool(fence),
            failures=last.failures if last else 0,
            crashes=last.crashes if last else 0,
            outgrown=last.outgrown if last else 0,
            progress=last.progress if last else b"",
            fence=fence,
            worker=worker,
            outcome=outcome,
        )


def _weight(admitted: Admitted, ended: Ended) -> int:
    return len(admitted.spec.args) + len(ended.outcome.payload) + len(ended.output)
