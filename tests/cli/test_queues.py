"""`cluster queue ...`: what waits where, and holding it back."""

from __future__ import annotations

import pytest

import cluster
from tests.cli.rig import Call


def test_a_paused_queue_is_listed_and_holds_its_jobs_back(c: cluster.Cluster, call: Call) -> None:
    paused = call("queue", "pause", "slow")
    job = c.submit(pow, (2, 10), queue="slow").accepted()

    told = call("queue", "list")
    document = call("queue", "list", "--json").document

    assert paused.out == "slow  paused\n"
    assert [line.split() for line in told.lines] == [
        ["queue", "queued", "state"],
        ["default", "0", "ready"],
        ["slow", "1", "paused"],
    ]
    assert {"name": "slow", "queued": 1, "paused": True} in document
    assert call("queue", "resume", "slow", "--json").document == {"name": "slow", "paused": False}
    assert job.result(30) == 1024


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_name_that_no_queue_can_have_is_a_mistake(command: str, call: Call) -> None:
    told = call("queue", command, "")

    assert (told.status, told.out) == (2, "")
    assert told.err == (
        "cluster: option 'queue' can't be ''; write a text of 1 to 1000 characters, none of them NUL or a surrogate\n"
    )
