from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import pytest

from cluster.core.effects import (
    Admitted,
    AttemptFailed,
    Effect,
    Ended,
    GivenBack,
    Leased,
    LeasedJob,
    QueuePaused,
    Record,
    Requeued,
    TellAccepted,
    TellAdmitted,
    TellGranted,
    TellRefused,
    TellStop,
    Undone,
    Wake,
)
from cluster.core.records import Certificate, Ending, JobId, Outcome, Stop
from cluster.core.states import JobState
from cluster.errors import StoreError, StoreFull
from cluster.master import committer as module
from cluster.master.committer import MAX_GROUP_EFFECTS, PRUNE_AFTER_ENDED, Committer
from tests.core.builders import WALL, spec
from tests.master.rig import DEADLINE_SECONDS, HandStore

FULL = StoreFull("test:", "disk full")


class Listener:
    """Stands where the master does: carries effects out by noting them."""

    def __init__(self) -> None:
        self.early: list[Effect] = []
        self.durable: list[Effect] = []
        self.undone: list[tuple[list[JobId], str]] = []
        self.healed = 0
        self.is_healed = threading.Event()
        self.fault: Exception | None = None

    def tell_early(self, effects: Sequence[Effect]) -> None:
        self.early += effects

    def tell_durable(self, effects: Sequence[Effect]) -> None:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self.durable += effects

    def undo_admissions(self, jobs: Sequence[JobId], reason: str) -> list[Effect]:
        self.undone.append((list(jobs), reason))
        undone: list[Effect] = [Undone(int(job)) for job in jobs]
        return undone + [TellRefused(1, job, "store", reason) for job in jobs]

    def store_healed(self) -> None:
        self.healed += 1
        self.is_healed.set()

    def is_needed(self, job: JobId) -> bool:
        return False

    def wall(self) -> float:
        return WALL


