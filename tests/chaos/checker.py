"""The checker, in Jepsen's manner: from what was written down to what must not have happened. Pure.

It trusts nobody's summary. What clients asked for and heard, what the jobs themselves wrote, what the harness broke, and
the store as it was left are compared, each against the others. Every rule has a name, a line below, and a planted
violation in `test_checker.py`.

Two attempts of one job may run at the same time in two cases that no design can rule out without a fence inside the job,
and the documentation says so; they are excused, and counted:

- *frozen*: the older attempt's supervisor was stopped, so it could not kill what ran when its lease ran out;
- *undurable*: the master died within a moment of granting one of the two leases, before that was on the disk.

A job that is at most once (`retries=0, crash_limit=0`) is excused nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.chaos.history import (
    Acknowledged,
    Alive,
    Began,
    CancelAnswered,
    ClientRecord,
    Fault,
    Finished,
    Heard,
    Invoked,
    Issued,
    JobRecord,
    MapHeard,
    Refused,
    Unresolved,
)

# Supervisors need so long to act after they are woken.
THAW_SECONDS = 1.0
# A lease whose master died within so long after the attempt began may not have reached the disk.
DURABLE_SECONDS = 1.0

SPENDS_RETRIES = {"RAISED", "UNPICKLABLE", "TIMED_OUT"}
SPENDS_CRASHES = {"CRASHED", "OUT_OF_MEMORY", "WORKER_LOST"}
NEVER_COMPLETES = {"fails always", "dies always", "times out"}


@dataclass(frozen=True)
class FinalJob:
    """A job as the store was left with it."""

    job: str
    token: str
    state: str  # empty: it has no outcome
    run: int = 1
    attempts: int = 0
    nonce: str = ""  # of the execution whose result was committed
    endings: tuple[tuple[str, str], ...] = ()  # of the last run: how each unsuccessful attempt ended, and why
    key: str = ""
    retries: int = 0
    crash_limit: int = 5
    items: int = 0


@dataclass(frozen=True)
class Execution:
    """Code of a job that ran, as it wrote itself."""

    host: str
    began: Began
    seen: float  # its last sign of life
    finished: float | None = None

    @property
    def subject(self) -> tuple[str, int, int]:
        """What must not be run twice at a time."""
        return self.began.job, self.began.run, self.began.item


@dataclass(frozen=True)
class Violation:
    """Something that must not happen, did."""

    rule: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.text}"


@dataclass
class Evidence:
    """Everything that was written down, put in order for questions."""

    clients: list[ClientRecord]
    executions: list[Execution]
    faults: list[Fault]
    final: list[FinalJob]
    excused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.invoked = {each.token: each for each in self.of(Invoked)}
        self.jobs = {each.job: each for each in self.final}
        self.by_nonce = {each.began.nonce: each for each in self.executions}
        self.by_subject: dict[tuple[str, int, int], list[Execution]] = defaultdict(list)
        for each in sorted(self.executions, key=lambda each: (each.began.fence, each.began.at)):
            self.by_subject[each.subject].append(each)
        self.master_deaths = sorted(each.at for each in self.faults if each.kind == "kill" and each.what == "master")

    def of(self, kind: type[object]) -> list:  # type: ignore[type-arg] # the caller names the type
        """The clients' records of one kind."""
        return [each for each in self.clients if isinstance(each, kind)]


def put_together(hosts: dict[str, Iterable[JobRecord]]) -> list[Execution]:
    """Executions, from the records of each host."""
    found = []
    for host, records in hosts.items():
        began: dict[str, Began] = {}
        seen: dict[str, float] = {}
        finished: dict[str, float] = {}
        for record in records:
            seen[record.nonce] = max(record.at, seen.get(record.nonce, 0.0))
            if isinstance(record, Began):
                began[record.nonce] = record
            elif isinstance(record, Finished):
                finished[record.nonce] = record.at
            else:
                assert isinstance(record, Alive)
        found += [Execution(host, each, seen[nonce], finished.get(nonce)) for nonce, each in began.items()]
    return found


def check(evidence: Evidence) -> list[Violation]:
    """Every violation; none is the goal."""
    return [violation for rule in RULES for violation in rule(evidence)]


# --- nothing lost, nothing made up ------------------------------------------------------------------------------------


def _lost(evidence: Evidence) -> Iterator[Violation]:
    for each in {record.job: record for record in evidence.of(Acknowledged)}.values():
        final = evidence.jobs.get(each.job)
        if final is None:
            yield Violation("lost", each.token, f"job {each.job} was acknowledged and is not in the store")
        elif not final.state:
            yield Violation("lost", each.token, f"job {each.job} was acknowledged and has no outcome after the drain")
    for each in evidence.final:
        if not each.state and each.token in evidence.invoked:
            yield Violation("unfinished", each.token, f"job {each.job} has no outcome after the drain")


