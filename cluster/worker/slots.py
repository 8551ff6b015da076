"""All slots of a worker, the leases that wait for one, and what comes back from children.

    desk.poll ──► backlog ──deal──► slot.outstanding ──► child
                     ▲                     │ take_back
                     └─────────────────────┘
    child ──► receive ──► outbox.reports ──► desk.report

The backlog is normally empty: the worker asks for no more than its slots have room for. Something is left in it only
when a job turned out longer than its kind used to be; then it is given back to the board soon (`watch`).
Only the supervisor's thread touches any of this.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Iterable, Sequence

from msgspec import structs

from cluster.core.records import Certificate, Ending, Fence, Lease, Report
from cluster.wire.messages import Progress
from cluster.worker import prefetch, scratch, threads
from cluster.worker.blobs import Blobs
from cluster.worker.channel import (
    MAX_DATAGRAM_BYTES,
    UNREADABLE,
    Finished,
    FromChild,
    FunctionMissing,
    ItemEnded,
    ItemStarted,
    NewOutput,
    Nonsense,
    Said,
    TooFull,
    decoder_of_answers,
    open_received,
)
from cluster.worker.config import WorkerConfig
from cluster.worker.nursery_link import NurseryLink
from cluster.worker.outbox import Outbox
from cluster.worker.prefetch import MAX_QUEUED, QUEUED_SECONDS, Durations
from cluster.worker.slot import NEVER, Doom, Phase, Slot
from cluster.worker.vector import MAX_DATAGRAMS, Courier, Single

# While each child has at least so many jobs, results may gather: for this share of the time that it will take for them
# (as estimated, and estimates are never below `MIN_JOB_SECONDS`), and no longer than `WorkerConfig.max_slack_seconds`.
MIN_GATHERED = 8
SLACK_SHARE = 0.25
# So that one child that talks without end can't keep the supervisor from the others.
MAX_MESSAGES_PER_TURN = 256
# After an order that the nursery wouldn't take.
RESPAWN_SECONDS = 0.05
# Of a stopped or dead child everything is read; this much never fits into a socket.
EVERYTHING = 1 << 20

_decode = decoder_of_answers()
_READY = Phase.READY  # a look at an enum's class is slow on Python 3.11

log = logging.getLogger("cluster.worker")


class Slots:
    """The slots, and the way of leases through them."""

    def __init__(self, config: WorkerConfig, link: NurseryLink, outbox: Outbox) -> None:
        self.config = config
        self.link = link
        self.outbox = outbox
        # Threads share one child, and so one slot.
        count, jobs = 1 if config.threads else config.slots, config.max_jobs_per_child
        self.all: Sequence[Slot] = [Slot(index, max_jobs=jobs, threads=config.threads) for index in range(count)]
        self.backlog: deque[Lease] = deque()
        self.backlog_since = NEVER
        self.durations = Durations()
        self.worker = ""  # the incarnation's id, and the host's name: for certificates
        self.host = ""
        self.epoll = select.epoll()
        self.by_descriptor: dict[int, Slot] = {}
        self.blobs: Blobs  # as soon as there is a desk to fetch them from, and so before there is a lease
        # One system call per datagram, until there are so many that the supervisor gets something better.
        self.courier: Courier = Single(MAX_DATAGRAM_BYTES)

    # --- children come and go -------------------------------------------------------------------------------------

    def spawn(self, slot: Slot) -> None:
        """Order a child for a vacant slot. Jobs may be sent at once: they wait in its socket."""
        descriptors = slot.open()
        descriptor = slot.channel.socket.fileno()
        self.by_descriptor[descriptor] = slot
        self.epoll.register(descriptor, select.EPOLLIN)
        try:
            self.link.spawn(slot.index, slot.generation, descriptors)
        except OSError as error:  # too busy to listen; or gone, and then its news will say so
            log.warning("worker %s: its nursery takes no order for slot %d: %s", self.worker, slot.index, error)
            self.vacate(slot)
            slot.respawn_at = time.monotonic() + RESPAWN_SECONDS

    def vacate(self, slot: Slot) -> None:
        """Let go of a slot's dead child."""
        descriptor = slot.channel.socket.fileno()
        # Unregistered by hand: a fork of the user's process may hold a copy, and then the kernel would not do it.
        self.epoll.unregister(descriptor)
        del self.by_descriptor[descriptor]
        if self.config.scratch and slot.pid:
            scratch.discard(self.config.scratch, slot.pid)
        slot.close()

    def put_back(self, leases: Iterable[Lease]) -> None:
        """Leases that no child has begun go back to where they came from, in the order of leasing.

        Fences grow in that order, which is the board's order of urgency.
        """
        returned = list(leases)
        if returned:
            self.backlog = deque(sorted([*returned, *self.backlog], key=_fence))

    # --- leases out -----------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many more jobs of the usual length could be sent now."""
        if self.backlog:
            return 0
        typical = self.durations.typical
        room = 0
        for slot in self.all:  # a plain loop: this is asked in every turn that has work
            places = slot.places
            if places > 0 and not slot.threads:
                places = min(places, prefetch.room(len(slot.outstanding), slot.load_seconds, typical))
            if places > 0:
                room += places
        return room

    def has_hungry(self) -> bool:
        """Some child is idle, or soon will be."""
        typical = self.durations.typical
        for slot in self.all:
            if slot.is_open and slot.load_seconds < QUEUED_SECONDS / 2:
                queued = len(slot.outstanding)
                if queued == 0 or slot.threads or (queued < MAX_QUEUED / 2 and typical < QUEUED_SECONDS):
                    return True
        return False

    def slack(self) -> float:
        """How long all children can do without us, in seconds; 0 unless each has many short jobs.

        A turn for each result would cost more than the job. While children have enough to do, results may gather.
        """
        least = NEVER
        for slot in self.all:
            if len(slot.outstanding) < MIN_GATHERED or slot.phase is not _READY:
                if slot.outstanding:
                    return 0.0
                continue
            least = min(least, slot.load_seconds)
        return min(least * SLACK_SHARE, self.config.max_slack_seconds) if least < QUEUED_SECONDS else 0.0

    def confirm_stop(self, fence: Fence) -> None:
        """An attempt that was ordered to stop does not run here, and won't: a lease that still waits is dropped."""
        for lease in self.backlog:
            if lease.fence == fence:
                self.backlog.remove(lease)
                break
        self.outbox.stopped.append(fence)

    def reject(self, lease: Lease, ending: Ending, reason: str) -> None:
        """Report an attempt that no child has seen."""
        certificate = Certificate(
            ending=ending, reason=reason, attempt=lease.attempt, worker=self.worker, host=self.host, started=time.time()
        )
        self.outbox.reports.append(Report(lease.fence, ending, certificate=certificate))

    # --- messages in ----------------------------------------------------------------------------------------------

    def receive(self, slot: Slot, now: float, limit: int = MAX_MESSAGES_PER_TURN) -> None:
        """Take in what a child has sent."""
        end = slot.channel.socket
        is_sound = True
        while limit > 0 and is_sound:
            batch = self.courier.receive(end)
            # To its end, whatever is in it: it is off the socket, and its descriptors are ours to close.
            slot.refusals = 0
            for received in batch:
                try:
                    fence, body = open_received(received)
                    message = _decode(body)
                except NewOutput as renewed:
                    slot.change_output(renewed.descriptor)
                    continue
                except (Nonsense, EOFError, MemoryError, *UNREADABLE) as error:
                    self.on_nonsense(slot, str(error) or type(error).__name__)
                    is_sound = False
                    continue
                if slot.is_babbling:
                    continue  # whoever wrote nonsense may have written this too
                if type(message) is not Finished:
                    slot.catch_up(now)
                    self._on_word(slot, fence, message, now)
                elif slot.threads:
                    threads.on_finished(self, slot, fence, message, now)
                else:
                    self._on_finished(slot, fence, message, now)
            slot.catch_up(now)
            if len(batch) < MAX_DATAGRAMS:
                return
            limit -= len(batch)

    def on_nonsense(self, slot: Slot, what: str) -> None:
        """A child sent what no child of ours sends: the job in hand has got hold of its socket."""
        slot.catch_up(time.monotonic())
        slot.is_babbling = True
        if slot.doom is None:
            self.put_back(slot.take_back())
            slot.kill(Doom(Ending.CRASHED, f"its process wrote nonsense into the worker's socket ({what})"))

    def _on_finished(self, slot: Slot, fence: Fence, message: Finished, now: float) -> None:
        report, outstanding = message.report, slot.outstanding
        if report.fence != fence or fence != next(iter(outstanding), 0):
            self.on_nonsense(slot, "a result of a job that it doesn't have")
            return
        if slot.segments or slot.flood.taken:
            report = self._completed(slot, report, now)
        sent = outstanding.pop(fence)
        slot.load_seconds = slot.load_seconds - sent.estimate if outstanding else 0.0  # sums of floats drift
        slot.is_next_due = True
        self.durations.note(sent.lease, report.seconds)
        self.outbox.reports.append(report)
        slot.jobs_done += 1
        slot.served += 1
        if slot.max_jobs and slot.is_spent and slot.doom is None:
            slot.kill(Doom(Ending.CRASHED, "its process had run as many jobs as one may"))
        if message.cpu_seconds:
            slot.cpu_seconds = message.cpu_seconds

    def _completed(self, slot: Slot, report: Report, now: float) -> Report:
        """The report of the job in hand, with what it has said and printed before."""
        slot.catch_up(now)  # what is not its own goes first
        if slot.segments:
            report = structs.replace(report, segments=(*slot.segments, *report.segments))
        if slot.flood.taken:
            report = structs.replace(report, output=slot.flood.complete(report.output, self.config.max_output_bytes))
        return report

    def _on_word(self, slot: Slot, fence: Fence, message: FromChild, now: float) -> None:
        if slot.threads:
            threads.on_word(self, slot, fence, message, now)
            return
        head = slot.head
        if head is None or head.fence != fence:
            return  # from a thread that a job left behind
        if isinstance(message, Said):
            self.outbox.progress.append(Progress(fence, message.done, message.total, message.note))
        elif isinstance(message, ItemStarted):
            slot.item = message.item
            slot.restart_clock(head, now)
        elif isinstance(message, ItemEnded):
            slot.segments.append(message.segment)
            slot.item = -1  # the next one starts within microseconds; the clock goes on till then
        elif isinstance(message, FunctionMissing):
            slot.known.discard(head.function)
            self.put_back([slot.remove(fence, now)])
        elif isinstance(message, TooFull):
            self.put_back([slot.remove(fence, now)])  # for the next child: this one has ended by now


def _fence(lease: Lease) -> Fence:
    return lease.fence