class Bench:
    """A committer between a store and a listener."""

    def __init__(self, store: HandStore) -> None:
        self.store = store
        self.store.open()
        self.lock = threading.Lock()
        self.listener = Listener()
        self.committer = Committer(store, self.lock, self.listener)

    def append(self, *effects: Effect, then: module.Then | None = None) -> list[Effect]:
        with self.lock:
            return self.committer.append(list(effects), then)

    def commit(self, *effects: Effect) -> threading.Event:
        """Append and kick; the event is set once that is durable."""
        durable = threading.Event()
        self.append(*effects, then=durable.set)
        self.committer.kick()
        return durable


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Driven by hand: its thread is not started."""
    one = Bench(HandStore())
    yield one
    one.store.failures.clear()
    one.committer.stop()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With its own thread, which tries again soon."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    one = Bench(HandStore())
    one.committer.start()
    yield one
    one.store.gate.set()
    one.committer.stop()


# Jobs here are named by their number.


def admitted(seq: int) -> Admitted:
    return Admitted(seq, spec(str(seq)), WALL, owner=1)


def leased(*seqs: int) -> Leased:
    return Leased("w#1", tuple(LeasedJob(100 + seq, seq, 1, 1) for seq in seqs))


def ended(seq: int, run: int = 1) -> Ended:
    return Ended(seq, 100 + seq, Outcome(str(seq), run, JobState.COMPLETED, WALL), WALL + 60.0)


def failed(seq: int) -> AttemptFailed:
    certificate = Certificate(ending=Ending.RAISED, reason="it raised")
    return AttemptFailed(seq, str(seq), 1, 100 + seq, certificate, failures=1, crashes=0, due=WALL)


def test_what_needs_no_commit_comes_back_at_once_and_the_rest_goes_to_the_log(bench: Bench) -> None:
    stop, refused = TellStop("w#1", Stop(1, Ending.CANCELLED)), TellRefused(1, "9", "refused", "no")

    early = bench.append(stop, admitted(1), Wake("w#1"), refused)

    assert early == [stop, Wake("w#1"), refused]
    bench.committer.drive()
    assert bench.store.groups == [[admitted(1)]]
    assert bench.listener.durable == [admitted(1)]


def test_a_decision_without_anything_to_write_or_tell_leaves_no_trace(bench: Bench) -> None:
    bench.append(Wake("w#1"))

    bench.committer.drive()

    assert bench.committer._log == []
    assert bench.store.groups == []


def test_nothing_is_told_before_its_group_is_written(bench: Bench) -> None:
    told_before: list[list[Effect]] = []
    then: list[str] = []
    bench.store.on_commit = lambda records: told_before.append([*bench.listener.durable, *then])  # type: ignore[list-item]
    bench.append(admitted(1), then=lambda: then.append("told"))

    bench.committer.drive()

    assert told_before == [[]]
    assert (bench.listener.durable, then) == ([admitted(1)], ["told"])


def test_what_has_gathered_is_one_group_in_the_order_of_decision(bench: Bench) -> None:
    for effects in ([admitted(1), admitted(2)], [leased(1)], [ended(1), TellAccepted(1, "2")]):
        bench.append(*effects)

    bench.committer.drive()

    assert bench.store.groups == [[admitted(1), admitted(2), leased(1), ended(1)]]
    assert bench.listener.durable == [admitted(1), admitted(2), leased(1), ended(1), TellAccepted(1, "2")]


def test_a_group_is_bounded_and_decisions_are_never_split(bench: Bench) -> None:
    half = MAX_GROUP_EFFECTS // 2 + 1
    for first in range(0, 4 * half, half):
        bench.append(*(admitted(seq) for seq in range(first, first + half)))

    bench.committer.drive()

    assert [len(group) for group in bench.store.groups] == [2 * half, 2 * half]


def test_a_group_that_is_just_full_takes_no_more(bench: Bench) -> None:
    for first in range(0, 4 * 2048, 2048):
        bench.append(*(admitted(seq) for seq in range(first, first + 2048)))

    bench.committer.drive()

    assert [len(group) for group in bench.store.groups] == [4096, 4096]


def test_a_group_of_tells_alone_needs_no_commit(bench: Bench) -> None:
    bench.append(TellAccepted(1, "1"))

    bench.committer.drive()

    assert bench.store.groups == []
    assert bench.listener.durable == [TellAccepted(1, "1")]


def test_whoever_waits_is_told_when_everything_before_is_durable(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    bench.append(admitted(1))
    bench.append(then=lambda: seen.append((len(bench.store.records), len(bench.listener.durable))))

    bench.committer.drive()

    assert seen == [(1, 1)], "written, and told to others"


# --- when a commit fails ------------------------------------------------------------------------------------------


def test_when_a_commit_fails_admissions_are_undone_and_outcomes_kept(bench: Bench) -> None:
    bench.append(admitted(1))
    bench.committer.drive()
    bench.append(leased(1), admitted(2), leased(2), ended(1))
    bench.store.failures.append(FULL)

    bench.committer.drive()

    assert bench.listener.undone == [(["2"], "disk full")]
    assert bench.listener.early == [TellRefused(1, "2", "store", "disk full")]
    assert bench.listener.durable == [admitted(1)], "nothing of the failed group was told"

    bench.committer.drive()

    assert bench.store.groups[1:] == [[leased(1), ended(1), Undone(2)]]
    assert bench.listener.durable[1:] == [leased(1), ended(1), Undone(2)]
    assert bench.listener.healed == 1


def test_admissions_behind_the_failed_group_are_undone_too(bench: Bench) -> None:
    for first in (1, MAX_GROUP_EFFECTS + 1):
        bench.append(*(admitted(seq) for seq in range(first, first + MAX_GROUP_EFFECTS)))
    bench.store.failures.append(FULL)

    bench.committer.drive()

    ((undone, _),) = bench.listener.undone
    assert len(undone) == 2 * MAX_GROUP_EFFECTS


def test_what_could_not_be_written_stays_before_what_was_decided_later(bench: Bench) -> None:
    def decided_meanwhile(records: list[Record]) -> None:
        if records == [ended(8)]:
            bench.append(ended(9))

    bench.store.on_commit = decided_meanwhile
    bench.append(ended(8))
    bench.store.failures.append(FULL)

    bench.committer.drive()
    bench.committer.drive()

    assert bench.store.groups == [[ended(8), ended(9)]]


def test_all_that_speaks_of_an_undone_job_leaves_the_log(bench: Bench) -> None:
    bench.append(
        QueuePaused("x", paused=True),
        admitted(1),
        TellAdmitted("1"),
        TellAccepted(1, "1"),
        Leased("w#1", (LeasedJob(101, 1, 1, 1), LeasedJob(109, 9, 1, 1))),
        leased(1),
        failed(1),
        ended(1),
        Requeued(1, "1", 2, WALL),
        failed(9),
        TellAccepted(1, "9"),
        TellGranted("w#1", 109),
        GivenBack((101,)),
    )
    bench.store.failures.append(FULL)

    bench.committer.drive()
    bench.committer.drive()

    assert bench.listener.durable == [
        QueuePaused("x", paused=True),
        leased(9),
        failed(9),
        TellAccepted(1, "9"),
        TellGranted("w#1", 109),
        GivenBack((101,)),
        Undone(1),
    ]


def test_a_failing_store_is_tried_again_and_undoes_no_job_twice(bench: Bench) -> None:
    bench.append(admitted(1), ended(9))
    bench.store.failures += [FULL, FULL, FULL]

    for _ in range(4):
        bench.committer.drive()

    assert [jobs for jobs, _ in bench.listener.undone] == [["1"], [], []]
    assert bench.listener.early == [TellRefused(1, "1", "store", "disk full")]
    assert bench.store.groups == [[ended(9), Undone(1)]]
    bench.append(admitted(2))
    bench.committer.drive()
    assert bench.listener.healed == 1, "it is well once"


def test_an_admission_that_was_written_although_the_commit_failed_is_taken_back(bench: Bench) -> None:
    bench.store.is_ambiguous = True
    bench.append(admitted(1))
    bench.store.failures.append(FULL)
    bench.committer.drive()
    assert bench.store.find("1") is not None

    bench.committer.drive()

    assert bench.store.find("1") is None


def test_what_a_store_should_not_raise_is_a_failed_commit_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.append(admitted(1), ended(9))
    bench.store.failures.append(ZeroDivisionError("a defect"))

    bench.committer.drive()
    assert bench.store.groups == [], "it is left alone for a while"
    bench.committer.drive()

    assert bench.listener.undone == [(["1"], "unexpected ZeroDivisionError('a defect')")]
    assert bench.store.groups == [[ended(9), Undone(1)]]
    assert "a commit raised what it should not" in caplog.text


def test_failing_and_healing_are_logged_once_each(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cluster.master")
    bench.append(ended(9))
    bench.store.failures += [FULL, FULL]

    bench.committer.drive()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    for _ in range(2):
        bench.committer.drive()

    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "new jobs are refused until one succeeds" in caplog.text
    assert "commits succeed again" in caplog.text


def test_who_waits_for_a_failed_group_is_told_once_it_is_written(bench: Bench) -> None:
    durable = threading.Event()
    bench.append(ended(9), then=durable.set)
    bench.store.failures.append(FULL)

    bench.committer.drive()
    assert not durable.is_set()
    bench.committer.drive()

    assert durable.is_set()


# --- outcomes on their way ----------------------------------------------------------------------------------------


def test_an_outcome_can_be_read_while_its_commit_is_still_to_come(bench: Bench) -> None:
    bench.append(ended(1))

    assert bench.committer.undurable("1") == ended(1).outcome
    bench.committer.drive()
    assert bench.committer.undurable("1") is None


def test_an_older_run_s_commit_does_not_hide_the_newer_outcome(bench: Bench) -> None:
    first, second = ended(1), ended(1, run=2)
    seen: list[Outcome | None] = []

    def requeued_meanwhile(records: list[Record]) -> None:
        if records == [first]:
            bench.append(second)
        seen.append(bench.committer.undurable("1"))

    bench.store.on_commit = requeued_meanwhile
    bench.append(first)

    bench.committer.drive()

    assert seen == [second.outcome, second.outcome]
    assert bench.committer.undurable("1") is None


def test_the_outcome_of_an_undone_job_is_nobody_s_argument(bench: Bench) -> None:
    bench.append(admitted(1), ended(1))
    bench.store.failures.append(FULL)

    bench.committer.drive()

    assert bench.committer.undurable("1") is None


@pytest.mark.parametrize("is_condemned", [False, True], ids=["usual", "while a refusal waits"])
def test_a_result_is_there_although_a_later_run_has_ended_otherwise_before_it_is_durable(
    bench: Bench, is_condemned: bool
) -> None:
    if is_condemned:
        bench.store.failures.append(FULL)
        bench.store.is_ambiguous = True
        bench.commit(admitted(9))
        bench.committer.drive()
    bench.append(ended(1))
    bench.append(Ended(1, 0, Outcome("1", 2, JobState.CANCELLED, WALL), WALL + 60.0))

    assert bench.committer.undurable("1") == ended(1).outcome


# --- threads ------------------------------------------------------------------------------------------------------


def test_the_committer_s_thread_writes_what_was_kicked(running: Bench) -> None:
    durable = running.commit(admitted(1))

    assert durable.wait(DEADLINE_SECONDS)
    assert running.store.records == [admitted(1)]


class Waits:
    """Stands where `Patience` does: a commit that may wait does so until it is hastened."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.worth: list[bool] = []
        self.commits: list[float] = []  # seconds of each
        self.time = DEADLINE_SECONDS

    def seconds(self) -> float:
        self.is_asked.set()
        return self.time

    def note_commit(self, seconds: float) -> None:
        self.commits.append(seconds)

    def note_wait(self, *, was_worth_it: bool) -> None:
        self.worth.append(was_worth_it)


