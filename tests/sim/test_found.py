"""What the simulator found, or showed the way to, each reduced to its bones so that it stays found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from cluster.core import events
from cluster.core.board import Settings
from cluster.core.digests import name_function
from cluster.core.records import Ending, JobId, JobSpec, Options, Outcome, Report, RetryRule
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreFull, UnknownJob
from cluster.master.jobs_desk import JobsDesk
from cluster.master.master import Clock, Master
from cluster.master.work_desk import WorkDesk
from cluster.store.memory import MemoryStore
from cluster.wire.messages import Hello, Progress, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.core.effects import Record

TASK = name_function(b"code", "3.11", "3.0", "task", reusable=False)
TIMEOUT_SECONDS = 10.0


class FailingStore(MemoryStore):
    """A commit that is told to fail writes nothing, or everything."""

    failure = ""

    def commit(self, records: Sequence[Record]) -> None:
        if self.failure != "before writing":
            super().commit(records)
        if self.failure == "before writing":
            raise StoreFull(self.url, "the disk is full")
        if self.failure:
            raise StoreError(self.url, "the disk does not answer")


class Sink:
    """What a client hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def accepted(self, jobs: Sequence[JobId]) -> None:
        self.heard += [f"accepted {job}" for job in jobs]

    def refused(self, refusals: Sequence[Refusal]) -> None:
        self.heard += [f"refused {refusal.job}" for refusal in refusals]

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        self.heard += [f"ended {outcome.job} {outcome.state.name}" for outcome in outcomes]

    def progressed(self, job: JobId, progress: Progress) -> None:
        self.heard.append(f"progressed {job}")

    def opened(self, defaults: Options) -> None:
        pass

    def printed(self, job: JobId) -> None:
        self.heard.append(f"printed {job}")


class Small:
    """A master on a store, driven by hand, and one worker that registered once."""

    def __init__(self, store: FailingStore | None = None, *, is_deferred: bool = False) -> None:
        self.mono, self.wall = 100.0, 1e9
        self.store = store or FailingStore()
        self.master = Master(
            self.store, Settings(heartbeat_timeout_seconds=TIMEOUT_SECONDS), Clock(lambda: self.mono, lambda: self.wall)
        )
        self.is_deferred = is_deferred
        self.master.committer.kick = self.kick  # type: ignore[method-assign]
        self.master.open(grace_seconds=TIMEOUT_SECONDS)
        self.jobs, self.work = JobsDesk(self.master), WorkDesk(self.master)
        self.hello = Hello(worker="w#1", name="w", host="h", pid=1, slots=2)
        self.sink = Sink()
        self.session = self.jobs.open(self.sink)

    def kick(self) -> None:
        if not self.is_deferred:
            self.master.committer.drive()

    def join(self) -> None:
        self.work.register(self.hello, lambda: None)

    def submit(self, *jobs: JobSpec) -> None:
        self.jobs.submit(self.session, jobs, [TASK])

    def state(self, job: JobId) -> JobState:
        return self.master.board.jobs[job].state


def job(name: str, **options: object) -> JobSpec:
    return JobSpec(name, TASK.digest, b"", structs.replace(Options(), **options))


def test_a_job_requeued_twice_is_not_leased_while_its_attempt_has_still_to_stop() -> None:
    small = Small(is_deferred=True)  # so that the board never lets go of the job
    small.join()
    small.submit(job("a"), job("b"))
    small.master.decide(events.Cancel(("a",)))  # its place in the lane, which b keeps alive, is stale from here on,
    small.master.decide(events.Requeue(("a",), functions=(TASK,)))  # and looks like its own again from here on
    leases = small.work.poll("w#1", 1).leases
    small.master.decide(events.Cancel(("a",)))

    small.master.decide(events.Requeue(("a",), functions=(TASK,)))

    assert [lease.job for lease in leases] == ["a"]
    assert [lease.job for lease in small.work.poll("w#1", 2).leases] == ["b"]
    small.work.stopped("w#1", [leases[0].fence])
    assert [lease.job for lease in small.work.poll("w#1", 2).leases] == ["a"]


def test_a_master_that_is_stopped_before_its_first_tick_loses_no_worker() -> None:
    small = Small()
    small.join()

    small.mono += 2.5 * TIMEOUT_SECONDS
    small.master.decide(events.Tick())

    assert "w#1" in small.master.board.workers


def test_a_registration_that_arrives_twice_keeps_what_is_in_the_mailbox() -> None:
    small = Small()
    small.join()
    small.submit(job("once", crash_limit=0))
    assert small.work.poll("w#1", 1).leases == ()  # it must be durable first, and then waits in the mailbox

    small.join()

    assert [lease.job for lease in small.work.poll("w#1", 0).leases] == ["once"]


def test_whoever_watches_a_job_hears_that_it_is_undone() -> None:
    small = Small(is_deferred=True)
    small.submit(job("a"))
    watcher = Sink()
    small.jobs.watch(small.jobs.open(watcher), "a")
    small.store.failure = "before writing"

    small.master.committer.drive()

    assert small.sink.heard == watcher.heard == ["refused a"]


@pytest.mark.parametrize("failure", ["before writing", "after writing"])
def test_a_job_that_is_undone_is_unknown_at_once(failure: str) -> None:
    small = Small()
    small.store.failure = failure
    small.submit(job("a"))

    with pytest.raises(UnknownJob):
        small.jobs.watch(small.session, "a")
    assert small.jobs.page()[0] == []

    small.store.failure = ""
    small.master.committer.drive()
    assert small.sink.heard == ["refused a"]
    assert small.store.find("a") is None


def test_a_refusal_waits_until_the_job_is_struck_out_where_a_commit_may_have_written_it() -> None:
    small = Small()
    small.store.failure = "after writing"
    small.submit(job("a"))
    assert small.store.find("a") is not None
    small.store.failure = "before writing"
    small.submit(job("a"))  # its client does not know, and asks again
    assert small.sink.heard == []  # a master that died now would leave the job to the next one, which would run it

    small.store.failure = ""
    small.master.committer.drive()

    assert small.store.find("a") is None
    assert small.sink.heard == ["refused a", "refused a"]


def test_a_wall_clock_that_was_set_back_does_not_make_a_restored_job_wait() -> None:
    small = Small()
    small.join()
    retried = job("retried", retry=RetryRule(max_retries=1, backoff=2.0, max_delay=30.0))
    small.submit(retried, structs.replace(job("delayed"), delay=5.0))
    fence = small.work.poll("w#1", 1).leases[0].fence
    small.work.report("w#1", [Report(fence, Ending.RAISED)])
    small.store.close()

    again = Small(small.store)
    again.wall -= 3600.0  # read at the next opening
    again.store.close()
    restarted = _restarted(again)

    due = {name: entry.due_mono - again.mono for name, entry in restarted.board.jobs.items()}
    assert due["delayed"] <= 5.0
    assert due["retried"] <= 30.0


def _restarted(small: Small) -> Master:
    master = Master(small.store, small.master.settings, small.master.clock)
    master.open(grace_seconds=0.0)
    return master