def _unresolved(evidence: Evidence) -> Iterator[Violation]:
    for each in evidence.of(Unresolved):
        yield Violation("unresolved", each.token, f"its client waited in vain for job {each.job or '(map)'}")
    acknowledged = {each.token for each in evidence.of(Acknowledged)}
    for each in evidence.of(Refused):
        if each.why == "never acknowledged" or each.token in acknowledged:
            yield Violation("unresolved", each.token, f"its client was told: {each.why}")


def _unexpected(evidence: Evidence) -> Iterator[Violation]:
    for each in evidence.final:
        if each.token not in evidence.invoked:
            yield Violation("unexpected", each.token, f"job {each.job} is in the store and nobody submitted it")
    for token in sorted({each.began.token for each in evidence.executions} - evidence.invoked.keys()):
        yield Violation("unexpected", token, "it was run and nobody submitted it")


def _twice(evidence: Evidence) -> Iterator[Violation]:
    jobs: dict[str, set[str]] = defaultdict(set)
    for each in [*evidence.final, *evidence.of(Issued), *evidence.of(Acknowledged), *evidence.of(Heard)]:
        if (invoked := evidence.invoked.get(each.token)) and not invoked.items:
            jobs[each.token].add(each.job)
    for token, ids in jobs.items():
        if len(ids) > 1:
            yield Violation("twice", token, f"one submission, or key, is several jobs: {sorted(ids)}")


# --- one outcome, and the right one -----------------------------------------------------------------------------------


def _outcomes(evidence: Evidence) -> Iterator[Violation]:
    for each in evidence.of(Heard):
        final = evidence.jobs.get(each.job)
        if final is None:
            yield Violation("outcome", each.token, f"job {each.job} was told as {each.state} and is not in the store")
        elif (final.state, final.nonce) != (each.state, each.nonce):
            yield Violation(
                "outcome", each.token,
                f"told as {each.state} by execution {each.nonce or '-'}, stored as {final.state or 'no outcome'} by "
                f"{final.nonce or '-'}",
            )  # fmt: skip
        if each.state == "COMPLETED" and each.owner != each.token:
            yield Violation("outcome", each.token, f"it was given the result of {each.owner}")
    for each in evidence.of(MapHeard):
        if each.wrong:
            yield Violation("outcome", each.token, f"a map's results are wrong: {each.wrong}")


def _sources(evidence: Evidence) -> Iterator[Violation]:
    for final in evidence.final:
        if final.state != "COMPLETED" or final.items:
            continue
        source = evidence.by_nonce.get(final.nonce)
        if source is None or source.began.job != final.job or source.finished is None:
            yield Violation("source", final.token, f"its result is of no execution that ended: {final.nonce!r}")
            continue
        for other in evidence.by_subject[source.subject]:
            if other.began.fence > source.began.fence and not _is_undurable(evidence, other):
                yield Violation(
                    "stale commit", final.token,
                    f"fence {source.began.fence} was committed although fence {other.began.fence} was leased",
                )  # fmt: skip


def _states(evidence: Evidence) -> Iterator[Violation]:
    for final in evidence.final:
        invoked = evidence.invoked.get(final.token)
        if invoked is not None and invoked.sort in NEVER_COMPLETES and final.state == "COMPLETED":
            yield Violation("state", final.token, f"a job that {invoked.sort} is COMPLETED")
        if invoked is not None and final.state == "CANCELLED" and invoked.sort != "cancelled":
            yield Violation("state", final.token, "nobody cancelled it")
    states = {each.token: each.state for each in evidence.final}
    for each in evidence.of(CancelAnswered):
        if each.verdict and states.get(each.token) != "CANCELLED":
            yield Violation("state", each.token, f"cancel() was True, and it is {states.get(each.token)}")


# --- executions -------------------------------------------------------------------------------------------------------


def _overlaps(evidence: Evidence) -> Iterator[Violation]:
    for attempts in evidence.by_subject.values():
        for number, old in enumerate(attempts):
            for new in attempts[number + 1 :]:
                if new.began.fence == old.began.fence:
                    # A map's item that is run again within one lease would be the child's own doing.
                    yield Violation("overlap", old.began.token, f"fence {old.began.fence} was executed twice")
                elif old.seen > new.began.at:
                    yield from _judge_overlap(evidence, old, new)


def _judge_overlap(evidence: Evidence, old: Execution, new: Execution) -> Iterator[Violation]:
    if excuse := _excuse(evidence, old, new):
        evidence.excused[excuse] += 1
        return
    rule = "stale start" if old.began.at > new.began.at else "overlap"
    yield Violation(
        rule, old.began.token,
        f"fence {old.began.fence} on {old.host} ran from {old.began.at:.3f} to {old.seen:.3f} at least, "
        f"fence {new.began.fence} on {new.host} began at {new.began.at:.3f}",
    )  # fmt: skip