@pytest.fixture
def waits(running: Bench, monkeypatch: pytest.MonkeyPatch) -> Waits:
    patience = Waits()
    monkeypatch.setattr(running.committer, "_patience", patience)
    return patience


def test_an_admission_and_its_lease_wait_for_the_outcome_and_are_one_write_with_it(
    running: Bench, waits: Waits
) -> None:
    running.append(admitted(1))
    running.committer.kick()
    assert waits.is_asked.wait(DEADLINE_SECONDS)
    running.append(leased(1))
    running.committer.kick()

    durable = running.commit(ended(1))

    assert durable.wait(DEADLINE_SECONDS)
    assert running.store.groups == [[admitted(1), leased(1), ended(1)]]
    assert waits.worth == [True]


def test_what_was_urgent_before_does_not_hasten_what_may_wait(running: Bench, waits: Waits) -> None:
    began = time.perf_counter()
    assert running.commit(ended(9)).wait(DEADLINE_SECONDS)
    running.append(admitted(1))
    running.committer.kick()
    assert waits.is_asked.wait(DEADLINE_SECONDS)
    running.append(leased(1))
    running.committer.kick()
    assert not running.committer._is_hastened.is_set()

    assert running.commit(ended(1)).wait(DEADLINE_SECONDS)

    assert running.store.groups == [[ended(9)], [admitted(1), leased(1), ended(1)]]
    assert len(waits.commits) == 2
    assert all(0.0 <= seconds <= time.perf_counter() - began for seconds in waits.commits)


