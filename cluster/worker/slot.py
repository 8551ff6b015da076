"""One slot as the supervisor sees it: its child, and the jobs sent to it that have not come back.

The account that exact blame rests on:

    sent - results - taken back = in hand,    and that is never more than one

because the child takes a datagram only after it has sent the result of the one before. `outstanding` holds sent jobs in
the order of sending; after `take_back` only what the child has taken is left in it. The first of them is the one that
the child is at, or is about to take.

Only the supervisor's thread touches a slot.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from enum import Enum

from msgspec import Struct, field

from cluster.core.records import Digest, Ending, Fence, Lease, Segment
from cluster.worker import memory_file
from cluster.worker.channel import DONT_WAIT, Channel, Nonsense, make_pair
from cluster.worker.output import Flood
from cluster.worker.prefetch import LONG, MAX_QUEUED

NEVER = float("inf")
# Stopping a process takes 0.1 ms, unless the kernel holds it in an uninterruptible wait.
MAX_FREEZE_SECONDS = 0.1
FREEZE_POLL_SECONDS = 50e-6
# A job's output is looked at when it has run for so long, and then as often; a flood is looked at more often.
LOOK_SECONDS = 0.05
FLOOD_LOOK_SECONDS = 0.01
# Each is a file in memory that a process left behind by a job may fill.
MAX_LEFT_OUTPUTS = 64
# In place of how much of its output was told: the master has not been told yet that the job runs.
UNTOLD = -1


class Phase(Enum):
    """Where a slot's child is in its life."""

    VACANT = "vacant"  # none, and none under way
    STARTING = "starting"  # ordered from the nursery; jobs may be sent already, they wait in the socket
    READY = "ready"
    DYING = "dying"  # killed; its death will be told


_READY, _STARTING = Phase.READY, Phase.STARTING  # a look at an enum's class is slow on Python 3.11


class Doom(Struct, frozen=True):
    """Why the supervisor killed a child, and what that means for the job in hand. None in hand: for nobody."""

    ending: Ending
    reason: str
    stop: Fence = 0  # the kill carries out this order; it is confirmed, and the attempt is not reported


class Sent(Struct, gc=False):
    """A job in a child's hands or socket."""

    lease: Lease
    estimate: float  # seconds
    since: float  # monotonic; a thread takes it at once
    is_told: bool = False  # in a thread: the master knows that it runs


