"""A client: submits, cancels, requeues, asks; remembers what it waits for, and goes on after every broken connection.

Its session is the kit's own `Conversation`, both scripts of which are carried out over the simulated network: what is
booked, sent again, watched again, acknowledged by marks and told twice is decided there, and by the served desk and its
book on the other side. What a user's program does with it is played here; the sink checks all that it is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from cluster.core.records import SAME_BUDGET, Budget, JobId, JobSpec, Options, Outcome
from cluster.core.states import JobState
from cluster.errors import MasterUnavailable, Refused, UnknownJob
from cluster.wire import calls
from cluster.wire.conversation import Conversation
from cluster.wire.messages import Progress, Refusal
from tests.sim import catalogue
from tests.sim.fiber import Bell, Fiber

if TYPE_CHECKING:
    from tests.sim.history import History
    from tests.sim.host import Host
    from tests.sim.network import Network
    from tests.sim.world import World

# Enough to name dependencies, cancels and requeues among.
MAX_REMEMBERED = 40
# Of the latest jobs, whoever's.
MAX_WATCHABLE = 8
# How often a proxy sends a request again under its id, and after how long.
MAX_REPEATS = 4
REPEAT_SECONDS = 0.5


class Ear:
    """A line that nothing is said over but by scripts; closed, it breaks off what the listener waits for."""

    def __init__(self, fiber: Fiber) -> None:
        self._fiber = fiber

    def call(self, method: str, _said: Struct, *, timeout: float = 30.0) -> Any:
        """What is not said by a script would be lost to the simulation."""
        raise MasterUnavailable(f"{method} is not said by a script, and would wait {timeout:g} s")

    def close(self) -> None:
        """Break off the long poll."""
        self._fiber.break_off()


class Client:
    """One user's program, one process after another."""

    def __init__(self, world: World, network: Network, host: Host, history: History, name: str) -> None:
        self._world = world
        self._network = network
        self._host = host
        self._history = history
        self.name = name
        self._life = 0
        # What it waits for: jobs whose submission or watch was not answered by an end or a refusal.
        self.waits: dict[JobId, None] = {}
        self._mine: list[JobId] = []
        self._made = 0
        self._asked = 0
        self._conversation: Conversation
        self._fibers: list[Fiber] = []
        self._unsent: deque[list[JobSpec]] = deque()
        self.peers: list[Client] = [self]  # who may be told of its jobs by their ids
        self._to_tell: dict[JobId, Client] = {}  # as soon as they are sent
        self._own: set[JobId] = set()  # what this process has submitted
        self.boot()

    @property
    def is_waiting(self) -> bool:
        """It, or its books, have still to hear of something."""
        books = self._conversation._books
        return bool(self.waits or books.unacknowledged or books.awaited or self._unsent)

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start a process; it looks after some of what an earlier one had submitted."""
        self._life += 1
        fibers = [Fiber(self._world, self._network, self, "jobs") for _ in range(2)]
        self._conversation = Conversation(lambda _: Ear(fibers[0]), self)
        bell = self._conversation._mended = Bell(self._conversation._lock)
        self._fibers = bell.fibers = fibers
        fibers[0].start(self._conversation.listening())

    def die(self) -> None:
        """SIGKILL: what it waited for is nobody's, and goes on."""
        self._world.note("client dies", self.name)
        for fiber in self._fibers:
            fiber.stop()
        self.waits.clear()
        self._unsent.clear()
        self._own.clear()
        self._to_tell.clear()
        self.boot()
        for job in self._mine[-5:]:
            self._watch(job)

    def resume(self, action: Callable[[], None]) -> None:
        """Clients never freeze."""
        action()

    def break_off(self) -> None:
        """The connection on which it listens breaks."""
        self._fibers[0].break_off()

    # --- what it hears -----------------------------------------------------------------------------------------------

    def accepted(self, jobs: Sequence[JobId]) -> None:
        """See `Sink`."""
        self._history.tell_accepted(jobs)
        self._host.image.heard.update((job, None) for job in jobs if job in self._own)

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """See `Sink`."""
        # Of a job that an earlier process submitted, and nobody had acknowledged, this one can only hear that it is unknown.
        self._history.tell_refused([refusal for refusal in refusals if refusal.job in self._own])
        for refusal in refusals:
            self.waits.pop(refusal.job, None)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """See `Sink`."""
        self._history.tell_ended(outcomes)
        for outcome in outcomes:
            self.waits.pop(outcome.job, None)
            if outcome.job in self._own:
                self._host.image.heard[outcome.job] = None

    def progressed(self, job: JobId, progress: Progress) -> None:
        """See `Sink`."""

    def opened(self, defaults: Options) -> None:
        """See `Sink`. The jobs here say all of their options themselves."""
        self._world.counts["sessions"] += 1

    def printed(self, job: JobId) -> None:
        """See `Sink`."""

    # --- what it does ------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """One thing that users do."""
        world = self._world
        act = world.dice.choices(ACTS, cum_weights=world.plan.tastes.habits)[0]
        (act if self._mine else Client._submit)(self)

    def hear_of(self, job: JobId) -> None:
        """Watch a job that another one has just submitted, and which may not be there yet."""
        self._watch(job)

    def resume_queues(self) -> None:
        """Undo every pause, for the second phase."""
        for queue in catalogue.QUEUES:
            self._order("resume", calls.QueueArgs(queue))

    def _submit(self) -> None:
        specs: list[JobSpec] = []
        for _ in range(self._world.dice.randint(1, 2)):
            self._made += 1
            spec = catalogue.draw(f"{self.name}{self._made}", self._mine, self._world)
            if spec.id in self._history.submitted:
                # The same key: the same job, of which each submission has a record of its own.
                spec = structs.replace(self._history.submitted[spec.id])
            self._history.submitted[spec.id] = spec
            self.waits[spec.id] = None
            self._mine.append(spec.id)
            self._own.add(spec.id)
            specs.append(spec)
        del self._mine[:-MAX_REMEMBERED]
        self._world.note("submits", self.name, *(spec.id for spec in specs))
        self._history.submits(specs)
        self._unsent.append(specs)
        self._send()
        if self._world.dice.random() < self._world.plan.tastes.gossip:
            self._gossip(specs[0].id)

    def _gossip(self, job: JobId) -> None:
        """Tell another one of a new job: when it may not be there yet, or when it is there, and not durable yet."""
        dice = self._world.dice
        peer = dice.choice([each for each in self.peers if each is not self] or self.peers)
        if dice.random() < 0.5:
            self._world.after(dice.uniform(0.0, 0.06), lambda: peer.hear_of(job))
        else:
            self._to_tell[job] = peer

    def _send(self) -> None:
        """The sender's thread: one batch after the other."""
        sender = self._fibers[1]
        if self._unsent and not sender.is_busy:
            specs = self._unsent.popleft()
            used = {spec.function for spec in specs}
            functions = [blob for blob in catalogue.FUNCTIONS if blob.digest in used]
            sender.start(self._conversation.submitting(specs, functions), lambda result: self._sent(specs, result))

    def _sent(self, specs: list[JobSpec], result: Any) -> None:
        if isinstance(result, Exception):
            self._history.fail("exception", f"submitting raised {result!r}")
        for spec in specs:
            if (peer := self._to_tell.pop(spec.id, None)) is not None:
                peer.hear_of(spec.id)
        self._send()

    def _order(self, method: str, said: Struct, heard: Callable[[Any], None] | None = None) -> None:
        """A call that is sent again under its id until there is an answer, or patience is over.

        As `RemoteJobsDesk` does it: not before all that was submitted has been passed on.
        """
        self._asked += 1
        request, life = f"{self.name}/{self._life}/{self._asked}", self._life
        repeats = 0

        def ask() -> None:
            if life == self._life and not self._conversation._is_behind:
                self._network.call(self, ("jobs", method, said), answered, request=request)

        def answered(answer: Any) -> None:
            nonlocal repeats
            if life != self._life:
                return
            if isinstance(answer, MasterUnavailable) and repeats < MAX_REPEATS:
                repeats += 1
                self._world.after(REPEAT_SECONDS, ask)
            elif heard is not None:
                heard(answer)

        ask()

    def _cancel_some(self) -> None:
        dice = self._world.dice
        jobs = dice.sample(self._mine, min(len(self._mine), dice.randint(1, 3)))
        self._cancel(jobs)
        if dice.random() < 0.4:  # second thoughts, often while the cancelled attempts have still to stop
            self._world.after(dice.uniform(0.0, 0.3), lambda: self._requeue(jobs[:1]))

    def _cancel(self, jobs: list[JobId]) -> None:
        self._world.note("cancels", *jobs)
        image = self._host.image
        before = {job: stored.run for job in jobs if (stored := image.find(job)) is not None}

        def heard(answers: Any) -> None:
            if isinstance(answers, Exception):
                return
            for job, is_cancelled in zip(jobs, answers, strict=True):
                if is_cancelled and job not in image.pruned:
                    stored = image.find(job)
                    runs = range(before.get(job, 1), (stored.run if stored else 1) + 1)
                    ends = [image.outcomes[job, run].state for run in runs if (job, run) in image.outcomes]
                    if JobState.CANCELLED not in ends:
                        self._history.fail("tell", f"cancelling {job} is confirmed and is not durable")

        self._order("cancel", calls.Cancel(tuple(jobs), 0.0), heard)

    def _requeue_some(self) -> None:
        dice = self._world.dice
        jobs = list(
            dict.fromkeys(dice.sample(self._mine, min(len(self._mine), dice.randint(1, 2))))
        )  # a key's is there twice
        self._requeue(jobs)
        if dice.random() < 0.4:  # and these, perhaps while what depends on the first run still waits to begin
            self._world.after(dice.uniform(0.0, 0.5), lambda: self._cancel(jobs))

    def _requeue(self, jobs: list[JobId]) -> None:
        self._world.note("requeues", *jobs)
        dice, image = self._world.dice, self._host.image
        budget = (
            Budget(retries=dice.randint(0, 2), crash_limit=dice.randint(0, 3)) if dice.random() < 0.3 else SAME_BUDGET
        )
        for job in jobs:
            self._history.asks_for(job, budget)

        def heard(answer: Any) -> None:
            if isinstance(answer, MasterUnavailable):
                self._world.counts["requeue unconfirmed"] += 1
            elif isinstance(answer, (Refused, UnknownJob)):
                return  # not ended, or unknown
            else:
                for job, info in zip(jobs, answer, strict=True):
                    stored = image.find(job)
                    if job in image.pruned:
                        continue
                    if stored is None or stored.run < info.run or info.run < 2:
                        self._history.fail("tell", f"requeueing {job} is confirmed and is not durable")
            for job in jobs:
                self._watch(job)

        self._order("requeue", calls.Requeue(tuple(jobs), budget), heard)

    def _watch_any(self) -> None:
        self._watch(self._world.dice.choice(list(self._history.submitted)[-MAX_WATCHABLE:]))

    def _watch(self, job: JobId) -> None:
        self.waits.setdefault(job)
        fiber = Fiber(self._world, self._network, self, "jobs")
        life = self._life
        was_accepted = False  # when it was asked

        def heard(info: Any) -> None:
            if life != self._life:
                return
            if isinstance(info, UnknownJob):
                if was_accepted and job not in self._host.image.pruned:
                    self._history.fail("lost", f"{job} was acknowledged, and the master does not know it")
                self.waits.pop(job, None)
            elif isinstance(info, MasterUnavailable):
                self._world.after(REPEAT_SECONDS, again)

        def again() -> None:
            nonlocal was_accepted
            if any(job == spec.id for specs in self._unsent for spec in specs):
                self._world.after(REPEAT_SECONDS, again)  # a question does not overtake its job
            elif life == self._life and job in self.waits:
                was_accepted = job in self._history.accepted
                fiber.start(self._conversation.watching(job), heard)

        again()

    def _inquire(self) -> None:
        """Every question must have an answer at any moment, and a listing shows what is durable."""
        image, job = self._host.image, self._world.dice.choice(self._mine)

        def listed(page: Any) -> None:
            if isinstance(page, Exception):
                return
            for info in page.jobs:
                if not image.has(info.id):
                    self._history.fail("tell", f"{info.id} is listed and is not durable")

        self._order("page", calls.Page(limit=20), listed)
        for method in ("info", "explain", "history", "output"):
            self._order(method, calls.JobArgs(job))
        self._order("stats", calls.Nothing())
        self._order("workers", calls.Nothing())

    def _pause(self) -> None:
        queue = self._world.dice.choice(catalogue.QUEUES)
        self._world.note("pauses", queue)
        image = self._host.image
        before = image.switched[queue]

        def heard(answer: Any) -> None:
            if answer is None and image.switched[queue] == before:
                self._history.fail("tell", f"the pause of {queue} is confirmed and is not durable")

        self._order("pause", calls.QueueArgs(queue), heard)
        self._world.after(self._world.dice.uniform(0.5, 5.0), lambda: self._order("resume", calls.QueueArgs(queue)))

    def _lose_connection(self) -> None:
        self._world.fault("session broken")
        self.break_off()


# The order is that of `world.HABITS`, behind submitting.
ACTS = (
    Client._submit,
    Client._cancel_some,
    Client._requeue_some,
    Client._pause,
    Client._watch_any,
    Client._inquire,
    Client._lose_connection,
)
