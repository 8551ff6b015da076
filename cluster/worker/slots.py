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

from msgspec import MsgspecError, structs

from cluster.core.records import Certificate, Ending, Fence, Lease, Report
from cluster.errors import Refused
from cluster.wire.messages import Progress
from cluster.worker import prefetch
from cluster.worker.blobs import Blobs, mismatch
from cluster.worker.channel import (
    Finished,
    FromChild,
    FunctionMissing,
    ItemEnded,
    ItemStarted,
    Nonsense,
    Said,
    Task,
    decode_from_child,
    encode,
)
from cluster.worker.config import WorkerConfig
from cluster.worker.functions import MAX_FUNCTIONS
from cluster.worker.nursery_link import NurseryLink
from cluster.worker.outbox import Outbox
from cluster.worker.prefetch import MAX_QUEUED, QUEUED_SECONDS, Durations
from cluster.worker.slot import NEVER, Doom, Phase, Slot

# So that one child that talks without end can't keep the supervisor from the others.
MAX_MESSAGES_PER_TURN = 256
# After an order that the nursery wouldn't take.
RESPAWN_SECONDS = 0.05
# Of a stopped or dead child everything is read; this much never fits into a socket.
EVERYTHING = 1 << 20

log = logging.getLogger("cluster.worker")


class Slots:
    """The slots, and the way of leases through them."""

    def __init__(self, config: WorkerConfig, link: NurseryLink, blobs: Blobs, outbox: Outbox) -> None:
        self.config = config
        self.link = link
        self.outbox = outbox
        self.all: Sequence[Slot] = [Slot(index) for index in range(config.slots)]
        self.backlog: deque[Lease] = deque()
        self.backlog_since = NEVER
        self.durations = Durations()
        self.worker = ""  # the incarnation's id, and the host's name: for certificates
        self.host = ""
        self.epoll = select.epoll()
        self.by_descriptor: dict[int, Slot] = {}
        self._blobs = blobs

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
        return sum(
            prefetch.room(len(slot.outstanding), slot.load_seconds, typical) for slot in self.all if slot.is_open
        )

    def has_hungry(self) -> bool:
        """Some child is idle, or soon will be."""
        typical = self.durations.typical
        for slot in self.all:
            if slot.is_open and slot.load_seconds < QUEUED_SECONDS / 2:
                queued = len(slot.outstanding)
                if queued == 0 or (queued < MAX_QUEUED / 2 and typical < QUEUED_SECONDS):
                    return True
        return False

    def deal(self, now: float) -> None:
        """Send the backlog to the slots, the emptiest first, one each in turn."""
        if self.backlog:
            fitting = [slot for slot in self.all if slot.is_open and slot.load_seconds < QUEUED_SECONDS]
            fitting.sort(key=_load)
            while self.backlog and self._deal_round(fitting, now):
                pass
        if not self.backlog:
            self.backlog_since = NEVER
        elif self.backlog_since == NEVER:
            self.backlog_since = now

    def _deal_round(self, slots: list[Slot], now: float) -> bool:
        is_any_sent = False
        for slot in slots:
            if not self.backlog:
                break
            lease = self.backlog[0]
            estimate = self.durations.estimate(lease)
            queued = len(slot.outstanding)
            if queued and (queued >= MAX_QUEUED or slot.load_seconds + estimate > QUEUED_SECONDS):
                continue
            if slot.is_open and self._send(slot, lease, estimate, now):
                self.backlog.popleft()
                is_any_sent = True
        return is_any_sent

    def _send(self, slot: Slot, lease: Lease, estimate: float, now: float) -> bool:
        """Send a job to a slot, or report at once why it can't be run here. False if the slot has no room."""
        try:
            blob = self._blobs.get(lease.function)
        except Refused:
            raise
        except Exception as error:
            self.reject(lease, Ending.CRASHED, f"the worker couldn't get its function: {error}")
            return True
        reason = mismatch(blob)
        if reason is not None:
            self.reject(lease, Ending.ENVIRONMENT, reason)
            return True
        body = b"" if lease.function in slot.known else blob.body
        task = Task(
            lease.job, lease.run, lease.attempt, lease.function, body, blob.reusable,
            lease.args, lease.options.timeout, lease.inputs, lease.ranges, lease.careful,
        )  # fmt: skip
        try:
            slot.channel.send(lease.fence, encode(task))
        except BlockingIOError:
            slot.is_full = True
            return False
        except (MsgspecError, ValueError, OverflowError) as error:
            self.reject(lease, Ending.UNPICKLABLE, f"its arguments can't be sent to a child: {error}")
            return True
        if body:
            if len(slot.known) >= MAX_FUNCTIONS:
                slot.known.clear()  # only a hint: they are sent again
            slot.known.add(lease.function)
        slot.add(lease, estimate, now)
        return True

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
        channel = slot.channel
        for _ in range(limit):
            try:
                received = channel.receive()
                if received is None:
                    return
                fence, body = received
                slot.refusals = 0
                message = decode_from_child(body)
            except (Nonsense, MsgspecError, EOFError) as error:
                self.on_nonsense(slot, str(error))
                return
            if type(message) is Finished:
                self._on_finished(slot, fence, message, now)
                if not slot.outstanding:
                    return  # nothing more can be there that matters now; saves a system call
            else:
                self._on_word(slot, fence, message, now)

    def on_nonsense(self, slot: Slot, what: str) -> None:
        """A child sent what no child of ours sends: the job in hand has got hold of its socket."""
        if slot.doom is None:
            self.put_back(slot.take_back())
            slot.kill(Doom(Ending.CRASHED, f"its process wrote nonsense into the worker's socket ({what})"))

    def _on_finished(self, slot: Slot, fence: Fence, message: Finished, now: float) -> None:
        report = message.report
        if fence != next(iter(slot.outstanding), None) or report.fence != fence:
            self.on_nonsense(slot, "a result of a job that it doesn't have")
            return
        if slot.segments:
            report = structs.replace(report, segments=(*slot.segments, *report.segments))
        if slot.flood.taken:
            report = structs.replace(report, output=slot.flood.complete(report.output, self.config.max_output_bytes))
        lease = slot.remove(fence, now)
        self.durations.note(lease, report.seconds)
        self.outbox.reports.append(report)
        slot.jobs_done += 1
        slot.failures_in_a_row = 0
        if message.cpu_seconds:
            slot.cpu_seconds = message.cpu_seconds

    def _on_word(self, slot: Slot, fence: Fence, message: FromChild, now: float) -> None:
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


def _fence(lease: Lease) -> Fence:
    return lease.fence


def _load(slot: Slot) -> tuple[bool, float]:
    return slot.phase is not Phase.READY, slot.load_seconds
