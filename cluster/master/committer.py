"""Decide, persist, tell: the whole durability argument, in one place.

    any thread, under the board's lock        committer                      anyone
    ----------------------------------        ---------                      ------
    effects = board.handle(event)
    log.append(effects)  ──────────────►  take a group, in order
    (lock released)                       store.commit(records)   ──────►  acknowledgements, outcomes,
    orders to stop, wake-ups, refusals        one transaction              grants, `then` callbacks
    go out at once

Why this loses nothing. (1) Effects enter the log under the lock under which they were decided, so the store sees
decisions in their order: whatever a record builds on is in the same group or an earlier one. (2) Nothing that a caller
could rely on is told before the group that holds it is durable. So a crash at any instant leaves a prefix of the
decisions in the store, and nobody knows of more than that prefix. (3) A job may start early, before its admission is
durable, because its outcome comes later in the log and so can't be told, or be durable, without it. Jobs that may not
run twice don't start early: `TellAdmitted` and `TellGranted` hold them back.

What needs no commit goes out at once: an order to stop an attempt (the board will accept no outcome of it any more,
so letting it run on serves nobody), a refusal (nothing was kept), a wake-up.

When a commit fails (disk full), leases and outcomes are kept and sent again, untold, until the store takes them. What
was admitted and is not durable, in the failed group and behind it in the log, is undone: those clients are told that
they are refused, their records leave the log, and `Undone` goes in, because a failed commit may have happened after
all. Unless the store knows that it has not (`StoreUnwritten`), these refusals wait for that `Undone`: a master that dies
before it is durable may leave a job behind that its client believes refused, and the next master would run it. Until the
store is well the board admits nothing.

What nobody waits for urgently, an admission or a lease of a job that starts early, may wait a moment for the outcome that
goes with it (see `patience`): then a short job's whole round trip costs one write. In a store that takes no time, leases
wait for whatever is decided next, and admissions until `let_go`, if a thread that is about to start the job holds them back.

Threads. A store that takes no time (`is_instant`) is driven by whoever appended, one at a time; any other has the one
committer thread. The log belongs to the board's lock. When the process dies, the untold part of the log dies with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from cluster.core.effects import (
    Admitted,
    Announced,
    AttemptFailed,
    Effect,
    Ended,
    FencedOff,
    FunctionAdded,
    GivenBack,
    Leased,
    Rebudgeted,
    Record,
    Requeued,
    TellAccepted,
    TellAdmitted,
    TellGranted,
    TellRefused,
    TellStop,
    Undone,
    Wake,
)
from cluster.core.records import JobId, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreUnwritten
from cluster.master.patience import Patience
from cluster.master.retention import Pruner, Retention
from cluster.store.port import Store

LOG = logging.getLogger("cluster.master")

# A group is what has gathered while the last one was written, but no more than this: a hundred thousand admissions in
# one transaction would make everyone wait for the last of them.
MAX_GROUP_EFFECTS = 4096
RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0
# A store in memory grows by each ended job until it is pruned; one on a disk can wait for the timekeeper.
PRUNE_AFTER_ENDED = 10_000
# After so long without a commit the store may do what it has put off.
IDLE_SECONDS = 0.05

_COMPLETED = JobState.COMPLETED  # a look at an enum's class is slow on Python 3.11
# Sets of types and not isinstance: asked for every effect.
_EARLY = frozenset({TellStop, TellRefused, Announced, FencedOff, Wake})
_LEASING = frozenset({Leased, GivenBack})
_PATIENT = _LEASING | {Admitted, FunctionAdded}
_TELLS = frozenset({TellAccepted, TellAdmitted, TellGranted, TellRefused})

Then = Callable[[], None]


class Audience(Protocol):
    """Who carries out effects; the master."""

    def tell_early(self, effects: Sequence[Effect]) -> None:
        """Stop orders, refusals, wake-ups and words for the log, right after they were decided."""

    def tell_durable(self, effects: Sequence[Effect]) -> None:
        """What the last commit made true."""

    def undo_admissions(self, jobs: Sequence[JobId], reason: str) -> list[Effect]:
        """Have the board undo these jobs and refuse new ones. Called with the lock held; nothing is told yet."""

    def store_healed(self) -> None:
        """Have the board admit jobs again."""

    def is_needed(self, job: JobId) -> bool:
        """Whether an ended job's record must be kept although its retention is over."""

    def wall(self) -> float:
        """The time of day."""


