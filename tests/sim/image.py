"""What is on disk: the kit's own memory store, which survives the master here, with faults and an auditor.

The auditor reads every record that is committed and knows what a store has no reason to check: that a record builds
only on admitted jobs, that a run has one outcome for ever, and that no budget is overdrawn, counted by what workers
really reported and not by what the board says it counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from cluster.core import chunks
from cluster.core.effects import (
    Admitted,
    AttemptFailed,
    Effect,
    Ended,
    Leased,
    Purged,
    QueuePaused,
    Rebudgeted,
    Record,
    Requeued,
    Undone,
)
from cluster.core.records import Ending, Fence, JobId, JobSpec, Outcome, Report
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreFull
from cluster.store.memory import MemoryStore
from tests.sim.world import Crash, Violation, World

TASK_ENDINGS = frozenset({Ending.RAISED, Ending.UNPICKLABLE, Ending.TIMED_OUT})
CRASH_ENDINGS = frozenset({Ending.CRASHED, Ending.OUT_OF_MEMORY, Ending.WORKER_LOST})


class Image(MemoryStore):
    """A memory store whose commits may fail, before or after they have written, and whose master may die in one."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.is_instant = world.plan.is_instant
        self._world = world
        self._fails_until = 0.0
        self._crashes = 0
        self.specs: dict[int, JobSpec] = {}  # by seq, of jobs that are here or were pruned
        self.seqs: dict[JobId, int] = {}
        self.outcomes: dict[tuple[JobId, int], Outcome] = {}
        self.pruned: dict[JobId, None] = {}
        self.requested: Counter[JobId] = Counter()  # requeues that were asked for
        self.heard: dict[JobId, None] = {}  # whose submitters know that they are here
        self.reports: dict[Fence, Report] = {}  # what its worker said, for the budgets' audit
        self.leased: dict[Fence, None] = {}  # every lease that ever was durable
        self.switched: Counter[str] = Counter()  # how often each queue was paused or resumed
        self._audited: dict[Fence, None] = {}  # those whose failure has been counted
        self._spent: Counter[tuple[JobId, int, int, str]] = Counter()  # job, run, item (-1: the job), budget

    def commit(self, records: Sequence[Record]) -> None:
        """Write all or nothing, or die, or fail and leave it open which."""
        world, plan = self._world, self._world.plan
        world.interleave()
        may_crash = self._crashes < plan.max_crashes
        if may_crash and world.chance(plan.crash_rate):
            self._crash("before the commit")
        if world.now < self._fails_until or world.chance(plan.commit_fault_rate):
            self._fail(records)
        self._write(records)
        if may_crash and world.chance(plan.crash_rate):
            self._crash("between commit and tell")
        world.interleave()

    def prune(self, wall: float, is_needed: Callable[[JobId], bool], limit: int = 10_000) -> int:
        """Drop what is over, and remember it for the checker.

        Retention is seconds here and outages last longer, which is unfair: a client that has heard nothing of its job
        submits it anew after an outage, and it would run again. So it outlasts every outage.
        """
        before = dict.fromkeys(self._ids)
        dropped = super().prune(wall, lambda job: job not in self.heard or is_needed(job), limit)
        self.pruned.update(dict.fromkeys(name for name in before if name not in self._ids))
        return dropped

    def has(self, job: JobId) -> bool:
        """Whether the job is durable, or was and had its outcome."""
        return job in self._ids or job in self.pruned

    def _crash(self, where: str) -> None:
        self._crashes += 1
        self._world.fault("master crashed in a commit")
        self._world.note("crash", where)
        raise Crash(where)

    def _fail(self, records: Sequence[Record]) -> None:
        world = self._world
        if world.now >= self._fails_until and world.dice.random() < 0.3:
            self._fails_until = world.now + world.dice.uniform(0.2, 3.0)
        how = world.dice.choice(
            ("after writing", "after writing", "before writing", "for lack of room", "for lack of room")
        )
        if how == "after writing":
            self._write(records)
        world.fault("commit failed")
        world.note("commit fails", how)
        if how == "for lack of room":  # and the store knows that it has written nothing
            raise StoreFull(self.url, "the disk is full")
        raise StoreError(self.url, "the disk does not answer")

    def _write(self, records: Sequence[Record]) -> None:
        super().commit(records)
        for record in records:
            self._audit(record)

    def _audit(self, record: Record) -> None:
        match record:
            case Admitted():
                spec = record.spec
                other = self.seqs.get(spec.id)
                if other is not None and other != record.seq:
                    raise Violation(f"durability: {spec.id} is admitted twice, as {other} and {record.seq}")
                self.specs[record.seq] = spec
                self.seqs[spec.id] = record.seq
            case Undone():
                self._forget(record.seq)
            case Leased():
                for job in record.jobs:
                    self._know(job.seq, record)
                    self.leased[job.fence] = None
            case Ended():
                self._know(record.seq, record)
                self._audit_outcome(record)
            case AttemptFailed():
                self._know(record.seq, record)
                self._audit_failure(record.seq, record.run, record.fence, record.certificate.ending)
            case Requeued():
                self._know(record.seq, record)
                if record.run > 1 + self.requested[record.job]:
                    raise Violation(
                        f"once: {record.job} was requeued {self.requested[record.job]} times and is at run {record.run}"
                    )
            case Rebudgeted():
                self._know(record.seq, record)
                self.specs[record.seq] = record.admitted.spec
            case Purged():
                self._forget(record.seq)
            case QueuePaused():
                self.switched[record.queue] += 1
            case _:
                pass

    def _know(self, seq: int, record: Effect) -> None:
        if seq not in self.specs:
            raise Violation(
                f"durability: {type(record).__name__} of job number {seq}, which was never admitted or is undone"
            )

    def _forget(self, seq: int) -> None:
        spec = self.specs.pop(seq, None)
        if spec is None:
            return
        del self.seqs[spec.id]
        for key in [key for key in self.outcomes if key[0] == spec.id]:
            del self.outcomes[key]
        for spent in [spent for spent in self._spent if spent[0] == spec.id]:
            del self._spent[spent]

    def _audit_outcome(self, record: Ended) -> None:
        outcome = record.outcome
        known = self.outcomes.setdefault((outcome.job, outcome.run), outcome)
        if known != outcome:
            raise Violation(f"once: run {outcome.run} of {outcome.job} ended as {known} and as {outcome}")
        spec = self.specs[record.seq]
        reason = outcome.certificate.reason if outcome.certificate is not None else ""
        are_there = all(name in self.seqs and name not in self.pruned for name in spec.inputs)
        if "is no longer in the store" in reason and are_there:
            raise Violation(f"result: {outcome.job} is given up for a result that is there: {reason}")
        if spec.items:
            self._audit_segments(outcome)
        elif record.fence and outcome.state is JobState.DEAD_LETTER and outcome.certificate is not None:
            self._audit_failure(record.seq, outcome.run, record.fence, outcome.certificate.ending)

    def _audit_segments(self, outcome: Outcome) -> None:
        """A chunk that has run tells of every item once, and of each its own result."""
        segments = chunks.decode(outcome.payload)
        covered = 0
        for segment in segments:
            if segment.first != covered:
                raise Violation(f"chunk: {outcome.job} tells of item {segment.first} where {covered} is due")
            covered += segment.count
            result = f"{outcome.job}/{outcome.run}/{segment.first}".encode()
            if segment.certificate is None and segment.data != result:
                raise Violation(f"chunk: item {segment.first} of {outcome.job} has the result {segment.data!r}")
        if segments and covered != outcome.items:
            raise Violation(f"chunk: {outcome.job} tells of {covered} items, it has {outcome.items}")
        if outcome.state is JobState.COMPLETED and covered != outcome.items:
            raise Violation(f"chunk: {outcome.job} completed with {covered} of {outcome.items} items")

    def _audit_failure(self, seq: int, run: int, fence: int, ending: Ending) -> None:
        """Charge a failed attempt by what its worker reported (a lost one reported nothing)."""
        if fence in self._audited:
            return
        self._audited[fence] = None
        spec = self.specs[seq]
        report = self.reports.get(fence) if ending is not Ending.WORKER_LOST else None
        blamed = [segment for segment in report.segments if segment.certificate] if report and spec.items else []
        charges = [(segment.first, segment.certificate.ending) for segment in blamed if segment.certificate]
        for item, how in charges or [(-1, ending)]:
            budget = "retries" if how in TASK_ENDINGS else "crashes" if how in CRASH_ENDINGS else ""
            if not budget:
                continue
            options = spec.options
            limit = options.retry.max_retries if budget == "retries" else options.crash_limit
            if item < 0 and spec.items:
                limit = (limit + 1) * (
                    spec.items + 1
                )  # deaths that could not be blamed, each charged to some item later
            self._spent[spec.id, run, item, budget] += 1
            if self._spent[spec.id, run, item, budget] > limit + 1:
                raise Violation(f"budget: {spec.id} run {run} item {item} spent more than {limit + 1} on {budget}")
