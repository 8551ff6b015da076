"""A slot whose child runs many jobs at a time, each in a thread: for jobs that only wait (`slots: {threads: 32}`).

The supervisor's side. What differs from a slot of one job at a time:

- several jobs are in hand; a result may come from any of them, and nothing waits in the child's socket for long;
- a thread can't be killed. A job that is cancelled or runs out of time is *abandoned*: its lease ends, the thread runs on
  and keeps its place until it ends by itself, and what it returns is dropped. Only when all jobs in hand are abandoned is
  the process killed, since that harms nobody;
- when the process dies, nobody can know whose fault that was: all jobs in hand crashed with it, and say so.

Timeouts of a chunk's items count for the chunk as a whole here: its `timeout` times its items.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster.core.records import Certificate, Ending, Fence, Lease, Report
from cluster.wire.messages import Progress
from cluster.worker.channel import Finished, FromChild, FunctionMissing, Printed, Said
from cluster.worker.prefetch import count_items
from cluster.worker.slot import LOOK_SECONDS, NEVER, Doom, Sent, Slot

if TYPE_CHECKING:
    from cluster.worker.slots import Slots

NEIGHBOURS = "; it ran in one of {count} threads of that process, and which of their jobs did it can't be known"
_OVERTIME = (
    "it ran longer than its timeout of {seconds:g} s; it runs in a thread, which can't be killed: "
    "it goes on until it ends by itself, and its result is dropped"
)
_UNWANTED = "all jobs in its threads were cancelled or out of time"
# Output of C code and of subprocesses belongs to no thread; it is kept for a certificate, up to a limit.
OUTPUT_LOOK_SECONDS = 1.0


def on_finished(slots: Slots, slot: Slot, fence: Fence, message: Finished, now: float) -> None:
    """A thread is done with its job."""
    sent = slot.outstanding.get(fence)
    if sent is None or message.report.fence != fence:
        slots.on_nonsense(slot, "a result of a job that it doesn't have")
        return
    slot.remove(fence, now)
    slots.durations.note(sent.lease, message.report.seconds)
    slot.jobs_done += 1
    slot.failures_in_a_row = 0
    slot.served += 1
    if not let_go(slots, slot, fence):
        slots.outbox.reports.append(message.report)
    if slot.is_spent and slot.doom is None:
        slot.kill(Doom(Ending.CRASHED, "its process had run as many jobs as one may"))
    else:
        _kill_if_unwanted(slot)


def on_word(slots: Slots, slot: Slot, fence: Fence, message: FromChild, now: float) -> None:
    """A job says something of itself, or the child something of a job."""
    sent = slot.outstanding.get(fence)
    if sent is None:
        return
    if isinstance(message, Said) and fence not in slot.abandoned:
        slots.outbox.progress.append(Progress(fence, message.done, message.total, message.note))
    elif isinstance(message, Printed) and fence not in slot.abandoned:
        slots.outbox.progress.append(Progress(fence, 0.0, 0.0, output=message.text, offset=message.offset))
    elif isinstance(message, FunctionMissing):
        slot.known.discard(sent.lease.function)
        lease = slot.remove(fence, now)
        if not let_go(slots, slot, fence):
            slots.put_back([lease])


def abandon(slots: Slots, slot: Slot, fence: Fence, *, is_ordered: bool) -> None:
    """Wait no more for what a job in hand returns. If that was ordered, its end is confirmed once it comes."""
    slot.abandoned[fence] = is_ordered or slot.abandoned.get(fence, False)
    slots.put_back(slot.take_back())
    _kill_if_unwanted(slot)


def let_go(slots: Slots, slot: Slot, fence: Fence) -> bool:
    """A job's thread or process has ended; True if it was abandoned, and so nothing is to be reported of it."""
    is_ordered = slot.abandoned.pop(fence, None)
    if is_ordered:
        slots.outbox.stopped.append(fence)
    return is_ordered is not None


def check(slots: Slots, slot: Slot, now: float) -> float:
    """Give up what has run out of time; when to look again."""
    soonest = now + OUTPUT_LOOK_SECONDS
    slot.flood.relieve(slot.output, slots.config.max_output_bytes)
    for fence, sent in list(slot.outstanding.items()):
        if not sent.is_told:
            soonest = min(soonest, _tell_begun(slots, fence, sent, now))
        seconds = allowed_seconds(sent.lease)
        if fence in slot.abandoned or seconds == NEVER:
            continue
        if now < sent.since + seconds:
            soonest = min(soonest, sent.since + seconds)
            continue
        slots.receive(slot, now)  # it may have ended just in time
        slots.put_back(slot.take_back())  # or never begun
        if slot.doom is not None:
            return now
        if fence in slot.outstanding and fence not in slot.abandoned:
            slots.outbox.reports.append(_overtime(slots, slot, sent.lease, now - sent.since))
            abandon(slots, slot, fence, is_ordered=False)
    return soonest


def _tell_begun(slots: Slots, fence: Fence, sent: Sent, now: float) -> float:
    """Have the master told that a job runs, once it has for a while; when to look again."""
    due = sent.since + LOOK_SECONDS
    if now < due:
        return due
    sent.is_told = True
    slots.outbox.begun.append(fence)
    return NEVER


def allowed_seconds(lease: Lease) -> float:
    """How long the job may run, as a whole."""
    timeout = lease.options.timeout
    if timeout is None:
        return NEVER
    return timeout * max(1, count_items(lease)) if lease.ranges else timeout


def _overtime(slots: Slots, slot: Slot, lease: Lease, seconds: float) -> Report:
    certificate = Certificate(
        ending=Ending.TIMED_OUT,
        reason=_OVERTIME.format(seconds=allowed_seconds(lease)),
        attempt=lease.attempt,
        worker=slots.worker,
        host=slots.host,
        pid=slot.pid,
        started=time.time() - seconds,
        seconds=seconds,
    )
    return Report(lease.fence, Ending.TIMED_OUT, certificate=certificate, seconds=seconds)


def _kill_if_unwanted(slot: Slot) -> None:
    if slot.abandoned and slot.doom is None and slot.abandoned.keys() >= slot.outstanding.keys():
        slot.kill(Doom(Ending.CRASHED, _UNWANTED))
