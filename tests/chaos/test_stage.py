"""The chain from a cut line to the checker, in one case: a worker that is cut off stops what it may have lost in time."""

from __future__ import annotations

from pathlib import Path

from cluster.client.connect import connect
from tests.acceptance.programs import wait_until
from tests.chaos import tasks
from tests.chaos.checker import Evidence, check, put_together
from tests.chaos.final import read_store
from tests.chaos.history import Began, Heard, Invoked, Issued, now, read_jobs
from tests.chaos.stage import Setting, Stage


def test_the_next_attempt_begins_when_the_worker_that_was_cut_off_has_killed_the_one_before(tmp_path: Path) -> None:
    history: list[Invoked | Issued | Heard] = [Invoked(token="a", at=now(), sort="long")]
    with Stage(tmp_path, Setting(workers=2, slots=1, clients=0)) as stage:
        workers = ["worker-0", "worker-1"]
        with connect(stage.address, stage.client_key) as client:
            wait_until(lambda: client.stats().workers == 2)
            # Longer than the timeout and its margin, so that a worker that did not kill it would be seen.
            job = client.submit(tasks.nap, ("a", b"", 8.0), name="a")
            history.append(Issued("a", job.id, now()))
            wait_until(lambda: any(has_begun(stage, name) for name in workers))
            (first,) = [name for name in workers if has_begun(stage, name)]
            (second,) = {*workers} - {first}
            line = stage.lines[first].proxy
            assert line is not None

            line.partition()
            wait_until(lambda: has_begun(stage, second))
            line.heal()
            owner, nonce = job.result(30)
            history.append(Heard("a", job.id, now(), job.state.name, nonce, owner))
        assert not any(stage.stop().values())

    executions = put_together({name: read_jobs(stage.records(name)) for name in workers})
    evidence = Evidence(list(history), executions, [], read_store(stage.store))
    assert [execution.host for execution in sorted(executions, key=lambda each: each.began.at)] == [first, second]
    assert not check(evidence)
    assert not evidence.excused


def has_begun(stage: Stage, worker: str) -> bool:
    path = stage.records(worker)
    return path.exists() and any(isinstance(record, Began) for record in read_jobs(path))
