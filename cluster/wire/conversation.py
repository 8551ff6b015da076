"""One client's session with a master over the wire: what it still owes, and how it goes on after any break.

    outbox's sender ── submit() ──► books ── jobs.submit ───────────────────────────────► master
                                      ▲                                                     │
    sink ◄── listener thread ─────────┴─────────────◄── jobs.listen (long poll) ────────────┘

The master is authoritative. The `books` hold what it must be told again should it forget us: every job that was submitted
and is not acknowledged, whole, with its function, and the id of every other one whose outcome is awaited.

**Breaks.** Only the listener mends them. A batch whose call failed stays in the books and `_is_behind` is set: from
then on `submit` only books, and the listener sends that batch again, under its number, by which the master knows whether
it had come; then what was booked since. So in one session a job is submitted once: were it sent in another batch, it
could be refused by the first one, admitted by the second, and the client be told both. If the master has forgotten the
session (it restarted, or we were silent for too long) the listener opens another one first, has everything that is
awaited watched, listening in between, and sends all that is unacknowledged again, saying so (`again`): the master then looks for each, on its
board and in its store, so nothing is admitted twice. The master tells everything since the last mark again until the mark comes back, so what was lost on
the way comes twice, and sinks take an outcome once.

**Threads.** What is said to the master is said by scripts (`scripts`): `submitting` in the sender's thread, `listening` in
the listener's. `_lock` guards the books and is never held during a call, nor while the sink is told.

**Who dies.** The master, or the way to it: this goes on trying, quietly, for ever; jobs stay pending. This process:
the master drops the session after a while. A fork: the child has no listener, and opens a conversation of its own.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from cluster.core.records import FunctionBlob, JobId, JobInfo, JobSpec
from cluster.errors import ClusterError, MasterUnavailable, Refused, UnknownJob
from cluster.wire import calls
from cluster.wire.books import Books
from cluster.wire.calls import Opened, Told
from cluster.wire.desks import Sink
from cluster.wire.messages import Refusal
from cluster.wire.scripts import Ask, Caller, Rest, Script, perform

LOG = logging.getLogger("cluster")

LISTEN_SECONDS = 20.0
ANSWER_SECONDS = 30.0
# Above what the call itself may take on the master's side.
SLACK_SECONDS = 10.0
# A way that is broken for longer than this is told in the log; the listener tries on.
LINK_PATIENCE_SECONDS = 2.0
FAREWELL_SECONDS = 1.0
MAX_PAUSE_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
MAX_BATCH_JOBS = 2000
MAX_BATCH_BYTES = 16 << 20
# What a frame has room for, and a little less.
MAX_JOB_BYTES = 240 << 20
MAX_WATCHED_AT_ONCE = 1000


Dial = Callable[[float], Caller]  # of a proxy with so many seconds of patience


class Conversation:
    """A session that outlives the master's memory of it. `submit` is called by one thread at a time."""

    def __init__(self, dial: Dial, sink: Sink) -> None:
        """Say nothing yet; what is submitted before `connect` waits for it."""
        self._dial = dial
        self._sink = sink
        self._caller = dial(LINK_PATIENCE_SECONDS)
        # The listener's own, so that its long poll can be broken off; exchanged under `_lock`, by the listener.
        self._ear = dial(LINK_PATIENCE_SECONDS)
        self._lock = threading.Lock()
        self._mended = threading.Condition(self._lock)  # notified when `_is_behind` or `_is_closed` changes
        # Guarded by `_lock`.
        self._session = ""  # empty: none, or none that the master knows
        self._books = Books()
        self._batch = 0
        self._unanswered: dict[int, calls.Submit] = {}  # by number: batches of this session that may not have arrived
        self._is_new = True  # nothing has been sent in this session
        self._is_behind = True  # some of what is unacknowledged may not have arrived, or there is no session
        self._is_poked = False  # the long poll was broken off by us
        self._is_closed = False
        # The listener's alone.
        self._seen = 0
        self._trouble = ""
        self._unwatched: deque[JobId] = deque()  # awaited, and the session's master has still to hear of it
        self._listener = threading.Thread(target=self._run, name="cluster-listener", daemon=True)

    def connect(self, connect_seconds: float) -> None:
        """Open the session, and go on from there. Raises what a first connection may: a wrong key, no such master."""
        first = self._dial(connect_seconds)
        try:
            opened: Opened = first.call("open", calls.Nothing())
        finally:
            first.close()
        self._session = opened.session
        self._is_behind = self._is_new = False
        self._sink.opened(opened.defaults)
        self._listener.start()

    # --- what the client says -------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        """Have jobs admitted in this order. Returns once they are passed on, or booked to be passed on later.

        Raises:
            ClusterError: the master will not take this batch, whenever it comes; nothing of it is kept.
        """
        perform(self.submitting(jobs, functions), self._ask, self._mended)

    def submitting(self, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> Script:
        """See `submit`."""
        jobs = self._refuse_giants(jobs)
        with self._lock:
            self._books.enter(jobs, functions)
            session = self._session
            if self._is_behind or not session:
                self._is_behind = True
                return
        for batch in _batches(jobs):
            try:
                is_known = yield from self._send(self._entered(session, batch, is_again=False))
            except MasterUnavailable:
                is_known = False
            except ClusterError:
                with self._lock:
                    self._books.strike([spec.id for spec in jobs])
                raise
            if not is_known:
                with self._lock:
                    self._is_behind = True
                    self._is_poked = True  # the listener is to mend that now, not after its long poll
                    self._ear.close()
                return

    def watch(self, ask: Callable[[str, Struct], Any], job: JobId) -> JobInfo:
        """Have the job's outcome told, now and after any break. Raises `UnknownJob`."""
        return perform(self.watching(job), lambda step: ask(step.method, step.said), self._mended)

    def watching(self, job: JobId) -> Generator[Ask | Rest, Any, JobInfo]:
        """See `watch`."""
        with self._lock:
            self._books.ask(job)
            session = self._session
        info: JobInfo | None = None
        is_answered = False
        try:
            try:
                (info,) = yield Ask("watch", calls.Watch(session, (job,)), ANSWER_SECONDS)
            except Refused:
                # The session is gone: the listener hears of it, and has the job watched with all others.
                with contextlib.suppress(UnknownJob):
                    info = yield Ask("info", calls.JobArgs(job), ANSWER_SECONDS)
            is_answered = True
        finally:
            with self._lock:
                self._books.answered(job, info)
                # It may also have overtaken the job itself.
                if is_answered and info is None and job not in self._books.unacknowledged:
                    self._books.strike([job])
        if info is None:
            raise UnknownJob(job)
        return info

    def wait_passed(self, timeout: float) -> None:
        """Return once the master has everything that was submitted. Raises `MasterUnavailable` if time runs out."""
        if not self._is_behind:
            return
        with self._mended:
            is_mended = self._mended.wait_for(lambda: not self._is_behind or self._is_closed, timeout)
        if not is_mended or self._is_closed:
            raise MasterUnavailable(
                f"the master has not been reached for {timeout:g} s ({self._trouble or 'no answer'}); what was "
                "submitted is passed on once it is back"
            )

    def close(self) -> None:
        """Say goodbye, if the master is there, and end. Nothing is told after this returns."""
        with self._mended:
            if self._is_closed:
                return
            self._is_closed = True
            self._mended.notify_all()
        if not self._trouble:
            self._say_goodbye()
        self._caller.close()
        self._ear.close()
        if self._listener.is_alive() and threading.current_thread() is not self._listener:
            self._listener.join()

    def _say_goodbye(self) -> None:
        try:
            caller = self._dial(FAREWELL_SECONDS)
            try:
                caller.call("close", calls.Session(self._session), timeout=FAREWELL_SECONDS)
            finally:
                caller.close()
        except ClusterError as error:
            LOG.debug("the master was not told of the end of session %s: %s", self._session, error)

    # --- the listener ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        perform(self.listening(), self._ask, self._mended)

    def _ask(self, step: Ask) -> Any:
        caller = self._ear if step.method == "listen" else self._caller
        return caller.call(step.method, step.said, timeout=step.timeout)

    def listening(self) -> Script:
        """Mend what is broken and hear what is told, until the conversation is closed."""
        pause = FIRST_PAUSE_SECONDS
        while not self._is_closed:
            try:
                yield from self._mend()
                yield from self._listen(LISTEN_SECONDS)
                self._note_well()
                pause = FIRST_PAUSE_SECONDS
                continue
            except MasterUnavailable as error:
                if not self._is_poked:
                    self._note_trouble(str(error))
                self._is_poked = False
            except ClusterError as error:
                self._note_trouble(str(error))
            except Exception as error:
                LOG.exception("listener: unexpected error; going on")
                self._note_trouble(repr(error))
            with self._lock:
                self._ear.close()
                if not self._is_closed:
                    self._ear = self._dial(LINK_PATIENCE_SECONDS)
            yield Rest(lambda: self._is_closed, pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def _listen(self, seconds: float) -> Script:
        said = calls.Listen(self._session, self._seen, seconds)
        told: Told = yield Ask("listen", said, seconds + SLACK_SECONDS)
        if told.is_gone:
            with self._lock:
                self._session = ""
                self._is_behind = True
            return
        with self._lock:
            self._books.take(told)
        # Acknowledged only by the next call, so after the sink has it.
        self._tell(told)
        self._seen = told.mark

    def _tell(self, told: Told) -> None:
        if told.accepted:
            self._sink.accepted(told.accepted)
        if told.refused:
            self._sink.refused(told.refused)
        if told.ended:
            self._sink.ended(told.ended)
        for said in told.progress:
            self._sink.progressed(said.job, said.progress)
        for job in told.printed:
            self._sink.printed(job)

    def _mend(self) -> Script:
        """Make good what a break may have lost."""
        if not self._is_behind:
            return
        if not self._session:
            opened: Opened = yield Ask("open", calls.Nothing(), ANSWER_SECONDS)
            self._seen = 0
            with self._lock:
                self._session = opened.session
                self._is_new = True
                self._books.outdate()
                # What is unacknowledged is not missed: it is submitted again, and its outcome told for that.
                self._unwatched = deque(job for job in self._books.awaited if job not in self._books.unacknowledged)
            self._sink.opened(opened.defaults)
        yield from self._watch_again()
        if self._session:
            yield from self._send_again()

    def _watch_again(self) -> Script:
        """Have watched in this session what is awaited; broken off, the next try goes on from there."""
        while self._unwatched and self._session:
            jobs = tuple(islice(self._unwatched, MAX_WATCHED_AT_ONCE))
            try:
                found = yield Ask("watch", calls.Watch(self._session, jobs), ANSWER_SECONDS)
            except Refused:
                with self._lock:
                    self._session = ""
                raise
            self._note_watched(jobs[: len(found)], found)
            for _ in found:
                self._unwatched.popleft()
            # Hear what that has brought, and what has ended since, before the next: whoever waits for it does not wait for
            # all the others to be asked for, and the master need not keep it.
            yield from self._listen(0.0)

    def _note_watched(self, jobs: Sequence[JobId], found: Sequence[JobInfo | None]) -> None:
        lost: list[JobId] = []
        with self._lock:
            for job, info in zip(jobs, found, strict=True):
                if info is not None:
                    self._books.expect_at_most(job, info.run)
                else:
                    lost.append(job)
            self._books.strike(lost)
        if lost:
            reason = "the master that had accepted it kept its jobs in memory only, and is gone; submit it again"
            self._sink.refused([Refusal(job, "store", reason) for job in lost])

    def _send_again(self) -> Script:
        """All that may not have arrived, and what is booked meanwhile, until nothing is left over."""
        with self._lock:
            if self._is_new:
                self._is_new = False
                self._unanswered.clear()
                self._books.passed.clear()
            unanswered = list(self._unanswered.values())
        for said in unanswered:
            if not (yield from self._send_or_give_up(said)):
                return
        while True:
            with self._mended:
                rest = self._books.rest()
                if not rest:
                    self._is_behind = False
                    self._mended.notify_all()
                    return
            for batch in _batches(rest):
                # Of an earlier session's master nobody knows what it had taken.
                if not (yield from self._send_or_give_up(self._entered(self._session, batch, is_again=True))):
                    return

    def _send_or_give_up(self, said: calls.Submit) -> Generator[Ask | Rest, Any, bool]:
        """As `_send`; a batch that the master will never take is refused, or it would be in the way of the next, for ever."""
        try:
            return (yield from self._send(said))
        except MasterUnavailable:
            raise
        except ClusterError as error:
            with self._lock:
                self._books.strike([spec.id for spec in said.jobs])
            self._sink.refused([Refusal(spec.id, "refused", str(error)) for spec in said.jobs])
            return True

    def _entered(self, session: str, jobs: Sequence[JobSpec], *, is_again: bool) -> calls.Submit:
        """A batch, to be sent until it is answered."""
        with self._lock:
            self._batch += 1
            functions = self._books.functions_of(jobs)
            said = calls.Submit(session, tuple(jobs), functions, self._batch, is_again)
            if session == self._session:
                self._unanswered[said.number] = said
        return said

    def _send(self, said: calls.Submit) -> Generator[Ask | Rest, Any, bool]:
        """Have a batch taken; False if the master does not know its session (any more)."""
        try:
            is_known: bool = yield Ask("submit", said, ANSWER_SECONDS)
        except MasterUnavailable:
            raise
        except ClusterError:
            with self._lock:
                self._unanswered.pop(said.number, None)
            raise
        with self._lock:
            self._unanswered.pop(said.number, None)
            if is_known and said.session == self._session:
                self._books.note_passed(said.jobs)
            elif not is_known and said.session == self._session:
                self._session = ""
                self._is_behind = True
        return is_known

    def _note_trouble(self, why: str) -> None:
        if not self._trouble and not self._is_closed:
            LOG.warning("the master can't be reached (%s); trying on, jobs stay pending", why)
        self._trouble = why

    def _note_well(self) -> None:
        if self._trouble:
            self._trouble = ""
            LOG.warning("the master is reached again")

    def _refuse_giants(self, jobs: Sequence[JobSpec]) -> Sequence[JobSpec]:
        giants = [spec for spec in jobs if len(spec.args) > MAX_JOB_BYTES]
        if not giants:
            return jobs
        reason = f"its arguments have more than {MAX_JOB_BYTES >> 20} MiB pickled; pass a file's path instead"
        self._sink.refused([Refusal(spec.id, "refused", reason) for spec in giants])
        names = {spec.id for spec in giants}
        return [spec for spec in jobs if spec.id not in names]


def _batches(jobs: Sequence[JobSpec]) -> Iterable[Sequence[JobSpec]]:
    """Cut so that no message is very long."""
    first = size = 0
    for at, spec in enumerate(jobs):
        if at > first and (size + len(spec.args) > MAX_BATCH_BYTES or at - first >= MAX_BATCH_JOBS):
            yield jobs[first:at]
            first, size = at, 0
        size += len(spec.args)
    if first < len(jobs):
        yield jobs[first:]
