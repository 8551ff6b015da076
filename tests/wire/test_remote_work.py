"""The worker's side of the work desk, on a line that breaks: against a desk that takes notes, and the master's own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.core.records import Digest, Ending, FunctionBlob, Lease, Options, Report, Stop
from cluster.errors import MasterUnavailable, Refused, StoreTampered
from cluster.wire import remote_work
from cluster.wire.calls import FetchFunction, Heartbeat, Register, Tell, Welcome, Work, WorkerArgs, WorkListen
from cluster.wire.messages import Health, Hello, Poll, Progress
from cluster.wire.peer import Peer
from cluster.wire.remote_work import RemoteWorkDesk
from tests.wire.direct_line import DirectLine

DEADLINE_SECONDS = 10.0
W1 = Hello(worker="w#1", name="w", host="here", pid=1, slots=2)
W2 = Hello(worker="w#2", name="w", host="here", pid=1, slots=2)
TASK = FunctionBlob(b"digest", b"body", "3.11", "3.0", "task")


class Desk:
    """A master's work desk that hands out what the test puts in, and knows whoever registered."""

    def __init__(self, interval: float = 0.2, timeout: float = 10.0) -> None:
        self.interval, self.timeout = interval, timeout
        self.drop: tuple[int, ...] = ()
        self.known: set[str] = set()
        self.works: list[Work] = []
        self.mark = 0
        self.failing: Exception | None = None  # of the next `tell`s
        self.fetching: Exception | None = None
        self.changed = threading.Condition()

    def put(self, *fences: int, stops: tuple[Stop, ...] = ()) -> None:
        with self.changed:
            self.mark += 1
            self.works.append(Work(self.mark, tuple(lease(fence) for fence in fences), stops))
            self.changed.notify_all()

    def register(self, _peer: Peer, said: Register) -> Welcome:
        with self.changed:
            self.known.add(said.hello.worker)
            self.works, self.mark = [], 0
        return Welcome(self.drop, self.interval, self.timeout)

    def listen(self, _peer: Peer, said: WorkListen) -> Work:
        self._check(said.worker)
        with self.changed:
            self.changed.wait_for(lambda: any(work.mark > said.seen for work in self.works), min(said.timeout, 0.05))
            self.works = [work for work in self.works if work.mark > said.seen]
            return self.works[0] if self.works else Work(said.seen)

    def tell(self, _peer: Peer, said: Tell) -> None:
        self._check(said.worker)
        if self.failing is not None:
            raise self.failing

    def heartbeat(self, _peer: Peer, said: Heartbeat) -> None:
        self._check(said.worker)

    def fetch_function(self, _peer: Peer, said: FetchFunction) -> FunctionBlob:
        if self.fetching is not None:
            raise self.fetching
        return TASK

    def leave(self, _peer: Peer, said: WorkerArgs) -> None:
        self.known.discard(said.worker)

    def _check(self, worker: str) -> None:
        if worker not in self.known:
            raise Refused("not registered")


def lease(fence: int, digest: Digest = b"digest") -> Lease:
    return Lease(fence, f"job-{fence}", 1, 1, digest, b"args", Options())


def done(fence: int) -> Report:
    return Report(fence, Ending.SUCCEEDED, b"1")


class Rig:
    """A desk on a line, and a supervisor's ear."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.line = DirectLine(desk)
        self.remote = RemoteWorkDesk(self.line)
        self.rung = threading.Semaphore(0)

    def join(self, hello: Hello = W1) -> None:
        self.remote.register(hello, self.rung.release)
        assert self.remote.wait_registered(DEADLINE_SECONDS)

    def poll(self, capacity: int, until: Callable[[Poll], object], worker: str = "w#1") -> Poll:
        """Poll as a supervisor does, whenever it is woken, until something has come."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        leases: list[Lease] = []
        stops: list[Stop] = []
        while not until(Poll(tuple(leases), tuple(stops))):
            answer = self.remote.poll(worker, capacity - len(leases))
            leases += answer.leases
            stops += answer.stops
            if not (answer.leases or answer.stops):
                assert self.rung.acquire(timeout=max(0.0, deadline - time.monotonic())), "nothing came"
        return Poll(tuple(leases), tuple(stops))

    def wait_said(self, method: str, until: Callable[[list[Any]], object]) -> list[Any]:
        deadline = time.monotonic() + DEADLINE_SECONDS
        count = 0
        while True:
            said = self.line.said(method)
            if until(said):
                return said
            count = len(said) + 1
            self.line.wait_called(method, count, max(0.1, deadline - time.monotonic()))


@contextlib.contextmanager
def a_rig(desk: Desk | None = None) -> Iterator[Rig]:
    rig = Rig(desk or Desk())
    threads = set(threading.enumerate())
    try:
        yield rig
    finally:
        rig.remote.close()
        assert set(threading.enumerate()) <= threads, "threads left"


def told_fences(said: list[Any]) -> list[int]:
    return [report.fence for one in said if isinstance(one, Tell) for report in one.reports]


