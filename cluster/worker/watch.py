"""What is due without anyone having spoken: timeouts, output, jobs that wait too long, slots to fill again."""

from __future__ import annotations

import os
import select

from cluster.wire.messages import Progress
from cluster.worker import memory, output, stopping, threads
from cluster.worker.slot import FLOOD_LOOK_SECONDS, LOOK_SECONDS, NEVER, UNTOLD, Phase, Slot
from cluster.worker.slots import Slots

# A job behind another is taken back when that one runs so much longer than expected; and at once, nearly, if some
# slot is idle.
LATE_SECONDS = 0.005
IDLE_SECONDS = 0.001
# How often queues behind running jobs are looked at, while there are any.
QUEUE_LOOK_SECONDS = 0.002
# A lease that finds no slot for so long is given back: another worker may have one, or a more urgent job come first.
MAX_BACKLOG_SECONDS = 0.02
# How often files are emptied into which processes write that jobs have left behind.
LEFT_LOOK_SECONDS = 0.5
# How often what a job prints is told to the master, at most.
TELL_SECONDS = 0.2
# Of one job, each time.
MAX_TOLD_BYTES = 64 * 1024
# How long a child may leave a job untaken before that counts against it (`stopping.is_begun`).
MAX_UNTAKEN_SECONDS = 10.0


def check(slots: Slots, now: float) -> float:
    """Do what is due; the time when it should be asked again, at the latest."""
    is_any_idle = any(slot.is_open and not slot.outstanding for slot in slots.all)
    soonest = NEVER
    for slot in slots.all:
        if slot.left_outputs:
            soonest = min(soonest, _relieve_left(slot, now))
        if slot.phase is Phase.VACANT:
            if now >= slot.respawn_at:
                slots.spawn(slot)
            else:
                soonest = min(soonest, slot.respawn_at)
        elif slot.phase is Phase.READY and slot.outstanding:
            soonest = min(soonest, _check_busy(slots, slot, now, is_any_idle=is_any_idle))
    if slots.backlog and slots.backlog_since != NEVER:
        due = slots.backlog_since + MAX_BACKLOG_SECONDS
        if now >= due:
            stopping.give_back_waiting(slots)
        else:
            soonest = min(soonest, due)
    return soonest


def _check_busy(slots: Slots, slot: Slot, now: float, *, is_any_idle: bool) -> float:
    if slot.threads:
        return threads.check(slots, slot, now)
    if now >= slot.deadline:
        stopping.time_out(slots, slot, now)
        return now  # look again at once: the slot is another now
    soonest = slot.deadline
    if len(slot.outstanding) > 1:
        expected = next(iter(slot.outstanding.values())).estimate
        patience = IDLE_SECONDS if is_any_idle else LATE_SECONDS + expected
        if now - slot.started > patience:
            slots.put_back(slot.take_back())
            slot.expect_long()
        soonest = min(soonest, now + QUEUE_LOOK_SECONDS)
    if now >= slot.look_at:
        _look(slots, slot, now)
    if slot.limit and slot.outstanding:
        soonest = min(soonest, memory.check(slots, slot, now))
    return min(soonest, slot.look_at)


def _look(slots: Slots, slot: Slot, now: float) -> None:
    head = slot.head
    if slot.told == UNTOLD and head is not None:
        slot.told = 0
        slots.outbox.begun.append(head.fence)
    if now >= slot.tell_at:
        _tell_output(slots, slot, now)
    before = slot.flood.taken
    slot.flood.relieve(slot.output, slots.config.max_output_bytes)
    slot.look_at = now + (FLOOD_LOOK_SECONDS if slot.flood.taken > before else LOOK_SECONDS)
    if now - slot.started > MAX_UNTAKEN_SECONDS and not slot.is_begun:
        stopping.is_begun(slots, slot)


def _relieve_left(slot: Slot, now: float) -> float:
    """Empty the files into which processes write that jobs have left behind; when to look again."""
    if now >= slot.relieve_at:
        sizes = [output.size_of(descriptor) for descriptor in slot.left_outputs]
        for descriptor in slot.left_outputs:
            os.ftruncate(descriptor, 0)
        is_flood = max(sizes) > output.MAX_FILE_BYTES
        slot.relieve_at = now + (FLOOD_LOOK_SECONDS if is_flood else LEFT_LOOK_SECONDS)
    return slot.relieve_at


def _tell_output(slots: Slots, slot: Slot, now: float) -> None:
    """Tell the master what the job in hand has printed since it was told last, for people who watch."""
    head, taken = slot.head, slot.flood.taken
    if head is None:
        return
    size = output.size_of(slot.output)
    # Of much only the last: who prints faster than that is read by nobody as it comes, and its report has its beginning.
    start = max(slot.told - taken, size - MAX_TOLD_BYTES, 0)
    if start >= size:
        return
    text = os.pread(slot.output, size - start, start)
    # A child sends its result before it takes the next job: while nothing is there to be read, the text is the head's.
    poll = select.poll()
    poll.register(slot.channel.socket, select.POLLIN)
    if not text or poll.poll(0):
        return
    offset = taken + start
    slot.told = offset + len(text)
    slot.tell_at = now + TELL_SECONDS
    slots.outbox.progress.append(Progress(head.fence, 0.0, 0.0, output=text, offset=offset))
