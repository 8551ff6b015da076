"""What was submitted and not yet passed to the desk, and who passes it.

    submit() ── put ──► specs, functions ──┬── pass_on(): a thread that is about to wait for a result
                                           ├── pass_on(): a submitting thread, once `_MAX_WAITING` have piled up
                                           ├── a lent thread, where there is one: for the main thread, and where nobody waits
                                           └── the sender thread: likewise, and what a lent one must not be kept with

Nothing goes to the desk one by one. Whoever has a reason to sends everything that waits, in order of submission, and
batches form by themselves while another one is on its way. `_sending` admits one sender at a time, which keeps the
order; whoever finds it taken leaves, for its holder looks again after letting go.

The main thread never sends: Ctrl-C may raise in it between any two steps. It rings the sender, and waits.

Waking a thread costs more than submitting a job. So the sender isn't woken for each: while jobs keep coming it looks
every half millisecond, and only from its deep sleep must it be rung. It runs from the beginning, because at interpreter
exit no thread can be started.

Where the workers' supervisor is a thread of this process, it may be lent: it passes on what waits whenever it wakes up, and
goes on with it as far as the job's child, so that a round trip has one waking less. It must not wait for a disk, so what
makes the desk look into its store (a key, a dependency) is left to the sender. `_laps` counts how often the lent thread
has begun to look. A submission that finds its count unchanged since the last ring is one that the coming look will see.

Locks: `_sending` before `lock`, which is the session's; `lock` is never held while something is sent. What the main
thread touches here is proof against Ctrl-C (see `gate`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from cluster.client.gate import Bell, Gate
from cluster.core.records import Digest, FunctionBlob, JobId, JobSpec

if TYPE_CHECKING:
    from cluster.client.job import Job

# Enough for a batch to be worth its call, few enough that the workers start early in a long loop of submits.
_MAX_WAITING = 128
_LINGER_SECONDS = 0.0005
_MAX_IDLE_LAPS = 1  # without a submission; then the sender sleeps deeply, for a lap costs what a ring costs

Send = Callable[[list[JobSpec], tuple[FunctionBlob, ...]], None]
# Has a thread call what is given (short, never blocking, never raising) each time that it wakes up; returns what wakes it.
Lend = Callable[[Callable[[], None]], Callable[[], None]]


class Outbox:
    """A queue of submissions with its sender. Thread-safe, but for `put`."""

    def __init__(self, lock: Gate, books: dict[JobId, Job[Any]], send: Send, lend: Lend | None = None) -> None:
        """Make one, and start its sender.

        Args:
            lock: the session's, because a submission enters the outbox and the session's books in one step.
            books: where the session has the jobs it waits for.
            send: passes a batch to the desk; must not raise, and is called by one thread at a time.
            lend: lends a thread of somebody else's.
        """
        self._lock = lock
        self._books = books
        self._send = send
        self._sending = threading.Lock()
        # Guarded by `_lock`. The counters only grow: what was put in, and what the desk has got of it.
        self._specs: list[JobSpec] = []
        self._functions: dict[Digest, FunctionBlob] = {}
        self.total = 0
        self._passed = 0
        self._needs_store = False  # one of them makes the desk look into its store
        self._is_asleep = False
        self._is_closed = False
        self._bell = Bell()
        self._main = threading.main_thread().ident
        self._laps = 0  # written by the lent thread alone
        self._rung_in = 0  # the count that was found when that thread was last rung for
        self._ring_lent: Callable[[], None] | None = None
        if lend is not None:
            self._laps = 1
            self._ring_lent = lend(self._look)
        self._sender = threading.Thread(target=self._send_for_ever, name="cluster-sender", daemon=True)
        self._sender.start()

    def put(self, job: Job[Any], spec: JobSpec, blob: FunctionBlob) -> None:
        """Add a submission. The lock is held, and `look_after` is called once it is not."""
        # No call in these lines, so that Ctrl-C finds all of a submission or nothing.
        self._books[spec.id] = job
        self._functions[blob.digest] = blob
        self._specs += (spec,)
        self.total += 1
        if spec.after or spec.key:
            self._needs_store = True

    def look_after(self) -> None:
        """See to it that what was put in will be sent."""
        if self._rung_in != self._laps or self._is_asleep:
            self._ring()  # it may take as long as the interpreter lets another thread run
        if len(self._specs) >= _MAX_WAITING and get_ident() != self._main:
            self.pass_on()

    def pass_on(self, *, is_lent: bool = False) -> None:
        """Have all of it sent now: by this thread, if it may and no other is just doing so.

        Args:
            is_lent: this thread must not wait for the desk's store.
        """
        if not self._specs:
            return
        if get_ident() == self._main:
            self._ring()
            return
        if not self._sending.acquire(blocking=False):
            return
        try:
            self._pass_batch(is_lent=is_lent)
        finally:
            self._sending.release()
        if self._specs:  # is not for us; or came while we were sending, and its thread may have left it to us
            self._bell.ring()

    def hurry(self) -> None:
        """Have all of it sent soon, by another thread. For callers that may hold locks."""
        if self._specs:
            self._ring()

    def pass_all(self) -> None:
        """Return once everything that was put in before is in the desk's hands."""
        with self._lock:
            goal = self.total
            if self._passed >= goal:
                return
            if get_ident() == self._main:
                self._bell.ring()
                self._lock.wait_for(lambda: self._passed >= goal)
                return
        with self._sending:
            self._pass_batch()

    def close(self) -> None:
        """End the sender. Nothing may be put in any more."""
        self._is_closed = True
        self._ring_lent = None  # it holds what belongs to the lender, a descriptor perhaps
        self._bell.ring()
        if threading.current_thread() is not self._sender:
            self._sender.join()

    def _ring(self) -> None:
        """Wake whoever sends for others, unless that one is about to look anyway."""
        ring_lent = self._ring_lent
        if ring_lent is None:
            self._bell.ring()
            return
        laps = self._laps
        if self._rung_in != laps:
            ring_lent()
            self._rung_in = laps  # afterwards: if Ctrl-C comes between, it is rung once more than needed

    def _look(self) -> None:
        """Pass on what waits. By the lent thread, each time that it wakes up."""
        self._laps += 1  # first: whatever is put in from here on rings again
        self.pass_on(is_lent=True)

    def _pass_batch(self, *, is_lent: bool = False) -> None:
        """Send all of it as one batch. The caller holds `_sending`."""
        with self._lock:
            if is_lent and self._needs_store:
                return
            specs, self._specs = self._specs, []
            functions, self._functions = self._functions, {}
            self._needs_store = False
        if not specs:
            return
        self._send(specs, tuple(functions.values()))
        with self._lock:
            self._passed += len(specs)
            self._lock.notify_all()

    def _send_for_ever(self) -> None:
        idle_laps = 0
        while not self._is_closed:
            self._bell.hush()
            seen = self.total
            self.pass_on()
            if self._bell.wait(_LINGER_SECONDS if self._ring_lent is None else None):
                continue
            idle_laps = idle_laps + 1 if seen == self.total else 0
            if idle_laps >= _MAX_IDLE_LAPS:
                self._sleep_deeply()
                idle_laps = 0

    def _sleep_deeply(self) -> None:
        with self._lock:
            # Under the lock: a submission that this look misses finds the flag set, and rings.
            self._is_asleep = not self._specs
        if self._is_asleep and not self._is_closed:
            self._bell.wait()
        self._is_asleep = False
