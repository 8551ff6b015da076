"""A board is made again from what its effects left in a store. The memory store stands for any: all keep one contract."""

from __future__ import annotations

from cluster.core import events
from cluster.core.effects import (
    Announced,
    AttemptFailed,
    Effect,
    Ended,
    FencedOff,
    FunctionAdded,
    GivenBack,
    Leased,
    Record,
    StoredJob,
    TellAccepted,
    TellAdmitted,
    TellGranted,
    TellRefused,
    TellStop,
    Wake,
)
from cluster.core.explain import explain
from cluster.core.handlers import Board, Settings
from cluster.core.records import Ending, JobId, Options, RetryRule
from cluster.core.restore import restore
from cluster.core.shelf import MAX_IDLE_FUNCTIONS
from cluster.core.states import JobState
from cluster.store.memory import MemoryStore
from tests.core.builders import (
    AT_MOST_ONCE,
    AT_ONCE,
    MONO,
    TASK,
    WALL,
    WORKER,
    Scene,
    bad,
    chunk_report,
    done,
    every,
    failure,
    function,
    moment,
    only,
    spec,
    success,
)
from tests.sim.invariants import check_agreement, check_board

TELLS = (TellRefused, TellAccepted, TellStop, TellGranted, TellAdmitted, Announced, FencedOff, Wake)


