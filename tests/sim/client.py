"""A client: submits, cancels, requeues, asks; remembers what it waits for, and goes on after every broken connection.

It hears of its jobs through a sink. When its connection breaks (a lost answer, a master that died) it opens another
session and looks after each job that it still waits for: one that the master knows is watched, one that it does not
know was never acknowledged and is submitted again under the same id.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.core import policy
from cluster.core.records import SAME_BUDGET, Budget, JobId, JobInfo, JobSpec, Options, Outcome
from cluster.core.states import TERMINAL, JobState
from cluster.errors import ClusterError, MasterUnavailable, Refused, UnknownJob
from cluster.wire.messages import Progress, Refusal
from tests.sim import catalogue

if TYPE_CHECKING:
    from tests.sim.history import History
    from tests.sim.host import Host
    from tests.sim.network import Network
    from tests.sim.world import Action, World

# Enough to name dependencies, cancels and requeues among.
MAX_REMEMBERED = 40


class Line:
    """One session's sink. A broken one hears nothing more."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.is_open = True
        self.session = 0

    def accepted(self, jobs: Sequence[JobId]) -> None:
        """See `Sink`."""
        if self.is_open:
            self._client.hear_accepted(jobs)

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """See `Sink`."""
        if self.is_open:
            self._client.hear_refused(refusals)

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """See `Sink`."""
        if self.is_open:
            self._client.hear_ended(outcomes)

    def progressed(self, job: JobId, progress: Progress) -> None:
        """See `Sink`."""

    def opened(self, defaults: Options) -> None:
        """See `Sink`. The jobs here say all of their options themselves."""

    def printed(self, job: JobId) -> None:
        """See `Sink`."""


