"""A host that fails everything is told from a job that fails anywhere."""

from __future__ import annotations

import pytest
from msgspec import structs

from cluster.core import events, quarantine
from cluster.core.effects import Announced, Effect, Wake
from cluster.core.explain import explain
from cluster.core.quarantine import FIRST_PROBE_SECONDS, MIN_JOBS
from cluster.core.records import Ending, Fence, FunctionBlob, JobSpec, Options, Report, RetryRule
from tests.core.builders import (
    WORKER,
    Scene,
    bad,
    chunk_report,
    done,
    every,
    failure,
    function,
    moment,
    spec,
    success,
)

OTHER = "other#1"
# Given up at once after a crash, out of the way for long after anything else, and not at-most-once.
ONCE = Options(crash_limit=0, retry=RetryRule(max_retries=1, backoff=1e6, max_delay=1e6))
FOREVER = Options(crash_limit=1000)


class Story(Scene):
    """A board on which things fail."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        for name in (WORKER, OTHER):
            self.register(name)

    def tell(self, event: events.Event, at: float = 0.0) -> list[Effect]:
        effects = super().tell(event, at)
        self.told += [effect.sentence for effect in every(Announced, effects)]
        return effects

    def put(self, one: JobSpec, task: FunctionBlob | None = None, at: float = 0.0) -> None:
        task = task or function()
        self.tell(events.Submit(self.owner, (structs.replace(one, function=task.digest),), (task,), {}), at)

    def take(self, one: JobSpec, task: FunctionBlob | None = None, name: str = WORKER) -> Fence:
        self.put(one, task)
        (fence,) = self.poll(name=name)
        return fence

    def do_well(self, name: str = WORKER, task: FunctionBlob | None = None) -> None:
        self.report(success(self.take(spec(), task, name)), name=name)

    def fail_jobs(
        self, count: int = MIN_JOBS, ending: Ending = Ending.CRASHED, *, options: Options = ONCE, seconds: float = 0.0
    ) -> None:
        """So many different jobs fail on the worker."""
        for _ in range(count):
            fence = self.take(spec(options=options))
            self.report(structs.replace(failure(fence, ending), seconds=seconds))

    @property
    def is_quarantined(self) -> bool:
        suspicion = self.board.workers[WORKER].suspicion
        return suspicion is not None and suspicion.is_quarantined

    def probe(self, at: float) -> list[Fence]:
        return self.poll(capacity=4, at=at)


def quarantined() -> Story:
    """A worker that has just been quarantined, and jobs that wait."""
    story = Story()
    story.do_well(OTHER)
    story.fail_jobs()
    assert story.is_quarantined
    for _ in range(8):
        story.put(spec(options=FOREVER))
    return story


# --- who is quarantined -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [Ending.CRASHED, Ending.ENVIRONMENT, Ending.UNPICKLABLE])
def test_a_worker_that_fails_at_once_what_works_elsewhere_is_quarantined_and_announced(ending: Ending) -> None:
    story = Story()
    story.do_well(OTHER)

    story.fail_jobs(MIN_JOBS - 1, ending)
    assert not story.told
    story.fail_jobs(1, ending)

    assert story.is_quarantined
    (sentence,) = story.told
    assert sentence.startswith(f"worker {WORKER} is quarantined: its first attempts at 5 different jobs")


def test_so_is_one_whose_tasks_worked_in_its_own_earlier_life() -> None:
    story = Story()
    story.do_well(WORKER)

    story.fail_jobs()

    assert story.is_quarantined


def test_what_worked_elsewhere_is_known_still_when_that_worker_has_registered_again() -> None:
    story = Story()
    story.do_well(OTHER)
    story.register(OTHER, held=())

    story.fail_jobs()

    assert story.is_quarantined


def test_so_is_one_that_fails_different_tasks_while_another_does_well() -> None:
    story = Story()
    for number in range(MIN_JOBS):
        story.report(failure(story.take(spec(options=ONCE), function(f"t{number}")), Ending.CRASHED))
    assert not story.is_quarantined, "nobody had done any better"

    for _ in range(MIN_JOBS):
        story.do_well(OTHER, function("another"))
    story.report(failure(story.take(spec(options=ONCE), function("one more")), Ending.CRASHED))

    assert story.is_quarantined


@pytest.mark.parametrize("kinds", [2, 3])
def test_it_takes_so_many_different_tasks_to_blame_the_worker(kinds: int) -> None:
    story = Story()
    story.fail_jobs(1)
    for _ in range(MIN_JOBS):
        story.do_well(OTHER, function("another"))

    for number in range(MIN_JOBS - 1):
        task = function(f"t{number % (kinds - 1)}")  # and the one before
        story.report(failure(story.take(spec(options=ONCE), task), Ending.CRASHED))

    assert story.is_quarantined == (kinds == 3)


def test_what_others_did_well_before_the_suspicion_began_is_no_evidence() -> None:
    story = Story()
    for _ in range(MIN_JOBS):
        story.do_well(OTHER, function("another"))

    for number in range(MIN_JOBS):
        story.report(failure(story.take(spec(options=ONCE), function(f"t{number}")), Ending.CRASHED))

    assert not story.is_quarantined


def test_a_job_that_runs_on_a_worker_under_suspicion_does_not_clear_it() -> None:
    story = Story()
    story.do_well(OTHER)
    story.fail_jobs(MIN_JOBS - 1)
    story.take(spec("long"))
    for at in (1.0, 2.0):
        story.tell(events.Heartbeat(WORKER, ("long",)), at)

    story.fail_jobs(1)

    assert story.is_quarantined


def test_a_task_that_never_worked_anywhere_is_to_blame_itself() -> None:
    story = Story()
    story.do_well(OTHER, function("another"))

    story.fail_jobs(20)

    assert not story.is_quarantined


def test_a_poison_job_quarantines_nobody_however_often_it_comes() -> None:
    story = Story()
    story.do_well(OTHER)
    story.put(spec("poison", FOREVER))
    at = 0.0
    for _ in range(3 * MIN_JOBS):
        at += 10.0
        story.beat(at, WORKER, OTHER)
        (fence,) = story.poll(at=at)
        story.report(failure(fence, Ending.CRASHED), at=at)

    assert story.job("poison").crashes == 3 * MIN_JOBS
    assert not story.told


def test_jobs_that_failed_before_are_no_evidence_against_the_worker_that_gets_them_next() -> None:
    story = Story()
    story.do_well(OTHER)
    for number in range(2 * MIN_JOBS):
        story.report(failure(story.take(spec(f"p{number}", FOREVER), name=OTHER), Ending.CRASHED), name=OTHER)
        story.do_well(OTHER)
    story.beat(5.0, WORKER, OTHER)

    for fence in story.poll(capacity=99, at=5.0):
        story.report(failure(fence, Ending.CRASHED), at=5.0)

    assert story.job("p0").crashes == 2
    assert not story.told


def test_a_success_that_ends_a_suspicion_shows_too_that_its_task_works() -> None:
    story = Story()
    story.fail_jobs(1)

    story.do_well(WORKER)
    story.fail_jobs()

    assert story.is_quarantined


@pytest.mark.parametrize(
    "between",
    [Ending.SUCCEEDED, Ending.RAISED, Ending.TIMED_OUT, Ending.OUT_OF_MEMORY],
)
def test_a_job_that_ran_ends_the_suspicion(between: Ending) -> None:
    story = Story()
    story.do_well(WORKER)
    story.fail_jobs(MIN_JOBS - 1)
    fence = story.take(spec(options=ONCE))

    story.report(success(fence) if between is Ending.SUCCEEDED else failure(fence, between))
    story.fail_jobs(MIN_JOBS - 1)

    assert not story.is_quarantined


def test_jobs_that_ran_for_a_while_before_they_crashed_say_nothing_of_their_host() -> None:
    story = Story()
    story.do_well(WORKER)

    story.fail_jobs(20, seconds=5.0)

    assert not story.is_quarantined


def test_a_late_crash_does_not_end_the_suspicion_either() -> None:
    story = Story()
    story.do_well(WORKER)
    story.fail_jobs(MIN_JOBS - 1)

    story.fail_jobs(1, seconds=5.0)
    assert not story.is_quarantined
    story.fail_jobs(1)

    assert story.is_quarantined


def test_a_plain_success_looks_at_nothing_but_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story()

    def forbidden(*_: object) -> None:
        raise AssertionError("judged")

    monkeypatch.setattr(quarantine, "judge", forbidden)

    story.do_well(WORKER)

    assert story.board.counters.completed == 1


def test_the_evidence_is_bounded() -> None:
    story = Story()

    story.fail_jobs(100)

    suspicion = story.board.workers[WORKER].suspicion
    assert suspicion is not None
    assert len(suspicion.jobs) == 32


# --- what it gets -----------------------------------------------------------------------------------------------------


def test_it_gets_nothing_at_first_then_one_job_at_a_time() -> None:
    story = quarantined()

    assert story.probe(0.5 * FIRST_PROBE_SECONDS) == []
    probe = story.probe(FIRST_PROBE_SECONDS)

    assert len(probe) == 1
    assert story.probe(FIRST_PROBE_SECONDS) == []


def test_the_other_worker_gets_all_that_it_asks_for_meanwhile() -> None:
    story = quarantined()

    assert len(story.poll(capacity=4, name=OTHER)) == 4


def test_probes_that_fail_come_ever_more_slowly_up_to_a_limit() -> None:
    story = quarantined()
    at = 0.0
    pauses = []

    for _ in range(8):
        suspicion = story.board.workers[WORKER].suspicion
        assert suspicion is not None
        pauses.append(round(suspicion.probe_at - moment(at).mono, 6))
        at += pauses[-1]
        story.beat(at, WORKER, OTHER)
        (fence,) = story.probe(at)
        story.report(failure(fence, Ending.CRASHED), at=at)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert len(story.told) == 1


def test_the_board_asks_for_a_tick_when_a_probe_is_due_which_wakes_and_not_again_once_it_has_ticked() -> None:
    story = quarantined()
    due = moment(FIRST_PROBE_SECONDS).mono

    before = story.board.next_due()
    effects = story.tick(FIRST_PROBE_SECONDS)
    after = story.board.next_due()

    assert before == due
    assert effects == [Wake(WORKER)]
    assert after is not None
    assert after > due


def test_the_first_success_lifts_it_and_is_announced() -> None:
    story = quarantined()
    (fence,) = story.probe(FIRST_PROBE_SECONDS)

    story.report(success(fence), at=2.0)

    assert not story.is_quarantined
    assert story.told[1:] == [f"worker {WORKER} is well again: its quarantine is lifted"]
    assert len(story.probe(2.0)) == 4


def test_a_probe_that_is_seen_to_run_lifts_it_before_it_ends() -> None:
    story = quarantined()
    (fence,) = story.probe(FIRST_PROBE_SECONDS)
    name = story.board.leases[fence].job.spec.id

    story.tell(events.Heartbeat(WORKER, (name,)), 2.0)
    assert story.is_quarantined, "it may have begun just now"
    story.tell(events.Heartbeat(WORKER, (name,)), 4.0)

    assert not story.is_quarantined


def test_a_job_that_runs_elsewhere_is_no_probe_whatever_the_worker_says() -> None:
    story = quarantined()
    (fence,) = story.poll(name=OTHER)
    name = story.board.leases[fence].job.spec.id
    story.tell(events.Heartbeat(OTHER, (name,)), 0.5)

    story.tell(events.Heartbeat(WORKER, (name, "unheard of")), 0.6)

    assert story.is_quarantined


def test_what_it_held_before_neither_counts_as_a_probe_nor_keeps_it_from_one() -> None:
    story = Story()
    story.do_well(OTHER)
    old = story.take(spec("old", FOREVER))
    story.fail_jobs()
    story.put(spec("next", FOREVER))
    story.tell(events.Heartbeat(WORKER, ("old",)), 0.5)
    story.tell(events.Heartbeat(WORKER, ("old",)), 0.6)

    (probe,) = story.probe(FIRST_PROBE_SECONDS)
    story.report(failure(old, Ending.CRASHED), at=1.5)

    suspicion = story.board.workers[WORKER].suspicion
    assert suspicion is not None
    assert (suspicion.probes, suspicion.probe_at) == (0, moment(FIRST_PROBE_SECONDS).mono)
    assert probe > old


def test_a_probe_that_is_given_back_is_no_failure() -> None:
    story = quarantined()
    (fence,) = story.probe(FIRST_PROBE_SECONDS)

    story.tell(events.GiveBack(WORKER, (fence,)), 1.0)

    assert len(story.probe(1.0)) == 1


def test_the_only_worker_of_a_cluster_is_tried_too_so_nothing_stalls() -> None:
    story = quarantined()
    story.tell(events.Leave(OTHER))
    (fence,) = story.probe(FIRST_PROBE_SECONDS)
    story.report(failure(fence, Ending.CRASHED), at=1.0)

    story.beat(3.0, WORKER)
    (fence,) = story.probe(3.0)
    story.report(success(fence), at=3.0)

    assert len(story.probe(3.0)) == 4


def test_it_stays_quarantined_when_it_registers_again_and_is_another_when_it_is_started_anew() -> None:
    story = quarantined()

    story.register(WORKER, held=())
    still = story.is_quarantined
    story.register("w#2")

    assert still
    assert story.board.workers["w#2"].suspicion is None


def test_of_a_chunk_one_item_that_went_well_shows_that_the_host_is() -> None:
    story = Story()
    story.do_well(WORKER)
    for _ in range(MIN_JOBS):
        fence = story.take(spec(options=ONCE, items=2))
        report: Report = chunk_report(fence, done(0), bad(1, Ending.CRASHED))
        story.report(report)

    assert not story.is_quarantined


def test_a_chunk_of_which_every_item_failed_speaks_against_the_host() -> None:
    story = Story()
    story.do_well(OTHER)
    for _ in range(MIN_JOBS):
        fence = story.take(spec(options=ONCE, items=2))
        story.report(chunk_report(fence, bad(0, Ending.CRASHED), bad(1, Ending.CRASHED)))

    assert story.is_quarantined


def test_a_job_that_waits_for_a_quarantined_worker_says_so() -> None:
    story = quarantined()
    story.tell(events.Leave(OTHER))
    story.put(spec("a"))

    said = explain(story.board, "a", moment(0.5))

    assert "every worker that fits is quarantined: jobs failed there at once, the last one because it crashed" in said
    assert "the next in 0.5 s" in said


def test_of_several_quarantined_workers_the_one_that_is_tried_next_is_named() -> None:
    story = Story()
    story.do_well(OTHER)
    story.fail_jobs()
    for _ in range(MIN_JOBS):
        fence = story.take(spec(options=ONCE), name=OTHER)
        story.report(failure(fence, Ending.ENVIRONMENT), at=2.0, name=OTHER)
    story.put(spec("a"))

    said = explain(story.board, "a", moment(0.5))

    assert "the last one because it crashed; one job at a time is tried, the next in 0.5 s" in said
