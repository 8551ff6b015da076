"""The served work desk, called as the server's threads call it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cluster.core.records import Ending, Options
from cluster.core.states import JobState
from cluster.errors import MasterUnavailable, Refused
from cluster.master import served_work
from cluster.master.served_work import ServedWorkDesk
from cluster.wire.calls import FetchFunction, Heartbeat, Register, Tell, Welcome, Work, WorkerArgs, WorkListen
from cluster.wire.keys import Role
from cluster.wire.messages import Health, Hello, Progress
from cluster.wire.peer import Peer
from cluster.wire.reply import MAX_GIVEN_BYTES
from tests.core.builders import TASK, WORKER, spec, success
from tests.master.noted_reply import NotedReply
from tests.master.rig import DEADLINE_SECONDS, HandStore, Rig

PEER = Peer(1, Role.WORKER, "here")


class Scene(Rig):
    """A master, its served work desk, and one worker's words to it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.desk = ServedWorkDesk(self.master, 2.0)

    def join(self, *held: int, number: int = 1, worker: str = WORKER) -> Welcome:
        hello = Hello(worker=worker, name="w", host="here", pid=1, slots=2)
        return self.desk.register(PEER, Register(hello, held, number))

    def listen(self, seen: int = 0, credit: int = 0, timeout: float = 0.0, number: int = 1) -> Work:
        return self.desk.listen(PEER, WorkListen(WORKER, seen, timeout, number, credit))

    def tell(self, **said: Any) -> None:
        self.desk.tell(PEER, Tell(WORKER, **said))

    def in_thread(self, call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
        answers: list[Any] = []

        def run() -> None:
            try:
                answers.append(call())
            except Exception as error:
                answers.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread, answers


def ended(thread: threading.Thread) -> None:
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_a_worker_learns_how_often_to_send_heartbeats() -> None:
    with Scene(heartbeat_timeout_seconds=7.0) as scene:
        welcome = scene.join()

        assert welcome == Welcome((), 2.0, 7.0)
        assert ServedWorkDesk(scene.master)._interval_seconds == pytest.approx(1.4)


def test_who_has_not_registered_is_refused() -> None:
    with Scene() as scene:
        calls: list[Callable[[], Any]] = [
            scene.listen,
            scene.tell,
            lambda: scene.desk.heartbeat(PEER, Heartbeat(WORKER, Health())),
        ]

        for call in calls:
            with pytest.raises(Refused, match="is not registered"):
                call()


def test_leases_are_sent_up_to_the_credit_and_no_further() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"), spec("b"), spec("c"))

        first = scene.listen(credit=2)
        second = scene.listen(seen=first.mark, credit=2)
        third = scene.listen(seen=first.mark, credit=3)

        assert [lease.job for lease in first.leases] == ["a", "b"]
        assert second == Work(first.mark)
        assert [lease.job for lease in third.leases] == ["c"]


def test_an_answer_is_sent_again_until_it_is_acknowledged() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"), spec("b"))

        first = scene.listen(credit=1)
        again = scene.listen(credit=2)
        after = scene.listen(seen=first.mark, credit=2)

        assert again == first
        assert [lease.job for lease in after.leases] == ["b"]
        assert after.mark > first.mark


def test_a_listener_is_woken_by_work_and_by_credit_and_by_orders() -> None:
    with Scene() as scene:
        scene.join()

        thread, answers = scene.in_thread(lambda: scene.listen(credit=1, timeout=DEADLINE_SECONDS))
        scene.submit(spec("a"), spec("b"))
        ended(thread)
        (lease,) = answers[0].leases
        thread, answers = scene.in_thread(lambda: scene.listen(answers[0].mark, 1, DEADLINE_SECONDS))
        scene.tell(credit=2)
        ended(thread)
        assert [lease.job for lease in answers[0].leases] == ["b"]
        mark = answers[0].mark
        thread, answers = scene.in_thread(lambda: scene.listen(mark, 2, DEADLINE_SECONDS))
        scene.jobs.cancel(["a"], 0.0)
        ended(thread)

        assert [stop.fence for stop in answers[0].stops] == [lease.fence]


def test_a_newer_listen_makes_an_older_one_let_go_and_loses_nothing() -> None:
    with Scene() as scene:
        scene.join()
        old, old_answers = scene.in_thread(lambda: scene.listen(credit=1, timeout=DEADLINE_SECONDS))

        new, new_answers = scene.in_thread(lambda: scene.listen(credit=1, timeout=DEADLINE_SECONDS))
        ended(old)
        scene.submit(spec("a"))
        ended(new)

        assert old_answers == [Work(0)]
        assert [lease.job for lease in new_answers[0].leases] == ["a"]


def test_a_tell_is_answered_once_its_reports_are_committed() -> None:
    store = HandStore()
    with Scene(store) as scene:
        scene.master.start()
        scene.join()
        scene.submit(spec("a"))
        scene.notes.wait("accepted")
        (lease,) = scene.listen(credit=1, timeout=DEADLINE_SECONDS).leases
        store.gate.clear()
        store.is_reached.clear()

        thread, answers = scene.in_thread(lambda: scene.tell(reports=(success(lease.fence),)))
        assert store.is_reached.wait(DEADLINE_SECONDS)
        assert answers == []
        store.gate.set()
        ended(thread)

        assert answers == [None]
        assert [outcome.job for outcome in scene.notes.wait("ended")] == ["a"]


def test_a_tell_that_comes_twice_counts_once() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases

        for _ in range(2):
            scene.tell(reports=(success(lease.fence),), stopped=(lease.fence,), given_back=(lease.fence,))

        assert len(scene.notes.of("ended")) == 1
        assert scene.master.board.counters.fenced == 1


def test_a_late_report_of_a_lost_worker_whose_seat_is_gone_changes_nothing_and_is_counted() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases
        scene.tick(4.0)
        scene.tick(4.0)
        scene.tick(4.0)
        scene.join(worker="another#1")  # the seats of lost workers are cleared away by whoever registers

        with pytest.raises(Refused, match="is not registered"):
            scene.tell(reports=(success(lease.fence),))

        assert scene.master.board.counters.fenced == 1
        assert scene.master.board.jobs["a"].state is JobState.QUEUED


def test_a_report_under_a_lease_of_an_earlier_master_waits_for_the_registration() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases
        desk = ServedWorkDesk(scene.master)  # as after a restart: the board has the leases, and nobody has a seat

        with pytest.raises(Refused, match="is not registered"):
            desk.tell(PEER, Tell(WORKER, reports=(success(lease.fence),)))

        assert scene.master.board.counters.fenced == 0
        assert scene.master.board.current_lease(WORKER, lease.fence) is not None


def test_a_store_that_does_not_commit_is_told_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_work, "MAX_COMMIT_SECONDS", 0.01)
    store = HandStore()
    with Scene(store) as scene:
        scene.master.start()
        scene.join()
        scene.submit(spec("a"))
        scene.notes.wait("accepted")
        (lease,) = scene.listen(credit=1, timeout=DEADLINE_SECONDS).leases
        store.gate.clear()

        with pytest.raises(MasterUnavailable, match="has not committed"):
            scene.tell(reports=(success(lease.fence),))

        store.gate.set()


