"""`ServedJobsDesk`: sessions over calls. What the calls mean for jobs is `test_jobs_desk.py`'s subject."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from cluster.core.bounds import MAX_RANGE
from cluster.core.records import Options, RetryRule
from cluster.core.states import JobState
from cluster.errors import Refused, UnknownJob
from cluster.master import jobs_desk, served_jobs
from cluster.master.served_jobs import ServedJobsDesk
from cluster.store.port import Store
from cluster.store.sqlite import SqliteStore
from cluster.wire import calls
from cluster.wire.calls import CALLS
from cluster.wire.keys import Role
from cluster.wire.peer import Peer
from tests.core.builders import TASK, failure, spec, success
from tests.master.rig import Rig

PEER = Peer(1, Role.CLIENT, "here")


class Served:
    def __init__(self, store: Store | None = None) -> None:
        self.rig = Rig(store)
        self.desk = ServedJobsDesk(self.rig.master)
        self.session = self.desk.open(PEER, calls.Nothing()).session

    def submit(self, *names: str, number: int = 1, again: bool = False) -> bool:
        jobs = tuple(spec(name) for name in names)
        return self.desk.submit(PEER, calls.Submit(self.session, jobs, (TASK,), number, again))

    def listen(self, seen: int = 0) -> calls.Told:
        return self.desk.listen(PEER, calls.Listen(self.session, seen, 0.0))

    def run(self) -> list[str]:
        leases = self.rig.poll(10)
        self.rig.report(*[success(lease.fence) for lease in leases])
        return [lease.job for lease in leases]


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.desk.stop()
    served.rig.master.stop()


def test_every_call_of_the_table_has_its_method(served: Served) -> None:
    missing = [name for desk, name in CALLS if desk == "jobs" and not callable(getattr(served.desk, name, None))]

    assert missing == []


@pytest.mark.parametrize(
    "lie", [{"body": b"pickled evil"}, {"reusable": True}, {"name": "tests.other"}, {"python": "3.9"}]
)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_function_under_another_s_digest_is_refused(served: Served, lie: dict[str, Any], is_there: bool) -> None:
    if is_there:
        served.submit("honest")
    poison = structs.replace(TASK, **lie)

    with pytest.raises(Refused, match=r"digest that is not its own"):
        served.desk.submit(PEER, calls.Submit(served.session, (spec("evil"),), (poison,), 2))

    assert "evil" not in served.rig.master.board.jobs
    assert served.rig.master.board.shelf.get(TASK.digest) == (TASK if is_there else None)
    assert served.submit("later", number=3)


def test_a_session_is_told_of_its_jobs(served: Served) -> None:
    assert served.submit("a")
    assert served.run() == ["a"]

    told = served.listen()

    assert told.accepted == ("a",)
    assert [(one.job, one.state) for one in told.ended] == [("a", JobState.COMPLETED)]


def test_a_batch_that_comes_twice_is_passed_over_though_its_job_has_ended(served: Served) -> None:
    served.submit("a", number=1)
    served.run()

    assert served.submit("a", number=1)

    assert served.rig.poll(10) == []
    assert len(served.rig.jobs.page()[0]) == 1


def test_a_batch_that_comes_late_is_passed_over(served: Served) -> None:
    served.submit("a", number=2)

    assert served.submit("late", number=1)

    assert served.run() == ["a"]


def test_an_unknown_session_is_told_so_and_nothing_is_done(served: Served) -> None:
    served.session = "another master's"

    assert served.submit("a") is False
    assert served.listen(7) == calls.Told(7, is_gone=True)
    with pytest.raises(Refused, match="open another"):
        served.desk.watch(PEER, calls.Watch(served.session, ("a",)))
    assert served.rig.poll(10) == []


def test_a_second_session_hears_of_a_job_submitted_again_there(served: Served) -> None:
    served.submit("a")
    served.desk.close(PEER, calls.Session(served.session))
    served.session = served.desk.open(PEER, calls.Nothing()).session

    served.submit("a", again=True)
    served.run()

    told = served.listen()
    assert told.accepted == ("a",)
    assert [one.job for one in told.ended] == ["a"]


def test_watching_tells_of_known_jobs_and_names_the_unknown(served: Served) -> None:
    served.rig.submit(spec("live"), spec("ended"))
    (_, lease) = served.rig.poll(2)
    served.rig.report(success(lease.fence))

    infos = served.desk.watch(PEER, calls.Watch(served.session, ("live", "ghost", "ended")))

    assert [info and info.state for info in infos] == [JobState.ASSIGNED, None, JobState.COMPLETED]
    assert [one.job for one in served.listen().ended] == ["ended"]


def test_the_outcome_is_given_whole_and_none_of_a_live_job(served: Served) -> None:
    served.rig.submit(spec("a"), spec("b"))
    (lease,) = served.rig.poll(1)
    served.rig.report(success(lease.fence, b"all of it"))

    outcome = served.desk.outcome(PEER, calls.JobArgs("a"))

    assert outcome is not None
    assert outcome.payload == b"all of it"
    assert served.desk.outcome(PEER, calls.JobArgs("b")) is None
    with pytest.raises(UnknownJob):
        served.desk.outcome(PEER, calls.JobArgs("ghost"))


def test_a_repeated_requeue_starts_one_run(served: Served) -> None:
    served.rig.submit(spec("a", Options()))
    (lease,) = served.rig.poll(1)
    served.rig.report(failure(lease.fence))

    first = served.desk.requeue(PEER, calls.Requeue(("a",)), request="r1")
    again = served.desk.requeue(PEER, calls.Requeue(("a",)), request="r1")

    assert [info.run for info in (*first, *again)] == [2, 2]
    with pytest.raises(Refused, match="only an ended job"):
        served.desk.requeue(PEER, calls.Requeue(("a",)), request="r2")


def test_there_are_only_so_many_sessions(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_jobs, "MAX_SESSIONS", 2)
    served.desk.open(PEER, calls.Nothing())

    with pytest.raises(Refused, match="the limit"):
        served.desk.open(PEER, calls.Nothing())
    assert len(served.rig.master.sessions._sinks) == 3  # the rig's own, and two


def test_a_stopped_desk_opens_no_session_and_has_none(served: Served) -> None:
    served.desk.stop()

    assert served.listen().is_gone
    with pytest.raises(Refused, match="is stopping"):
        served.desk.open(PEER, calls.Nothing())


def test_a_session_is_told_the_master_s_defaults_when_it_is_opened() -> None:
    defaults = Options(retry=RetryRule(max_retries=3, backoff=0.5), crash_limit=1, result_ttl=60.0)
    with Rig(defaults=defaults) as rig:
        desk = ServedJobsDesk(rig.master)

        opened = desk.open(PEER, calls.Nothing())

        assert opened.defaults == defaults
        desk.stop()


def test_one_identity_leaves_sessions_for_others(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_jobs, "MAX_SESSIONS_PER_IDENTITY", 1)

    with pytest.raises(Refused, match="1 clients are connected, which is the limit"):
        served.desk.open(PEER, calls.Nothing())
    assert served.desk.open(Peer(2, Role.ADMIN, PEER.address), calls.Nothing()).session


def test_a_chunk_that_claims_more_items_than_it_brings_is_refused_with_its_batch(served: Served) -> None:
    honest, hollow = spec("a"), structs.replace(spec("b"), items=1_000_000_000)

    with pytest.raises(Refused, match="job b claims 1,000,000,000 items in"):
        served.desk.submit(PEER, calls.Submit(served.session, (honest, hollow), (), number=1))
    with pytest.raises(UnknownJob):
        served.desk.info(PEER, calls.JobArgs("a"))


def test_a_chunk_of_a_range_brings_no_byte_for_each_item(served: Served) -> None:
    full, longer = (structs.replace(spec(f"of-{items}"), items=items) for items in (MAX_RANGE, MAX_RANGE + 1))

    assert served.desk.submit(PEER, calls.Submit(served.session, (full,), (TASK,), number=1))
    with pytest.raises(Refused, match="claims 32,769 items in"):
        served.desk.submit(PEER, calls.Submit(served.session, (longer,), (TASK,), number=2))

    assert served.desk.info(PEER, calls.JobArgs(full.id)).items == MAX_RANGE


def test_only_so_many_queues_are_paused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_desk, "MAX_PAUSED_QUEUES", 1)
    served.desk.pause(PEER, calls.QueueArgs("a"))

    with pytest.raises(Refused, match="1 queues are paused, which is the limit"):
        served.desk.pause(PEER, calls.QueueArgs("b"))
    served.desk.pause(PEER, calls.QueueArgs("a"))


# --- many ---------------------------------------------------------------------------------------------------------

# Of 600 bytes that a queued job may cost; the rest is what the allocator rounds up, and what the store takes.
MAX_TRACED_BYTES = 450
MANY = 20_000


def fill(served: Served, done: int, jobs: int) -> None:
    """Submit as over the network, each job with records of its own, until there are so many."""
    for first in range(done, jobs, 500):
        batch = tuple(
            spec(f"abcdefabcdef-{number:07x}", Options(tags=("x",)), args=b"") for number in range(first, first + 500)
        )
        said = calls.Submit(served.session, batch, (TASK,), first + 1)
        served.desk.submit(PEER, msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=calls.Submit))
        served.listen(seen=served.listen().mark)
    while served.rig.store.tidy():  # what is still to be filed is in memory twice, and of a limited number
        pass


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Served]:
    """With a store that keeps its jobs on the disk."""
    served = Served(SqliteStore(tmp_path / "jobs.db"))
    yield served
    served.desk.stop()
    served.rig.master.stop()


def test_a_queued_job_that_came_over_the_network_costs_little_besides_its_payload(filed: Served) -> None:
    fill(filed, 0, 500)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fill(filed, 500, MANY)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert filed.rig.master.board.counts[JobState.QUEUED] == MANY
    assert (after - before) / MANY <= MAX_TRACED_BYTES


def test_the_collector_s_way_does_not_grow_with_the_queue(filed: Served) -> None:
    def way() -> int:
        gc.collect()
        return sum(len(gc.get_referents(thing)) for thing in gc.get_objects())

    fill(filed, 0, 500)
    before = way()

    fill(filed, 500, MANY)

    assert filed.rig.master.board.counts[JobState.QUEUED] == MANY
    assert way() - before < MANY / 4
