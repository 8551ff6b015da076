from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cluster.core.quarantine import MIN_JOBS
from cluster.core.records import Ending, JobInfo, Options
from cluster.core.states import JobState
from cluster.errors import Refused
from cluster.master import listing
from cluster.wire.audit import AUDIT
from cluster.wire.messages import Health, Stats
from tests.core.builders import WORKER, failure, spec, success
from tests.master.rig import HandStore, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as one:
        yield one


def names(page: tuple[list[JobInfo], int]) -> list[str]:
    return [info.id for info in page[0]]


def test_jobs_are_listed_in_order_of_admission_whatever_their_state(rig: Rig) -> None:
    rig.submit(spec("a"), spec("b"), spec("c"))
    first, second = rig.poll(2)
    rig.report(success(second.fence))

    infos, mark = rig.jobs.page()

    assert [(info.id, info.state) for info in infos] == [
        ("a", JobState.ASSIGNED),
        ("b", JobState.COMPLETED),
        ("c", JobState.QUEUED),
    ]
    assert first.job == "a"
    assert mark == 0


def test_pages_go_on_where_the_last_one_ended(rig: Rig) -> None:
    rig.submit(*(spec(str(number)) for number in range(7)))
    found, mark, marks = [], 0, 0

    while True:
        infos, mark = rig.jobs.page(limit=3, after=mark)
        found += [info.id for info in infos]
        marks += 1
        if not mark:
            break

    assert found == [str(number) for number in range(7)]
    assert marks == 3