def test_leases_come_with_a_wake_and_their_functions_are_here_already() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.put(1, 2)

        poll = rig.poll(2, lambda poll: len(poll.leases) == 2)
        fetched = len(rig.line.said("fetch_function"))
        blob = rig.remote.fetch_function(b"digest")

        assert [one.fence for one in poll.leases] == [1, 2]
        assert blob == TASK
        assert fetched == len(rig.line.said("fetch_function")) == 1


def test_an_answer_that_comes_twice_is_taken_once() -> None:
    with a_rig() as rig:
        rig.join()
        rig.line.losing["listen"] = 1
        rig.desk.put(1)
        rig.desk.put(2)

        poll = rig.poll(5, lambda poll: len(poll.leases) >= 2)

        assert [one.fence for one in poll.leases] == [1, 2]
        assert rig.line.lost == 1


def test_credit_is_the_sum_of_what_came_and_what_there_is_room_for() -> None:
    with a_rig() as rig:
        rig.join()

        rig.remote.poll("w#1", 3)
        rig.wait_said("tell", lambda said: any(one.credit == 3 for one in said))
        rig.desk.put(1, 2)
        rig.poll(3, lambda poll: len(poll.leases) == 2)
        rig.remote.poll("w#1", 0)

        rig.wait_said("tell", lambda said: said[-1].credit == 2)


def test_a_little_more_credit_waits_for_the_next_call() -> None:
    with a_rig() as rig:
        rig.join()
        rig.remote.poll("w#1", 100)
        rig.wait_said("tell", lambda said: any(one.credit == 100 for one in said))

        for fence in range(1, 201):
            rig.desk.put(fence)
            rig.poll(100, lambda poll: poll.leases)
        rig.line.wait_called("listen", len(rig.line.said("listen")) + 1)

        assert len(rig.line.said("tell")) == 1
        assert rig.line.said("listen")[-1].credit == 299


def test_no_more_credit_is_told_at_once() -> None:
    with a_rig() as rig:
        rig.join()
        rig.remote.poll("w#1", 100)
        rig.wait_said("tell", lambda said: any(one.credit == 100 for one in said))

        rig.remote.poll("w#1", 0)

        rig.wait_said("tell", lambda said: said[-1].credit == 0)


def test_reports_are_told_until_the_master_takes_them() -> None:
    with a_rig() as rig:
        rig.join()
        rig.line.losing["tell"] = 2

        rig.remote.report("w#1", [done(1)])
        rig.remote.leave("w#1")

        assert told_fences(rig.line.said("tell")).count(1) == 3
        assert rig.line.said("leave") == [WorkerArgs("w#1")]


def test_what_a_turn_says_is_told_together() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.failing = Refused("busy registering")
        rig.remote.report("w#1", [done(1)])
        rig.remote.stopped("w#1", [2])
        rig.remote.give_back("w#1", [3])
        rig.remote.progress("w#1", [Progress(4, 1.0, 2.0)])
        rig.desk.failing = None

        said = rig.wait_said("tell", lambda said: any(one.given_back for one in said))

        last = next(one for one in said if one.given_back)
        assert ([report.fence for report in last.reports], last.stopped, last.given_back) == ([1], (2,), (3,))


def test_a_restarted_master_is_told_what_is_held_and_the_supervisor_is_not_bothered() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.put(1, 2, 3)
        rig.poll(3, lambda poll: len(poll.leases) == 3)
        rig.remote.report("w#1", [done(2)])
        rig.wait_said("tell", lambda said: 2 in told_fences(said))
        rig.desk.put(4)  # received, and not polled yet
        rig.wait_said("listen", lambda said: said[-1].seen == 2)
        new = Desk()

        rig.line.desk = rig.desk = new
        registered = rig.wait_said("register", lambda said: len(said) == 2)[1]

        assert registered == Register(W1, (1, 3, 4), 2)
        assert [one.fence for one in rig.poll(4, lambda poll: poll.leases).leases] == [4]
        rig.remote.report("w#1", [done(1)])
        rig.wait_said("tell", lambda said: 1 in told_fences(said))


def test_a_report_that_was_not_committed_keeps_its_lease_held() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.put(1)
        rig.poll(1, lambda poll: poll.leases)
        rig.line.desk = None
        rig.remote.report("w#1", [done(1)])

        rig.line.desk = rig.desk = Desk()

        registered = rig.wait_said("register", lambda said: len(said) == 2)[1]
        assert isinstance(registered, Register)
        assert registered.held == (1,)
        rig.wait_said("tell", lambda said: 1 in told_fences(said[-1:]))


