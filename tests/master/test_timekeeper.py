"""The timekeeper in its own thread. The clock stands still unless a test moves it, so nothing here waits for time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cluster.core import events
from cluster.core.effects import Effect
from cluster.master.timekeeper import PRUNE_SECONDS
from cluster.store.port import Store
from tests.core.builders import spec
from tests.master.rig import DEADLINE_SECONDS, HandStore, Rig


class Ticking:
    """A rig whose ticks are counted, and whose timekeeper says when it goes to sleep, and until when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store | None = None) -> None:
        self.rig = Rig(store)
        self.ticks = 0
        self._changed = threading.Condition()
        self.sleeps: list[float] = []
        keeper = self.rig.master.timekeeper
        decide = self.rig.master.decide

        def counted(event: events.Event, then: object = None) -> list[Effect]:
            effects = decide(event)
            if isinstance(event, events.Tick):
                with self._changed:
                    self.ticks += 1
                    self._changed.notify_all()
            return effects

        wait = keeper._is_woken.wait

        def told(timeout: float | None = None) -> bool:
            with self._changed:
                self.sleeps.append(timeout or 0.0)
                self._changed.notify_all()
            return wait(DEADLINE_SECONDS)  # woken by a notice only, never by time

        monkeypatch.setattr(self.rig.master, "decide", counted)
        monkeypatch.setattr(keeper._is_woken, "wait", told)

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, and with it the thread's wait."""
        keeper = self.rig.master.timekeeper
        with keeper._is_woken:
            self.rig.time.seconds += seconds
            keeper._is_woken.notify()

    def wait_asleep(self, times: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sleeps) >= times, DEADLINE_SECONDS), self.sleeps


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticking]:
    one = Ticking(monkeypatch)
    one.rig.master.start()
    one.wait_asleep(1)
    yield one
    one.rig.master.stop()


def test_without_any_deadline_it_sleeps_for_one_beat(ticking: Ticking) -> None:
    assert ticking.sleeps == [ticking.rig.master.settings.heartbeat_timeout_seconds / 4]
    assert ticking.ticks == 0


def test_an_earlier_deadline_wakes_it_and_it_sleeps_until_then(ticking: Ticking) -> None:
    ticking.rig.submit(spec(delay=1.5))

    ticking.wait_asleep(2)

    assert ticking.sleeps[1] == 1.5
    assert ticking.ticks == 1


def test_a_deadline_that_is_set_just_after_it_looked_wakes_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ticking = Ticking(monkeypatch)
    master, keeper = ticking.rig.master, ticking.rig.master.timekeeper
    submitting = threading.Thread(target=ticking.rig.submit, args=(spec(delay=1.5),))
    is_at_the_door = threading.Event()  # the submitting thread is about to wake the timekeeper, or has decided not to
    look_again = keeper.look_again

    class Door:
        """The board's lock; as the timekeeper lets go of it, another thread sets a deadline."""

        def __init__(self) -> None:
            self._lock = master.lock

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *error: object) -> None:
            self._lock.release()
            if threading.current_thread() is keeper._thread and submitting.ident is None:
                submitting.start()
                assert is_at_the_door.wait(DEADLINE_SECONDS)

    def told() -> None:
        if threading.current_thread() is submitting and keeper._wakes_at == float("inf"):
            is_at_the_door.set()
        look_again()
        is_at_the_door.set()

    monkeypatch.setattr(keeper, "look_again", told)
    monkeypatch.setattr(master, "lock", Door())
    with ticking.rig:
        master.start()
        ticking.wait_asleep(2)
        submitting.join(DEADLINE_SECONDS)

    assert ticking.sleeps == [2.5, 1.5]


def test_a_later_deadline_does_not_wake_it(ticking: Ticking) -> None:
    ticking.rig.submit(spec(delay=60.0))
    ticking.rig.submit(spec(delay=1.5))

    ticking.wait_asleep(2)

    assert ticking.sleeps[1:] == [1.5]


def test_when_the_time_has_come_what_is_due_is_done(ticking: Ticking) -> None:
    ticking.rig.submit(spec("a", delay=2.0), spec("b", delay=2.25))
    ticking.wait_asleep(2)

    ticking.pass_time(2.0)
    ticking.wait_asleep(3)

    assert ticking.sleeps[1:] == [2.0, 0.25]
    assert [lease.job for lease in ticking.rig.poll(9)] == ["a"]


def test_an_error_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, ticking: Ticking, caplog: pytest.LogCaptureFixture
) -> None:
    decide, faults = ticking.rig.master.decide, [ZeroDivisionError("a defect")]

    def fails_once(event: events.Event) -> object:
        if isinstance(event, events.Tick) and faults:
            raise faults.pop()
        return decide(event)

    monkeypatch.setattr(ticking.rig.master, "decide", fails_once)
    ticking.rig.submit(spec(delay=1.5))
    ticking.wait_asleep(2)

    ticking.rig.submit(spec(delay=0.5))
    ticking.wait_asleep(3)

    assert ticking.sleeps[1:] == [1.5, 0.5]
    assert "timekeeper: unexpected error; going on" in caplog.text


def test_now_and_then_it_has_the_store_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HandStore(is_instant=True)
    ticking = Ticking(monkeypatch, store)
    with ticking.rig:
        ticking.rig.master.start()
        ticking.wait_asleep(1)

        ticking.pass_time(PRUNE_SECONDS - 1.0)
        ticking.wait_asleep(2)
        pruned_before = len(store.pruned)
        ticking.pass_time(1.0)
        ticking.wait_asleep(3)

    assert (pruned_before, len(store.pruned)) == (0, 1)


def test_stop_returns_when_it_is_gone_and_may_come_twice_or_first(ticking: Ticking) -> None:
    keeper = ticking.rig.master.timekeeper
    thread = keeper._thread

    keeper.stop()
    keeper.stop()

    assert thread is not None
    assert not thread.is_alive()
    never_started = Rig()
    never_started.master.timekeeper.stop()
    never_started.master.stop()


def test_who_decides_while_it_is_awake_need_not_wake_it() -> None:
    with Rig() as rig:
        rig.submit(spec(delay=1.0))

        rig.master.timekeeper.look_again()

        assert rig.master.timekeeper._wakes_at == float("-inf")