def test_an_admission_for_which_nothing_comes_is_written_when_the_wait_is_over(running: Bench, waits: Waits) -> None:
    waits.time = 0.001
    running.store.is_reached.clear()
    running.append(admitted(1))
    running.committer.kick()

    assert running.store.is_reached.wait(DEADLINE_SECONDS)
    assert waits.worth == [False]


@pytest.mark.parametrize(
    "effects",
    [
        (admitted(1), TellAdmitted("1")),  # the job may not start before
        (leased(1), TellGranted("w#1", 101)),
        (ended(1),),
        (Undone(1),),
    ],
)
def test_what_somebody_waits_for_is_written_at_once(running: Bench, waits: Waits, effects: tuple[Effect, ...]) -> None:
    running.append(*effects)
    running.committer.kick()

    assert running.store.is_reached.wait(DEADLINE_SECONDS)
    assert not waits.is_asked.is_set()


def test_a_stop_ends_the_wait(running: Bench, waits: Waits) -> None:
    running.append(admitted(1))
    running.committer.kick()
    assert waits.is_asked.wait(DEADLINE_SECONDS)

    running.committer.stop()

    assert running.store.records == [admitted(1)]


def test_in_a_store_that_takes_no_time_a_lease_waits_for_what_is_decided_next() -> None:
    bench = Bench(HandStore(is_instant=True))
    bench.append(leased(1))
    bench.committer.kick()
    assert bench.store.groups == []

    bench.append(ended(1))
    bench.committer.kick()

    assert bench.store.groups == [[leased(1), ended(1)]]


