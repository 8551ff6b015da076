"""`cluster job cancel` by description: many at once, in bounded pages, one sentence for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cluster
from cluster.cli import cancelling
from tests.cli.rig import Call


@pytest.fixture
def held(c: cluster.Cluster) -> Iterator[list[cluster.Job[int]]]:
    """Jobs that wait in two paused queues, some with a tag."""
    for name in ("left", "right"):
        c.queue(name).pause()
    yield [
        c.submit(pow, (2, 10), queue=queue, tags=tags)
        for queue in ("left", "right")
        for tags in (("red",), ("red",), ())
    ]
    c.cancel(c.jobs(state="queued"))
    for name in ("left", "right"):
        c.queue(name).resume()


def cancelled_among(jobs: list[cluster.Job[int]]) -> list[bool]:
    return [job.refresh().state is cluster.JobState.CANCELLED for job in jobs]


def test_all_that_is_said_must_fit(call: Call, held: list[cluster.Job[int]]) -> None:
    told = call("job", "cancel", "--queue", "right", "--tag", "red", "--state", "queued")

    assert (told.status, told.out) == (0, "2 cancelled\n")
    assert cancelled_among(held) == [False, False, False, True, True, False]


def test_it_goes_through_pages_to_the_end(
    call: Call, held: list[cluster.Job[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 2)

    told = call("job", "cancel", "--all", "--json")

    assert told.document == {"cancelled": 6, "ended": 0}
    assert all(cancelled_among(held))


def test_what_had_ended_is_left_out_and_what_ends_meanwhile_is_counted(
    c: cluster.Cluster, call: Call, held: list[cluster.Job[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = c.submit(pow, (2, 10), tags=("red",))
    assert done.result(30) == 1024
    ask = c.cancel

    def after_the_first_is_gone(jobs: list[str]) -> int:
        assert done.id not in jobs
        held[0].cancel()
        return ask(jobs) - 1  # the desk says cancelled of one that had been; a completed one would not be counted

    monkeypatch.setattr(c, "cancel", after_the_first_is_gone)

    told = call("job", "cancel", "--tag", "red")

    assert told.out == "3 cancelled, 1 had ended before\n"


def test_the_chunks_of_a_map_go_with_its_id(c: cluster.Cluster, call: Call) -> None:
    batch = c.map(abs, range(6), chunksize=2, queue="maps")
    assert list(batch) == [0, 1, 2, 3, 4, 5]
    c.queue("maps").pause()
    c.requeue(batch.jobs())

    told = call("job", "cancel", "--batch", batch.id)

    c.queue("maps").resume()
    assert told.out == "3 cancelled\n"


@pytest.mark.parametrize("arguments", [(), ("x-1", "--all"), ("x-1", "--queue", "left")])
def test_ids_or_a_description_must_be_written_and_not_both(call: Call, arguments: tuple[str, ...]) -> None:
    told = call("job", "cancel", *arguments)

    assert told.status == 2
    assert "write the ids of the jobs that you mean, or --state" in told.err


def test_a_state_that_is_none_cancels_nothing(call: Call, held: list[cluster.Job[int]]) -> None:
    told = call("job", "cancel", "--state", "queud")

    assert told.status == 2
    assert "did you mean 'queued'?" in told.err
    assert not any(cancelled_among(held))
