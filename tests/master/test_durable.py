from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from cluster.core import events
from cluster.errors import MasterUnavailable
from cluster.master import durable
from cluster.master.durable import wait_durable
from tests.core.builders import moment
from tests.master.rig import HandStore, Rig


class SlowDisk(threading.Event):
    """A commit that is done by the time somebody has looked for it so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks
        self.waits: list[float] = []
        self.seconds = 0.0  # that were waited

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.seconds += timeout
        self.left -= 1
        if not self.left:
            self.set()
        return self.is_set()


def test_a_slow_disk_is_looked_at_again_until_it_is_done() -> None:
    disk = SlowDisk(looks=4)
    with Rig(HandStore()) as rig:
        wait_durable(rig.master, disk, "it")

    assert len(disk.waits) == 4
    assert all(0.0 < wait <= durable.LOOK_SECONDS for wait in disk.waits)


def test_a_store_that_fails_is_told_of_at_the_first_look() -> None:
    disk = SlowDisk(looks=2)
    with Rig(HandStore()) as rig:
        rig.master.board.handle(events.StoreFailed("disk full"), moment())

        with pytest.raises(
            MasterUnavailable, match=r"it is decided, but not on the disk: the store fails \(disk full\)"
        ):
            wait_durable(rig.master, disk, "it")

    assert len(disk.waits) == 1


def test_a_store_that_says_nothing_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "DURABLE_SECONDS", 2.5)
    disk = SlowDisk(looks=9)
    monkeypatch.setattr(durable, "time", SimpleNamespace(monotonic=lambda: disk.seconds))
    with (
        Rig(HandStore()) as rig,
        pytest.raises(MasterUnavailable, match="it is decided, but the store has not confirmed"),
    ):
        wait_durable(rig.master, disk, "it")

    assert disk.waits == [1.0, 1.0, 0.5]


def test_that_is_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(looks=99)
    monkeypatch.setattr(durable, "time", SimpleNamespace(monotonic=lambda: disk.seconds))
    with Rig(HandStore()) as rig, pytest.raises(MasterUnavailable, match="has not confirmed it in 30 s"):
        wait_durable(rig.master, disk, "it")

    assert disk.seconds == 30.0