def test_a_worker_that_registers_again_keeps_what_it_names_and_drops_what_is_not_its_own() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"), spec("b"))
        work = scene.listen(credit=2)
        kept, unheard = (lease.fence for lease in work.leases)

        welcome = scene.join(kept, 12345, number=2)

        assert welcome.drop == (12345,)
        assert scene.master.board.workers[WORKER].leases.keys() == {kept}
        assert scene.master.board.jobs["b"].state is JobState.QUEUED
        assert unheard not in scene.master.board.leases
        # The master counts, and marks, anew.
        assert [lease.job for lease in scene.listen(credit=1, number=2).leases] == ["b"]


def test_a_word_of_credit_that_a_later_one_overtook_takes_nothing_back() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"), spec("b"))
        scene.tell(credit=2, turn=2)

        work = scene.desk.listen(PEER, WorkListen(WORKER, 0, 0.0, 1, 1, 1))

        assert len(work.leases) == 2


def test_leases_of_a_listen_that_was_given_up_and_comes_late_still_reach_the_worker() -> None:
    with Scene() as scene:
        scene.join()
        scene.join(number=2)
        scene.submit(spec("a"), spec("b"))
        scene.tell(credit=2, number=2)

        # Sent before the worker registered again, over a connection that it has given up: nobody hears the answer.
        lost = scene.listen(credit=1, number=1)
        heard = scene.listen(credit=2, number=2)

        assert [lease.job for lease in heard.leases] == ["a", "b"]
        assert lost in (heard, Work(0))
        held = scene.master.board.workers[WORKER].leases
        assert held.keys() == {lease.fence for lease in heard.leases}


