from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.client.gate import Bell, Gate

DEADLINE_SECONDS = 10.0


class Interrupter:
    """Ctrl-C in the main thread between any two of its steps, once each time it is armed."""

    def __init__(self) -> None:
        self.is_armed = False

    def on_signal(self, *_: object) -> None:
        if self.is_armed:
            self.is_armed = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        enough = threading.Event()

        def interrupt() -> None:
            while not enough.wait(0.0003):
                _thread.interrupt_main()

        thread = threading.Thread(target=interrupt)
        handler = signal.signal(signal.SIGINT, self.on_signal)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()
            sys.setswitchinterval(interval)
            signal.signal(signal.SIGINT, handler)


def is_free(gate: Gate) -> bool:
    answers = []
    thread = threading.Thread(target=lambda: answers.append(gate.acquire(timeout=DEADLINE_SECONDS)))
    thread.start()
    thread.join()
    return answers[0]


def test_a_waiter_is_woken_and_has_the_lock() -> None:
    gate = Gate()
    told: list[str] = []

    def tell() -> None:
        with gate:
            told.append("news")
            gate.notify_all()

    with gate:
        threading.Thread(target=tell).start()
        assert gate.wait_for(lambda: told, DEADLINE_SECONDS)
        assert gate._is_owned()  # type: ignore[attr-defined]
    assert is_free(gate)


def test_a_wait_runs_out_of_time_and_leaves_no_trace() -> None:
    gate = Gate()

    with gate:
        assert gate.wait(0.001) is False
        assert gate.wait(-5) is False
        assert gate.wait_for(lambda: False, 0.001) is False

    assert not gate._waiters
    assert is_free(gate)


def test_waiting_without_the_lock_is_an_error() -> None:
    gate = Gate()

    with pytest.raises(RuntimeError):
        gate.wait(1)

    with gate:
        pass
    assert is_free(gate)


def test_ctrl_c_at_any_moment_leaves_the_gate_as_it_should_be() -> None:
    gate, interrupter, count = Gate(), Interrupter(), 0

    with interrupter.at_work():
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            try:
                interrupter.is_armed = True
                while True:
                    with gate:
                        pass
                    with gate:
                        gate.wait(0.0)
            except KeyboardInterrupt:  # and no RuntimeError of a lock that isn't held
                count += 1

    assert count > 100
    assert is_free(gate)


def test_a_ring_is_heard_once_now_or_later() -> None:
    bell = Bell()

    bell.ring()
    bell.ring()

    assert bell.wait(DEADLINE_SECONDS) is True
    assert bell.wait(0.001) is False
    bell.ring()
    bell.hush()
    assert bell.wait(0.001) is False
