"""The desk for workers: registration, leases, reports, heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from cluster.core import events, leases
from cluster.core.effects import Leased
from cluster.core.job import Job
from cluster.core.records import (
    Certificate,
    Digest,
    Ending,
    Fence,
    FunctionBlob,
    JobId,
    Lease,
    Payload,
    Report,
    WorkerId,
)
from cluster.errors import Refused, StoreError
from cluster.wire.messages import Health, Hello, Poll, Progress

if TYPE_CHECKING:
    from cluster.master.committer import Then
    from cluster.master.master import Master


class WorkDesk:
    """`cluster.wire.desks.WorkDesk`, the real one."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def register(self, hello: Hello, wake: Callable[[], None]) -> None:
        """Join; `wake` is called, from any thread, when a poll would bring something."""
        self._join(hello, wake, None)

    def adopt(self, hello: Hello, wake: Callable[[], None], held: tuple[Fence, ...]) -> tuple[Fence, ...]:
        """Join, or come back, with these leases; those among them that are the worker's no more."""
        self._join(hello, wake, held)
        with self._master.lock:
            board = self._master.board
            return tuple(fence for fence in held if board.current_lease(hello.worker, fence) is None)

    def _join(self, hello: Hello, wake: Callable[[], None], held: tuple[Fence, ...] | None) -> None:
        master = self._master
        for box in master.mailboxes.all():
            # One of the same name that was lost is what this one is a new life of; the others stay, for listings.
            if box.hello.name == hello.name and box.hello.worker not in master.board.workers:
                master.mailboxes.remove(box.hello.worker)
        master.mailboxes.add(hello, wake)
        master.decide(
            events.Register(
                hello.worker, hello.resources, hello.labels, held, hello.memory_room, hello.memory_most, hello.host
            )
        )

    def poll(self, worker: WorkerId, capacity: int) -> Poll:
        """At most `capacity` new leases, and the orders that wait. Raises `Refused` if the worker is unknown."""
        master = self._master
        stops, granted = master.mailboxes.take(worker)
        with master.lock:
            self._require(worker)
            wanted = 0 if master.is_draining else capacity
            effects = master.board.handle(events.Poll(worker, wanted), master.clock.now())
            given = self._describe(worker, [*granted, *_leased(effects)])
            early = master.committer.append(effects)
        if effects:
            master.after_decision(early)
        ready = self._with_inputs(worker, given)
        if len(ready) < len(given):
            # The board counts them as room that is taken, and would not have the worker ask for more.
            master.mailboxes.wake(worker)
        return Poll(tuple(ready), tuple(stops))

    def fetch_function(self, digest: Digest) -> FunctionBlob:
        """The pickled task of a lease."""
        with self._master.lock:
            blob = self._master.board.shelf.get(digest)
        if blob is None:
            blob = next(iter(self._master.store.functions([digest])), None)
        if blob is None:
            raise Refused(f"no function {digest[:32].hex()} here; its lease is over")
        return blob

    def is_known(self, worker: WorkerId) -> bool:
        """Whether the board has this worker, registered or by the leases of an earlier master's."""
        with self._master.lock:
            return worker in self._master.board.workers

    def report(self, worker: WorkerId, reports: Sequence[Report], then: Then | None = None) -> None:
        """Ended attempts. Late and repeated ones are fenced off and counted. `then` is called once that is durable."""
        self._master.decide(events.Reported(worker, tuple(reports)), then)
        self._master.live_output.drop(report.fence for report in reports)

    def give_back(self, worker: WorkerId, fences: Sequence[Fence], then: Then | None = None) -> None:
        """Leases that were not begun; no attempt is spent. `then` as in `report`."""
        self._master.decide(events.GiveBack(worker, tuple(fences)), then)

    def stopped(self, worker: WorkerId, fences: Sequence[Fence], then: Then | None = None) -> None:
        """Attempts that were ordered to stop, and are gone. `then` as in `report`."""
        self._master.decide(events.Stopped(worker, tuple(fences)), then)

    def progress(self, worker: WorkerId, progress: Sequence[Progress]) -> None:
        """What running jobs said of themselves: passed on, not kept. What they print is kept until they report."""
        for said in progress:
            with self._master.lock:
                lease = self._master.board.current_lease(worker, said.fence)
            if lease is not None:
                job = lease.job.spec.id
                if said.output:
                    self._hear_output(lease.job, said)
                    continue
                for session in self._master.sessions.audience(lease.job.owner, job):
                    self._master.sessions.progressed(session, job, said)

    def _hear_output(self, job: Job, said: Progress) -> None:
        master, name = self._master, job.spec.id
        master.live_output.add(said.fence, name, said.output, said.offset)
        if job.spec.options.echo:
            for session in master.sessions.audience(job.owner, name):
                master.sessions.printed(session, name)

    def begun(self, worker: WorkerId, fences: Sequence[Fence]) -> None:
        """Attempts that have been running for a while."""
        self._master.decide(events.Begun(worker, tuple(fences)))

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        """Renew all of the worker's leases. Raises `Refused` if the worker is unknown."""
        with self._master.lock:
            self._require(worker)
        box = self._master.mailboxes.get(worker)
        if box is not None:
            box.health = health
        busy = [slot for slot in health.slots if slot.job]
        running, pids = tuple(slot.job for slot in busy), tuple(slot.pid for slot in busy)
        self._master.decide(
            events.Heartbeat(worker, running, health.memory_room, health.memory_most, health.is_short_of_memory, pids)
        )

    def leave(self, worker: WorkerId) -> None:
        """Deregister; what it still held is given back without an attempt spent."""
        self._master.decide(events.Leave(worker))
        self._master.mailboxes.remove(worker)

    def _require(self, worker: WorkerId) -> None:
        if worker not in self._master.board.workers:
            raise Refused(f"worker {worker} is not registered (any more); drop what it holds and register anew")

    def _describe(self, worker: WorkerId, fences: Sequence[Fence]) -> list[Lease]:
        """Those of the leases that the worker may have now. The lock is held."""
        current_lease = self._master.board.current_lease
        found = [held for fence in fences if (held := current_lease(worker, fence)) is not None and held.is_granted]
        return [leases.describe(held) for held in found]

    def _with_inputs(self, worker: WorkerId, given: list[Lease]) -> list[Lease]:
        """Fill in the results that replace Jobs among the arguments. The lock is not held: this may read the disk."""
        if not any([lease.inputs for lease in given]):  # noqa: C419 - a generator costs more, for every job
            return given
        filled: list[Lease] = []
        for lease in given:
            if not lease.inputs:
                filled.append(lease)
                continue
            try:
                inputs = [(job, self._result(job)) for job, _ in lease.inputs]
            except StoreError as error:
                self._fail(worker, lease.fence, f"the results that are its arguments can't be read: {error}")
                continue
            missing = next((job for job, payload in inputs if payload is None), None)
            if missing is not None:
                self._master.decide(events.InputsMissing(worker, lease.fence, missing))
                continue
            filled.append(structs.replace(lease, inputs=tuple(inputs)))
        return filled

    def _result(self, job: JobId) -> Payload | None:
        outcome = self._master.committer.undurable(job)
        if outcome is None:
            # Not that of its latest run: since the dependant was queued, the job may have been requeued, and run, or
            # have failed. What its earlier run returned is what the dependant was queued for.
            outcome = self._master.store.result(job)
        return outcome.payload if outcome is not None else None

    def _fail(self, worker: WorkerId, fence: Fence, reason: str) -> None:
        """Count it as a crash: it is tried again soon, but not for ever."""
        certificate = Certificate(ending=Ending.CRASHED, reason=reason)
        self.report(worker, [Report(fence, Ending.CRASHED, certificate=certificate)])


def _leased(effects: Sequence[object]) -> list[Fence]:
    return [job.fence for effect in effects if isinstance(effect, Leased) for job in effect.jobs]