def test_a_listen_of_an_earlier_registration_acknowledges_nothing_and_takes_nothing() -> None:
    with Scene() as scene:
        scene.join()
        scene.join(number=2)
        scene.submit(spec("a"), spec("b"))
        first = scene.listen(credit=1, number=2)  # and its answer gets lost

        late = scene.listen(seen=7, credit=9, number=1)

        assert late == Work(7)
        assert scene.listen(credit=1, number=2) == first
        assert [lease.job for lease in first.leases] == ["a"]


def test_credit_of_an_earlier_registration_does_not_count() -> None:
    with Scene() as scene:
        scene.join()
        scene.join(number=2)
        scene.submit(spec("a"))

        scene.tell(credit=100, number=1)

        assert scene.listen(credit=100, number=1).leases == ()
        assert len(scene.listen(credit=1, number=2).leases) == 1


def test_a_registration_that_comes_twice_or_late_undoes_nothing() -> None:
    with Scene() as scene:
        first = scene.join(7)
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases

        again = scene.join(7)
        scene.join(lease.fence, number=2)
        with pytest.raises(Refused, match="came too late"):
            scene.join(number=1)

        assert again == first == Welcome((7,), 2.0, 10.0)
        assert scene.master.board.jobs["a"].state is JobState.ASSIGNED


def test_an_attempt_that_was_to_stop_is_dropped_by_a_worker_that_missed_the_order() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases
        scene.jobs.cancel(["a"], 0.0)

        welcome = scene.join(lease.fence, number=2)

        assert welcome.drop == (lease.fence,)
        scene.tell(stopped=(lease.fence,), number=2)
        assert not scene.master.board.leases


def test_an_answer_takes_no_more_than_fits_and_the_rest_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_work, "MAX_ANSWER_BYTES", 100)
    with Scene() as scene:
        scene.join()
        scene.submit(*(spec(name, args=b"x" * 60) for name in "abc"))

        jobs, mark = [], 0
        for _ in range(3):
            work = scene.listen(seen=mark, credit=3)
            mark = work.mark
            jobs.append([lease.job for lease in work.leases])

        assert jobs == [["a"], ["b"], ["c"]]


def test_a_job_too_large_to_be_sent_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_work, "MAX_LEASE_BYTES", 50)
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a", args=b"x" * 60), spec("b"))

        work = scene.listen(credit=1)

        (outcome,) = scene.notes.of("ended")
        assert outcome.certificate.ending is Ending.UNPICKLABLE
        assert "more than the 50 that can be sent" in outcome.certificate.reason
        # It took nothing of the credit.
        assert [lease.job for lease in work.leases] == ["b"]


def test_a_worker_is_lost_without_heartbeats_and_must_register_again() -> None:
    with Scene() as scene:
        scene.join()
        scene.tick(8.0)
        scene.desk.heartbeat(PEER, Heartbeat(WORKER, Health(cpu_percent=7.0)))
        scene.tick(8.0)
        assert WORKER in scene.master.board.workers

        scene.tick(4.0)

        with pytest.raises(Refused, match="is not registered"):
            scene.desk.heartbeat(PEER, Heartbeat(WORKER, Health()))
        with pytest.raises(Refused, match="is not registered"):
            scene.listen()


def test_a_worker_that_leaves_gives_back_what_it_had_and_may_say_so_twice() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        scene.listen(credit=1)

        for _ in range(2):
            scene.desk.leave(PEER, WorkerArgs(WORKER))

        assert scene.master.board.jobs["a"].state is JobState.QUEUED
        assert WORKER not in scene.master.board.workers


