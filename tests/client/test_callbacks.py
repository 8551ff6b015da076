from __future__ import annotations

import logging
import threading

import pytest

from cluster.client.callbacks import Callbacks

DEADLINE_SECONDS = 10.0


def test_calls_run_in_order_in_one_thread_of_their_own() -> None:
    callbacks = Callbacks(lambda: None)
    callbacks.start()
    ran: list[tuple[int, str]] = []

    for n in range(5):
        callbacks.call(lambda n=n: ran.append((n, threading.current_thread().name)))  # type: ignore[misc]
    callbacks.close()

    assert ran == [(n, "cluster-callbacks") for n in range(5)]


def test_without_a_thread_calls_are_made_where_they_fall_due() -> None:
    callbacks = Callbacks(lambda: None)
    ran: list[str] = []

    callbacks.call(lambda: ran.append(threading.current_thread().name))

    assert ran == [threading.current_thread().name]
    callbacks.close()


def test_whatever_a_call_raises_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    callbacks = Callbacks(lambda: None)
    callbacks.start()
    ran: list[int] = []

    def leave() -> None:
        raise SystemExit

    with caplog.at_level(logging.ERROR, "cluster"):
        callbacks.call(leave)
        callbacks.call(lambda: ran.append(1))
        callbacks.close()

    assert ran == [1]
    assert "a done-callback raised what it should not" in caplog.text


def test_it_is_busy_until_the_last_call_returned_and_says_when() -> None:
    idle = threading.Event()
    may_return = threading.Event()
    callbacks = Callbacks(idle.set)
    callbacks.start()

    callbacks.call(lambda: may_return.wait(DEADLINE_SECONDS))  # type: ignore[arg-type]

    assert callbacks.is_busy()
    may_return.set()
    assert idle.wait(DEADLINE_SECONDS)
    assert not callbacks.is_busy()
    callbacks.close()


def test_a_call_does_not_wait_for_itself() -> None:
    busy: list[bool] = []
    callbacks = Callbacks(lambda: None)
    callbacks.start()

    callbacks.call(lambda: busy.append(callbacks.is_busy()))
    callbacks.call(callbacks.close)
    callbacks.close()

    assert busy == [False]