class Client:
    """One user's program."""

    def __init__(self, world: World, network: Network, history: History, name: str) -> None:
        self._world = world
        self._network = network
        self._history = history
        self.name = name
        self._line: Line | None = None
        self._host: Host
        # What it waits for: jobs whose submission or watch was not answered by an end or a refusal. The value is False
        # until the master is known to know the job.
        self.waits: dict[JobId, bool] = {}
        self._mine: list[JobId] = []
        self._made = 0

    # --- connection --------------------------------------------------------------------------------------------------

    def connect(self, host: Host) -> None:
        """Open a session and look after everything that is still waited for."""
        self._host = host
        self.disconnect()
        line = self._line = Line(self)
        line.session = host.jobs.open(line)
        for job in list(self.waits):
            self._look_after(line, job)

    def disconnect(self) -> None:
        """The connection is gone."""
        line, self._line = self._line, None
        if line is not None:
            line.is_open = False
            if self._host.is_up:
                self._host.jobs.close(line.session)

    def resume(self, action: Action) -> None:
        """Clients never freeze; their sessions break."""
        action()

    def _reconnect(self) -> None:
        if not self._host.is_up:
            return  # the next master will be connected to
        if self._host.is_frozen:
            self._world.after(1.0, self._reconnect)
            return
        self._world.counts["reconnects"] += 1
        self.connect(self._host)

    def _look_after(self, line: Line, job: JobId) -> None:
        try:
            self._host.jobs.watch(line.session, job)
        except UnknownJob:
            if job in self._history.accepted and job not in self._host.image.pruned:
                self._history.fail("lost", f"{job} was acknowledged, and the master does not know it")
            if job in self._host.image.pruned or job in self._history.refused:
                self.waits.pop(job, None)
                return
            self._host.jobs.submit(line.session, [self._history.submitted[job]], catalogue.FUNCTIONS)

    # --- what it hears -----------------------------------------------------------------------------------------------

    def hear_accepted(self, jobs: Sequence[JobId]) -> None:
        """Jobs are durable."""
        self._world.interleave()
        self._history.tell_accepted(jobs)

    def hear_refused(self, refusals: Sequence[Refusal]) -> None:
        """Jobs were not taken."""
        self._history.tell_refused(refusals)
        for refusal in refusals:
            self.waits.pop(refusal.job, None)

    def hear_ended(self, outcomes: Sequence[Outcome]) -> None:
        """Jobs have ended."""
        self._world.interleave()
        self._history.tell_ended(outcomes)
        for outcome in outcomes:
            self.waits.pop(outcome.job, None)

    # --- what it does ------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """One thing that users do."""
        line = self._line
        if line is None:
            return
        dice = self._world.dice
        what = dice.random()
        if what < 0.55 or not self._mine:
            self._submit(line)
        elif what < 0.70:
            jobs = dice.sample(self._mine, min(len(self._mine), dice.randint(1, 3)))
            self._ask(functools.partial(self._cancel, jobs))
            if dice.random() < 0.4:  # second thoughts, often while the cancelled attempts have still to stop
                again = functools.partial(self._requeue, line, jobs[:1])
                self._world.after(dice.uniform(0.0, 0.3), lambda: self._ask(again))
        elif what < 0.80:
            jobs = dice.sample(self._mine, min(len(self._mine), dice.randint(1, 2)))
            self._ask(functools.partial(self._requeue, line, jobs))
        elif what < 0.88:
            self._ask(functools.partial(self._pause, dice.choice(catalogue.QUEUES)))
        elif what < 0.94:
            self._ask(functools.partial(self._watch, line, dice.choice(self._mine)))
        elif what < 0.97:
            self._ask(functools.partial(self._inquire, dice.choice(self._mine)))
        else:
            self._world.fault("session broken")
            self._reconnect()

    def resume_queues(self) -> None:
        """Undo every pause, for the second phase."""
        for queue in catalogue.QUEUES:
            self._ask(functools.partial(self._resume_queue, queue))

    def _submit(self, line: Line) -> None:
        specs: list[JobSpec] = []
        for _ in range(self._world.dice.randint(1, 4)):
            self._made += 1
            spec = catalogue.draw(f"{self.name}{self._made}", self._mine, self._world)
            if spec.id in self._history.submitted:
                spec = self._history.submitted[spec.id]  # the same key: the same job
            self._history.submitted[spec.id] = spec
            self.waits[spec.id] = False
            self._mine.append(spec.id)
            specs.append(spec)
        del self._mine[:-MAX_REMEMBERED]
        self._world.note("submits", self.name, *(spec.id for spec in specs))

        def send(host: Host) -> None:
            # A connection that broke took the message with it, or the master would hear of the job twice.
            if line is self._line:
                self._history.submits(specs)
                host.jobs.submit(line.session, specs, catalogue.FUNCTIONS)
                if self._world.plan.commit_fault_rate and self._world.chance(0.1):
                    self._world.fault("session broken")
                    self._world.after(0.0, self._reconnect)

        self._ask(send)

    def _ask(self, do: functools.partial[None] | catalogue.Call) -> None:
        def answered(answer: ClusterError | None) -> None:
            pass

        self._network.call(self, do, answered, self._reconnect)

    def _cancel(self, jobs: list[JobId], host: Host) -> None:
        self._world.note("cancels", *jobs)
        before = {job: stored.run for job in jobs if (stored := host.image.find(job)) is not None}
        answers = host.jobs.cancel(jobs, 0.0)
        for job, is_cancelled in zip(jobs, answers, strict=True):
            if is_cancelled and job not in host.image.pruned:
                stored = host.image.find(job)
                states = [
                    outcome.state for run in (before.get(job, 1), stored.run if stored else 1)
                    if (outcome := host.image.outcomes.get((job, run))) is not None
                ]  # fmt: skip
                if JobState.CANCELLED not in states:
                    self._history.fail("tell", f"cancelling {job} is confirmed and is not durable")

    def _requeue(self, line: Line, jobs: list[JobId], host: Host) -> None:
        self._world.note("requeues", *jobs)
        dice = self._world.dice
        budget = (
            Budget(retries=dice.randint(0, 2), crash_limit=dice.randint(0, 3)) if dice.random() < 0.3 else SAME_BUDGET
        )
        for job in jobs:
            self._history.asks_for(job, budget)
        try:
            host.jobs.requeue(jobs, budget)
        except MasterUnavailable:
            self._world.counts["requeue unconfirmed"] += 1
        except Refused:  # not ended, or unknown
            return
        else:
            for job in jobs:
                stored = host.image.find(job)
                if stored is None or stored.run < 2:
                    self._history.fail("tell", f"requeueing {job} is confirmed and is not durable")
                elif policy.with_budget(stored.spec.options, budget) != stored.spec.options:
                    self._history.fail("tell", f"the new budget of {job} is confirmed and is not durable")
        if line.is_open:
            for job in jobs:
                self._watch(line, job, host)

    def _watch(self, line: Line, job: JobId, host: Host) -> None:
        if not line.is_open:
            return
        self.waits.setdefault(job, True)
        try:
            info: JobInfo = host.jobs.watch(line.session, job)
        except UnknownJob:
            if job in self._history.accepted and job not in host.image.pruned:
                self._history.fail("lost", f"{job} was acknowledged, and the master does not know it")
            del self.waits[job]
            return
        if info.state in TERMINAL and job in self.waits and job not in host.master.board.jobs:
            self._history.fail("tell", f"{job} has ended, and its watcher was not told")

    def _inquire(self, job: JobId, host: Host) -> None:
        """Every question must have an answer at any moment, and a listing shows what is durable."""
        host.jobs.stats()
        host.jobs.workers()
        listed, _ = host.jobs.page(limit=20)
        for info in listed:
            if not host.image.has(info.id):
                self._history.fail("tell", f"{info.id} is listed and is not durable")
        host.jobs.info(job)
        host.jobs.explain(job)
        host.jobs.history(job)
        host.jobs.output(job)

    def _pause(self, queue: str, host: Host) -> None:
        self._world.note("pauses", queue)
        before = host.image.switched[queue]
        host.jobs.pause(queue)
        if host.image.switched[queue] == before:
            self._history.fail("tell", f"the pause of {queue} is confirmed and is not durable")
        self._world.after(
            self._world.dice.uniform(0.5, 5.0), lambda: self._ask(functools.partial(self._resume_queue, queue))
        )

    def _resume_queue(self, queue: str, host: Host) -> None:
        host.jobs.resume(queue)