def test_functions_are_handed_out_by_digest() -> None:
    with Scene() as scene:
        scene.submit(spec("a"))

        assert scene.desk.fetch_function(PEER, FetchFunction(TASK.digest)) == TASK


def test_a_desk_that_stops_answers_those_who_wait_and_refuses_the_rest() -> None:
    with Scene() as scene:
        scene.join()
        thread, answers = scene.in_thread(lambda: scene.listen(timeout=DEADLINE_SECONDS))

        scene.desk.stop()
        ended(thread)

        assert answers == [Work(0)] or isinstance(answers[0], MasterUnavailable)
        with pytest.raises(MasterUnavailable, match="is stopping"):
            scene.listen()
        with pytest.raises(MasterUnavailable, match="is stopping"):
            scene.join(number=2)


def test_what_runs_and_what_it_prints_is_heard_with_the_rest() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases

        scene.tell(begun=(lease.fence,), progress=(Progress(lease.fence, 0.0, 0.0, output=b"text"),))

        assert scene.jobs.info("a").state is JobState.RUNNING
        assert scene.jobs.output("a") == b"text"


def test_output_of_before_the_latest_registration_waits_until_it_is_said_again_from_the_beginning() -> None:
    with Scene() as scene:
        scene.join()
        scene.submit(spec("a"))
        (lease,) = scene.listen(credit=1).leases
        scene.join(lease.fence, number=2)

        scene.tell(progress=(Progress(lease.fence, 0.0, 0.0, output=b"late", offset=6),), number=1)
        early = scene.jobs.output("a")
        scene.tell(progress=(Progress(lease.fence, 0.0, 0.0, output=b"early late"),), number=2)

        assert (early, scene.jobs.output("a")) == (b"", b"early late")


def test_a_worker_that_asks_for_the_whole_queue_gets_it_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_work, "MAX_LEASES_AT_ONCE", 2)
    with Scene() as scene:
        scene.join()
        scene.submit(*[spec(str(number)) for number in range(5)])

        pieces, seen = [], 0
        for _ in range(4):
            work = scene.listen(seen, credit=1 << 60)
            seen = work.mark
            pieces.append(len(work.leases))

    assert pieces == [2, 2, 1, 0]


def test_there_are_only_so_many_workers_and_one_that_is_here_may_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_work, "MAX_WORKERS", 2)
    with Scene() as scene:
        scene.join()
        scene.join(worker="w#other")

        with pytest.raises(Refused, match="2 workers are registered, which is the limit"):
            scene.join(worker="w#third")
        scene.join(number=2)


# --- whose certificate it is --------------------------------------------------------------------------------------------


def test_with_tls_a_worker_speaks_only_for_workers_of_its_certificate_s_name() -> None:
    worker, other = (Peer(1, Role.WORKER, "here", name, "01") for name in ("w", "other"))
    with Scene() as table:
        hello = Hello(worker="w#1", name="w", host="h", pid=1, slots=1)
        table.desk.register(worker, Register(hello))
        calls: list[Callable[[Peer], object]] = [
            lambda peer: table.desk.listen(peer, WorkListen("w#1", 0, 0.0)),
            lambda peer: table.desk.tell(peer, Tell("w#1")),
            lambda peer: table.desk.heartbeat(peer, Heartbeat("w#1", Health())),
            lambda peer: table.desk.register(peer, Register(hello, (), 2)),
            lambda peer: table.desk.leave(peer, WorkerArgs("w#1")),
        ]

        for call in calls:
            with pytest.raises(Refused, match="is of worker other, which can't speak for w#1"):
                call(other)
        with pytest.raises(Refused, match="can't register as 'w'"):
            table.desk.register(other, Register(Hello(worker="other#1", name="w", host="h", pid=1, slots=1)))
        for call in calls:
            call(worker)


