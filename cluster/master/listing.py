"""What the desks answer to questions: jobs, workers and counters as records for people.

Listings go through the store in order of admission, so they show nothing that is not durable; what the board knows
better (the state of a job that lives) is laid over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from cluster.core.effects import StoredJob
from cluster.core.job import Job, WorkerHeld
from cluster.core.records import Certificate, Ending, JobId, JobInfo
from cluster.core.states import TERMINAL, JobState
from cluster.errors import Refused, StoreTampered
from cluster.wire.messages import Stats, WorkerInfo

if TYPE_CHECKING:
    from cluster.master.master import Master

# A page never looks at more stored jobs than this, however few of them are wanted; the caller asks on.
MAX_SCANNED_JOBS = 10_000


class Filter(Struct, frozen=True):
    """Which jobs are wanted; None: any."""

    state: JobState | None
    tag: str | None
    batch: str | None
    queue: str | None

    def wants(self, info: JobInfo) -> bool:
        """Whether this job is among them."""
        return (
            (self.state is None or info.state is self.state)
            and (self.tag is None or self.tag in info.tags)
            and (self.batch is None or info.batch == self.batch)
            and (self.queue is None or info.queue == self.queue)
        )


def parse_state(name: str | None) -> JobState | None:
    """A state by its name in lower case. Raises `Refused` for another word."""
    if name is None:
        return None
    try:
        return JobState[name.upper()]
    except KeyError:
        import difflib  # only a mistake needs it

        known = [state.name.lower() for state in JobState]
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(known)}"
        raise Refused(f"no job state is called {name!r}; {hint}") from None


def page(master: Master, wanted: Filter, limit: int, after: int) -> tuple[list[JobInfo], int]:
    """At most `limit` jobs from mark `after` on, and the mark to go on from (0: no more)."""
    found: list[JobInfo] = []
    ended_in = wanted.state if wanted.state in TERMINAL else None
    scanned = 0
    while len(found) < limit and scanned < MAX_SCANNED_JOBS:
        rows = master.store.page(after, limit, ended_in)
        if not rows:
            return found, 0
        for row in rows:
            scanned += 1
            after = row.seq
            info = _overlaid(master, row)
            if wanted.wants(info) and not master.committer.is_condemned(info.id):
                found.append(info)
                if len(found) == limit:
                    break
    return found, after


def info_of(job: Job) -> JobInfo:
    """A job on the board. The lock is held."""
    spec, options = job.spec, job.spec.options
    return JobInfo(
        id=spec.id,
        name=options.name,
        state=job.state,
        queue=options.queue,
        priority=options.priority,
        run=job.run,
        attempts=job.attempts,
        failures=job.failures,
        crashes=job.crashes,
        worker=job.worker,
        submitted=job.submitted,
        started=job.started,
        tags=options.tags,
        batch=spec.batch,
        items=spec.items,
    )


def info_of_stored(stored: StoredJob) -> JobInfo:
    """A job that only the store has."""
    spec, options, outcome = stored.spec, stored.spec.options, stored.outcome
    return JobInfo(
        id=spec.id,
        name=options.name,
        state=outcome.state if outcome else JobState.SUBMITTED,
        queue=options.queue,
        priority=options.priority,
        run=stored.run,
        attempts=outcome.attempts if outcome else stored.attempts,
        failures=stored.failures,
        crashes=stored.crashes,
        worker=outcome.worker if outcome else stored.worker,
        submitted=stored.submitted,
        ended=outcome.ended if outcome else 0.0,
        tags=options.tags,
        batch=spec.batch,
        items=spec.items,
        certificate=outcome.certificate if outcome else None,
    )


def info_of_tampered(job: JobId, error: StoreTampered) -> JobInfo:
    """A job of which nothing is believed but its name."""
    return JobInfo(
        id=job,
        name="",
        state=JobState.DEAD_LETTER,
        certificate=Certificate(ending=Ending.TAMPERED, reason=str(error)),
    )


def statistics(master: Master) -> Stats:
    """Counters and states now."""
    from cluster.wire.audit import AUDIT  # slow to load, and no part of a first result

    with master.lock:
        board = master.board
        counters = board.counters
        states = {state.name.lower(): board.counts[state] for state in JobState if board.counts[state]}
        depth = board.placement.depth()
        paused = tuple(sorted(board.placement.paused))
        workers = len(board.workers)
        slots = sum(box.hello.slots for box in master.mailboxes.all() if box.hello.worker in board.workers)
    return Stats(
        states=states,
        queues=depth,
        paused=paused,
        submitted=counters.submitted,
        completed=counters.completed,
        failed_attempts=counters.failed_attempts,
        retried=counters.retried,
        dead=counters.dead,
        fenced=counters.fenced,
        workers=workers,
        slots=slots,
        store=master.store.url,
        security=AUDIT.counts(),
    )


def workers(master: Master) -> list[WorkerInfo]:
    """Every worker that has registered and not left."""
    infos: list[WorkerInfo] = []
    for box in master.mailboxes.all():
        hello = box.hello
        with master.lock:
            held = master.board.workers.get(hello.worker)
            running = len(held.leases) if held else 0
            state, trouble = _state_of(held)
        infos.append(
            WorkerInfo(
                id=hello.worker,
                name=hello.name,
                host=hello.host,
                pid=hello.pid,
                state=state,
                slots=hello.slots,
                running=running,
                resources=hello.resources,
                labels=hello.labels,
                health=box.health,
                trouble=trouble,
            )
        )
    return infos


def _state_of(held: WorkerHeld | None) -> tuple[str, str]:
    """A worker's state and its trouble. The lock is held."""
    if held is None:
        return "lost", ""
    suspicion = held.suspicion
    trouble = "its host is short of memory" if held.is_short else ""
    if suspicion is not None and suspicion.is_quarantined:
        trouble = f"jobs fail there at once, the last one because {suspicion.reason}"
        return "draining" if held.is_draining else "quarantined", trouble
    return "draining" if held.is_draining else "ready", trouble


def _overlaid(master: Master, row: StoredJob) -> JobInfo:
    with master.lock:
        job = master.board.jobs.get(row.spec.id)
        if job is not None and not job.is_settled and not job.is_terminal:
            return info_of(job)
    return info_of_stored(row)
