"""The jobs desk as peers reach it: `JobsDesk`, with sessions that are polled where an embedded client has a sink.

A session is named by 128 random bits, which is all that a call needs to show: a client's threads each have a connection
of their own, and a client that reconnects goes on with its session. A session lives until it is closed, dropped
(see `told`), or the master ends; its client then opens another one. Its jobs go on in any case.

Threads: one for each connection, so every method may be called by several at once. A session's batches are taken one at
a time, under its `submitting` lock, so that a batch that comes twice finds the first one done.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING

from cluster.core.bounds import MAX_RANGE
from cluster.core.digests import is_genuine
from cluster.core.kinds import Kinds
from cluster.core.printed import Piece
from cluster.core.records import JobInfo, Outcome
from cluster.errors import Refused
from cluster.master.jobs_desk import JobsDesk
from cluster.master.told import ToldBook
from cluster.wire import calls
from cluster.wire.audit import AUDIT, Kind
from cluster.wire.calls import Opened, PageOfJobs, Told
from cluster.wire.messages import JobHistory, JobParts, Stats, WorkerInfo
from cluster.wire.peer import Peer
from cluster.wire.reply import Reply

if TYPE_CHECKING:
    from cluster.master.master import Master

# Whatever a peer asks for: no connection's thread waits longer than this for one call.
MAX_LISTEN_SECONDS = 30.0
MAX_CANCEL_SECONDS = 60.0
MAX_READ_SECONDS = 5.0
MAX_PAGE_JOBS = 1000
_MAX_NAME = 100  # of a function, in a refusal
MAX_SESSIONS = 4096
MAX_SESSIONS_PER_IDENTITY = 3072  # a program that opens them without end leaves some for others


class Client:
    """One session."""

    def __init__(self, book: ToldBook, number: int, identity: str) -> None:
        self.book = book
        self.identity = identity  # whose share it is of all sessions
        self.number = number  # the jobs desk's
        self.submitting = threading.Lock()
        self.last_batch = 0  # guarded by `submitting`


class ServedJobsDesk:
    """One method for each entry of the jobs desk in `cluster.wire.calls.CALLS`."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._desk = JobsDesk(master)
        self._kinds = Kinds()
        self._clients: dict[str, Client] = {}
        self._lock = threading.Lock()  # guards `_clients`
        self._is_stopped = False

    # --- sessions -------------------------------------------------------------------------------------------------

    def open(self, peer: Peer, _said: calls.Nothing) -> Opened:
        """A new session, and the master's defaults for jobs. Raises `Refused` if there are too many."""
        self._drop_silent()
        if self._is_stopped:
            raise Refused("this master is stopping; connect again once it is back")
        book = ToldBook(self._master.clock.mono)
        client = Client(book, self._desk.open(book), peer.identity)
        session = secrets.token_hex(16)
        with self._lock:
            theirs = sum(client.identity == peer.identity for client in self._clients.values())
            if len(self._clients) < MAX_SESSIONS and theirs < MAX_SESSIONS_PER_IDENTITY:
                self._clients[session] = client
                return Opened(session, book.defaults)
        self._desk.close(client.number)
        most = MAX_SESSIONS if theirs < MAX_SESSIONS_PER_IDENTITY else MAX_SESSIONS_PER_IDENTITY
        raise Refused(f"{most:,} clients are connected, which is the limit; close some, and try again")

    def close(self, _peer: Peer, said: calls.Session) -> None:
        """Forget the session; its jobs go on."""
        self._drop(said.session)

    def submit(self, peer: Peer, said: calls.Submit) -> bool:
        """Admit jobs in this order; False if the session is unknown."""
        client = self._client(said.session)
        if client is None:
            return False
        self._require_genuine(peer, said)
        # The board counts a chunk's items one by one, so a number that nothing stands behind would be work without end.
        hollow = next((spec for spec in said.jobs if spec.items > max(MAX_RANGE, len(spec.args))), None)
        if hollow is not None:
            raise Refused(
                f"job {hollow.id} claims {hollow.items:,} items in {len(hollow.args):,} bytes; submit them too"
            )
        for spec in said.jobs:
            self._kinds.share(spec)
        with client.submitting:
            if said.number > client.last_batch:
                self._desk.submit(client.number, said.jobs, said.functions, again=said.again)
                client.last_batch = said.number
        return True

    def _require_genuine(self, peer: Peer, said: calls.Submit) -> None:
        """Refuse a function under a name that is not its own: another client's jobs would run it."""
        known = self._master.board.shelf.blobs
        for blob in said.functions:
            # What is on the shelf under this name was looked at when it came; the lock is not needed to compare.
            if blob != known.get(blob.digest) and not is_genuine(blob):
                reason = f"function {blob.name[:_MAX_NAME]!r} came under a digest that is not its own; nothing of it is taken"
                AUDIT.record(
                    Kind.CALL_MALFORMED, origin=peer.address, role=peer.role.value, name=peer.name, reason=reason
                )
                raise Refused(f"{reason}; install the same version of cluster as the master's")

    def listen(self, _peer: Peer, said: calls.Listen, reply: Reply | None = None) -> Told:
        """What the session is to be told since `seen`, once there is something; see `ToldBook.listen`."""
        client = self._client(said.session)
        if client is None:
            return Told(mark=said.seen, is_gone=True)
        return client.book.listen(said.seen, min(max(0.0, said.timeout), MAX_LISTEN_SECONDS), reply)

    def watch(self, _peer: Peer, said: calls.Watch) -> tuple[JobInfo | None, ...]:
        """See `JobsDesk.watch_all`. Raises `Refused` if the session is unknown."""
        client = self._client(said.session)
        if client is None:
            raise Refused("the master does not know this session (any more); open another one")
        return tuple(self._desk.watch_all(client.number, said.jobs))

    def wait_told(self, timeout: float) -> None:
        """Wait, no longer than that, until those who listen have seen what there was to tell."""
        deadline = time.monotonic() + timeout
        for client in list(self._clients.values()):
            client.book.wait_told(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End all sessions, so that nobody waits here any more."""
        self._is_stopped = True
        for session in list(self._clients):
            self._drop(session)

    # --- orders -----------------------------------------------------------------------------------------------------

    def cancel(self, _peer: Peer, said: calls.Cancel) -> tuple[bool, ...]:
        """See `JobsDesk.cancel`."""
        return tuple(self._desk.cancel(said.jobs, min(max(0.0, said.timeout), MAX_CANCEL_SECONDS)))

    def requeue(self, _peer: Peer, said: calls.Requeue, request: str) -> tuple[JobInfo, ...]:
        """See `JobsDesk.requeue`; carried out once, however often this request comes."""
        return tuple(self._desk.requeue(said.jobs, said.budget, request=request))

    def purge(self, _peer: Peer, said: calls.Purge) -> int:
        """See `JobsDesk.purge`."""
        return self._desk.purge(said.jobs)

    def pause(self, _peer: Peer, said: calls.QueueArgs) -> None:
        """See `JobsDesk.pause`."""
        self._desk.pause(said.queue)

    def resume(self, _peer: Peer, said: calls.QueueArgs) -> None:
        """See `JobsDesk.resume`."""
        self._desk.resume(said.queue)

    # --- questions --------------------------------------------------------------------------------------------------

    def info(self, _peer: Peer, said: calls.JobArgs) -> JobInfo:
        """See `JobsDesk.info`."""
        return self._desk.info(said.job)

    def outcome(self, _peer: Peer, said: calls.JobArgs) -> Outcome | None:
        """The durable outcome of the job's current run, payload and all; None while it lives. Raises `UnknownJob`."""
        self._desk.info(said.job)
        return self._master.store.outcome(said.job)

    def page(self, _peer: Peer, said: calls.Page) -> PageOfJobs:
        """See `JobsDesk.page`."""
        jobs, mark = self._desk.page(
            state=said.state,
            tag=said.tag,
            batch=said.batch,
            queue=said.queue,
            limit=min(max(1, said.limit), MAX_PAGE_JOBS),
            after=said.after,
        )
        return PageOfJobs(tuple(jobs), mark)

    def history(self, _peer: Peer, said: calls.JobArgs) -> JobHistory:
        """See `JobsDesk.history`."""
        return self._desk.history(said.job)

    def output(self, _peer: Peer, said: calls.JobArgs) -> bytes:
        """See `JobsDesk.output`."""
        return self._desk.output(said.job)

    def parts(self, _peer: Peer, said: calls.JobArgs) -> JobParts:
        """See `JobsDesk.parts`."""
        return self._desk.parts(said.job)

    def result(self, _peer: Peer, said: calls.JobArgs) -> Outcome | None:
        """See `JobsDesk.result`."""
        return self._desk.result(said.job)

    def read_output(self, _peer: Peer, said: calls.ReadOutput) -> Piece:
        """See `JobsDesk.read_output`."""
        return self._desk.read_output(said.job, said.place, min(max(0.0, said.timeout), MAX_READ_SECONDS))

    def explain(self, _peer: Peer, said: calls.JobArgs) -> str:
        """See `JobsDesk.explain`."""
        return self._desk.explain(said.job)

    def stats(self, _peer: Peer, _said: calls.Nothing) -> Stats:
        """See `JobsDesk.stats`."""
        return self._desk.stats()

    def workers(self, _peer: Peer, _said: calls.Nothing) -> tuple[WorkerInfo, ...]:
        """See `JobsDesk.workers`."""
        return tuple(self._desk.workers())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _client(self, session: str) -> Client | None:
        client = self._clients.get(session)
        if client is not None and client.book.is_over():
            self._drop(session)
            return None
        return client

    def _drop(self, session: str) -> None:
        with self._lock:
            client = self._clients.pop(session, None)
        if client is not None:
            self._desk.close(client.number)
            client.book.close()

    def _drop_silent(self) -> None:
        for session in list(self._clients):
            self._client(session)
