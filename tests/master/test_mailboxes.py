from __future__ import annotations

import pytest

from cluster.core.records import Ending
from cluster.master.mailboxes import Mailboxes
from cluster.wire.messages import Hello
from tests.core.builders import WORKER, stop


def hello(worker: str = WORKER) -> Hello:
    return Hello(worker=worker, name="w", host="here", pid=1, slots=1)


def with_a_box() -> tuple[Mailboxes, list[str]]:
    boxes, wakes = Mailboxes(), []
    boxes.add(hello(), lambda: wakes.append("woken"))
    return boxes, wakes


def test_what_is_posted_wakes_the_worker_and_is_taken_once() -> None:
    boxes, wakes = with_a_box()

    boxes.post_stop(WORKER, stop(7))
    boxes.post_granted(WORKER, 8)

    assert wakes == ["woken", "woken"]
    assert boxes.take(WORKER) == ([stop(7)], [8])
    assert boxes.take(WORKER) == ([], [])


def test_orders_keep_their_order() -> None:
    boxes, _ = with_a_box()

    for fence in range(5):
        boxes.post_stop(WORKER, stop(fence, Ending.EXPIRED))

    assert [one.fence for one in boxes.take(WORKER)[0]] == [0, 1, 2, 3, 4]


def test_post_for_a_worker_that_is_gone_is_dropped() -> None:
    boxes, wakes = with_a_box()

    boxes.remove(WORKER)
    boxes.remove(WORKER)
    boxes.post_stop(WORKER, stop(7))
    boxes.post_granted(WORKER, 8)

    assert boxes.take(WORKER) == ([], [])
    assert boxes.get(WORKER) is None
    assert wakes == []


def test_a_worker_that_registers_twice_keeps_what_is_in_its_box() -> None:
    boxes, wakes = with_a_box()
    boxes.post_stop(WORKER, stop(7))

    boxes.add(hello(), lambda: wakes.append("woken anew"))
    boxes.post_granted(WORKER, 8)

    assert wakes == ["woken", "woken anew"]
    assert boxes.take(WORKER) == ([stop(7)], [8])


def test_a_worker_that_can_t_be_woken_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    boxes, wakes = Mailboxes(), []

    def fail() -> None:
        raise OSError("closed")

    boxes.add(hello("bad#1"), fail)
    boxes.add(hello("good#1"), lambda: wakes.append("woken"))

    for name in ("bad#1", "gone#1", "good#1"):
        boxes.wake(name)

    assert wakes == ["woken"]
    assert "worker bad#1: waking it failed" in caplog.text


def test_mailboxes_are_listed_in_the_order_of_registration() -> None:
    boxes = Mailboxes()
    for name in ("c#1", "a#1", "b#1"):
        boxes.add(hello(name), lambda: None)

    assert [box.hello.worker for box in boxes.all()] == ["c#1", "a#1", "b#1"]
