"""`cluster dead ...`: the jobs that were given up."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest

import cluster
from cluster.cli import dead as dead_letters
from tests.cli import jobs_to_run
from tests.cli.rig import Call


@pytest.fixture
def dead(c: cluster.Cluster) -> cluster.Job[None]:
    job = c.submit(jobs_to_run.fail, ("no such luck",), name="doomed")
    concurrent.futures.wait([job], 30)
    return job


def test_list_shows_each_with_its_reason(call: Call, dead: cluster.Job[None]) -> None:
    told = call("dead", "list")

    (line,) = [line for line in told.lines if line.startswith(dead.id)]
    assert line.split()[1] == "doomed"
    assert "no such luck" in line
    assert dead.id in [one["id"] for one in call("dead", "list", "--json").document]


def test_show_is_for_dead_letters_only(c: cluster.Cluster, call: Call, dead: cluster.Job[None]) -> None:
    fine = c.submit(pow, (2, 10))
    fine.result(30)

    shown = call("dead", "show", dead.id)
    refused = call("dead", "show", fine.id)

    assert (shown.status, refused.status) == (0, 2)
    assert "no such luck" in shown.out
    assert f"job {fine.id} is completed, and no dead letter" in refused.err


def test_requeue_starts_a_new_run_of_those_named(call: Call, dead: cluster.Job[None]) -> None:
    told = call("dead", "requeue", dead.id)

    assert told.out.startswith(f"{dead.id}  run 2, ")


def test_requeue_of_all_takes_every_dead_letter(call: Call, dead: cluster.Job[None]) -> None:
    document = call("dead", "requeue", "--all", "--json").document

    assert dead.id in [one["id"] for one in document]


def test_requeue_takes_those_that_fit_and_gives_them_another_budget(c: cluster.Cluster, call: Call) -> None:
    doomed = [c.submit(jobs_to_run.fail, ("no",), name=name, tags=("night",)) for name in ("one", "two", "one")]
    concurrent.futures.wait(doomed, 30)

    told = call("dead", "requeue", "--tag", "night", "--name", "one", "--retries", "1", "--crash-limit", "0", "--json")

    assert [one["id"] for one in told.document] == [doomed[0].id, doomed[2].id]
    again = c.job(doomed[0].id)
    concurrent.futures.wait([again], 30)
    assert [(run, why.attempt) for run, why in again.history().attempts] == [(1, 1), (2, 1), (2, 2)]


def test_more_than_a_page_of_dead_letters_is_requeued_in_order(
    c: cluster.Cluster, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PAGE", 2)
    chain: list[cluster.Job[Any]] = [c.submit(jobs_to_run.fail, ("no",), tags=("chain",), queue="chain")]
    for _ in range(4):
        chain.append(c.submit(pow, (2, 10), after=chain[-1], tags=("chain",)))
    concurrent.futures.wait(chain, 30)
    c.queue("chain").pause()  # else the first one might have failed again before the others have their turn

    told = call("dead", "requeue", "--tag", "chain", "--json")

    c.queue("chain").resume()
    assert [one["id"] for one in told.document] == [job.id for job in chain]


def test_list_shows_those_that_fit(c: cluster.Cluster, call: Call) -> None:
    doomed = [c.submit(jobs_to_run.fail, ("no",), name="listed", queue=queue) for queue in ("left", "right")]
    concurrent.futures.wait(doomed, 30)

    told = call("dead", "list", "--queue", "right", "--name", "listed", "--json")

    assert [one["id"] for one in told.document] == [doomed[1].id]


def test_purge_forgets(call: Call, dead: cluster.Job[None]) -> None:
    told = call("dead", "purge", "--yes", dead.id)

    assert (told.status, told.out) == (0, "1 purged\n")
    assert call("job", "show", dead.id).status == 2


def test_purge_asks_first_and_refuses_where_nobody_can_answer(call: Call, dead: cluster.Job[None]) -> None:
    told = call("dead", "purge", dead.id)

    assert told.status == 2
    assert "write --yes" in told.err
    assert call("dead", "show", dead.id).status == 0


@pytest.mark.parametrize("command", ["requeue", "purge"])
def test_ids_or_all_must_be_written(call: Call, command: str) -> None:
    nothing = call("dead", command)
    both = call("dead", command, "--all", "x-1")
    also_both = call("dead", command, "--tag", "t", "x-1")

    assert (nothing.status, both.status, also_both.status) == (2, 2, 2)
    assert "--name or --all" in nothing.err