class Committer:
    """The commit log and the one who writes it."""

    def __init__(
        self, store: Store, lock: threading.Lock, audience: Audience, retention: Retention | None = None
    ) -> None:
        self._store = store
        self._pruner = Pruner(store, retention or Retention())
        self._lock = lock  # the board's: guards `_log` and `_undurable`
        self._audience = audience
        self._log: list[tuple[list[Effect], Then | None]] = []
        # Outcomes of runs that completed, decided and not durable yet, by job: arguments of dependants that start early. A
        # later run that ends otherwise before that leaves the result where it is.
        self._undurable: dict[JobId, Outcome] = {}
        # Jobs that are undone, but that a commit which failed may have written; each until its `Undone` is committed.
        self._condemned: dict[JobId, int] = {}
        self._driving = threading.Lock()  # held by whoever runs `_commit_group`
        # Held from the question whether an ended job is needed until it is gone from the store, and by whoever finds an
        # ended job there and decides to go on with it. Taken before the board's lock, and never waited for by the
        # thread that commits: a purge holds it while it waits for its own commit.
        self.pruning = threading.Lock()
        self._is_wanted = threading.Event()
        self._is_hastened = threading.Event()  # there is something urgent, for a thread that waits with the rest
        self._patient = _LEASING if store.is_instant else _PATIENT
        self._patience = Patience()
        self._is_urgent = False  # guarded by `_lock`: the log has more than what may wait
        self._is_held_back = False  # guarded by `_lock`: an admission waits for `let_go`
        self._is_tidy = True  # the store has put nothing off, as far as this thread knows
        self._is_stopping = threading.Event()
        self._failures = 0
        self._ended_since_prune = 0
        self._is_prune_due = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to commit by itself, where the store needs that."""
        if not self._store.is_instant and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cluster-committer", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Commit what is in the log, once, and stop."""
        self._is_stopping.set()
        self._is_wanted.set()
        self._is_hastened.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.drive()

    def append(self, effects: list[Effect], then: Then | None = None) -> list[Effect]:
        """Enter a decision into the log; the effects that need no commit are returned. The lock is held."""
        if self._condemned:
            return self._append_condemned(effects, then)
        late = [effect for effect in effects if type(effect) not in _EARLY]
        ended = [effect.outcome for effect in late if type(effect) is Ended and effect.outcome.state is _COMPLETED]
        if ended:
            self._undurable.update([(outcome.job, outcome) for outcome in ended])
        if late or then is not None:
            self._enter(late, then)
        if len(late) == len(effects):
            return []
        return [effect for effect in effects if type(effect) in _EARLY]

    def _append_condemned(self, effects: list[Effect], then: Then | None) -> list[Effect]:
        """As `append`, while a refusal may have to wait: of a job that the store may have."""
        early: list[Effect] = []
        late: list[Effect] = []
        for effect in effects:
            is_waiting = isinstance(effect, TellRefused) and effect.job in self._condemned
            (early if type(effect) in _EARLY and not is_waiting else late).append(effect)
            if type(effect) is Ended and effect.outcome.state is _COMPLETED:
                self._undurable[effect.outcome.job] = effect.outcome
        if late or then is not None:
            self._enter(late, then)
        return early

    def _enter(self, late: list[Effect], then: Then | None) -> None:
        self._log.append((late, then))
        if then is not None or not self._patient.issuperset(map(type, late)):
            self._is_urgent = True
        elif self._patient is _PATIENT:
            self._is_held_back = True

    def kick(self) -> None:
        """Have the log written: by the committer thread, or right here. The lock is not held."""
        if self._thread is not None:
            if not self._is_wanted.is_set():
                self._is_wanted.set()
            if self._is_urgent and not self._is_hastened.is_set():
                self._is_hastened.set()
        elif self._is_urgent or not self._store.is_instant:
            self.drive()

    def hold_back(self) -> None:
        """Let admissions wait for `let_go`, which the caller promises; only where the store takes no time.

        Their submitter is told a little later, and the caller, who is about to hand these jobs to workers, does that first.
        """
        if self._store.is_instant:
            self._patient = _PATIENT

    def let_go(self) -> None:
        """Commit what was held back."""
        if not self._store.is_instant:
            return
        with self._lock:  # or what another thread enters just now would be held back, and nobody let it go
            self._patient = _LEASING
            is_held_back, self._is_held_back = self._is_held_back, False
        if is_held_back:
            self.drive()

    def is_here(self) -> bool:
        """Whether the calling thread is the one that commits, and must not be kept from it."""
        return self._thread is threading.current_thread()

    def drive(self) -> None:
        """Write the log in this thread, unless another one is at it and will see our entries too."""
        while self._log and self._driving.acquire(blocking=False):
            try:
                if not self._commit_group():
                    return
            finally:
                self._driving.release()

    def prune_soon(self) -> None:
        """Drop what is past its retention, with the next group."""
        self._is_prune_due = True
        self._ask_for_group()
        self.kick()

    def _ask_for_group(self) -> None:
        """Have a group written although there may be nothing in it."""
        with self._lock:
            self._log.append(([], None))
            self._is_urgent = True

    def undurable(self, job: JobId) -> Outcome | None:
        """The outcome of a job's latest run that completed, if its commit is still to come."""
        return self._undurable.get(job)

    def is_condemned(self, job: JobId) -> bool:
        """Whether what the store says of a job is what a failed commit left there, about to be struck out."""
        return job in self._condemned

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            if self._failures:
                delay = min(RETRY_SECONDS * 2.0 ** (self._failures - 1), MAX_RETRY_SECONDS)
                self._is_stopping.wait(delay)
            elif not self._is_wanted.wait(None if self._is_tidy else IDLE_SECONDS):
                self._tidy()
                continue
            self._is_tidy = False
            self._is_wanted.clear()
            if self._log and not self._failures:
                self._wait_for_more()
            try:
                self.drive()
            except Exception:
                # A defect must not leave a master that looks alive and acknowledges nothing.
                LOG.exception("committer: unexpected error; going on")

    def _wait_for_more(self) -> None:
        """Give a short job the time to end, if that has lately been worth it and nothing else is in the log."""
        self._is_hastened.clear()  # before the look: whoever enters something urgent after it sets it again
        if self._is_urgent:
            return
        seconds = self._patience.seconds()
        if seconds:
            self._patience.note_wait(was_worth_it=self._is_hastened.wait(seconds))

    def _tidy(self) -> None:
        """Let the store work off what it has put off, piece by piece, until there is a commit again."""
        try:
            while not self._is_tidy and not self._is_wanted.is_set():
                self._is_tidy = not self._store.tidy()
        except StoreError as error:
            LOG.warning("store %s: tidying failed and is tried again later: %s", self._store.url, error.reason)
            self._is_tidy = True

    def _commit_group(self) -> bool:
        """Write one group and tell of it; False if the store failed (the group is back at the head of the log)."""
        with self._lock:
            count = size = 0
            for effects, _ in self._log:
                count += 1
                size += len(effects)
                if size >= MAX_GROUP_EFFECTS:
                    break
            group = self._log[:count]
            del self._log[:count]
            self._is_urgent = self._is_urgent and bool(self._log)
        told = [effect for effects, _ in group for effect in effects]
        records = [cast("Record", effect) for effect in told if type(effect) not in _TELLS]
        try:
            if records:
                started = time.perf_counter()
                self._store.commit(records)
                self._patience.note_commit(time.perf_counter() - started)
        except StoreError as error:
            self._give_back(group, error)
            return False
        except Exception as error:
            # A defect of the adapter: the group must not be lost with it.
            LOG.exception("store %s: a commit raised what it should not", self._store.url)
            self._give_back(group, StoreError(self._store.url, f"unexpected {error!r}"))
            return False
        if self._failures:
            LOG.warning("store %s: commits succeed again", self._store.url)
            self._failures = 0
            self._audience.store_healed()
        if self._condemned:
            struck = {effect.seq for effect in told if isinstance(effect, Undone)}
            self._condemned = {job: seq for job, seq in self._condemned.items() if seq not in struck}
        self._tell(told, [then for _, then in group if then is not None])
        return True

    def _tell(self, effects: list[Effect], thens: list[Then]) -> None:
        ended = [effect.outcome for effect in effects if type(effect) is Ended]
        if ended:
            undurable = self._undurable
            with self._lock:
                for outcome in ended:
                    if undurable.get(outcome.job) is outcome:
                        del undurable[outcome.job]
        self._audience.tell_durable(effects)
        for then in thens:
            then()
        self._prune(len(ended))

    def _prune(self, ended: int) -> None:
        if self._store.is_instant:
            self._ended_since_prune += ended
        if self._ended_since_prune < PRUNE_AFTER_ENDED and not self._is_prune_due:
            return
        if not self.pruning.acquire(blocking=False):
            return  # still due after the next group
        self._ended_since_prune = 0
        self._is_prune_due = False
        is_unfinished = False
        try:
            is_unfinished = self._pruner.prune(self._audience.wall(), self._audience.is_needed)
        except StoreError as error:
            LOG.warning("store %s: pruning failed and is tried again later: %s", self._store.url, error)
        finally:
            self.pruning.release()
        if is_unfinished and not self._is_stopping.is_set():
            # As a group of its own: what has gathered meanwhile is committed first.
            self._is_prune_due = True
            self._ask_for_group()

    def _give_back(self, group: list[tuple[list[Effect], Then | None]], error: StoreError) -> None:
        """The store failed: undo undurable admissions, and put the rest back at the head of the log."""
        self._failures += 1
        if self._failures == 1:
            LOG.error(
                "store %s: a commit failed (%s); new jobs are refused until one succeeds", error.store, error.reason
            )
        with self._lock:
            self._log[:0] = group
            self._is_urgent = True
            admitted = [effect for effects, _ in self._log for effect in effects if isinstance(effect, Admitted)]
            gone = frozenset(effect.seq for effect in admitted)
            names = frozenset(effect.spec.id for effect in admitted)
            self._log = [(_without(effects, gone, names), then) for effects, then in self._log]
            for job in names:
                self._undurable.pop(job, None)
            if not isinstance(error, StoreUnwritten):
                self._condemned.update((effect.spec.id, effect.seq) for effect in admitted)
            early = self.append(self._audience.undo_admissions([job.spec.id for job in admitted], error.reason))
        self._audience.tell_early(early)


def _without(effects: list[Effect], gone: frozenset[int], names: frozenset[JobId]) -> list[Effect]:
    """The effects that don't speak of undone jobs."""
    kept: list[Effect] = []
    for effect in effects:
        match effect:
            case Admitted() | AttemptFailed() | Ended() | Requeued() | Rebudgeted() if effect.seq in gone:
                continue
            case TellAdmitted() | TellAccepted() if effect.job in names:
                continue
            case Leased():
                jobs = tuple(job for job in effect.jobs if job.seq not in gone)
                if jobs:
                    kept.append(Leased(effect.worker, jobs))
            case _:
                kept.append(effect)
    return kept
