"""`RemoteJobsDesk` and its conversation, against a real master whose network and life the tests cut short."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from cluster.core.records import DEFAULT_OPTIONS, Budget, JobInfo, Options, Outcome, RetryRule
from cluster.core.states import JobState
from cluster.errors import MasterUnavailable, Refused, UnknownJob
from cluster.master import told
from cluster.master.served_jobs import ServedJobsDesk
from cluster.store.memory import MemoryStore
from cluster.wire import calls, conversation
from cluster.wire.address import Address
from cluster.wire.keys import Secret
from cluster.wire.messages import JobParts
from cluster.wire.peer import Peer
from cluster.wire.remote_jobs import RemoteJobsDesk
from tests.core.builders import TASK, failure, function, spec, success
from tests.master.rig import DEADLINE_SECONDS, Notes, Rig
from tests.wire.jobs_line import JobsLine


class Far:
    """A client on one end of a line, and a master, with a worker at its desk, on the other."""

    def __init__(self, patience_seconds: float = DEADLINE_SECONDS) -> None:
        self.store = MemoryStore()
        self.line = JobsLine(None)
        self.rig: Rig
        self.start_master(self.store)
        self.notes = Notes()
        self.desk = RemoteJobsDesk(
            Address(host="127.0.0.1", port=1), Secret(b"k" * 32), patience_seconds=patience_seconds, dial=self.line.dial
        )
        self.session = self.desk.open(self.notes)

    def start_master(self, store: MemoryStore, defaults: Options = DEFAULT_OPTIONS) -> None:
        self.rig = Rig(store, defaults=defaults)
        self.served = ServedJobsDesk(self.rig.master)
        self.line.served = self.served

    def kill_master(self) -> None:
        """Nothing that it says from now on arrives. (Its store is as it was: each commit is whole.)"""
        self.line.served = None
        self.served.stop()
        self.rig.master.stop()

    def submit(self, *names: str, options: Options | None = None) -> None:
        self.desk.submit(self.session, [spec(name, options) for name in names], [TASK])

    def run_all(self) -> list[str]:
        """Have the worker run what there is; the jobs in order."""
        leases = self.rig.poll(100)
        self.rig.report(*[success(lease.fence, lease.job.encode()) for lease in leases])
        return [lease.job for lease in leases]

    def admitted(self) -> int:
        """Over all masters: ids never repeat in a store."""
        return len(self.store.page(0, 10_000))

    def close(self) -> None:
        self.desk.close(self.session)
        self.served.stop()
        self.rig.master.stop()


@pytest.fixture
def far() -> Iterator[Far]:
    far = Far()
    yield far
    far.close()


def ended(far: Far, count: int) -> list[str]:
    return [outcome.job for outcome in far.notes.wait("ended", count)]


def test_a_job_is_acknowledged_and_its_outcome_is_told(far: Far) -> None:
    far.submit("a")

    assert far.notes.wait("accepted") == ["a"]
    assert far.run_all() == ["a"]
    (outcome,) = far.notes.wait("ended")
    assert (outcome.job, outcome.state, outcome.payload) == ("a", JobState.COMPLETED, b"a")


def test_a_batch_whose_answer_was_lost_is_admitted_once(far: Far) -> None:
    far.line.losing_answers["submit"] = 1

    far.submit("a", "b")

    far.notes.wait("accepted", 2)
    assert far.run_all() == ["a", "b"]
    assert sorted(ended(far, 2)) == ["a", "b"]
    assert far.admitted() == 2


def test_a_batch_without_an_answer_comes_again_under_its_number(far: Far) -> None:
    far.line.losing_answers["submit"] = 2

    far.submit("a")
    far.notes.wait("accepted")
    far.line.wait_said("submit", 3)
    far.desk.info("a")  # waits until all is passed on
    far.submit("b")
    far.notes.wait("accepted", 2)

    # In another batch it could be admitted, though a commit that failed had it refused meanwhile.
    assert [(said.number, [job.id for job in said.jobs]) for said in far.line.said("submit")] == [
        (1, ["a"]),
        (1, ["a"]),
        (1, ["a"]),
        (2, ["b"]),
    ]


def test_a_job_that_ended_before_its_batch_comes_again_is_told_and_not_run_again(far: Far) -> None:
    far.line.losing_answers["submit"] = 1
    far.line.losing_answers["listen"] = 1  # and the listener is cut off too
    far.submit("a")
    assert far.run_all() == ["a"]  # ended, and forgotten by the board

    far.notes.wait("ended")
    far.submit("b")

    far.notes.wait("accepted", 1)
    assert far.run_all() == ["b"]
    assert far.admitted() == 2


def test_a_batch_that_never_arrived_comes_again_in_order(far: Far) -> None:
    far.line.losing_calls["submit"] = 1

    far.submit("a", "b")
    far.submit("c")

    far.notes.wait("accepted", 3)
    assert far.run_all() == ["a", "b", "c"]


def test_what_was_told_in_a_lost_answer_is_told_again(far: Far) -> None:
    far.line.wait_said("listen")
    far.line.losing_answers["listen"] = 2

    far.submit("a")
    far.run_all()

    assert ended(far, 1) == ["a"]


def test_after_a_restart_what_was_acknowledged_is_watched_and_what_was_not_is_submitted_again(far: Far) -> None:
    far.submit("a")
    far.notes.wait("accepted")
    far.kill_master()
    far.submit("b", "c")  # returns at once: it is booked

    far.start_master(far.store)

    far.notes.wait("accepted", 3)
    assert far.run_all() == ["a", "b", "c"]
    assert sorted(ended(far, 3)) == ["a", "b", "c"]
    assert far.admitted() == 3


def test_an_outcome_that_was_committed_and_not_told_before_a_restart_is_told_after_it(far: Far) -> None:
    far.submit("a")
    far.notes.wait("accepted")
    far.line.losing_answers["listen"] = 1_000_000
    far.run_all()
    far.kill_master()
    far.line.losing_answers.clear()

    far.start_master(far.store)

    assert ended(far, 1) == ["a"]
    assert far.rig.poll(10) == []


def test_what_has_ended_is_heard_before_all_else_is_asked_for(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_WATCHED_AT_ONCE", 2)
    names = [f"j{number}" for number in range(6)]
    far.submit(*names)
    far.notes.wait("accepted", 6)
    far.line.losing_answers["listen"] = 1_000_000
    far.run_all()
    far.kill_master()
    far.line.losing_answers.clear()
    far.line.calls.clear()
    heard_at: list[int] = []
    tell = far.notes.ended

    def hear(outcomes: Sequence[Outcome]) -> None:
        heard_at.append(len(far.line.said("watch")))
        tell(outcomes)

    monkeypatch.setattr(far.notes, "ended", hear)

    far.start_master(far.store)

    assert ended(far, 6) == names
    assert heard_at == [1, 2, 3], "after so many of the questions"


def test_results_that_are_more_than_a_session_keeps_untold_are_heard_after_a_restart(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.master.jobs_desk.MAX_TOLD_BYTES", 2000)
    far.submit("a", "b", "c", "d", "e", "f")
    far.notes.wait("accepted", 6)
    far.line.losing_answers["listen"] = 1_000_000
    far.rig.report(*[success(lease.fence, lease.job.encode() * 1500) for lease in far.rig.poll(6)])
    far.kill_master()
    far.line.losing_answers.clear()
    # One that hears nothing until all is asked for would have its session dropped for what it leaves untold, each time.
    book = told.ToldBook
    monkeypatch.setattr("cluster.master.served_jobs.ToldBook", lambda mono: book(mono, max_untold_bytes=4500))

    far.start_master(far.store)

    assert ended(far, 6) == ["a", "b", "c", "d", "e", "f"]
    assert len(far.line.said("open")) == 2


def test_a_session_that_is_dropped_while_its_jobs_are_asked_for_is_opened_anew(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_WATCHED_AT_ONCE", 1)
    far.submit("a", "b", "c")
    far.notes.wait("accepted", 3)
    far.kill_master()
    far.start_master(far.store)
    served, watch = far.served, far.served.watch

    def watch_and_drop(peer: Peer, said: calls.Watch) -> tuple[JobInfo | None, ...]:
        answer = watch(peer, said)
        if said.jobs == ("b",):
            monkeypatch.setattr(served, "watch", watch)
            served.close(peer, calls.Session(said.session))
        return answer

    monkeypatch.setattr(served, "watch", watch_and_drop)

    assert [job for said in far.line.wait_said("watch", 5) for job in said.jobs] == ["a", "b", "a", "b", "c"]
    far.run_all()
    assert sorted(ended(far, 3)) == ["a", "b", "c"]


def test_a_job_of_a_master_that_kept_it_in_memory_only_is_refused_after_the_restart(far: Far) -> None:
    far.submit("a")
    far.notes.wait("accepted")
    far.kill_master()

    far.start_master(MemoryStore())

    (refusal,) = far.notes.wait("refused")
    assert (refusal.job, refusal.kind) == ("a", "store")


def test_a_session_that_was_dropped_is_opened_anew_and_nothing_is_lost(far: Far) -> None:
    far.submit("a")
    far.notes.wait("accepted")
    far.line.losing_calls["listen"] = 3  # it can't listen just now
    far.served.close(
        None,  # type: ignore[arg-type]
        calls.Session(next(iter(far.served._clients))),
    )

    far.run_all()

    assert ended(far, 1) == ["a"]
    assert len(far.line.wait_said("open", 2)) == 2


def test_a_silent_session_is_dropped_and_the_client_that_comes_back_hears_everything(far: Far) -> None:
    far.submit("a")
    far.notes.wait("accepted")
    far.line.losing_calls["listen"] = 1_000_000
    far.served._clients[next(iter(far.served._clients))].book.listen(0, 0.0)  # the pending poll ends; none follows
    far.rig.time.seconds += told.MAX_SILENCE_SECONDS + 1.0

    far.run_all()
    far.line.losing_calls.clear()

    assert ended(far, 1) == ["a"]


def test_a_question_does_not_overtake_a_booked_job_and_gives_up_in_the_end() -> None:
    far = Far(patience_seconds=0.2)
    far.kill_master()
    far.submit("a")

    with pytest.raises(MasterUnavailable, match="passed on once it is back"):
        far.desk.info("a")
    far.start_master(far.store)
    far.notes.wait("accepted")

    assert far.desk.info("a").state is JobState.QUEUED
    far.close()


def test_a_batch_that_the_master_will_never_take_is_not_kept(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise Refused("this master takes no jobs")

    with monkeypatch.context() as patch:
        patch.setattr(far.served, "submit", refuse)
        with pytest.raises(Refused, match="takes no jobs"):
            far.submit("a")
    far.submit("b")

    assert far.notes.wait("accepted") == ["b"]
    assert far.run_all() == ["b"]


def test_a_booked_batch_that_the_master_will_never_take_is_refused_and_holds_up_nothing(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.kill_master()
    far.submit("a")  # booked

    def refuse(*_: object) -> bool:
        monkeypatch.undo()
        raise Refused("this master takes no such jobs")

    monkeypatch.setattr(ServedJobsDesk, "submit", refuse)
    far.start_master(far.store)

    (refusal,) = far.notes.wait("refused")
    assert (refusal.job, refusal.reason) == ("a", "this master takes no such jobs")
    far.submit("b")
    assert far.notes.wait("accepted") == ["b"]
    far.run_all()


def test_a_job_too_large_for_a_message_is_refused_and_the_others_go_on(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_JOB_BYTES", 10)

    far.desk.submit(far.session, [spec("big", args=b"x" * 11), spec("small", args=b"x")], [TASK])

    (refusal,) = far.notes.wait("refused")
    assert refusal.job == "big"
    assert "pass a file's path" in refusal.reason
    assert far.notes.wait("accepted") == ["small"]


def test_a_long_batch_is_cut_in_order(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_BATCH_BYTES", 100)
    names = [f"j{n:02}" for n in range(20)]

    far.desk.submit(far.session, [spec(name, args=b"x" * 30) for name in names], [TASK])

    assert far.notes.wait("accepted", 20) == names
    assert [len(said.jobs) for said in far.line.said("submit")] == [3, 3, 3, 3, 3, 3, 2]
    assert all(said.functions == (TASK,) for said in far.line.said("submit"))


def test_functions_are_let_go_of_once_no_unacknowledged_job_needs_them(far: Far) -> None:
    other = function("other")

    far.desk.submit(far.session, [spec("a"), spec("b", function=other.digest)], [TASK, other])
    far.notes.wait("accepted", 2)

    books = far.desk._conversations[far.session]._books
    assert (books._functions, books._uses, books.unacknowledged) == ({}, {}, {})
    assert set(books.awaited) == {"a", "b"}


def test_a_watched_job_s_outcome_is_told_after_a_restart_too(far: Far) -> None:
    far.rig.submit(spec("a"))  # another client's
    assert far.desk.watch(far.session, "a").state is JobState.QUEUED
    far.kill_master()

    far.start_master(far.store)
    far.line.wait_said("watch", 2)
    far.run_all()

    assert ended(far, 1) == ["a"]


def test_to_watch_an_unknown_job_is_an_error_and_leaves_nothing(far: Far) -> None:
    with pytest.raises(UnknownJob, match="ghost"):
        far.desk.watch(far.session, "ghost")

    assert far.desk._conversations[far.session]._books.awaited == {}


def test_orders_and_questions_pass_with_their_types(far: Far) -> None:
    far.submit("a", "b", options=Options(tags=("t",)))
    far.notes.wait("accepted", 2)
    (lease,) = far.rig.poll(1)
    far.rig.report(failure(lease.fence, reason="raised"))
    far.notes.wait("ended")

    assert far.desk.history("a").attempts[0][1].reason == "raised"
    assert "raised" in far.desk.explain("a")
    assert far.desk.output("a") == b""
    assert [info.id for info in far.desk.page(tag="t")[0]] == ["a", "b"]
    assert far.desk.cancel(["b"], 5.0) == [True]
    assert far.desk.requeue(["a"], Budget(retries=RetryRule(max_retries=1), crash_limit=3))[0].run == 2
    options = Options(tags=("t",), retry=RetryRule(max_retries=1), crash_limit=3)
    assert far.desk.parts("a") == JobParts(spec("a", options), TASK)
    assert far.desk.result("a") is None
    assert far.desk.cancel(["a"], 5.0) == [True]
    assert far.desk.stats().submitted == 2
    assert far.desk.workers()[0].name == "w"
    far.desk.pause("default")
    assert far.desk.stats().paused == ("default",)
    far.desk.resume("default")
    with pytest.raises(Refused, match="only a dead letter"):
        far.desk.purge(["a"])
    with pytest.raises(UnknownJob):
        far.desk.info("ghost")


def test_closing_forgets_the_session_there_and_ends_the_listener_here() -> None:
    far = Far()

    far.close()

    assert far.served._clients == {}
    assert [thread for thread in threading.enumerate() if thread.name == "cluster-listener"] == []
    with pytest.raises(MasterUnavailable, match="closed"):
        far.desk.stats()


def test_closing_works_while_the_master_is_away() -> None:
    far = Far()
    far.kill_master()

    far.close()

    assert [thread for thread in threading.enumerate() if thread.name == "cluster-listener"] == []


def test_a_restarted_master_s_other_defaults_are_told_when_the_session_is_opened_again(far: Far) -> None:
    far.submit("a")
    far.notes.wait("accepted")
    before = far.notes.defaults
    others = Options(crash_limit=1, result_ttl=60.0)

    far.kill_master()
    far.start_master(far.store, others)

    far.submit("b")
    far.notes.wait("accepted", 2)
    assert (before, far.notes.defaults) == (DEFAULT_OPTIONS, others)


def test_the_master_s_defaults_are_told_when_the_session_is_opened(far: Far) -> None:
    others = Options(crash_limit=1, result_ttl=60.0)
    far.kill_master()
    far.start_master(far.store, others)
    notes = Notes()

    session = far.desk.open(notes)

    assert notes.defaults == others
    far.desk.close(session)