class Slot(Struct):
    """One place for a running job."""

    index: int
    phase: Phase = Phase.VACANT
    generation: int = 0
    max_jobs: int = 0  # a child that has run so many is replaced; 0: never
    threads: int = 0  # > 0: its child runs so many jobs at a time (see `threads`)
    # Of these jobs in hand nothing is reported any more. True: their end is confirmed. Only where there are threads.
    abandoned: dict[Fence, bool] = {}
    pid: int = 0
    pidfd: int = -1
    output: int = -1
    # Earlier output files of the child, into which processes that jobs left behind may write: nobody reads them.
    left_outputs: list[int] = []
    relieve_at: float = 0.0  # when they are emptied next
    usual_max_jobs: int | None = None  # set while `max_jobs` is another, for this child only
    outstanding: dict[Fence, Sent] = {}
    load_seconds: float = 0.0  # estimated, of all that is outstanding
    is_full: bool = False  # the socket refused a datagram; the next result makes room
    known: set[Digest] = set()  # functions the child has been sent: a hint, see FunctionMissing
    doom: Doom | None = None
    is_babbling: bool = False  # its child has sent nonsense: nothing more that it says is believed
    refusals: int = 0  # how often in a row the child was found not to have taken its job in time

    # Of the job in hand.
    started: float = NEVER  # monotonic
    deadline: float = NEVER
    item: int = -1  # of a careful chunk: the item that runs
    segments: list[Segment] = []
    flood: Flood = field(default_factory=Flood)
    look_at: float = NEVER  # when its output is looked at next
    told: int = UNTOLD  # how much of its output the master has been told
    tell_at: float = 0.0  # when it is told more, at the earliest
    limit: int = 0  # bytes that it and what it starts may take; 0: no limit, and the next three mean nothing
    used: int = 0  # when it was weighed last (see `memory`)
    peak: int = 0
    weigh_at: float = NEVER
    is_begun: bool = False  # the child was seen to have taken it; False: not looked yet
    is_next_due: bool = False  # a job has ended, and what is said above is still said of that one (see `catch_up`)

    # Of the child, or of the slot's whole life.
    cpu_seconds: float = 0.0  # of the child, as last told
    served: int = 0  # jobs that this child has run
    respawn_at: float = 0.0
    failures_in_a_row: int = 0  # children that died with no job in hand, before any job was done
    spawned: int = 0
    crashes: int = 0
    jobs_done: int = 0

    _mine: Channel | None = None
    _theirs: Channel | None = None

    @property
    def channel(self) -> Channel:
        """The supervisor's end; only while there is a child, or one under way."""
        assert self._mine is not None  # noqa: S101 - the callers' condition, told to the type checker
        return self._mine

    @property
    def is_open(self) -> bool:
        """Jobs may be sent to it."""
        return self.places > 0

    @property
    def places(self) -> int:
        """How many more jobs may be sent to it now; none if this is not positive."""
        if self.doom is not None or self.is_full or (self.phase is not _READY and self.phase is not _STARTING):
            return 0
        return self.most_outstanding - len(self.outstanding)

    @property
    def most_outstanding(self) -> int:
        """How many jobs may be with its child at most: no more than it will ever run."""
        limit = self.threads or MAX_QUEUED
        return min(limit, self.max_jobs - self.served) if self.max_jobs else limit

    @property
    def is_spent(self) -> bool:
        """Its child has run all the jobs that one child may."""
        return self.max_jobs > 0 and self.served >= self.max_jobs and not self.outstanding

    @property
    def head(self) -> Lease | None:
        """The job that the child is at, or takes next."""
        for sent in self.outstanding.values():
            return sent.lease
        return None

    def open(self) -> tuple[int, int]:
        """Make what the next child needs; the descriptors to hand to the nursery."""
        self.generation += 1
        self._mine, self._theirs = make_pair()
        self.output = memory_file.make_file()
        self.phase = Phase.STARTING
        if self.usual_max_jobs is not None:
            self.max_jobs, self.usual_max_jobs = self.usual_max_jobs, None
        self.known.clear()
        self.doom = None
        self.is_full = self.is_babbling = False
        self.refusals = self.served = 0
        self.cpu_seconds = 0.0
        return self._theirs.socket.fileno(), self.output

    def close(self) -> None:
        """Let go of a child that is gone."""
        for channel in (self._mine, self._theirs):
            if channel is not None:
                channel.close()
        for descriptor in (self.pidfd, self.output, *self.left_outputs):
            if descriptor >= 0:
                os.close(descriptor)
        self.left_outputs.clear()
        self._mine = self._theirs = None
        self.pid, self.pidfd, self.output = 0, -1, -1
        self.phase = Phase.VACANT
        self.outstanding.clear()
        self.abandoned.clear()
        self.load_seconds = 0.0
        self.begin_next(NEVER)

    def add(self, lease: Lease, estimate: float, now: float) -> None:
        """A job was sent."""
        is_first = not self.outstanding
        if self.threads:
            estimate = 0.0  # nothing waits behind it
        self.outstanding[lease.fence] = Sent(lease, estimate, now)
        self.load_seconds += estimate
        if is_first:
            self.begin_next(now if self.phase is _READY else NEVER)

    def remove(self, fence: Fence, now: float) -> Lease:
        """The job in hand is over; the next one, if there is one, begins now."""
        outstanding = self.outstanding
        sent = outstanding.pop(fence)
        self.load_seconds = self.load_seconds - sent.estimate if outstanding else 0.0  # sums of floats drift
        self.is_full = False
        self.begin_next(now)
        return sent.lease

    def catch_up(self, now: float) -> None:
        """After one result or many: begin with the job that is at the head now."""
        if self.is_next_due:
            self.is_full = False
            self.failures_in_a_row = 0
            self.begin_next(now)

    def begin_next(self, now: float) -> None:
        """Set the clocks for the job at the head. A child takes its next job at once, so no message is needed."""
        self.is_next_due = False
        self.item = -1
        self.is_begun = False
        self.told = UNTOLD
        if self.segments:
            self.segments = []
        if self.flood.taken:
            self.flood = Flood()
        if now != NEVER:
            for sent in self.outstanding.values():  # the first of them
                lease = sent.lease
                self.started = now
                self.look_at = now + LOOK_SECONDS
                if lease.memory or self.limit:
                    self.limit, self.used, self.peak, self.weigh_at = lease.memory, 0, 0, now
                timeout = lease.options.timeout
                self.deadline = NEVER if timeout is None else now + timeout
                return
        self.started = self.deadline = self.look_at = NEVER

    def change_output(self, descriptor: int) -> None:
        """The child prints into another file from now on, because a job has left something that holds this one.

        A child with very many such files is replaced once it has done what it was sent; what was left dies with it.
        """
        self.left_outputs.append(self.output)
        self.output = descriptor
        if len(self.left_outputs) >= MAX_LEFT_OUTPUTS and self.usual_max_jobs is None:
            self.usual_max_jobs = self.max_jobs
            self.max_jobs = max(1, self.served + len(self.outstanding))
        if len(self.left_outputs) > 2 * MAX_LEFT_OUTPUTS:  # a job that makes them by itself
            os.close(self.left_outputs.pop(0))

    def restart_clock(self, head: Lease, now: float) -> None:
        """The head's timeout counts from now."""
        timeout = head.options.timeout
        self.deadline = NEVER if timeout is None else now + timeout

    def take_back(self) -> list[Lease]:
        """Whatever the child has not taken, in the order of sending.

        Safe while the child lives: a datagram has one receiver, and this is one.
        """
        taken: list[Lease] = []
        if self._theirs is None:
            return taken
        is_head_taken_back = False
        while self.outstanding:
            try:
                received = self._theirs.receive(DONT_WAIT)
            except (EOFError, Nonsense):  # nobody but us sends on that end
                break
            if received is None:
                break
            is_head_taken_back = is_head_taken_back or received[0] == next(iter(self.outstanding), None)
            sent = self.outstanding.pop(received[0])
            self.load_seconds -= sent.estimate
            # A function that came with a job taken back has not arrived.
            self.known.discard(sent.lease.function)
            taken.append(sent.lease)
        if not self.outstanding:
            self.load_seconds = 0.0
        if is_head_taken_back:
            # The child may have taken a later one between two of our calls: that is in hand now.
            self.begin_next(time.monotonic() if self.outstanding else NEVER)
        self.is_begun = bool(self.outstanding)
        return taken

    def expect_long(self) -> None:
        """The head has run longer than its kind used to: nothing is to wait behind it."""
        for sent in self.outstanding.values():
            sent.estimate = self.load_seconds = LONG
            return

    # --- stopping the process -------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop the child in its tracks, so that what is in hand can be known; bounded."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + MAX_FREEZE_SECONDS
        while not self._is_stopped() and time.monotonic() < deadline:
            time.sleep(FREEZE_POLL_SECONDS)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self, doom: Doom) -> None:
        """Kill the child; the nursery kills what it started, and tells when all is gone."""
        self.doom = doom
        self.phase = Phase.DYING
        self._signal(signal.SIGKILL)

    def is_gone(self) -> bool:
        """The process has ended."""
        if self.pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def _signal(self, number: int) -> None:
        # By pidfd only: a pid may belong to somebody else by now.
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def _is_stopped(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:  # noqa: PTH123
                state = file.read().rpartition(b")")[2].split(None, 1)[0]
        except OSError:
            return True
        return state in b"TtZX"