def test_what_the_new_master_does_not_know_is_stopped_or_never_handed_out() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.put(1)
        rig.poll(1, lambda poll: poll.leases)
        rig.desk.put(2)
        rig.wait_said("listen", lambda said: said[-1].seen == 2)
        new = Desk()
        new.drop = (1, 2)

        rig.line.desk = rig.desk = new
        rig.wait_said("listen", lambda said: said[-1].number == 2)
        poll = rig.poll(2, lambda poll: poll.stops)

        assert poll == Poll((), (Stop(1, Ending.ADMISSION),))
        # Of one that was never handed out nobody else could say that it is gone.
        rig.wait_said("tell", lambda said: any(one.stopped == (2,) for one in said))
        # The stop is confirmed, and then nothing is held any more.
        rig.remote.stopped("w#1", [1])
        rig.wait_said("tell", lambda said: any(one.stopped == (1,) for one in said))
        rig.line.desk = rig.desk = Desk()
        again = rig.wait_said("register", lambda said: len(said) == 3)[2]
        assert isinstance(again, Register)
        assert again.held == ()


def test_heartbeats_are_sent_while_the_supervisor_hands_in_its_health_and_only_then() -> None:
    with a_rig() as rig:
        rig.join()

        rig.remote.heartbeat("w#1", Health(cpu_percent=1.0))
        rig.line.wait_called("heartbeat", 1)
        rig.line.wait_called("listen", len(rig.line.said("listen")) + 3)

        assert rig.line.said("heartbeat") == [Heartbeat("w#1", Health(cpu_percent=1.0))]


def test_without_an_answered_heartbeat_the_worker_is_told_to_start_over() -> None:
    with a_rig(Desk(interval=0.1, timeout=0.3)) as rig:
        rig.join()
        rig.remote.heartbeat("w#1", Health())
        rig.line.desk = None

        deadline = time.monotonic() + DEADLINE_SECONDS
        with pytest.raises(Refused, match=r"no heartbeat was answered for 0\.2 s; nobody answers"):
            while time.monotonic() < deadline:
                rig.remote.heartbeat("w#1", Health())
                rig.remote.poll("w#1", 1)

        rig.line.desk = rig.desk
        rig.join(W2)
        assert [one.hello.worker for one in rig.line.said("register")][-1] == "w#2"
        with pytest.raises(Refused, match="w#1 is not registered any more"):
            rig.remote.poll("w#1", 1)


def test_nothing_of_an_earlier_id_is_told_under_the_next() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.put(1)
        rig.poll(1, lambda poll: poll.leases)
        rig.line.desk = None
        rig.remote.report("w#1", [done(1)])

        rig.remote.register(W2, rig.rung.release)
        rig.line.desk = rig.desk = Desk()
        assert rig.remote.wait_registered(DEADLINE_SECONDS)
        rig.remote.report("w#1", [done(1)])
        rig.remote.leave("w#2")

        assert rig.line.said("register")[-1] == Register(W2, (), 1)
        assert told_fences([one for one in rig.line.said("tell") if one.worker == "w#2"]) == []


def test_what_ended_under_an_earlier_id_is_told_under_that_id_before_the_next_registers() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.put(1)
        rig.poll(1, lambda poll: poll.leases)
        rig.line.desk = None
        rig.remote.report("w#1", [done(1)])

        rig.remote.register(W2, rig.rung.release)
        rig.line.desk = rig.desk = Desk()  # refuses what w#1 says, for it does not know it
        assert rig.remote.wait_registered(DEADLINE_SECONDS)
        rig.remote.register(W1, rig.rung.release)
        assert rig.remote.wait_registered(DEADLINE_SECONDS)

        heard = [(name, said) for name, said in rig.line.calls if name in {"register", "tell"}]
        at = heard.index(("register", Register(W2, (), 1)))
        assert heard[at - 1] == ("tell", Tell("w#1", (done(1),)))
        assert not [said for name, said in heard[at:] if name == "tell"]


def test_a_job_whose_function_can_not_be_had_is_reported() -> None:
    with a_rig() as rig:
        rig.join()
        rig.desk.fetching = StoreTampered("db", "function 1 was altered")

        rig.desk.put(1)

        said = rig.wait_said("tell", lambda said: 1 in told_fences(said))
        (report,) = [report for one in said for report in one.reports]
        assert report.ending is Ending.CRASHED
        assert "function 1 was altered" in report.certificate.reason


def test_leaving_a_master_that_is_gone_takes_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_work, "MAX_LEAVE_SECONDS", 0.05)
    with a_rig() as rig:
        rig.join()
        rig.line.desk = None
        rig.remote.report("w#1", [done(1)])

        rig.remote.leave("w#1")

        with pytest.raises(Refused):
            rig.remote.poll("w#1", 1)
        rig.remote.leave("w#1")


def test_a_worker_with_something_untold_does_not_say_that_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_work, "MAX_LEAVE_SECONDS", 0.05)
    desk = Desk()
    with a_rig(desk) as rig:
        rig.join()
        desk.put(1)
        rig.poll(1, lambda poll: poll.leases)
        desk.failing = MasterUnavailable("the store does not answer")
        rig.remote.report("w#1", [done(1)])

        rig.remote.leave("w#1")

        # It would hand back a lease that was begun, and a job that may run only once would run again.
        assert rig.line.said("leave") == []


def test_closing_twice_or_before_anything_is_harmless() -> None:
    desk = RemoteWorkDesk(DirectLine(None))

    desk.leave("w#1")
    desk.close()
    desk.close()

    assert desk.wait_registered(0.0)
