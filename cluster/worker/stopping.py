"""Killing what runs, and never what runs next.

A kill is aimed at a job but hits a process, which may be done with that job at any moment. So:

1. What the child has not taken is taken back: from here on it can begin no other job.
2. It is stopped (SIGSTOP), and what it has sent is read: now it is known whether the target is still in hand.
3. If it is, the child is killed; its nursery kills all that it had started, and tells when that is gone. If it is
   not, the child goes on as if nothing had been, and so do the jobs that were taken back.

A chunk is one job but its timeout counts per item; there step 2 also shows whether the item is still the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.core import policy
from cluster.core.memory import size_text
from cluster.core.records import Ending, Fence, Stop
from cluster.worker import threads
from cluster.worker.slot import NEVER, Doom, Phase, Slot
from cluster.worker.slots import EVERYTHING, Slots

# How often in a row a child may leave a job untaken for as long as that job may run.
MAX_REFUSALS = 3

_STOPPED = "its worker was stopped while it ran, and it may not run twice"


def obey(slots: Slots, stops: Sequence[Stop], now: float) -> list[Stop]:
    """Carry out orders to stop; those that must wait until a starting child is known come back."""
    held_up: list[Stop] = []
    for stop in stops:
        slot = next((slot for slot in slots.all if stop.fence in slot.outstanding), None)
        if slot is None:
            # Waiting here, or ended already, or never ours: in each case it does not run after this.
            slots.confirm_stop(stop.fence)
        elif not _stop_in_slot(slots, slot, stop, now):
            held_up.append(stop)
    return held_up


def time_out(slots: Slots, slot: Slot, now: float) -> None:
    """The job at the head of a slot, or its item, has run longer than it may."""
    lease = slot.head
    if lease is None:
        return
    if not is_begun(slots, slot):
        return  # its clock starts anew with the next child that has it
    slot.freeze()
    slots.receive(slot, now, EVERYTHING)
    if slot.doom is not None:
        return
    if lease.fence in slot.outstanding and slot.deadline <= now:
        seconds = lease.options.timeout
        what = f"item {slot.item} of it" if slot.item >= 0 else "it"
        slot.kill(Doom(Ending.TIMED_OUT, f"{what} ran longer than its timeout of {seconds:g} s and was killed"))
    else:
        slot.thaw()


def outgrow(slots: Slots, slot: Slot, now: float) -> None:
    """The job at the head of a slot, with all that it started, was weighed and is over its memory limit."""
    lease = slot.head
    if lease is None or not is_begun(slots, slot):
        return  # it was not its own weight; the child will find itself too full for it
    slot.freeze()
    slots.receive(slot, now, EVERYTHING)
    if slot.doom is not None:
        return
    if lease.fence in slot.outstanding:
        took, limit = size_text(slot.used), size_text(slot.limit)
        reason = f"it and what it had started took {took} of memory, more than its limit of {limit}, and were killed"
        slot.kill(Doom(Ending.OUT_OF_MEMORY, reason))
    else:
        slot.thaw()


def is_begun(slots: Slots, slot: Slot) -> bool:
    """Make sure that the child is at the job at its slot's head; a job that it never took is put back.

    Once or twice that is a busy machine; a child that goes on taking nothing is blocked by what an earlier job left
    behind, and is replaced.
    """
    head = slot.head
    slots.put_back(slot.take_back())
    if head is not None and head.fence in slot.outstanding:
        return True
    if not slot.outstanding and slot.doom is None:
        slot.refusals += 1
        if slot.refusals >= MAX_REFUSALS:
            slot.kill(Doom(Ending.CRASHED, "its process took no more jobs"))
    return False


def stop_all(slots: Slots, now: float) -> None:
    """Give back what has not begun, and kill what runs; that is given back too, with no attempt spent."""
    give_back_waiting(slots)
    live = [slot for slot in slots.all if slot.phase is not Phase.VACANT]
    for slot in live:
        slot.freeze()
        slots.receive(slot, now, EVERYTHING)
        slots.put_back(slot.take_back())
        give_back_waiting(slots)
    for slot in live:
        for sent in list(slot.outstanding.values()):
            _let_go(slots, slot, sent.lease.fence)
        slot.kill(slot.doom or Doom(Ending.CRASHED, _STOPPED))


def give_back_waiting(slots: Slots) -> None:
    """Hand the backlog back to the board."""
    slots.outbox.given_back.extend(lease.fence for lease in slots.backlog)
    slots.backlog.clear()
    slots.backlog_since = NEVER


def _let_go(slots: Slots, slot: Slot, fence: Fence) -> None:
    """End the supervisor's hold on a job whose process is about to be killed."""
    lease = slot.outstanding.pop(fence).lease
    if threads.let_go(slots, slot, fence):
        return
    if slot.doom is not None and slot.doom.stop == fence:
        slots.outbox.stopped.append(fence)
    elif policy.is_at_most_once(lease.options):
        # Giving it back would run a second time what has begun once.
        slots.reject(lease, Ending.WORKER_LOST, _STOPPED)
    else:
        slots.outbox.given_back.append(fence)


def _stop_in_slot(slots: Slots, slot: Slot, stop: Stop, now: float) -> bool:
    """Carry out one order against a slot that was sent the job. False: try again when its child is known."""
    slots.put_back(slot.take_back())
    if stop.fence not in slot.outstanding:
        slots.confirm_stop(stop.fence)
        return True
    if slot.threads and slot.phase in (Phase.READY, Phase.DYING):
        threads.abandon(slots, slot, stop.fence, is_ordered=True)
        return True
    if slot.phase is Phase.DYING:
        # Its death will be told soon. A timeout got there first, or another order, or a crash: the board's order
        # stands above it.
        slot.doom = Doom(stop.ending, "it was stopped", stop.fence)
        return True
    if slot.phase is not Phase.READY:
        return False
    slot.freeze()
    slots.receive(slot, now, EVERYTHING)
    if stop.fence in slot.outstanding:
        if slot.doom is None:
            slot.kill(Doom(stop.ending, "it was stopped", stop.fence))
        return True
    if slot.doom is None:
        slot.thaw()
    slots.confirm_stop(stop.fence)
    return True
