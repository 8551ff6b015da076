"""The stage of network namespaces: hosts share no loopback interface, and a link that is down is silent."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from cluster.client.connect import connect
from tests.acceptance.programs import wait_until
from tests.chaos import tasks
from tests.chaos.hosts import HostsStage, is_possible
from tests.chaos.stage import Setting

REASON = is_possible()


@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_a_worker_behind_a_link_that_is_down_is_lost_and_comes_back(tmp_path: Path) -> None:
    with HostsStage(tmp_path, Setting(workers=1, slots=1, clients=0, heartbeat_timeout_seconds=1.0)) as stage:
        with connect(stage.address, stage.client_key) as client:
            assert client.submit(tasks.nap, ("a", b"")).result(30)[0] == "a"
            (worker,) = client.workers()

            kind, heal = stage.cut("worker-0", Always("link down"))
            assert kind == "link down"
            wait_until(lambda: not client.stats().workers)
            job = client.submit(tasks.nap, ("b", b""))
            heal()

            assert job.result(30)[0] == "b"
            assert worker.id not in {each.id for each in client.workers() if each.state == "ready"}
        assert stage.stop() == {"worker-0": 0, "master": 0}
        assert not stage.left()
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert stage.mark[:6] not in named


class Always(random.Random):
    """Chooses the fault of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(0)
        self._name = name

    def choice(self, seq):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - as the base class
        """The one that is asked for."""
        return next(each for each in seq if each[0] == self._name)
