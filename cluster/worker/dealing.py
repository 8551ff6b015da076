"""From the backlog to the slots: who gets which lease, and all of a slot's in one call.

    backlog ──share out──► share.leases ──encode──► share.encoded ──courier.send──► slot.outstanding
       ▲                        └───────────────────────┴── what was not taken, also if something raised
       └────────────────────────────────────────────────┘

A turn's leases are shared out by what each slot has already and by measured durations. The socket takes as many as it
has room for, in order; a job is outstanding from when the kernel took its datagram, and not before.

Only the supervisor's thread comes here.
"""

from __future__ import annotations

import errno
from collections import deque

from msgspec import MsgspecError

from cluster.core.records import Ending, Fence, FunctionBlob, Lease
from cluster.errors import Refused
from cluster.worker.blobs import mismatch
from cluster.worker.channel import HEADER, INLINE, MAX_DATAGRAM_BYTES, MAX_INLINE_BYTES, Task, encode, encode_into
from cluster.worker.functions import MAX_FUNCTIONS
from cluster.worker.prefetch import QUEUED_SECONDS
from cluster.worker.slot import NEVER, Phase, Slot
from cluster.worker.slots import Slots

# More than a socket usually holds is not worth encoding before it was asked.
MAX_BATCH_BYTES = 256 * 1024

_header = HEADER.pack
_READY = Phase.READY  # a look at an enum's class is slow on Python 3.11

# What msgspec raises for what it can't encode: a payload of 4 GiB, a number beyond 64 bits, a broken string.
UNENCODABLE = (MsgspecError, ValueError, OverflowError)


def deal(slots: Slots, now: float) -> None:
    """Send the backlog to the slots, as far as they have room: the emptiest first, one each in turn."""
    while slots.backlog:
        shares = _share_out(slots, now)
        if not shares:
            break
        try:
            for share in shares:
                share.send()
        finally:
            for share in shares:
                share.put_back()
    if not slots.backlog:
        slots.backlog_since = NEVER
    elif slots.backlog_since == NEVER:
        slots.backlog_since = now


