from __future__ import annotations

import concurrent.futures
import gc
import logging
import threading
import time

import pytest

from cluster.client.functions import Functions
from cluster.client.handle import Cluster
from cluster.client.job import Job
from cluster.client.session import Session
from cluster.client.submission import id_of_key
from cluster.core.records import JobSpec
from cluster.errors import Detached, KeyConflict, MasterUnavailable, QueueFull, Refused, UnknownJob
from cluster.wire.messages import Refusal
from tests.client.desk import DEADLINE_SECONDS, InlineDesk


def fill(session: Session, count: int) -> list[Job[int]]:
    blob = Functions().pickle(int)
    return [
        session.submit(Job(session, spec.id, "int"), spec, blob)
        for spec in (JobSpec(session.new_id(), blob.digest, b"") for _ in range(count))
    ]


def test_ids_are_the_sessions_name_and_a_number(desk: InlineDesk) -> None:
    session = Session(desk)

    assert [session.new_id() for _ in range(3)] == [f"{session.name}-{n}" for n in (1, 2, 3)]
    assert len(session.name) == 10
    assert set(session.name) <= set("abcdefghijklmnopqrstuvwxyz234567")
    session.close()


def test_submit_blocks_at_the_limit_and_then_raises_queue_full(desk: InlineDesk) -> None:
    desk.is_accepting = False
    desk.is_dropping = True
    session = Session(desk, max_unacknowledged=5, submit_timeout_seconds=0.05)
    fill(session, 5)

    begun = time.monotonic()
    with pytest.raises(QueueFull, match="5 submitted jobs are not acknowledged"):
        fill(session, 1)

    assert time.monotonic() - begun >= 0.05
    session.close()


def test_submit_goes_on_as_soon_as_there_is_room(desk: InlineDesk) -> None:
    desk.is_accepting = False
    desk.is_dropping = True
    session = Session(desk, max_unacknowledged=5)
    jobs = fill(session, 5)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        waiting = other.submit(fill, session, 1)

        session.accepted([jobs[0].id])

        assert len(waiting.result(DEADLINE_SECONDS)) == 1
    session.close()


def test_acknowledgements_are_counted_once_however_often_they_come(desk: InlineDesk) -> None:
    desk.is_accepting = False
    desk.is_dropping = True
    session = Session(desk, max_unacknowledged=5, submit_timeout_seconds=0.0)
    jobs = fill(session, 5)

    for _ in range(3):
        session.accepted([jobs[0].id, "unknown"])

    fill(session, 1)
    with pytest.raises(QueueFull):
        fill(session, 1)
    session.close()