def test_in_a_store_that_takes_no_time_admissions_can_be_held_back() -> None:
    bench = Bench(HandStore(is_instant=True))
    bench.committer.hold_back()
    bench.append(admitted(1))
    bench.append(leased(1))
    bench.committer.kick()
    assert (bench.store.groups, bench.listener.durable) == ([], [])

    bench.committer.let_go()

    assert bench.store.groups == [[admitted(1), leased(1)]]
    assert admitted(1) in bench.listener.durable
    bench.append(admitted(2))
    bench.committer.kick()
    assert bench.store.groups[1:] == [[admitted(2)]], "from then on they wait for nothing again"
    bench.append(leased(2))
    bench.committer.let_go()
    assert len(bench.store.groups) == 2, "a lease still waits for what is decided next"


class WatchedLock:
    """Tells when a thread is about to take it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_wanted = threading.Event()

    def __enter__(self) -> None:
        self.is_wanted.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_what_is_entered_while_another_thread_lets_go_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WatchedLock()
    interrupted = Bench(HandStore(is_instant=True))

    def let_go() -> None:
        interrupted.committer.let_go()
        lock.is_wanted.set()  # it may have taken no lock at all

    thread = threading.Thread(target=let_go)

    class Interrupted(frozenset[type]):
        """In the middle of entering something another thread comes to let go."""

        def issuperset(self, found: Iterable[object]) -> bool:
            answer = super().issuperset(found)
            lock.is_wanted.clear()
            thread.start()
            assert lock.is_wanted.wait(DEADLINE_SECONDS)
            return answer

    monkeypatch.setattr(module, "_PATIENT", Interrupted(module._PATIENT))
    interrupted.committer._lock = lock  # type: ignore[assignment]
    interrupted.committer.hold_back()

    with lock:
        interrupted.committer.append([admitted(1)])
    interrupted.committer.kick()
    thread.join(DEADLINE_SECONDS)

    assert interrupted.store.groups == [[admitted(1)]]


def test_an_outcome_takes_along_what_is_held_back() -> None:
    bench = Bench(HandStore(is_instant=True))
    bench.committer.hold_back()
    bench.append(admitted(1))
    bench.append(ended(1))
    bench.committer.kick()
    assert bench.store.groups == [[admitted(1), ended(1)]]

    bench.committer.let_go()

    assert len(bench.store.groups) == 1


def test_in_a_store_that_takes_time_nothing_is_held_back(running: Bench, waits: Waits) -> None:
    del waits
    running.committer.hold_back()
    durable = running.commit(admitted(1))

    assert durable.wait(DEADLINE_SECONDS)
    running.committer.let_go()


def test_while_one_group_is_written_the_next_one_gathers(running: Bench) -> None:
    running.store.gate.clear()
    running.commit(admitted(1))
    assert running.store.is_reached.wait(DEADLINE_SECONDS)

    last = [running.commit(admitted(seq)) for seq in range(2, 50)][-1]
    running.store.gate.set()

    assert last.wait(DEADLINE_SECONDS)
    assert [len(group) for group in running.store.groups] == [1, 48]


def test_the_committer_s_thread_tries_again_by_itself(running: Bench) -> None:
    running.store.failures += [FULL, FULL]

    durable = running.commit(ended(9))

    assert durable.wait(DEADLINE_SECONDS)
    assert running.listener.is_healed.is_set()
    assert running.store.records == [ended(9)]


def test_it_tries_again_ever_more_slowly_up_to_a_limit(bench: Bench) -> None:
    class Naps(threading.Event):
        """Its stop, for which it waits between two tries: here time passes at once."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float | None] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.seconds.append(timeout)
            return self.is_set()

    naps = bench.committer._is_stopping = Naps()
    bench.store.failures += [FULL] * 8
    bench.committer.start()

    durable = bench.commit(ended(9))

    assert durable.wait(DEADLINE_SECONDS)
    assert naps.seconds == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