def test_a_page_looks_at_no_more_jobs_than_its_bound(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_SCANNED_JOBS", 10)
    rig.submit(*(spec(str(number)) for number in range(25)), spec("rare", Options(tags=("rare",))))

    found, mark, calls = [], 0, 0
    while not calls or mark:
        infos, mark = rig.jobs.page(tag="rare", limit=5, after=mark)
        found += [info.id for info in infos]
        calls += 1

    assert found == ["rare"]
    assert calls == 3


def test_jobs_can_be_picked_by_what_was_said_of_them(rig: Rig) -> None:
    rig.submit(
        spec("tagged", Options(tags=("x", "y"))),
        spec("batched", batch="m1"),
        spec("elsewhere", Options(queue="q")),
        spec("both", Options(tags=("x",), queue="q")),
    )

    assert names(rig.jobs.page(tag="x")) == ["tagged", "both"]
    assert names(rig.jobs.page(batch="m1")) == ["batched"]
    assert names(rig.jobs.page(queue="q")) == ["elsewhere", "both"]
    assert names(rig.jobs.page(tag="x", queue="q")) == ["both"]


def test_jobs_can_be_picked_by_their_state_now(rig: Rig) -> None:
    rig.submit(spec("dead"), spec("requeued"), spec("queued"))
    for lease in rig.poll(2):
        rig.report(failure(lease.fence))
    rig.jobs.requeue(["requeued"])

    assert names(rig.jobs.page(state="dead_letter")) == ["dead"]
    assert names(rig.jobs.page(state="QUEUED")) == ["requeued", "queued"]


def test_a_wrong_state_is_refused_with_the_nearest_or_with_all() -> None:
    with pytest.raises(Refused, match=r"no job state is called 'canceled'; did you mean 'cancelled'\?"):
        listing.parse_state("canceled")
    with pytest.raises(Refused, match="write one of submitted, waiting, scheduled, "):
        listing.parse_state("zzz")


def test_a_listing_shows_no_outcome_that_is_not_durable() -> None:
    store = HandStore()
    with Rig(store) as rig:
        rig.master.committer.start()
        rig.submit(spec("a"))
        rig.notes.wait("accepted")
        (lease,) = rig.poll()
        store.gate.clear()
        rig.report(success(lease.fence))

        (info,), _ = rig.jobs.page()

        assert not info.state >= JobState.COMPLETED
        store.gate.set()
        rig.notes.wait("ended")
        assert names(rig.jobs.page(state="completed")) == ["a"]


def test_a_job_that_only_the_store_has_is_listed_with_its_certificate(rig: Rig) -> None:
    rig.submit(spec("m", items=3, batch="m1"))
    (lease,) = rig.poll()
    rig.jobs.cancel(["m"], 0.0)
    rig.work.stopped(WORKER, [lease.fence])

    ((info,), _) = rig.jobs.page()

    assert (info.items, info.batch, info.worker, info.attempts) == (3, "m1", WORKER, 1)
    assert info.certificate is not None
    assert info.certificate.reason == "it was cancelled"


def test_statistics_say_what_has_happened_and_how_things_are(rig: Rig) -> None:
    rig.register(slots=4)
    rig.submit(spec("a"), spec("b"), spec("c"), spec("d", delay=1.0))
    good, bad = rig.poll(2)
    rig.report(success(good.fence), failure(bad.fence), success(good.fence))
    rig.jobs.pause("x")

    assert rig.jobs.stats() == Stats(
        states={"scheduled": 1, "queued": 1},
        queues={"default": 1},
        paused=("x",),
        submitted=4,
        completed=1,
        failed_attempts=1,
        retried=0,
        dead=1,
        fenced=1,
        workers=1,
        slots=4,
        store="memory:",
        security=AUDIT.counts(),
    )


def test_a_worker_is_listed_with_what_it_offers_and_what_it_is_at(rig: Rig) -> None:
    rig.register(slots=4, resources=(("gpu", 1),), labels=(("zone", "lab"),))
    rig.submit(spec("a"))
    rig.poll()

    (info,) = rig.jobs.workers()

    assert (info.id, info.name, info.host, info.pid) == (WORKER, "w", "here", 1)
    assert (info.state, info.slots, info.running) == ("ready", 4, 1)
    assert (info.resources, info.labels) == ((("gpu", 1),), (("zone", "lab"),))


def test_a_worker_that_fell_silent_is_listed_as_lost(rig: Rig) -> None:
    rig.register()

    rig.tick(11.0)

    (info,) = rig.jobs.workers()
    assert (info.state, info.running) == ("lost", 0)
    assert (rig.jobs.stats().workers, rig.jobs.stats().slots) == (0, 0)


def test_a_quarantined_worker_is_listed_with_what_went_wrong_there(rig: Rig) -> None:
    rig.submit(spec("good"))
    rig.report(success(rig.poll()[0].fence))
    for number in range(MIN_JOBS):
        rig.submit(spec(f"bad{number}"))
        rig.report(failure(rig.poll()[0].fence, Ending.CRASHED))

    (info,) = listing.workers(rig.master)

    assert (info.state, info.trouble) == ("quarantined", "jobs fail there at once, the last one because it crashed")


def test_a_quarantine_and_its_end_are_one_line_each_in_the_log(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.submit(spec("good"))
    rig.report(success(rig.poll()[0].fence))
    for number in range(MIN_JOBS):
        rig.submit(spec(f"bad{number}"))
        rig.report(failure(rig.poll()[0].fence, Ending.CRASHED))
    rig.tick(2.0)
    rig.report(success(rig.poll()[0].fence))

    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    told = [record.getMessage() for record in warnings if record.name == "cluster.master"]

    assert len(told) == 2
    assert told[0].startswith(f"worker {WORKER} is quarantined: ")
    assert told[1] == f"worker {WORKER} is well again: its quarantine is lifted"


def test_a_worker_on_a_host_short_of_memory_is_listed_as_such(rig: Rig) -> None:
    rig.register()

    rig.work.heartbeat(WORKER, Health(is_short_of_memory=True))

    (info,) = listing.workers(rig.master)
    assert (info.state, info.trouble) == ("ready", "its host is short of memory")


def test_a_worker_s_memory_is_the_board_s_from_its_registration_on(rig: Rig) -> None:
    rig.submit(spec("a", Options(memory=(5,))))
    rig.register(memory_room=4, memory_most=9)
    assert rig.poll() == []

    rig.work.heartbeat(WORKER, Health(memory_room=5, memory_most=9))

    (lease,) = rig.poll()
    assert lease.memory == 5