def test_flush_returns_when_everything_is_durable(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    jobs = [c.submit(pow, (2, n)) for n in range(300)]

    c.flush(DEADLINE_SECONDS)

    assert set(desk.jobs) >= {job.id for job in jobs}
    assert all(job.accepted(0) is job for job in jobs)


def test_flush_raises_a_refusal_that_nobody_read_and_only_once(desk: InlineDesk, c: Cluster) -> None:
    desk.refuse = lambda spec: Refusal(spec.id, "refused", "too many jobs")
    job = c.submit(pow, (2, 3))

    with pytest.raises(Refused, match="too many jobs"):
        c.flush(DEADLINE_SECONDS)

    c.flush(DEADLINE_SECONDS)
    assert job.done()


def test_a_refusal_that_nobody_read_is_logged_when_its_future_goes(
    desk: InlineDesk, c: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    desk.refuse = lambda spec: Refusal(spec.id, "refused", "too many jobs")
    job = c.submit(pow, (2, 3))
    c.stats()  # everything submitted before has been passed on

    with caplog.at_level(logging.WARNING, "cluster"):
        name = job.id
        del job
        gc.collect()

    assert caplog.messages == [f"job {name} was refused, and nobody asked for its result: too many jobs"]


def test_a_desk_that_fails_ends_the_batch_and_every_later_submit(
    desk: InlineDesk, c: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    desk.failure = OSError("disk on fire")
    job = c.submit(pow, (2, 3))

    with pytest.raises(MasterUnavailable, match="disk on fire"):
        job.result(DEADLINE_SECONDS)
    with pytest.raises(MasterUnavailable, match="disk on fire"):
        _ = c.submit(pow, (2, 3))
    assert "the jobs desk failed" in caplog.text


def test_a_desk_that_refuses_a_batch_takes_the_next_one(desk: InlineDesk, c: Cluster) -> None:
    desk.failure = Refused("draining")
    job = c.submit(pow, (2, 3))
    with pytest.raises(Refused, match="draining"):
        job.result(DEADLINE_SECONDS)

    desk.failure = None

    assert c.submit(pow, (2, 3)).result(DEADLINE_SECONDS) == 8


def test_attaching_gives_the_pending_future_or_the_outcome(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    assert c.job(job.id) is job

    desk.gate.set()
    job.result(DEADLINE_SECONDS)
    again = c.job(job.id)

    assert again is not job
    assert again.result(DEADLINE_SECONDS) == 8
    with pytest.raises(UnknownJob, match="nobody"):
        _ = c.job("nobody")


def test_another_session_hears_of_a_job_that_it_attached_to(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    with Cluster(desk, owns_workers=False) as other:
        c.flush()
        seen = other.job(job.id)

        desk.gate.set()

        assert seen.result(DEADLINE_SECONDS) == 8
        assert seen.name == "builtins.pow"


def test_waiting_for_the_end_covers_jobs_that_callbacks_submit(desk: InlineDesk) -> None:
    desk.gate.clear()
    later: list[Job[int]] = []
    with Cluster(desk, owns_workers=True) as c:
        job = c.submit(pow, (2, 3))
        job.add_done_callback(lambda job: later.append(c.submit(pow, (job.result(), 2))))
        desk.gate.set()

    assert [job.result() for job in later] == [64]


def test_a_session_does_not_wait_for_jobs_that_it_only_watches(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    job = c.submit(pow, (2, 3))
    with Cluster(desk, owns_workers=True) as other:
        c.flush()
        watched = other.job(job.id)

    with pytest.raises(Detached):
        watched.result(DEADLINE_SECONDS)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_job_here_and_in_another_session(desk: InlineDesk, c: Cluster) -> None:
    desk.gate.clear()
    first = c.submit(pow, (2, 3), key="nightly")
    assert c.submit(pow, (2, 3), key="nightly") is first
    assert first.id == id_of_key("nightly")
    c.flush()

    with Cluster(desk, owns_workers=True) as other:
        second = other.submit(pow, (2, 3), key="nightly")
        desk.gate.set()
        assert second.result(DEADLINE_SECONDS) == 8
    assert len(desk.jobs) == 1


def test_a_pending_key_with_another_function_is_a_conflict_of_the_second_job_alone(
    desk: InlineDesk, c: Cluster
) -> None:
    desk.gate.clear()
    first = c.submit(pow, (2, 3), key="nightly")
    second = c.submit(len, ("abc",), key="nightly")

    with pytest.raises(KeyConflict, match="'nightly'"):
        _ = second.accepted(DEADLINE_SECONDS)
    desk.gate.set()

    assert first.result(DEADLINE_SECONDS) == 8


def test_many_threads_may_submit_and_wait_at_once(c: Cluster) -> None:
    def work(n: int) -> list[int]:
        jobs = [c.submit(pow, (n, 2)) for _ in range(100)]
        return [job.result(DEADLINE_SECONDS) for job in jobs]

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = list(threads.map(work, range(4)))

    assert results == [[n * n] * 100 for n in range(4)]


def test_a_closed_session_leaves_no_thread_behind(desk: InlineDesk) -> None:
    before = set(threading.enumerate())
    with Cluster(desk, owns_workers=True) as c:
        c.submit(pow, (2, 3)).add_done_callback(lambda job: None)
        list(c.map(abs, range(10)))

    assert set(threading.enumerate()) <= before
