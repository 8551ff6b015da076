"""The checker finds what was planted: for each rule a run that breaks it, and the same run without that is clean."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import pytest

from tests.chaos.checker import Evidence, FinalJob, check, put_together
from tests.chaos.history import (
    Acknowledged,
    Alive,
    Began,
    CancelAnswered,
    ClientRecord,
    Fault,
    Finished,
    Heard,
    Invoked,
    Issued,
    JobRecord,
    MapHeard,
    Refused,
    Unresolved,
)

EPOCH = 1 << 40


@dataclass
class Run:
    """What was written down in a run of one good job "a", to be added to and taken from."""

    clients: list[ClientRecord] = field(
        default_factory=lambda: [
            Invoked(token="a", at=0.0, sort="short", digest="d"),
            Issued("a", "job-a", 0.1),
            Acknowledged("a", "job-a", 0.2),
            Heard("a", "job-a", 2.0, "COMPLETED", "n1", "a"),
        ]
    )
    hosts: dict[str, list[JobRecord]] = field(
        default_factory=lambda: {"w0": [began("n1", 1, 1.0), Alive("n1", 1.2), Finished("n1", 1.4)], "w1": []}
    )
    faults: list[Fault] = field(default_factory=list)
    final: list[FinalJob] = field(default_factory=lambda: [FinalJob("job-a", "a", "COMPLETED", attempts=1, nonce="n1")])

    def rules(self) -> set[str]:
        """The rules that are broken."""
        return {violation.rule for violation in check(self.evidence())}

    def evidence(self) -> Evidence:
        return Evidence(self.clients, put_together(dict(self.hosts)), self.faults, self.final)

    def second_attempt(self, *, at: float, host: str = "w1") -> None:
        """The job is run again, from `at` on, and that is what is committed."""
        self.hosts[host] += [began("n2", 2, at, attempt=2), Finished("n2", at + 0.5)]
        lost = (("WORKER_LOST", "no heartbeat"),)
        self.final = [FinalJob("job-a", "a", "COMPLETED", attempts=2, nonce="n2", endings=lost)]
        self.clients[-1] = Heard("a", "job-a", 9.0, "COMPLETED", "n2", "a")

    def with_options(self, **options: object) -> None:
        self.clients[0] = msgspec.structs.replace(self.clients[0], **options)


def began(nonce: str, fence: int, at: float, *, job: str = "job-a", token: str = "a", **more: object) -> Began:
    said = {"run": 1, "attempt": 1, "pid": 7, "digest": "d"} | more
    return Began(nonce=nonce, fence=EPOCH + fence, at=at, job=job, token=token, **said)  # type: ignore[arg-type]


def test_a_good_run_breaks_no_rule() -> None:
    assert not Run().rules()


def test_a_second_attempt_after_the_first_was_seen_last_is_right() -> None:
    run = Run()
    run.hosts["w0"].pop()  # killed in the middle
    run.second_attempt(at=3.0)

    assert not run.rules()


# --- nothing lost, nothing made up ------------------------------------------------------------------------------------


def test_an_acknowledged_job_that_is_not_in_the_store_is_lost() -> None:
    run = Run()
    run.clients.pop()
    run.final.clear()

    assert run.rules() == {"lost"}


def test_an_acknowledged_job_without_an_outcome_is_lost() -> None:
    run = Run()
    run.clients.pop()
    run.final = [FinalJob("job-a", "a", "")]

    assert run.rules() == {"lost", "unfinished"}


def test_a_job_that_was_never_acknowledged_may_be_there_or_not() -> None:
    run = Run()
    run.clients = run.clients[:2]
    assert not run.rules()

    run.final.clear()
    assert not run.rules()


@pytest.mark.parametrize(
    "record",
    [Unresolved("a", "job-a", 99.0), Refused("a", 99.0, "Detached: closed"), Refused("b", 99.0, "never acknowledged")],
)
def test_a_client_that_hears_nothing_or_too_little_is_a_violation(record: ClientRecord) -> None:
    run = Run()
    run.clients.append(record)

    assert run.rules() == {"unresolved"}


def test_a_job_that_nobody_submitted_is_unexpected_stored_or_executed() -> None:
    run = Run()
    run.final.append(FinalJob("job-b", "b", "CANCELLED"))
    assert run.rules() == {"unexpected"}

    run = Run()
    run.hosts["w1"].append(began("n9", 9, 1.0, job="job-b", token="b"))
    assert run.rules() == {"unexpected"}


def test_one_submission_or_key_that_is_two_jobs_is_found() -> None:
    run = Run()
    run.clients += [Issued("a", "job-b", 0.1)]
    assert run.rules() == {"twice"}

    run = Run()
    run.with_options(key="a")
    run.hosts["w1"] += [began("n3", 3, 5.0, job="job-b"), Finished("n3", 5.1)]
    run.final.append(FinalJob("job-b", "a", "COMPLETED", attempts=1, nonce="n3", key="a"))
    assert run.rules() == {"twice"}


# --- one outcome, and the right one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        Heard("a", "job-a", 3.0, "COMPLETED", "n7", "a"),  # another execution's: committed twice
        Heard("a", "job-a", 3.0, "DEAD_LETTER"),
        Heard("a", "job-a", 3.0, "COMPLETED", "n1", "b"),  # another job's result
        Heard("a", "job-x", 3.0, "CANCELLED"),
    ],
)
def test_an_outcome_that_was_told_otherwise_than_it_is_stored_is_found(told: Heard) -> None:
    run = Run()
    run.clients.append(told)

    assert "outcome" in run.rules()


def test_wrong_results_of_a_map_are_found() -> None:
    run = Run()
    run.clients.append(MapHeard("m", 3.0, 23, 0, "[...]"))

    assert run.rules() == {"outcome"}


@pytest.mark.parametrize("records", [[], [began("n1", 1, 1.0)], [began("n1", 1, 1.0, job="job-b")]])
def test_a_committed_result_that_no_ended_execution_made_is_found(records: list[JobRecord]) -> None:
    run = Run()
    run.hosts["w0"] = records

    assert run.rules() == {"source"}


def test_a_result_under_an_old_fence_is_a_stale_commit() -> None:
    run = Run()
    run.hosts["w1"] += [began("n2", 2, 5.0), Finished("n2", 5.5)]

    assert run.rules() == {"stale commit"}


@pytest.mark.parametrize("sort", ["fails always", "dies always", "times out"])
def test_a_job_that_can_t_succeed_and_did_is_found(sort: str) -> None:
    run = Run()
    run.with_options(sort=sort)

    assert run.rules() == {"state"}


def test_a_cancel_that_said_true_and_is_not_stored_is_found_and_one_that_nobody_asked_for() -> None:
    run = Run()
    run.clients.append(CancelAnswered("a", 2.0, True))
    assert run.rules() == {"state"}

    run = Run()
    run.final = [FinalJob("job-a", "a", "CANCELLED", attempts=1)]
    run.clients[-1] = Heard("a", "job-a", 2.0, "CANCELLED")
    assert run.rules() == {"state"}


# --- executions -------------------------------------------------------------------------------------------------------


def test_two_attempts_at_a_time_are_an_overlap() -> None:
    run = Run()
    run.second_attempt(at=1.3)

    assert run.rules() == {"overlap"}


def test_an_attempt_that_starts_after_a_later_one_is_a_stale_start() -> None:
    run = Run()
    run.hosts["w0"] = [began("n1", 1, 4.0), Finished("n1", 4.1)]
    run.second_attempt(at=3.0)

    assert run.rules() == {"stale start"}


def test_two_executions_under_one_fence_are_found() -> None:
    run = Run()
    run.hosts["w0"] += [began("n2", 1, 6.0)]

    assert run.rules() == {"overlap"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="freeze", what="supervisor", host="w0", at=0.9, until=1.2),
        Fault(kind="freeze", what="host", host="w0", at=1.1, until=3.0),
        Fault(kind="kill", what="master", host="master", at=1.1),
    ],
)
def test_an_overlap_is_excused_by_a_frozen_supervisor_or_a_lease_that_died_with_its_master(fault: Fault) -> None:
    run = Run()
    run.second_attempt(at=1.3)
    run.faults.append(fault)

    evidence = run.evidence()

    assert not check(evidence)
    assert sum(evidence.excused.values()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="freeze", what="supervisor", host="w1", at=0.9, until=1.2),  # not the host of the older one
        Fault(kind="freeze", what="child", host="w0", at=0.9, until=1.2),
        Fault(kind="freeze", what="supervisor", host="w0", at=-3.0, until=-1.0),  # long over
        Fault(kind="kill", what="master", host="master", at=9.0),
        Fault(kind="cut", what="line", host="w0", at=0.0, until=5.0),
    ],
)
def test_other_faults_excuse_no_overlap(fault: Fault) -> None:
    run = Run()
    run.second_attempt(at=1.3)
    run.faults.append(fault)

    assert run.rules() == {"overlap"}


def test_nothing_excuses_the_second_execution_of_an_at_most_once_job() -> None:
    run = Run()
    run.with_options(crash_limit=0)
    run.second_attempt(at=1.3)
    run.final = [replace(run.final[0], crash_limit=1)]  # so that its budget is right
    run.faults.append(Fault(kind="freeze", what="host", host="w0", at=1.1, until=3.0))

    assert run.rules() == {"at most once"}


def test_items_of_a_map_are_subjects_of_their_own() -> None:
    run = Run()
    run.clients += [Invoked(token="m", at=0.0, sort="map", items=2), MapHeard("m", 9.0, 2)]
    run.hosts["w0"] += [began("i0", 5, 1.0, job="job-m", token="m", item=0), Finished("i0", 1.5)]
    run.hosts["w1"] += [began("i1", 6, 1.0, job="job-m", token="m", item=1), Finished("i1", 1.5)]
    run.final.append(FinalJob("job-m", "m", "COMPLETED", attempts=1, items=2))
    assert not run.rules()

    run.hosts["w1"] += [began("i2", 7, 1.2, job="job-m", token="m", item=0)]
    assert run.rules() == {"overlap"}


def test_other_data_than_was_submitted_is_found() -> None:
    run = Run()
    run.with_options(digest="e")

    assert run.rules() == {"payload"}


def test_a_delayed_job_that_begins_early_is_found() -> None:
    run = Run()
    run.with_options(delay=0.9)
    assert not run.rules()

    run.with_options(delay=1.1)
    assert run.rules() == {"early"}


def test_a_dependent_job_is_given_the_committed_result_after_it_was_made() -> None:
    def follow(at: float, given: str) -> Run:
        run = Run()
        run.clients.append(Invoked(token="b", at=0.0, sort="dependent", digest="d", after="a"))
        run.hosts["w1"] = [began("n5", 5, at, job="job-b", token="b", given=given), Finished("n5", at + 1)]
        run.final.append(FinalJob("job-b", "b", "COMPLETED", attempts=1, nonce="n5"))
        return run

    assert not follow(1.5, "n1").rules()
    assert follow(1.3, "n1").rules() == {"dependency"}
    assert follow(1.5, "n9").rules() == {"dependency"}


# --- budgets and reasons ----------------------------------------------------------------------------------------------


def dead(*endings: str, retries: int = 0, crash_limit: int = 5, after: str = "") -> Run:
    run = Run()
    run.with_options(after=after)
    told = tuple((ending, "so") for ending in endings)
    run.hosts["w0"].clear()
    run.final = [
        FinalJob(
            "job-a", "a", "DEAD_LETTER", attempts=len(endings), endings=told, retries=retries, crash_limit=crash_limit
        )
    ]
    run.clients[-1] = Heard("a", "job-a", 2.0, "DEAD_LETTER")
    return run


def test_a_job_is_given_up_exactly_when_a_budget_is_used_up() -> None:
    assert not dead("RAISED").rules()
    assert not dead("RAISED", "CRASHED", "RAISED", retries=1).rules()
    assert not dead("WORKER_LOST", "CRASHED", crash_limit=1).rules()

    assert dead("RAISED", retries=1).rules() == {"budget"}  # too early
    assert dead("RAISED", "RAISED").rules() == {"budget"}  # too late
    assert dead("CRASHED").rules() == {"budget"}
    assert dead("CRASHED", "CRASHED", "CRASHED", crash_limit=1).rules() == {"budget"}
    assert dead().rules() == {"budget"}


def test_a_job_is_given_up_for_a_dependency_only_if_that_has_no_result() -> None:
    run = dead("DEPENDENCY", after="b")
    run.clients.append(Invoked(token="b", at=0.0, sort="short"))
    run.final.append(FinalJob("job-b", "b", "CANCELLED"))
    run.clients[-1] = Invoked(token="b", at=0.0, sort="cancelled")
    assert not run.rules()

    run.hosts["w0"] = [began("n8", 8, 1.0, job="job-b", token="b", digest=""), Finished("n8", 1.1)]
    run.final[-1] = FinalJob("job-b", "b", "COMPLETED", attempts=1, nonce="n8")
    assert run.rules() == {"budget"}


def test_an_overdrawn_budget_is_found_on_a_job_that_succeeded() -> None:
    run = Run()
    run.final = [replace(run.final[0], attempts=2, endings=(("RAISED", "so"),))]

    assert run.rules() == {"budget"}


def test_an_attempt_without_a_reason_is_found_whether_it_is_told_or_not() -> None:
    run = Run()
    run.final = [replace(run.final[0], attempts=2, endings=(("CRASHED", " "),))]
    assert run.rules() == {"reason"}

    run.final = [replace(run.final[0], attempts=3, endings=(("CRASHED", "signal 9"),))]
    assert run.rules() == {"reason"}


def test_an_execution_lasts_from_its_beginning_to_its_last_sign_of_life() -> None:
    (execution,) = put_together({"w0": [began("n1", 1, 1.0), Alive("n1", 1.2), Alive("n1", 1.1)]})

    assert (execution.host, execution.seen, execution.finished) == ("w0", 1.2, None)
