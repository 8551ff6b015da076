"""A thread that does one thing now and then."""

from __future__ import annotations

import logging
import threading

import pytest

from cluster.master.duty import Duty
from tests.master.rig import DEADLINE_SECONDS


def test_it_goes_on_after_an_error_until_it_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Semaphore(0)

    def fail() -> None:
        done.release()
        raise ValueError("once more")

    duty = Duty("failing", 0.001, fail)
    with caplog.at_level(logging.ERROR, "cluster.master"):
        duty.start()
        assert all(done.acquire(timeout=DEADLINE_SECONDS) for _ in range(3))
        duty.stop()

    assert "failing: unexpected error; going on" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "cluster-failing"]


def test_it_may_be_stopped_before_its_start_and_twice() -> None:
    duty = Duty("idle", 60.0, lambda: None)

    duty.stop()
    duty.start()
    duty.stop()
    duty.stop()
