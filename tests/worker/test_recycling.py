"""`max_jobs_per_child`: no child runs more, and nothing stops for that."""

from __future__ import annotations

import os

from tests.worker.recording_desk import a_worker


def test_no_child_runs_more_jobs_than_one_may() -> None:
    with a_worker(slots=1, max_jobs_per_child=2) as (desk, _):
        task = desk.function(os.getpid, reusable=True)

        fences = [desk.put(task) for _ in range(1000)]

        pids = [desk.result_of(fence) for fence in fences]
    counts = [pids.count(pid) for pid in set(pids)]
    assert max(counts) <= 2
    assert len(set(pids)) >= 500


def test_a_replaced_child_is_no_crash() -> None:
    with a_worker(slots=2, max_jobs_per_child=1) as (desk, supervisor):
        fences = [desk.put(os.getpid) for _ in range(20)]

        pids = {desk.result_of(fence) for fence in fences}

        assert len(pids) == 20
        assert [slot.crashes for slot in supervisor.statistics().slots] == [0, 0]