class _Share:
    """What one slot is to get, on top of what it has."""

    __slots__ = (
        "_datagrams",
        "_encoded",
        "_ends",
        "_now",
        "_slot",
        "_slots",
        "leases",
        "load_seconds",
        "most",
        "queued",
    )

    def __init__(self, slots: Slots, slot: Slot, now: float) -> None:
        self.queued = len(slot.outstanding)
        self.most = slot.most_outstanding
        self.load_seconds = slot.load_seconds
        self.leases: deque[tuple[Lease, float]] = deque()  # with the estimated seconds
        self._slots = slots
        self._slot = slot
        self._now = now
        # Encoded, and not taken by the socket yet. True: the function's body goes with it.
        self._encoded: list[tuple[Lease, float, bool]] = []
        self._datagrams = bytearray()
        self._ends: list[int] = []

    def is_full_with(self, seconds: float) -> bool:
        """Another job of so many seconds, besides those it has, would be one too many, or have to wait too long."""
        if self._slot.threads:
            return self.queued >= self.most
        return self.queued >= self.most or self.load_seconds + seconds > QUEUED_SECONDS

    def send(self) -> None:
        """Send what there is room for, and report at once what can't be run here."""
        leases, slot, known = self.leases, self._slot, self._slot.known
        blob: FunctionBlob | None = None
        while leases and not slot.is_full:
            lease, seconds = leases[0]
            if blob is None or blob.digest != lease.function:
                blob = self._blob(lease)
                if blob is None:
                    leases.popleft()
                    continue
            is_bringing = lease.function not in known
            body = blob.body if is_bringing else b""
            task = Task(
                lease.job, lease.run, lease.attempt, lease.function, body, blob.reusable,
                lease.args, lease.options.timeout, lease.inputs, lease.ranges, lease.careful, lease.memory,
            )  # fmt: skip
            # Inputs are rare and may be large: not worth a sum.
            if len(lease.args) + len(body) > MAX_INLINE_BYTES or lease.inputs or not self._encode(lease, task):
                self._send_alone(task, is_bringing=is_bringing)
                continue
            leases.popleft()
            self._encoded.append((lease, seconds, is_bringing))
            if is_bringing:
                self._remember(lease)
            if len(self._datagrams) > MAX_BATCH_BYTES:
                self._ship()
        self._ship()

    def put_back(self) -> None:
        """Return to the backlog what was not sent."""
        for lease, _, is_bringing in self._encoded:
            if is_bringing:
                self._slot.known.discard(lease.function)
        self._slots.put_back([*(lease for lease, _, _ in self._encoded), *(lease for lease, _ in self.leases)])

    def _blob(self, lease: Lease) -> FunctionBlob | None:
        """The lease's function, if it can be run here; else that is reported."""
        slots = self._slots
        try:
            blob = slots.blobs.get(lease.function)
        except Refused:
            raise
        except Exception as error:
            slots.reject(lease, Ending.CRASHED, f"the worker couldn't get its function: {error}")
            return None
        reason = mismatch(blob)
        if reason is not None:
            slots.reject(lease, Ending.ENVIRONMENT, reason)
            return None
        return blob

    def _remember(self, lease: Lease) -> None:
        known = self._slot.known
        if len(known) >= MAX_FUNCTIONS:
            known.clear()  # only a hint: they are sent again
        known.add(lease.function)

    def _encode(self, lease: Lease, task: Task) -> bool:
        """Add a datagram to the batch; False if it can't be one."""
        datagrams = self._datagrams
        start = len(datagrams)
        datagrams += _header(INLINE, lease.fence)
        try:
            encode_into(task, datagrams, -1)
        except UNENCODABLE:
            del datagrams[start:]
            return False
        if len(datagrams) - start > MAX_DATAGRAM_BYTES:
            del datagrams[start:]
            return False
        self._ends.append(len(datagrams))
        return True

    def _ship(self) -> None:
        """Have the socket take what is encoded, as far as it has room."""
        slot, encoded, ends = self._slot, self._encoded, self._ends
        taken = 0
        try:
            while taken < len(ends) and not slot.is_full:
                count = self._push(taken)
                for lease, seconds, _ in encoded[taken : taken + count]:
                    slot.add(lease, seconds, self._now)
                taken += count
        finally:
            del encoded[:taken]
        self._datagrams, self._ends = bytearray(), []

    def _push(self, first: int) -> int:
        """One call; how many datagrams it took, from the first on."""
        slot, ends = self._slot, self._ends
        try:
            return self._slots.courier.send(slot.channel.socket, self._datagrams, ends, first)
        except (BlockingIOError, ConnectionError):
            slot.is_full = True  # or its child has closed its end: that is read soon, and the child killed for it
            return 0
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        # A kernel that grants less than `MAX_INLINE_BYTES`.
        start = ends[first - 1] if first else 0
        fence = self._encoded[first][0].fence
        return self._send_message(fence, bytes(self._datagrams[start + HEADER.size : ends[first]]))

    def _send_alone(self, task: Task, *, is_bringing: bool) -> None:
        """Send the first lease's task by itself, because it is large, or report why it can't be sent."""
        self._ship()
        lease, seconds = self.leases[0]
        if self._slot.is_full:
            return
        try:
            is_sent = self._send_message(lease.fence, encode(task))
        except UNENCODABLE as error:
            self._slots.reject(lease, Ending.UNPICKLABLE, f"its arguments can't be sent to a child: {error}")
        else:
            if not is_sent:
                return
            self._slot.add(lease, seconds, self._now)
            if is_bringing:
                self._remember(lease)
        self.leases.popleft()

    def _send_message(self, fence: Fence, body: bytes) -> int:
        try:
            self._slot.channel.send(fence, body)
        except (BlockingIOError, ConnectionError):
            self._slot.is_full = True
            return 0
        return 1


def _share_out(slots: Slots, now: float) -> list[_Share]:
    backlog, estimate = slots.backlog, slots.durations.estimate
    fitting = [slot for slot in slots.all if slot.is_open and slot.load_seconds < QUEUED_SECONDS]
    fitting.sort(key=_load)
    shares = [_Share(slots, slot, now) for slot in fitting]
    latest: Lease | None = None
    seconds = 0.0
    is_any_given = True
    while backlog and is_any_given:
        is_any_given = False
        for share in shares:
            if not backlog:
                break
            lease = backlog[0]
            if latest is None or lease.ranges or latest.ranges or lease.function != latest.function:
                seconds = estimate(lease)
            latest = lease
            if share.queued and share.is_full_with(seconds):
                continue
            share.leases.append((backlog.popleft(), seconds))
            share.queued += 1
            share.load_seconds += seconds
            is_any_given = True
    return [share for share in shares if share.leases]


def _load(slot: Slot) -> tuple[bool, float]:
    return slot.phase is not _READY, slot.load_seconds