class Asked(threading.Event):
    """The event that wakes the committer's thread; tells how long each wait for it was to be at most."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return super().wait(timeout)


def test_as_long_as_nothing_was_committed_it_sleeps_until_it_is_wanted(bench: Bench) -> None:
    asked = bench.committer._is_wanted = Asked()
    bench.committer.start()

    assert bench.commit(admitted(1)).wait(DEADLINE_SECONDS)
    assert asked.seconds[0] is None


def test_its_thread_can_be_told_from_others_and_keeps_no_process_alive(running: Bench) -> None:
    thread = running.committer._thread

    assert thread is not None
    assert (thread.name, thread.daemon) == ("cluster-committer", True)


def test_an_error_while_telling_does_not_end_the_committer_s_thread(
    running: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    running.listener.fault = ZeroDivisionError("a defect")
    running.store.gate.clear()
    running.commit(admitted(1))
    assert running.store.is_reached.wait(DEADLINE_SECONDS)
    running.store.gate.set()

    durable = running.commit(admitted(2))

    assert durable.wait(DEADLINE_SECONDS)
    assert "unexpected error; going on" in caplog.text


def test_starting_twice_makes_one_thread(running: Bench) -> None:
    thread = running.committer._thread

    running.committer.start()

    assert running.committer._thread is thread


def test_an_instant_store_needs_no_thread() -> None:
    bench = Bench(HandStore(is_instant=True))

    bench.committer.start()
    durable = bench.commit(admitted(1))

    assert durable.is_set()
    assert bench.committer._thread is None


def test_stop_writes_what_is_left_and_may_be_called_twice(running: Bench) -> None:
    thread = running.committer._thread
    running.append(admitted(1))

    running.committer.stop()
    running.committer.stop()

    assert running.store.records == [admitted(1)]
    assert thread is not None
    assert not thread.is_alive()


def test_what_is_decided_after_the_stop_is_written_by_whoever_decided_it(running: Bench) -> None:
    running.committer.stop()

    durable = running.commit(admitted(1))

    assert durable.is_set()
    assert running.store.records == [admitted(1)]


def test_stop_writes_what_is_left_though_nothing_was_started(bench: Bench) -> None:
    bench.append(admitted(1))

    bench.committer.stop()

    assert bench.store.records == [admitted(1)]


def test_stop_does_not_wait_for_a_store_that_stays_broken(running: Bench) -> None:
    running.store.failures += [FULL] * 100_000
    running.commit(ended(9))

    running.committer.stop()

    assert running.store.records == []
    assert running.listener.durable == []


def test_an_instant_store_that_failed_is_tried_again_at_the_next_kick() -> None:
    bench = Bench(HandStore(is_instant=True))
    bench.store.failures.append(FULL)
    durable = bench.commit(ended(9))
    assert not durable.is_set()

    bench.committer.kick()

    assert durable.is_set()


def test_an_instant_store_may_be_driven_by_several_threads_at_once() -> None:
    bench = Bench(HandStore(is_instant=True))
    threads, rounds = 8, 50
    decided: list[Record] = []
    numbers = iter(range(1, threads * rounds + 1))
    waiting = [threading.Event() for _ in range(threads * rounds)]

    def decide(mine: Sequence[threading.Event]) -> None:
        for durable in mine:
            with bench.lock:
                effect = admitted(next(numbers))
                decided.append(effect)
                bench.committer.append([effect], durable.set)
            bench.committer.kick()

    crowd = [threading.Thread(target=decide, args=(waiting[n::threads],)) for n in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(DEADLINE_SECONDS)

    assert all(durable.wait(DEADLINE_SECONDS) for durable in waiting)
    assert bench.store.records == decided == bench.listener.durable


def test_who_finds_another_thread_driving_leaves_its_entries_to_that_one() -> None:
    bench = Bench(HandStore(is_instant=True))
    bench.store.gate.clear()
    driver = threading.Thread(target=bench.commit, args=(admitted(1),))
    driver.start()
    assert bench.store.is_reached.wait(DEADLINE_SECONDS)

    durable = bench.commit(admitted(2))
    assert not durable.is_set(), "it neither waited nor wrote"
    bench.store.gate.set()
    driver.join(DEADLINE_SECONDS)

    assert durable.is_set()
    assert bench.store.groups == [[admitted(1)], [admitted(2)]]


def test_what_comes_while_the_driver_is_leaving_is_written_by_it() -> None:
    bench = Bench(HandStore(is_instant=True))
    durable: list[threading.Event] = []

    class Door:
        """The driver's lock, at which another thread comes too late to drive and too late to be seen."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def acquire(self, *, blocking: bool) -> bool:
            return self._lock.acquire(blocking=blocking)

        def release(self) -> None:
            if not durable:
                durable.append(bench.commit(admitted(2)))
                assert not durable[0].is_set()
            self._lock.release()

    bench.committer._driving = Door()  # type: ignore[assignment]

    bench.commit(admitted(1))

    assert durable[0].is_set()
    assert bench.store.records == [admitted(1), admitted(2)]