class StoredScene(Scene):
    """A scene whose every decision is committed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.store.open()

    def tell(self, event: events.Event, at: float = 0.0) -> list[Effect]:
        effects = super().tell(event, at)
        records: list[Record] = [effect for effect in effects if not isinstance(effect, TELLS)]
        self.store.commit(records)
        check_agreement(self.board, self.store)
        return effects

    def restart(
        self, at: float = 0.0, *, grace_seconds: float = 0.0, settled: dict[JobId, JobState] | None = None
    ) -> list[Effect]:
        """The master dies; another one makes its board from the store."""
        self.store.close()
        opening = self.store.open()
        self.board = Board(Settings(), epoch=opening.epoch, next_seq=opening.next_seq)
        live = list(self.store.live_jobs())
        functions = list(self.store.functions([TASK.digest]))
        effects = restore(self.board, live, functions, settled or {}, moment(at), grace_seconds=grace_seconds)
        check_board(self.board)
        self.store.commit([effect for effect in effects if not isinstance(effect, TELLS)])
        return effects


def test_what_waited_waits_again_in_its_old_order() -> None:
    scene = StoredScene()
    scene.submit(spec("a"), spec("b", Options(priority=1)), spec("c"), spec("d", after=("a",)))

    scene.restart()

    assert scene.state("d") is JobState.WAITING
    assert [scene.describe(fence).job for fence in scene.poll(9)] == ["b", "a", "c"]


def test_ended_jobs_stay_in_the_store() -> None:
    scene = StoredScene()
    scene.report(success(scene.lease(spec("a"))))

    assert scene.restart() == []

    assert not scene.board.jobs


def test_numbers_and_fences_go_on_where_they_stopped() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("a"))

    scene.restart()
    scene.submit(spec("b"))

    assert scene.job("b").seq == 2
    assert scene.board.issue_fence() > fence


def test_delays_and_expiries_go_on_by_the_wall_clock() -> None:
    scene = StoredScene()
    scene.submit(spec("due", delay=10.0), spec("dies", expires=20.0), spec("late", delay=30.0, expires=40.0))

    scene.restart(at=15.0)

    assert scene.state("due") is JobState.QUEUED
    assert (scene.state("late"), scene.job("late").due_mono) == (JobState.SCHEDULED, MONO + 30.0)
    ended = every(Ended, scene.tick(20.0))
    assert [(one.outcome.job, one.outcome.state) for one in ended] == [("dies", JobState.EXPIRED)]


def test_a_wall_clock_that_was_set_back_makes_nobody_wait_longer_than_was_said() -> None:
    scene = StoredScene()
    retry = Options(retry=RetryRule(max_retries=1, backoff=30.0, max_delay=30.0, jitter=0.0))
    scene.report(failure(scene.lease(spec("retried", retry))))
    scene.submit(spec("delayed", delay=20.0), spec("dies", expires=40.0), spec("at a time", at=WALL + 50.0))

    scene.restart(at=-3600.0)

    start = MONO - 3600.0
    assert scene.job("retried").due_mono == start + 30.0
    assert scene.job("delayed").due_mono == start + 20.0
    assert scene.job("dies").expires_mono == start + 40.0
    assert scene.job("at a time").due_mono == MONO + 50.0, "the time of day is what was asked for"


def test_what_expired_while_the_master_was_away_expires_at_once() -> None:
    scene = StoredScene()
    scene.submit(spec("a", expires=5.0))

    scene.restart(at=60.0)

    assert only(Ended, scene.tick(60.0)).outcome.state is JobState.EXPIRED


def test_a_retry_keeps_its_budget_and_its_backoff() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("a", Options(retry=RetryRule(max_retries=2, backoff=30.0, jitter=0.0))))
    scene.report(failure(fence))

    scene.restart(at=10.0)

    one = scene.job("a")
    assert (one.state, one.due_mono) == (JobState.SCHEDULED, MONO + 30.0)
    assert (one.attempts, one.failures, one.crashes) == (1, 1, 0)


def test_jobs_that_failed_before_stand_behind_those_that_never_ran() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("kills its master"))
    scene.submit(spec("fresh"))
    scene.report(failure(fence, Ending.CRASHED))

    scene.restart(at=5.0)

    assert [scene.describe(one).job for one in scene.poll(2, at=5.0)] == ["fresh", "kills its master"]


def test_a_retry_stands_before_what_came_at_the_moment_when_it_fell_due() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("retried", Options(retry=RetryRule(max_retries=1, backoff=4.0, jitter=0.0))))
    scene.report(failure(fence))
    scene.submit(spec("came"), at=4.0)

    scene.restart(at=5.0)

    assert [scene.describe(one).job for one in scene.poll(2, at=5.0)] == ["retried", "came"]


def test_a_retry_keeps_its_place_however_often_the_master_is_restarted() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("retried"))
    scene.submit(spec("before"))
    scene.report(failure(fence, Ending.CRASHED))  # it falls due within a second
    scene.submit(spec("after"), at=5.0)

    scene.restart(at=6.0)
    scene.submit(spec("later"), at=7.0)
    scene.restart(at=8.0)

    order = [scene.describe(one).job for one in scene.poll(4, at=8.0)]
    assert order == ["before", "retried", "after", "later"]


def test_a_leased_job_whose_worker_cannot_have_survived_has_crashed_once() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("a"))

    scene.restart(at=1.0)
    effects = scene.tick(1.0)

    assert (only(AttemptFailed, effects).fence, scene.job("a").crashes) == (fence, 1)
    assert scene.describe(*scene.poll(name="w#2", at=1.0)).attempt == 2


def test_a_job_that_may_run_only_once_and_was_leased_is_given_up() -> None:
    scene = StoredScene()
    scene.lease(spec("a", AT_MOST_ONCE))

    scene.restart(at=1.0)

    assert only(Ended, scene.tick(1.0)).outcome.state is JobState.DEAD_LETTER


def test_a_lease_that_was_given_back_is_none() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("a", AT_MOST_ONCE))
    scene.tell(events.GiveBack(WORKER, (fence,)))

    scene.restart()

    assert (scene.state("a"), scene.job("a").attempts) == (JobState.QUEUED, 0)


def test_a_worker_that_comes_back_in_time_is_adopted_with_its_leases() -> None:
    scene = StoredScene()
    gpu = Options(resources=(("gpu", 1),))
    scene.register(resources=(("gpu", 2),), labels=(("zone", "lab"),))
    fence = scene.lease(spec("a", gpu))

    scene.restart(at=1.0, grace_seconds=10.0)
    scene.tick(2.0)
    scene.register(at=3.0, resources=(("gpu", 2),), labels=(("zone", "lab"),))

    held = scene.board.workers[WORKER]
    assert held.free == {"gpu": 1}
    assert held.labels == frozenset({("zone", "lab")})
    ended = only(Ended, scene.report(success(fence), at=4.0)).outcome
    assert (ended.attempts, ended.worker) == (1, WORKER)
    assert held.free == {"gpu": 2}


def test_several_leases_of_one_worker_are_held_together() -> None:
    scene = StoredScene()
    fences = [scene.lease(spec(name)) for name in ("a", "b")]

    scene.restart(grace_seconds=10.0)

    assert list(scene.board.workers[WORKER].leases) == fences


def test_a_worker_that_stays_away_is_lost_after_the_grace_period() -> None:
    scene = StoredScene()
    scene.lease(spec("a"))
    scene.restart(at=1.0, grace_seconds=10.0)

    assert every(AttemptFailed, scene.tick(6.0)) == []
    scene.tick(10.0)

    assert only(AttemptFailed, scene.tick(11.0)).certificate.ending is Ending.WORKER_LOST


def test_a_chunk_goes_on_with_the_items_it_had_left() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("m", Options(retry=AT_ONCE), items=4))
    scene.report(chunk_report(fence, done(0, 2), bad(2), done(3)))

    scene.restart()
    (again,) = scene.poll()

    assert scene.describe(again).ranges == ((2, 3),)
    assert scene.job("m").failures == 1


def test_a_requeued_job_has_neither_its_old_delay_nor_its_old_expiry() -> None:
    scene = StoredScene()
    scene.submit(spec("a", delay=50.0, expires=99.0))
    scene.cancel("a")
    scene.requeue("a")

    scene.restart(at=1.0)

    assert (scene.state("a"), scene.job("a").run) == (JobState.QUEUED, 2)
    assert scene.job("a").expires_mono == 0.0


def test_a_job_is_not_failed_for_a_dependency_that_completed_and_outlived_its_retention() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("first", Options(result_ttl=1.0)))
    scene.submit(spec("second", after=("first",)))
    scene.settle(scene.report(success(fence)))
    assert scene.store.prune(WALL + 9.0, scene.board.needs_result) == 1

    scene.restart(at=9.0)

    assert scene.state("second") is JobState.QUEUED


def test_a_job_whose_dependency_ended_badly_meanwhile_is_given_up() -> None:
    scene = StoredScene()
    scene.submit(spec("first"), spec("second", after=("first",)))
    (first, second) = scene.store.live_jobs()
    board = Board(Settings(), epoch=9)

    effects = restore(board, [second], [TASK], {"first": JobState.DEAD_LETTER}, moment(), grace_seconds=0.0)

    assert first.spec.id == "first"
    assert only(Ended, effects).outcome.state is JobState.DEAD_LETTER


def test_what_has_been_leased_waits_for_no_dependency_that_was_requeued_meanwhile() -> None:
    scene = StoredScene()
    fence = scene.lease(spec("first"))
    scene.submit(spec("held", after=("first",)), spec("failed", Options(retry=AT_ONCE), after=("first",)))
    scene.settle(scene.report(success(fence)))
    held, failed = scene.poll(2)
    scene.report(failure(failed))
    (stored,) = [job for job in (scene.store.find("first"),) if job is not None]
    scene.tell(events.Requeue(("first",), (stored,), (TASK,), {}))

    scene.restart(grace_seconds=9.0)

    assert (scene.job("held").fence, scene.state("held")) == (held, JobState.ASSIGNED)
    assert scene.state("failed") is JobState.QUEUED
    scene.tell(events.Cancel(("first",)))
    assert (scene.state("held"), scene.state("failed")) == (JobState.ASSIGNED, JobState.QUEUED)


def test_a_job_whose_function_is_lost_is_left_out_and_what_waits_for_it_fails() -> None:
    lost = StoredJob(seq=1, spec=spec("lost", function=b"gone"), submitted=WALL)
    waits = StoredJob(seq=2, spec=spec("waits", after=("lost",)), submitted=WALL)
    board = Board(Settings(), epoch=1)

    effects = restore(board, [lost, waits], [TASK], {}, moment(), grace_seconds=0.0)

    assert "lost" not in board.jobs
    assert [one.outcome.job for one in every(Ended, effects)] == ["waits"]


def test_a_function_that_came_back_rests_once_its_jobs_are_done() -> None:
    scene = StoredScene()
    scene.submit(spec("a"))
    scene.restart()
    (fence,) = scene.poll()
    scene.report(success(fence))

    assert every(FunctionAdded, scene.submit(spec("b"))), "the store may have dropped it meanwhile"


def test_a_job_that_was_to_start_at_once_or_never_has_expired_though_the_clock_was_set_back() -> None:
    scene = StoredScene()
    scene.submit(spec("a", expires=0.0), at=5.0)

    scene.restart(at=0.0)

    assert only(Ended, scene.tick(0.0)).outcome.state is JobState.EXPIRED


def test_more_functions_come_back_than_stay_on_an_idle_shelf() -> None:
    blobs = [function(f"f{number}") for number in range(2 * MAX_IDLE_FUNCTIONS)]
    live = [
        StoredJob(seq=number, spec=spec(function=blob.digest), submitted=WALL) for number, blob in enumerate(blobs, 1)
    ]
    board = Board(Settings(), epoch=1)

    restore(board, live, blobs, {}, moment(), grace_seconds=0.0)

    assert len(board.jobs) == len(live)


def test_jobs_of_one_kind_share_its_records_though_each_brings_its_own() -> None:
    came = [spec("a", Options(priority=3, tags=("x",))), spec("b", Options(priority=3, tags=("x",)))]
    assert came[0].options is not came[1].options
    live = [StoredJob(seq=number, spec=one, submitted=WALL) for number, one in enumerate(came, 1)]
    board = Board(Settings(), epoch=1)

    restore(board, live, [TASK], {}, moment(), grace_seconds=0.0)

    assert board.jobs["a"].spec.options is board.jobs["b"].spec.options


def test_a_job_that_had_to_be_durable_is() -> None:
    scene = StoredScene()
    scene.submit(spec("a", AT_MOST_ONCE))

    scene.restart()

    assert scene.state("a") is JobState.QUEUED


def test_a_restart_says_no_more_than_the_board_has_decided() -> None:
    scene = StoredScene()
    scene.lease(spec("a"))
    scene.submit(spec("b"))

    effects = scene.restart(grace_seconds=10.0)

    assert not every(Leased, effects)
    assert not every(GivenBack, effects)
    check_agreement(scene.board, scene.store)


def test_a_limit_that_had_grown_has_grown_still_and_what_is_held_stays_promised() -> None:
    scene = StoredScene()
    scene.register(memory_room=10, memory_most=10)
    scene.submit(spec("a", Options(memory=(2, 5))))
    (fence,) = scene.poll()
    scene.report(failure(fence, Ending.OUT_OF_MEMORY))
    scene.tick(1.0)
    (fence,) = scene.poll(at=1.0)

    scene.restart(2.0, grace_seconds=10.0)

    assert scene.job("a").outgrown == 1
    assert scene.describe(fence).memory == 5
    assert scene.board.workers[WORKER].promised == 5


def test_an_argument_is_needed_until_the_end_of_the_job_that_has_it_is_durable() -> None:
    scene = Scene()
    scene.submit(spec("first"))
    scene.submit(spec("a", inputs=("first",)))
    scene.settle(scene.report(success(scene.poll()[0])))

    effects = scene.report(success(scene.poll()[0]))
    needed = [scene.board.needs_result("first")]  # a master that dies now has its successor run `a` again
    scene.settle(effects)
    needed.append(scene.board.needs_result("first"))

    assert needed == [True, False]


def test_a_job_requeued_before_its_end_is_durable_needs_its_arguments_once() -> None:
    scene = Scene()
    scene.finish(spec("first"))
    fence = scene.lease(spec("a", inputs=("first",)), settled={"first": JobState.COMPLETED})
    ended = scene.report(failure(fence))

    scene.requeue("a", settled={"first": JobState.COMPLETED})
    scene.settle(ended)  # of the run before
    scene.settle(scene.report(success(scene.poll()[0])))

    assert not scene.board.needs_result("first")
    assert not scene.board.inputs_needed


def test_a_worker_that_is_known_by_its_leases_has_what_they_held_and_no_more() -> None:
    scene = StoredScene()
    scene.register(resources=(("gpu", 1),))
    fence = scene.lease(spec("a", Options(resources=(("gpu", 1),))))
    scene.submit(spec("large", Options(resources=(("gpu", 2),))), spec("small", Options(resources=(("gpu", 1),))))
    scene.restart(grace_seconds=10.0)
    assert "no registered worker offers gpu=2" in explain(scene.board, "large", moment())
    assert "waits for a free slot" in explain(scene.board, "small", moment())

    scene.report(success(fence))

    assert [scene.describe(fence).job for fence in scene.poll(9)] == ["small"]
