"""A child has died, or all of them: what becomes of the job that was in hand, and of those behind it.

By now nothing of the child runs any more. What it had sent is still in the supervisor's end of its socket, and what it
had not taken is in its own end, of which the supervisor holds a duplicate; so both are read first, and what is then
left was in hand.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time

from msgspec import structs

from cluster.core.memory import size_text
from cluster.core.records import Certificate, Ending, Lease, Report, Segment
from cluster.worker import output, threads
from cluster.worker.nursery_protocol import Died, Spawned, SpawnFailed
from cluster.worker.orphans import ORPHANS
from cluster.worker.slot import NEVER, Doom, Phase, Sent, Slot
from cluster.worker.slots import EVERYTHING, Slots
from cluster.worker.verdict import HOST, Verdict, classify, count_oom_kills

# A child that dies before it has done anything is replaced at once the first time, then ever more slowly.
FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 5.0
# The kernel kills children with their nursery; this is how long that may take.
MAX_ORPHAN_SECONDS = 2.0

log = logging.getLogger("cluster.worker")


class Deaths:
    """Judges deaths. Keeps the count of out-of-memory kills that a new one is compared with."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        events = f"{slots.config.group}/memory.events"  # only where the group has a limit of memory; it counts exactly
        self._oom_source = events if slots.config.group and os.path.exists(events) else HOST  # noqa: PTH110
        self._oom_kills = self._latest_oom_kills = count_oom_kills(self._oom_source)

    def look_at_oom_kills(self) -> None:
        """Note the kernel's count, so that a kill long ago is not taken for this death's reason."""
        # The count before this one holds until the next look: what was killed just now may take a while to be gone.
        self._oom_kills, self._latest_oom_kills = self._latest_oom_kills, count_oom_kills(self._oom_source)

    def on_spawned(self, news: Spawned, pidfd: int, now: float) -> None:
        """A child runs. It may have begun with a job already."""
        slot = self._slots.all[news.slot]
        if news.generation != slot.generation or slot.phase is Phase.VACANT:
            os.close(pidfd)  # of a slot whose nursery was lost meanwhile
            return
        slot.pid, slot.pidfd = news.pid, pidfd
        slot.spawned += 1
        if slot.doom is not None:
            slot.kill(slot.doom)
            return
        slot.phase = Phase.READY
        if slot.outstanding:
            slot.begin_next(now)

    def on_spawn_failed(self, news: SpawnFailed, now: float) -> None:
        """The system wouldn't fork: try again later, and let other slots have the jobs."""
        slot = self._slots.all[news.slot]
        if news.generation != slot.generation:
            return
        log.warning("worker %s can't start a child for slot %d: %s", self._slots.worker, slot.index, news.reason)
        self._slots.put_back(slot.take_back())
        self._vacate(slot, now, is_clean=False)

    def on_died(self, news: Died, now: float) -> None:
        """Blame the job in hand, if there was one; give the rest to others; have the slot filled again."""
        slot = self._slots.all[news.slot]
        if news.generation != slot.generation or slot.phase is Phase.VACANT:
            return
        self._settle(slot, now)
        if slot.outstanding:
            slot.crashes += slot.doom is None
            oom_kills = count_oom_kills(self._oom_source)
            verdict = self._judge(slot, news, is_out_of_memory=oom_kills > self._oom_kills)
            if verdict.ending is Ending.OUT_OF_MEMORY and slot.doom is None and self._oom_source != HOST:
                verdict = structs.replace(verdict, reason=verdict.reason + _shared_limit(self._slots.config.group))
            if slot.threads:
                verdict = structs.replace(
                    verdict, reason=verdict.reason + threads.NEIGHBOURS.format(count=slot.threads)
                )
            self._oom_kills = self._latest_oom_kills = oom_kills
            cpu_seconds = max(0.0, news.cpu_seconds - slot.cpu_seconds)
            peak_memory = max(news.peak_memory, slot.peak) if slot.limit else news.peak_memory
            self._blame(slot, verdict, (peak_memory, cpu_seconds), now)
        is_clean = slot.served > 0 or slot.doom is not None or bool(slot.outstanding)
        if not is_clean:
            why = classify(news.status, is_out_of_memory=False).reason
            last = output.tail_text(self._printed(slot)).rpartition("\n")[2]  # of a traceback: the exception
            log.warning(
                "worker %s: the child of slot %d died before its first job: %s",
                self._slots.worker,
                slot.index,
                f"{why}: {last}" if last else why,
            )
        self._vacate(slot, now, is_clean=is_clean)

    def on_nursery_lost(self, mark: str, now: float) -> None:
        """Every child died with the nursery, whose mark this was: blame it for what was in hand."""
        reason = "the worker's nursery, which starts its processes, died, and the job's process with it"
        live = [slot for slot in self._slots.all if slot.phase is not Phase.VACANT]
        for slot in live:
            if slot.doom is None:
                slot.kill(Doom(Ending.CRASHED, reason))
            _wait_until_gone(slot)
        ORPHANS.sweep({slot.pid for slot in live if slot.pid}, mark)
        for slot in live:
            self._settle(slot, now)
            doom = slot.doom or Doom(Ending.CRASHED, reason)
            self._blame(slot, Verdict(doom.ending, doom.reason), (0, 0.0), now)
            self._vacate(slot, now, is_clean=True)

    def _settle(self, slot: Slot, now: float) -> None:
        """Read what the child had sent, and take back what it had not taken."""
        self._slots.receive(slot, now, EVERYTHING)
        self._slots.put_back(slot.take_back())
        if slot.doom is not None and slot.doom.stop and slot.doom.stop not in slot.outstanding:
            self._slots.confirm_stop(slot.doom.stop)  # it had ended just before, or never begun

    def _judge(self, slot: Slot, news: Died, *, is_out_of_memory: bool) -> Verdict:
        if slot.doom is not None:
            return Verdict(slot.doom.ending, slot.doom.reason)
        return classify(news.status, is_out_of_memory=is_out_of_memory)

    def _blame(self, slot: Slot, verdict: Verdict, used: tuple[int, float], now: float) -> None:
        # More than one only if a job has forked a copy of its process that went on taking jobs.
        for sent in list(slot.outstanding.values()):
            lease = sent.lease
            if threads.let_go(self._slots, slot, lease.fence):
                continue
            if slot.doom is not None and slot.doom.stop == lease.fence:
                self._slots.outbox.stopped.append(lease.fence)
                continue
            printed = self._printed(slot)
            certificate = self._certificate(slot, sent, verdict, used=used, printed=printed, now=now)
            self._slots.outbox.reports.append(_report(slot, lease, certificate, printed))

    def _printed(self, slot: Slot) -> bytes:
        if slot.output < 0:
            return b""
        limit = self._slots.config.max_output_bytes
        rest = b""
        with contextlib.suppress(OSError):
            rest = output.take(slot.output, output.size_of(slot.output), limit)
        return slot.flood.complete(rest, limit)

    def _certificate(
        self, slot: Slot, sent: Sent, verdict: Verdict, *, used: tuple[int, float], printed: bytes, now: float
    ) -> Certificate:
        lease, started = sent.lease, sent.since if slot.threads else slot.started
        seconds = now - started if started != NEVER else 0.0
        peak_memory, cpu_seconds = used
        return Certificate(
            ending=verdict.ending,
            reason=verdict.reason,
            attempt=lease.attempt,
            worker=self._slots.worker,
            host=self._slots.host,
            pid=slot.pid,
            signal=verdict.signal,
            exit_code=verdict.exit_code,
            started=time.time() - seconds,
            seconds=seconds,
            peak_memory=peak_memory,
            cpu_seconds=cpu_seconds,
            output_tail=output.tail_text(printed),
            item=slot.item,
        )

    def _vacate(self, slot: Slot, now: float, *, is_clean: bool) -> None:
        if is_clean:
            slot.failures_in_a_row = 0
            slot.respawn_at = now
        else:
            delay = FIRST_BACKOFF_SECONDS * 2.0**slot.failures_in_a_row if slot.failures_in_a_row else 0.0
            slot.respawn_at = now + min(delay, MAX_BACKOFF_SECONDS)
            slot.failures_in_a_row = min(slot.failures_in_a_row + 1, 20)
        self._slots.vacate(slot)


def _report(slot: Slot, lease: Lease, certificate: Certificate, printed: bytes) -> Report:
    if not lease.ranges:
        return Report(lease.fence, certificate.ending, b"", certificate, printed, (), certificate.seconds)
    # Of a chunk that told of its items, those that ended count; the one that ran is blamed, the others run again.
    segments = list(slot.segments)
    if slot.item >= 0:
        segments.append(Segment(slot.item, 1, b"", certificate, certificate.seconds))
    first_bad = next((segment.certificate for segment in segments if segment.certificate is not None), certificate)
    return Report(lease.fence, first_bad.ending, b"", first_bad, printed, tuple(segments), certificate.seconds)


def _shared_limit(group: str) -> str:
    """What to add to a reason where all jobs of the worker share one limit of memory."""
    with contextlib.suppress(OSError, ValueError), open(f"{group}/memory.max", encoding="ascii") as file:  # noqa: PTH123
        return f"; all that this worker's jobs start may take {size_text(int(file.read()))} together"
    return ""


def _wait_until_gone(slot: Slot) -> None:
    deadline = time.monotonic() + MAX_ORPHAN_SECONDS
    while not slot.is_gone() and time.monotonic() < deadline:
        time.sleep(0.001)
