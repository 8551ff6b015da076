"""The supervisor of a host's slots: one thread that leases jobs, hands them to children, and reports how they ended.

    master's work desk                 supervisor thread                    nursery          children
       │ wake (any thread) ─eventfd──►  ┌───────────────┐ ◄──news, control──── │ ──fork──► ┌─────────┐
       │ ◄──────────── poll ─────────── │ one selector, │                      └──────────│ slot 0  │
       │ ◄─ report, stopped, give_back─ │ one turn after│ ◄──results, private socket────► │ slot 1… │
       │ ◄───────── heartbeat ───────── │ the other     │                                 └─────────┘
                                        └───────────────┘

Nursery and children may be ordered before there is a desk (`prepare`): they take longer to be ready than most desks.

A turn: take in everything that children, nursery and a distant master (`Line`) have said; do what is due (`watch`); tell
the desk, in one call of each kind (`outbox`); look at the lease, once in a while; ask for as much as the slots have room
for; deal that out; have a distant master's desk say what there is to say. While every child has many short jobs before it,
the next turn waits a moment, so that results gather. Whoever shares the process may be lent this thread for an errand at
the beginning of each turn: what that submits is dealt out in the same one. It runs no user code and unpickles nothing. The
board in the master is the authority on every lease; this thread is the authority on which child has
which job. All state below belongs to this thread; other threads set flags and ring the eventfd, and read counters.

Who dies, and what follows:
- a child: `deaths`; its job is blamed exactly, its slot filled again.
- the nursery: all children die with it; the jobs in hand are reported as crashed, and a new nursery is started.
- the process of this thread: the nursery sees the end of its socket (or another parent), kills every tree, and exits.
- the master, or its memory of us (`Refused`): what runs here may be given to others, so it is killed at once, and the
  worker registers again under a new incarnation. The same if no heartbeat was accepted for `lease_seconds`.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from cluster.core.records import Ending, Stop, WorkerId
from cluster.errors import Refused
from cluster.wire.desks import Line, WorkDesk
from cluster.wire.messages import Hello
from cluster.worker import dealing, stopping, watch
from cluster.worker.bell import Bell
from cluster.worker.blobs import Blobs
from cluster.worker.channel import MAX_DATAGRAM_BYTES
from cluster.worker.config import WorkerConfig
from cluster.worker.deaths import Deaths
from cluster.worker.figures import Statistics, look_at
from cluster.worker.health import HealthWatch
from cluster.worker.host_memory import HostMemory
from cluster.worker.nursery_link import NurseryLink
from cluster.worker.nursery_protocol import Died, Spawned, SpawnFailed
from cluster.worker.nursery_start import Interpreter
from cluster.worker.outbox import Outbox
from cluster.worker.slot import NEVER, Doom, Phase
from cluster.worker.slots import Slots
from cluster.worker.vector import make_courier

# psutil and ctypes are slow to import; a program's first second is better spent on its jobs.
FIRST_HEARTBEAT_SECONDS = 1.0
# But whoever has had more than so many jobs in that second has many, and soon gains more by the better courier than it costs.
FEW_JOBS = 16
# After an error of the desk or of ours: long enough not to flood the log, short enough to go on.
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 2.0
# A nursery that lived shorter than this is started again more slowly each time.
HEALTHY_NURSERY_SECONDS = 10.0
MAX_NURSERY_BACKOFF_SECONDS = 5.0
# Of one turn; those left over come first in the next.
MAX_EVENTS = 256
# Longer than anything that happens during a stop: the nursery's farewell, and the last words to the desk.
MAX_STOP_SECONDS = 30.0

log = logging.getLogger("cluster.worker")


def _nothing() -> None:
    pass


class Supervisor:
    """A worker. `start`, `drain`, `stop` and the questions may be called from any thread, at any time, repeatedly."""

    def __init__(self, config: WorkerConfig, interpreter: Interpreter | None = None) -> None:
        """Make one; an `interpreter` is its first nursery's, which was started already and is up the sooner for it."""
        self._desk: WorkDesk  # from `start` on
        self._line: Line | None = None  # likewise
        self._line_descriptor = -1
        self._config = config
        self._host = socket.gethostname()
        self._id = _new_id(config.name)
        self._link = NurseryLink(config, self._id, self._host, interpreter)
        self._outbox = Outbox()
        self._slots = Slots(config, self._link, self._outbox)
        self._slots.host = self._host
        self._deaths = Deaths(self._slots)
        self._health = HealthWatch(config.directory)
        # Of several threads in one process none can be weighed, or killed, alone.
        self._host_memory = HostMemory(is_limiting=not config.threads, jobs_group=config.group)
        self._held_up: list[Stop] = []  # orders to stop that wait for a starting child

        self._bell = Bell()
        self._is_rung = False  # a thousand wakes cost one write
        self._errand: Callable[[], None] = _nothing
        self._after_errand: Callable[[], None] = _nothing
        self._thread: threading.Thread | None = None
        self._thread_id = 0
        self._owner = os.getpid()
        self._lock = threading.Lock()  # of prepare, start, drain and stop, among themselves
        self._is_prepared = False
        self._is_closed = False

        self._is_stopping = False
        self._is_draining = False
        self._has_drained = threading.Event()
        self._is_ready = threading.Event()

        self._leased = 0
        self._has_best_courier = False
        self._has_more = False  # the last poll brought as much as was asked for
        self._is_registered = False
        self._check_at = 0.0
        self._interval_seconds = config.heartbeat_interval_seconds
        self._heartbeat_at = 0.0
        self._last_heartbeat = 0.0
        self._pause_seconds = 0.0
        self._nurseries = 0
        self._nursery_started = 0.0
        self._nursery_at = NEVER  # when a lost one is replaced
        self._nursery_losses = 0

    # --- for other threads ----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the nursery and order a child for each slot: for who wants them to come up before there is a desk."""
        with self._lock:
            self._prepare()

    def start(self, desk: WorkDesk, line: Line | None = None) -> None:
        """Work for this desk, with a nursery and children that need not be ready yet; returns at once.

        Args:
            desk: the master's.
            line: of a desk elsewhere, for the thread to carry on what is said to it.
        """
        with self._lock:
            if self._thread is not None or self._is_closed:
                raise RuntimeError(f"worker {self._config.name} was started before; make a new one")
            self._prepare()
            self._desk, self._line = desk, line
            self._slots.blobs = Blobs(desk)
            self._thread = threading.Thread(target=self._run, name="cluster-supervisor", daemon=True)
            self._thread.start()

    def _prepare(self) -> None:
        # In the caller's thread, so that the nursery's interpreter starts as early as can be.
        if not self._is_prepared and not self._is_closed:
            self._is_prepared = True
            self._start_nursery(time.monotonic())

    def wait_ready(self, timeout_seconds: float) -> bool:
        """Wait until every slot has a child; False if that took too long. Jobs are taken before that already."""
        return self._is_ready.wait(timeout_seconds)

    def drain(self, deadline_seconds: float) -> bool:
        """Take no new work, hand back what is not begun, and wait for what runs; False if the deadline came first."""
        with self._lock:
            if self._thread is None or self._is_stopping:
                return True
            self._is_draining = True
        self._bell.ring()
        return self._has_drained.wait(deadline_seconds)

    def stop(self) -> None:
        """Kill what runs and give it back, end all processes; returns when they are gone."""
        if os.getpid() != self._owner:
            return  # a fork of the user's process: thread and children are its parent's
        with self._lock:
            if self._is_closed:
                return
            if self._thread is not None:
                self._is_stopping = True
                self._bell.ring()
                self._thread.join(MAX_STOP_SECONDS)
                if self._thread.is_alive():
                    log.error("worker %s didn't stop within %g s", self._id, MAX_STOP_SECONDS)
                    return
            elif self._is_prepared:
                self._end_processes()
            self._is_closed = True
            self._errand = self._after_errand = _nothing
            self._slots.epoll.close()

    def wake(self) -> None:
        """A poll would bring something. From any thread; never blocks."""
        if self._is_rung:
            return
        self._is_rung = True
        if threading.get_ident() != self._thread_id:
            self._bell.ring()

    def lend(self, errand: Callable[[], None], afterwards: Callable[[], None] = _nothing) -> Callable[[], None]:
        """Have this thread run an errand at the beginning of each turn: short, never blocking, never raising.

        Args:
            errand: what is to be done.
            afterwards: what may wait until that turn's jobs are on their way; called after each errand.

        Returns:
            Begins a turn soon. To be called from any thread; nothing happens once the supervisor has stopped.
        """
        self._errand, self._after_errand = errand, afterwards
        return self._bell.ring

    def beat_every(self, seconds: float) -> None:
        """Send heartbeats as often as the master wants them. From any thread."""
        self._interval_seconds = seconds
        self._heartbeat_at = min(self._heartbeat_at, time.monotonic() + seconds)
        self.wake()

    def slot_pids(self) -> list[int]:
        """The process of each slot; 0 where there is none at the moment."""
        return [slot.pid for slot in self._slots.all]

    def statistics(self) -> Statistics:
        """Counters and the present state."""
        return Statistics(
            worker=self._id,
            nursery_pid=self._link.pid,
            nurseries=self._nurseries,
            backlog=len(self._slots.backlog),
            is_draining=self._is_draining,
            slots=look_at(self._slots.all),
        )

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._thread_id = threading.get_ident()
        # Edge-triggered: each ring is told once, so that no turn needs to read it.
        self._slots.epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)
        if self._line is not None:
            self._line_descriptor = self._line.fileno()
            self._slots.epoll.register(self._line_descriptor, select.EPOLLIN)
        self._heartbeat_at = time.monotonic() + min(FIRST_HEARTBEAT_SECONDS, self._interval_seconds)
        while not self._is_stopping:
            try:
                if not self._is_registered:
                    self._register()
                try:
                    self._turn()
                finally:
                    self._after_errand()
                self._pause_seconds = 0.0
            except Refused as refusal:
                self._start_over(str(refusal))
            except Exception:
                log.exception("worker %s goes on after an error", self._id)
                self._pause()
        try:
            self._shut_down()
        except Exception:
            log.exception("worker %s failed to stop in good order", self._id)

    def _register(self) -> None:
        config = self._config
        self._slots.worker = self._id
        self._host_memory.look(self._slots.all, self._id)
        hello = Hello(
            worker=self._id, name=config.name, host=self._host, pid=os.getpid(), slots=config.slots,
            resources=config.resources, labels=config.labels,
            memory_room=self._host_memory.room, memory_most=self._host_memory.most,
        )  # fmt: skip
        self._desk.register(hello, self.wake)
        self._last_heartbeat = time.monotonic()
        self._is_registered = True
        self._has_more = True

    def _turn(self) -> None:
        slots = self._slots
        bell = self._bell.fileno()
        patience = self._patience()
        events = slots.epoll.poll(patience, MAX_EVENTS)
        if not events and patience:
            # If this process was stopped for longer than it would have waited, that answer is nothing, whatever there is
            # (PEP 475), and what has ended meanwhile must be heard before the lease is looked at.
            events = slots.epoll.poll(0, MAX_EVENTS)
        now = time.monotonic()
        for descriptor, _ in events:
            slot = slots.by_descriptor.get(descriptor)
            if slot is not None:
                slots.receive(slot, now)
            elif descriptor == self._line_descriptor and self._line is not None:
                self._line.hear()
            elif descriptor != bell and self._nursery_at == NEVER:  # else of a child that has just gone with it
                self._hear_nursery(now)
        self._errand()
        if self._held_up:
            self._held_up = stopping.obey(slots, self._held_up, now)
        if now >= self._nursery_at:
            self._start_nursery(now)
        if now >= self._check_at and self._nursery_at == NEVER:
            self._check_at = watch.check(slots, now)
        self._outbox.flush(self._desk, self._id)
        # Before anything begins: if this process has slept, the lease may be over, and what was taken back from a child
        # that died or is late would begin anew under it.
        if now >= self._heartbeat_at:
            self._beat(now)
        self._take_work(now)
        self._end_turn()

    def _end_turn(self) -> None:
        if self._is_draining:
            self._check_drained()
        if self._line is not None:  # last: what was dealt is under way before the next is asked for
            self._line.speak()
        if self._is_draining or not self._config.max_slack_seconds:
            return
        if (pause := self._slots.slack()) > 0.0:
            time.sleep(pause)

    def _patience(self) -> float:
        if self._is_rung:  # perhaps by this thread, and then without a write
            return 0.0
        # Without a nursery there are no children to look after.
        check_at = self._check_at if self._nursery_at == NEVER else self._nursery_at
        due = min(check_at, self._heartbeat_at)
        return max(0.0, due - time.monotonic())

    def _take_work(self, now: float) -> None:
        slots = self._slots
        is_rung, self._is_rung = self._is_rung, False
        if is_rung or (self._has_more and not self._is_draining and slots.has_hungry()):
            room = 0 if self._is_draining else slots.room()
            if room and self._host_memory.is_short:
                room = self._host_memory.most_jobs(room, slots.all)
            if room or is_rung:
                self._poll(room, now)
        if slots.backlog:
            if self._is_draining:
                stopping.give_back_waiting(slots)
            dealing.deal(slots, now)
            self._check_at = min(self._check_at, now + watch.QUEUE_LOOK_SECONDS)

    def _poll(self, room: int, now: float) -> None:
        slots = self._slots
        answer = self._desk.poll(self._id, room)
        if room:
            self._has_more = len(answer.leases) >= room
        elif not self._is_draining:
            self._has_more = True  # the ring may have been for work that there was no room for
        slots.backlog.extend(answer.leases)
        self._leased += len(answer.leases)
        if self._leased > FEW_JOBS and not self._has_best_courier:
            self._get_best_courier()
        if answer.stops:
            self._held_up += stopping.obey(slots, answer.stops, now)
            self._outbox.flush(self._desk, self._id)

    def _beat(self, now: float) -> None:
        self._deaths.look_at_oom_kills()
        if not self._has_best_courier:
            self._get_best_courier()
        self._heartbeat_at = now + self._interval_seconds
        self._host_memory.look(self._slots.all, self._id)
        try:
            self._desk.heartbeat(self._id, self._health.look(self._slots.all, self._host_memory))
        except Refused:
            raise
        except Exception:
            if now - self._last_heartbeat > self._config.lease_seconds:
                raise Refused(f"no heartbeat was accepted for {self._config.lease_seconds:g} s") from None
            raise
        self._last_heartbeat = now
        # Should a wake ever be lost, the worker is late, not stuck.
        self._is_rung = True

    def _get_best_courier(self) -> None:
        self._has_best_courier = True
        self._slots.courier = make_courier(MAX_DATAGRAM_BYTES)

    def _check_drained(self) -> None:
        for slot in self._slots.all:
            if len(slot.outstanding) > 1:
                self._slots.put_back(slot.take_back())
        stopping.give_back_waiting(self._slots)
        self._outbox.flush(self._desk, self._id)
        if not any(slot.outstanding for slot in self._slots.all):
            self._has_drained.set()

    # --- the nursery ----------------------------------------------------------------------------------------------

    def _start_nursery(self, now: float) -> None:
        self._nursery_started = now
        try:
            self._link.start()
        except OSError as error:
            words = self._link.close()  # it may have died before it was told what to do
            self._postpone_nursery(now, f"died: {words}" if words else f"can't be started: {error}")
            return
        self._nurseries += 1
        self._nursery_at = NEVER
        self._slots.epoll.register(self._link.fileno(), select.EPOLLIN)
        for slot in self._slots.all:
            self._slots.spawn(slot)

    def _postpone_nursery(self, now: float, why: str) -> None:
        if now - self._nursery_started > HEALTHY_NURSERY_SECONDS:
            self._nursery_losses = 0
        delay = min(0.1 * 2.0**self._nursery_losses, MAX_NURSERY_BACKOFF_SECONDS) if self._nursery_losses else 0.0
        self._nursery_losses = min(self._nursery_losses + 1, 20)
        self._nursery_at = now + delay
        log.error("worker %s: its nursery %s; the next one starts in %g s", self._id, why, delay)

    def _hear_nursery(self, now: float) -> None:
        try:
            for news, descriptor in self._link.news():
                if isinstance(news, Spawned):
                    self._deaths.on_spawned(news, descriptor, now)
                elif isinstance(news, SpawnFailed):
                    self._deaths.on_spawn_failed(news, now)
                elif isinstance(news, Died):
                    self._deaths.on_died(news, now)
        except EOFError:
            self._lose_nursery(now)
        if not self._is_ready.is_set() and all(slot.phase is Phase.READY for slot in self._slots.all):
            self._is_ready.set()
        # Vacant slots are filled by the next check, and children that just came may have jobs to be timed.
        self._check_at = now

    def _lose_nursery(self, now: float) -> None:
        self._slots.epoll.unregister(self._link.fileno())
        mark = self._link.mark
        words = self._link.close()
        self._deaths.on_nursery_lost(mark, now)
        self._postpone_nursery(now, f"died: {words}" if words else "died")

    # --- when things go wrong, and the end ------------------------------------------------------------------------

    def _start_over(self, why: str) -> None:
        """The master does not know us: whatever runs here may be run by others, so nothing of it must go on."""
        log.warning("worker %s starts over as another: %s", self._id, why)
        for slot in self._slots.all:
            if slot.phase is Phase.VACANT:
                continue
            slot.take_back()
            if slot.outstanding:
                slot.outstanding.clear()
                slot.load_seconds = 0.0
                slot.begin_next(NEVER)
                slot.kill(Doom(Ending.WORKER_LOST, why))
        self._slots.backlog.clear()
        self._held_up.clear()
        self._outbox.clear()
        self._id = _new_id(self._config.name)
        self._is_registered = False
        self._pause()

    def _pause(self) -> None:
        self._pause_seconds = min(max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), MAX_PAUSE_SECONDS)
        self._serve_others()
        deadline = time.monotonic() + self._pause_seconds
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        # A stop must not wait for the end of a pause; other rings must.
        while not self._is_stopping and (rest := deadline - time.monotonic()) > 0:
            if poll.poll(rest * 1000):
                self._bell.answer()
                self._serve_others()
        self._is_rung = True  # whatever was rung for, it is looked at now

    def _serve_others(self) -> None:
        """What others wait for this thread to do, though its turn failed before it came to that."""
        try:
            self._errand()
            self._after_errand()
            if self._line is not None:
                self._line.speak()
        except Exception:
            log.exception("worker %s goes on after an error", self._id)

    def _shut_down(self) -> None:
        now = time.monotonic()
        stopping.stop_all(self._slots, now)
        # Nothing is told before it is true.
        self._end_processes()
        self._has_drained.set()
        if self._is_registered:
            self._outbox.flush(self._desk, self._id)
            self._desk.leave(self._id)

    def _end_processes(self) -> None:
        """End nursery and children; returns when they are gone."""
        words = self._link.close()
        if words:
            log.warning("worker %s: its nursery said: %s", self._id, words)
        for slot in self._slots.all:
            if slot.phase is not Phase.VACANT:
                self._slots.vacate(slot)


def _new_id(name: str) -> WorkerId:
    return f"{name}#{os.urandom(4).hex()}"
