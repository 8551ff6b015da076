from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from cluster.client.gate import Gate
from cluster.client.job import Job
from cluster.client.outbox import Lend, Outbox
from cluster.core.records import FunctionBlob, JobSpec

DEADLINE_SECONDS = 10.0
BLOB = FunctionBlob(b"d", b"body", "3.11", "3", "f")
A_JOB: Job[Any] = Job.__new__(Job)  # the outbox only puts it into the books


class Recorder:
    """Takes batches; while `may_return` is clear, a call of `send` doesn't return."""

    def __init__(self, lend: Lend | None = None) -> None:
        self.lock = Gate()
        self.batches: list[list[str]] = []
        self.threads: list[str] = []
        self.functions: list[tuple[FunctionBlob, ...]] = []
        self.is_sending = threading.Event()
        self.may_return = threading.Event()
        self.may_return.set()
        self.has_sent = threading.Condition()
        self.inside = 0
        self.outbox = Outbox(self.lock, {}, self.send, lend)

    def send(self, specs: list[JobSpec], functions: tuple[FunctionBlob, ...]) -> None:
        self.inside += 1
        assert self.inside == 1, "two senders at once"
        self.is_sending.set()
        assert self.may_return.wait(DEADLINE_SECONDS)
        with self.has_sent:
            self.batches.append([spec.id for spec in specs])
            self.threads.append(threading.current_thread().name)
            self.functions.append(functions)
            self.inside -= 1
            self.has_sent.notify_all()

    def put(self, name: str) -> None:
        with self.lock:
            self.outbox.put(A_JOB, JobSpec(name, b"d", b""), BLOB)
        self.outbox.look_after()

    def sent(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    def wait_sent(self, count: int) -> None:
        with self.has_sent:
            assert self.has_sent.wait_for(lambda: len(self.sent()) >= count, DEADLINE_SECONDS)


def in_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_what_nobody_waits_for_is_sent_by_the_sender() -> None:
    recorder = Recorder()

    recorder.put("a")

    recorder.wait_sent(1)
    assert recorder.threads == ["cluster-sender"]
    recorder.outbox.close()


def test_a_sleeping_sender_is_woken_by_the_next_submission() -> None:
    recorder = Recorder()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not recorder.outbox._is_asleep:  # which it does by itself, and tells nobody
        assert time.monotonic() < deadline
        os.sched_yield()

    recorder.put("a")

    recorder.wait_sent(1)
    recorder.outbox.close()


def test_order_of_submission_is_kept_over_many_batches() -> None:
    recorder = Recorder()
    names = [str(n) for n in range(2000)]

    def submit_all() -> None:
        for name in names:
            recorder.put(name)

    in_thread(submit_all)
    recorder.outbox.pass_all()

    assert recorder.sent() == names
    assert len(recorder.batches) > 1
    recorder.outbox.close()


def test_submissions_that_come_while_a_batch_is_sent_form_the_next_batch() -> None:
    recorder = Recorder()
    recorder.may_return.clear()
    recorder.put("first")
    assert recorder.is_sending.wait(DEADLINE_SECONDS)
    for name in "abc":
        recorder.put(name)

    recorder.may_return.set()
    recorder.wait_sent(4)

    assert recorder.batches == [["first"], ["a", "b", "c"]]
    assert recorder.functions[1] == (BLOB,), "a function is sent once per batch"
    recorder.outbox.close()


def test_a_thread_that_is_about_to_wait_sends_itself() -> None:
    recorder = Recorder()
    recorder.may_return.clear()
    recorder.put("first")
    assert recorder.is_sending.wait(DEADLINE_SECONDS)

    in_thread(recorder.outbox.pass_on)  # leaves at once: somebody is sending
    recorder.may_return.set()
    recorder.wait_sent(1)
    with recorder.lock:
        recorder.outbox.put(A_JOB, JobSpec("mine", b"d", b""), BLOB)
    in_thread(recorder.outbox.pass_all)

    assert recorder.sent() == ["first", "mine"]
    recorder.outbox.close()


def test_the_main_thread_never_sends() -> None:
    assert threading.current_thread() is threading.main_thread()
    recorder = Recorder()

    for n in range(1000):
        recorder.put(str(n))
        if n % 100 == 0:
            recorder.outbox.pass_on()
    recorder.outbox.pass_all()

    assert set(recorder.threads) == {"cluster-sender"}
    assert len(recorder.sent()) == 1000
    recorder.outbox.close()


def test_threads_that_submit_and_wait_at_once_lose_nothing_and_send_nothing_twice() -> None:
    recorder = Recorder()

    def submit_some(name: str) -> None:
        for n in range(300):
            recorder.put(f"{name}-{n}")
            recorder.outbox.pass_on()

    threads = [threading.Thread(target=submit_some, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    recorder.outbox.pass_all()

    assert len(recorder.sent()) == len(set(recorder.sent())) == 1200
    for name in "0123":
        own = [sent for sent in recorder.sent() if sent.startswith(f"{name}-")]
        assert own == [f"{name}-{n}" for n in range(300)]
    recorder.outbox.close()


def test_hurry_rings_the_sender_and_never_blocks() -> None:
    recorder = Recorder()
    recorder.may_return.clear()
    recorder.put("first")
    assert recorder.is_sending.wait(DEADLINE_SECONDS)
    recorder.put("second")

    recorder.outbox.hurry()
    recorder.may_return.set()

    recorder.wait_sent(2)
    recorder.outbox.close()


def test_closing_ends_the_sender() -> None:
    recorder = Recorder()

    recorder.outbox.close()
    recorder.outbox.close()

    assert not recorder.outbox._sender.is_alive()


class Lender:
    """A thread of somebody else's, lent: it does its errand whenever it was rung for."""

    def __init__(self) -> None:
        self.errand: Callable[[], None] | None = None
        self.rings = 0
        self.recorder = Recorder(self.lend)

    def lend(self, errand: Callable[[], None]) -> Callable[[], None]:
        self.errand = errand
        return self.ring

    def ring(self) -> None:
        self.rings += 1

    def wake_up(self) -> None:
        assert self.errand is not None
        in_thread(self.errand)


def test_a_lent_thread_sends_when_it_wakes_up_and_is_rung_for_once() -> None:
    lender = Lender()
    for name in "abc":
        lender.recorder.put(name)
    lender.recorder.outbox.pass_on()
    assert (lender.rings, lender.recorder.batches) == (1, [])

    lender.wake_up()

    assert lender.recorder.batches == [["a", "b", "c"]]
    assert "cluster-sender" not in lender.recorder.threads
    lender.recorder.outbox.close()


def test_a_lent_thread_that_has_looked_is_rung_for_again() -> None:
    lender = Lender()
    lender.wake_up()
    lender.wake_up()
    for count, name in enumerate("abc", start=1):
        lender.recorder.put(name)
        assert lender.rings == count
        lender.wake_up()

    assert lender.recorder.batches == [["a"], ["b"], ["c"]]
    lender.recorder.outbox.close()


def test_what_is_put_in_while_the_lent_thread_is_rung_for_is_rung_for_too() -> None:
    lender = Lender()

    def wake_up_at_once() -> None:
        lender.rings += 1
        lender.wake_up()

    lender.recorder.outbox._ring_lent = wake_up_at_once  # it is that quick
    for name in "abc":
        lender.recorder.put(name)

    assert lender.recorder.batches == [["a"], ["b"], ["c"]]
    lender.recorder.outbox.close()


def test_what_needs_the_store_is_left_to_the_sender_in_order() -> None:
    lender = Lender()
    recorder = lender.recorder
    recorder.put("a")
    with recorder.lock:
        recorder.outbox.put(A_JOB, JobSpec("b", b"d", b"", after=("a",)), BLOB)
    recorder.outbox.look_after()
    recorder.put("c")

    lender.wake_up()

    recorder.wait_sent(3)
    assert (recorder.sent(), set(recorder.threads)) == (["a", "b", "c"], {"cluster-sender"})
    with recorder.lock:
        recorder.outbox.put(A_JOB, JobSpec("d", b"d", b"", key="k"), BLOB)
    lender.wake_up()
    recorder.wait_sent(4)
    recorder.put("e")
    lender.wake_up()
    assert recorder.batches[-1] == ["e"], "the next batch is the lent thread's again"
    assert recorder.threads[-1] != "cluster-sender"
    recorder.outbox.close()


def test_the_sender_is_there_though_the_lent_thread_is_stuck() -> None:
    lender = Lender()
    lender.recorder.put("a")

    lender.recorder.outbox.pass_all()

    assert lender.recorder.threads == ["cluster-sender"]
    lender.recorder.outbox.close()


def test_closing_lets_go_of_what_the_lender_gave() -> None:
    lender = Lender()
    lender.recorder.outbox.close()

    lender.recorder.outbox.hurry()
    lender.recorder.put("late")

    assert lender.rings == 0
    assert lender.recorder.outbox._ring_lent is None