# --- pruning ------------------------------------------------------------------------------------------------------


def test_a_store_in_memory_is_pruned_after_so_many_ended_jobs(bench: Bench) -> None:
    bench.store.is_instant = True
    for times in range(3):
        bench.append(*(ended(seq) for seq in range(9_999)))
        bench.committer.drive()
        assert bench.store.pruned == [WALL] * times

        bench.append(ended(PRUNE_AFTER_ENDED))
        bench.committer.drive()

        assert bench.store.pruned == [WALL] * (times + 1)


def test_while_a_purge_looks_at_ended_jobs_pruning_waits_for_a_later_group(bench: Bench) -> None:
    with bench.committer.pruning:
        bench.committer.prune_soon()
        assert bench.store.pruned == []

    bench.append(admitted(1))
    bench.committer.drive()

    assert bench.store.pruned == [WALL]


def test_a_store_on_a_disk_waits_for_the_timekeeper_to_be_pruned(bench: Bench) -> None:
    bench.append(*(ended(seq) for seq in range(2 * PRUNE_AFTER_ENDED)))

    bench.committer.drive()

    assert bench.store.pruned == []


def test_an_idle_committer_lets_the_store_tidy_up_until_there_is_nothing_left(bench: Bench) -> None:
    left = [True, True, False]
    is_tidy = threading.Event()
    asked = bench.committer._is_wanted = Asked()

    def tidy() -> bool:
        more = left.pop(0)
        if not more:
            is_tidy.set()
        return more

    bench.store.tidy = tidy  # type: ignore[method-assign]
    bench.append(admitted(1))
    bench.committer.start()
    bench.committer.kick()

    assert is_tidy.wait(DEADLINE_SECONDS)
    bench.committer.stop()
    assert left == []
    assert asked.seconds[:3] == [None, 0.05, None]


def test_a_store_that_fails_to_tidy_up_is_asked_again_after_the_next_commit(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Semaphore(0)
    wanted = bench.committer._is_wanted = Asked()

    def tidy() -> bool:
        asked.release()
        raise StoreError("test:", "no room")

    bench.store.tidy = tidy  # type: ignore[method-assign]
    bench.append(admitted(1))
    bench.committer.start()
    bench.committer.kick()
    assert asked.acquire(timeout=DEADLINE_SECONDS)

    bench.append(admitted(2))
    bench.committer.kick()

    assert asked.acquire(timeout=DEADLINE_SECONDS)
    bench.committer.stop()
    assert wanted.seconds[:4] == [None, module.IDLE_SECONDS, None, module.IDLE_SECONDS]
    assert "tidying failed and is tried again later: no room" in caplog.text


def test_pruning_can_be_asked_for_and_happens_once(bench: Bench) -> None:
    bench.committer.prune_soon()
    bench.append(admitted(1))
    bench.committer.drive()

    assert bench.store.pruned == [WALL]


def test_a_store_that_can_t_prune_now_is_asked_again_later(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.store.prune_failure = FULL

    bench.committer.prune_soon()
    bench.committer.prune_soon()

    assert bench.store.pruned == [WALL, WALL]
    assert "pruning failed and is tried again later" in caplog.text


def test_while_a_refusal_waits_the_rest_is_told_apart_as_ever(bench: Bench) -> None:
    bench.store.failures.append(StoreError("test:", "the disk fails"))
    bench.commit(admitted(1))
    assert bench.committer.is_condemned("1")

    refused = TellRefused(1, "1", "store", "disk full")
    durable = threading.Event()
    told = [
        bench.append(Wake("w#1")),
        bench.append(refused, ended(2), Wake("w#1")),
        bench.append(then=durable.set),
    ]

    assert told == [[Wake("w#1")], [Wake("w#1")], []]
    outcome = bench.committer.undurable("2")
    assert outcome is not None
    assert outcome.job == "2"
    assert not durable.is_set()
    bench.committer.drive()
    assert durable.is_set()
    assert bench.listener.durable[-2:] == [refused, ended(2)]
    assert not bench.committer.is_condemned("1")
