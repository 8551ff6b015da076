"""The jobs desk of a master in another process: the same interface as the real one, spoken over the wire.

A question or an order is one call, repeated under one request id until the master answers or patience is over. What
comes later comes through the session's `conversation`, whose listener thread tells the sink.

The desk's connections end with its last session.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from cluster.core.printed import Piece, Place
from cluster.core.records import SAME_BUDGET, Budget, FunctionBlob, JobId, JobInfo, JobSpec, Outcome
from cluster.errors import MasterUnavailable
from cluster.wire import calls
from cluster.wire.address import Address
from cluster.wire.calls import PageOfJobs
from cluster.wire.conversation import ANSWER_SECONDS, SLACK_SECONDS, Conversation, Dial
from cluster.wire.desks import Sink
from cluster.wire.keys import Key, Role
from cluster.wire.messages import JobHistory, JobParts, Stats, WorkerInfo
from cluster.wire.proxy import connect_desk
from cluster.wire.tls import TlsFiles

# The first connection fails sooner than a later one: more likely the address is wrong than that the master restarts.
CONNECT_SECONDS = 5.0
# `requeue`, `pause` and `purge` return once the store has it, which the master gives 30 s.
DURABLE_SECONDS = 45.0


class RemoteJobsDesk:
    """`cluster.wire.desks.JobsDesk`, over the wire. Thread-safe; of no use in a forked child, which makes its own."""

    def __init__(
        self,
        address: Address,
        key: Key,
        role: Role = Role.CLIENT,
        patience_seconds: float = 30.0,
        *,
        tls: TlsFiles | None = None,
        insecure: bool = False,
        dial: Dial | None = None,
    ) -> None:
        """Connect nothing yet; `open` does.

        Args:
            address: the master's.
            key: of the role.
            role: what we are.
            patience_seconds: how long a call goes on trying while the master can't be reached.
            tls: our certificate, if the master speaks TLS.
            insecure: go to other hosts without it.
            dial: how proxies are made, where not by connecting to the address.
        """
        self._dial: Dial = dial or (
            lambda patience: connect_desk(
                "jobs", address, role, key, patience_seconds=patience, tls=tls, insecure=insecure
            )
        )
        self._patience_seconds = patience_seconds
        self._caller = self._dial(patience_seconds)
        self._conversations: dict[int, Conversation] = {}
        self._lock = threading.Lock()  # guards `_conversations` and `_opened`
        self._opened = 0
        self._is_closed = False

    # --- sessions -------------------------------------------------------------------------------------------------

    def open(self, sink: Sink) -> int:
        """See `JobsDesk.open`. Raises at once what a first connection may."""
        self._require_open()
        conversation = Conversation(self._dial, sink)
        conversation.connect(min(CONNECT_SECONDS, self._patience_seconds))
        with self._lock:
            self._opened += 1
            self._conversations[self._opened] = conversation
            return self._opened

    def close(self, session: int) -> None:
        """See `JobsDesk.close`; with the last session the connections are closed as well."""
        with self._lock:
            conversation = self._conversations.pop(session, None)
            is_last = conversation is not None and not self._conversations
        if conversation is not None:
            conversation.close()
        if is_last:
            self._is_closed = True
            self._caller.close()

    def submit(self, session: int, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        """See `JobsDesk.submit`. While the master can't be reached jobs are kept, and passed on once it is back."""
        self._require_open()
        self._conversations[session].submit(jobs, functions)

    def watch(self, session: int, job: JobId) -> JobInfo:
        """See `JobsDesk.watch`."""
        self._require_open()
        return self._conversations[session].watch(self._ask, job)

    # --- orders ---------------------------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[JobId], timeout: float) -> list[bool]:
        """See `JobsDesk.cancel`."""
        verdicts = self._ask("cancel", calls.Cancel(tuple(jobs), timeout), timeout + SLACK_SECONDS)
        return list(verdicts)

    def requeue(self, jobs: Sequence[JobId], budget: Budget = SAME_BUDGET) -> list[JobInfo]:
        """See `JobsDesk.requeue`."""
        return list(self._ask("requeue", calls.Requeue(tuple(jobs), budget), DURABLE_SECONDS))

    def purge(self, jobs: Sequence[JobId]) -> int:
        """See `JobsDesk.purge`; what a repeated call finds gone already is not counted."""
        count: int = self._ask("purge", calls.Purge(tuple(jobs)), DURABLE_SECONDS)
        return count

    def pause(self, queue: str) -> None:
        """See `JobsDesk.pause`."""
        self._ask("pause", calls.QueueArgs(queue), DURABLE_SECONDS)

    def resume(self, queue: str) -> None:
        """See `JobsDesk.resume`."""
        self._ask("resume", calls.QueueArgs(queue), DURABLE_SECONDS)

    # --- questions ------------------------------------------------------------------------------------------------

    def info(self, job: JobId) -> JobInfo:
        """See `JobsDesk.info`."""
        info: JobInfo = self._ask("info", calls.JobArgs(job))
        return info

    def page(
        self,
        *,
        state: str | None = None,
        tag: str | None = None,
        batch: str | None = None,
        queue: str | None = None,
        limit: int = 1000,
        after: int = 0,
    ) -> tuple[list[JobInfo], int]:
        """See `JobsDesk.page`."""
        said = calls.Page(state=state, tag=tag, batch=batch, queue=queue, limit=limit, after=after)
        found: PageOfJobs = self._ask("page", said)
        return list(found.jobs), found.mark

    def history(self, job: JobId) -> JobHistory:
        """See `JobsDesk.history`."""
        history: JobHistory = self._ask("history", calls.JobArgs(job))
        return history

    def output(self, job: JobId) -> bytes:
        """See `JobsDesk.output`."""
        output: bytes = self._ask("output", calls.JobArgs(job))
        return output

    def parts(self, job: JobId) -> JobParts:
        """See `JobsDesk.parts`."""
        parts: JobParts = self._ask("parts", calls.JobArgs(job))
        return parts

    def result(self, job: JobId) -> Outcome | None:
        """See `JobsDesk.result`."""
        outcome: Outcome | None = self._ask("result", calls.JobArgs(job))
        return outcome

    def read_output(self, job: JobId, place: Place, timeout: float) -> Piece:
        """See `JobsDesk.read_output`."""
        piece: Piece = self._ask("read_output", calls.ReadOutput(job, place, timeout))
        return piece

    def explain(self, job: JobId) -> str:
        """See `JobsDesk.explain`."""
        text: str = self._ask("explain", calls.JobArgs(job))
        return text

    def stats(self) -> Stats:
        """See `JobsDesk.stats`."""
        stats: Stats = self._ask("stats", calls.Nothing())
        return stats

    def workers(self) -> list[WorkerInfo]:
        """See `JobsDesk.workers`."""
        return list(self._ask("workers", calls.Nothing()))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ask(self, method: str, said: Struct, timeout: float = ANSWER_SECONDS) -> Any:
        self._require_open()
        for conversation in list(self._conversations.values()):
            # A question about a job must not overtake the job.
            conversation.wait_passed(self._patience_seconds)
        return self._caller.call(method, said, timeout=timeout)

    def _require_open(self) -> None:
        if self._is_closed:
            raise MasterUnavailable("this connection to the master is closed; connect again")