def _excuse(evidence: Evidence, old: Execution, new: Execution) -> str:
    for fault in evidence.faults:
        is_of_host = (
            fault.kind == "freeze" and fault.host == old.host and fault.what in {"supervisor", "nursery", "host"}
        )
        if is_of_host and fault.at <= old.seen and fault.until + THAW_SECONDS >= new.began.at:
            return "frozen"
    if _is_undurable(evidence, old) or _is_undurable(evidence, new):
        return "undurable"
    return ""


def _is_undurable(evidence: Evidence, execution: Execution) -> bool:
    """Whether its lease may have died with the master that granted it.

    It may begin after that death, in a worker that has not heard of it.
    """
    began = execution.began.at
    return any(began - DURABLE_SECONDS <= death <= began + DURABLE_SECONDS for death in evidence.master_deaths)


def _at_most_once(evidence: Evidence) -> Iterator[Violation]:
    for (job, run, _), attempts in evidence.by_subject.items():
        invoked = evidence.invoked.get(attempts[0].began.token)
        if invoked is None or invoked.retries or invoked.crash_limit or len(attempts) == 1:
            continue
        yield Violation("at most once", invoked.token, f"run {run} of job {job} was executed {len(attempts)} times")


def _arguments(evidence: Evidence) -> Iterator[Violation]:
    for each in evidence.executions:
        began = each.began
        invoked = evidence.invoked.get(began.token)
        if invoked is None:
            continue
        if invoked.digest and began.digest != invoked.digest:
            yield Violation("payload", began.token, "it was executed with other data than it was submitted with")
        if invoked.delay and began.at < invoked.at + invoked.delay:
            early = invoked.at + invoked.delay - began.at
            yield Violation("early", began.token, f"it began {early:.3f} s before its delay was over")


def _dependencies(evidence: Evidence) -> Iterator[Violation]:
    results = {each.token: each for each in evidence.final}
    for each in evidence.executions:
        invoked = evidence.invoked.get(each.began.token)
        if invoked is None or not invoked.after:
            continue
        earlier = results.get(invoked.after)
        source = evidence.by_nonce.get(each.began.given)
        if earlier is None or earlier.nonce != each.began.given:
            yield Violation("dependency", invoked.token, f"it was given {each.began.given}, not the committed result")
        elif source is not None and (source.finished is None or source.finished > each.began.at):
            yield Violation("dependency", invoked.token, "it began before what it depends on had ended")


# --- budgets and reasons ----------------------------------------------------------------------------------------------


def _budgets(evidence: Evidence) -> Iterator[Violation]:
    states = {each.token: each.state for each in evidence.final}
    for final in evidence.final:
        if final.items or not final.state:
            continue
        spent = [ending for ending, _ in final.endings]
        failures = sum(ending in SPENDS_RETRIES for ending in spent)
        crashes = sum(ending in SPENDS_CRASHES for ending in spent)
        told = f"after {failures} failures of {final.retries} and {crashes} crashes of {final.crash_limit}"
        has_given_up = failures > final.retries or crashes > final.crash_limit
        is_over = failures > final.retries + 1 or crashes > final.crash_limit + 1
        if is_over or (has_given_up and final.state != "DEAD_LETTER"):
            yield Violation("budget", final.token, f"it is {final.state} {told}")
        if final.state == "DEAD_LETTER" and not has_given_up:
            invoked = evidence.invoked.get(final.token)
            after = invoked.after if invoked is not None else ""
            if "DEPENDENCY" not in spent or not after or states.get(after) == "COMPLETED":
                yield Violation("budget", final.token, f"it was given up {told}: {spent}")


def _reasons(evidence: Evidence) -> Iterator[Violation]:
    for final in evidence.final:
        for ending, reason in final.endings:
            if not reason.strip():
                yield Violation("reason", final.token, f"an attempt ended as {ending} without a reason")
        # The end of a job that waited, or was cancelled, is none of an attempt.
        ended_badly = sum(ending in SPENDS_RETRIES | SPENDS_CRASHES for ending, _ in final.endings)
        if final.state == "COMPLETED" and not final.items and final.attempts != ended_badly + 1:
            yield Violation(
                "reason", final.token, f"{final.attempts} attempts, and {ended_badly} of them have a reason"
            )


RULES: tuple[Callable[[Evidence], Iterator[Violation]], ...] = (
    _lost, _unresolved, _unexpected, _twice, _outcomes, _sources, _states, _overlaps, _at_most_once, _arguments,
    _dependencies, _budgets, _reasons,
)  # fmt: skip