class Ear:
    """A worker's `listen` that waits in a thread of its own, and may be answered by another one."""

    def __init__(self, scene: Scene, said: WorkListen) -> None:
        self.reply = NotedReply()
        self.seat = scene.desk._seats[said.worker]
        self.thread, self.returned = scene.in_thread(lambda: scene.desk.listen(PEER, said, self.reply))
        with self.seat.changed:
            turns = 0
            while self.seat.waiting is not self.reply and turns < 1000:
                turns += 1
                self.seat.changed.wait(0.01)
        assert self.seat.waiting is self.reply


def test_whoever_brings_work_leases_it_for_the_worker_that_listens_and_answers() -> None:
    with Scene() as scene:
        scene.join()
        ear = Ear(scene, WorkListen(WORKER, 0, DEADLINE_SECONDS, 1, 1))

        scene.submit(spec("a"))

        assert ear.reply.giver is threading.current_thread()
        (work,) = ear.reply.given
        assert isinstance(work, Work)
        assert [lease.job for lease in work.leases] == ["a"]
        ended(ear.thread)
        assert scene.listen(0, credit=1) == work, "it was not acknowledged: it must come again"


def test_an_answer_of_many_bytes_is_left_to_the_thread_that_listens() -> None:
    with Scene() as scene:
        scene.join()
        ear = Ear(scene, WorkListen(WORKER, 0, DEADLINE_SECONDS, 1, 1))

        scene.submit(spec("a", args=bytes(MAX_GIVEN_BYTES + 1)))
        ended(ear.thread)

        assert ear.reply.given == []
        assert [lease.job for lease in ear.returned[0].leases] == ["a"]


def test_the_committer_leases_for_nobody() -> None:
    with Scene(HandStore()) as scene:
        scene.master.start()
        scene.join()
        ear = Ear(scene, WorkListen(WORKER, 0, DEADLINE_SECONDS, 1, 1))

        # At most once: leased only when its admission is durable, of which the committer hears first.
        scene.submit(spec("a", Options(crash_limit=0)))
        ended(ear.thread)

        assert ear.reply.given == []
        assert [lease.job for lease in ear.returned[0].leases] == ["a"]


def test_what_goes_wrong_for_a_listener_is_raised_in_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scene() as scene:
        scene.join()
        ear = Ear(scene, WorkListen(WORKER, 0, DEADLINE_SECONDS, 1, 1))

        def poll(worker: str, capacity: int) -> Any:
            raise Refused(f"{worker} is gone")

        monkeypatch.setattr(scene.desk._work, "poll", poll)
        scene.submit(spec("a"))
        ended(ear.thread)

        assert ear.reply.given == []
        assert isinstance(ear.returned[0], Refused)


def test_an_older_listen_is_given_nothing() -> None:
    with Scene() as scene:
        scene.join()
        old = Ear(scene, WorkListen(WORKER, 0, DEADLINE_SECONDS, 1, 1))
        new = Ear(scene, WorkListen(WORKER, 0, DEADLINE_SECONDS, 1, 1))

        scene.submit(spec("a"))
        ended(old.thread)
        ended(new.thread)

        assert (old.reply.given, old.returned) == ([], [Work(0)])
        assert len(new.reply.given) == 1


def test_work_that_comes_from_many_sides_at_once_is_leased_once() -> None:
    with Scene() as scene:
        scene.join()
        names = [str(number) for number in range(200)]
        seen: list[str] = []

        def listen() -> None:
            mark = 0
            while len(seen) < len(names):
                reply = NotedReply()
                said = WorkListen(WORKER, mark, DEADLINE_SECONDS, 1, credit=len(seen) + 3, turn=len(seen) + 1)
                returned = scene.desk.listen(PEER, said, reply)
                (work,) = reply.given or [returned]
                assert isinstance(work, Work)
                assert work.mark > mark, "nothing came"
                mark = work.mark
                seen.extend(lease.job for lease in work.leases)

        def submit(part: int) -> None:
            for name in names[part::4]:
                scene.submit(spec(name))

        listening, failures = scene.in_thread(listen)
        threads = [scene.in_thread(functools.partial(submit, part)) for part in range(4)]
        for thread, _ in threads:
            ended(thread)
        ended(listening)

        assert failures == [None]
        assert sorted(seen) == sorted(names)
