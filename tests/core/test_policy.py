from __future__ import annotations

import pytest

from cluster.core import policy
from cluster.core.policy import GIVE_UP, Spent, Verdict, backoff, decide, is_at_most_once, spend
from cluster.core.records import Ending, Options, RetryRule

NEITHER = [ending for ending in Ending if ending not in policy.SPENDS_RETRIES | policy.SPENDS_CRASHES]


def verdict(ending: Ending, spent: Spent, options: Options, *error_types: str) -> Verdict:
    return decide(options, ending, spent, error_types=error_types, salt=1)


@pytest.mark.parametrize("ending", sorted(policy.SPENDS_RETRIES))
def test_what_the_task_did_itself_is_paid_from_its_retries(ending: Ending) -> None:
    assert spend(Spent(1, 2), ending) == Spent(2, 2)


@pytest.mark.parametrize("ending", sorted(policy.SPENDS_CRASHES))
def test_what_befell_the_task_is_paid_from_its_crash_limit(ending: Ending) -> None:
    assert spend(Spent(1, 2), ending) == Spent(1, 3)


@pytest.mark.parametrize("ending", NEITHER)
def test_what_no_re_run_can_mend_is_paid_from_neither_and_given_up(ending: Ending) -> None:
    generous = Options(retry=RetryRule(max_retries=9), crash_limit=9)

    assert spend(Spent(1, 2), ending) == Spent(1, 2)
    assert verdict(ending, Spent(), generous) == GIVE_UP


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_n_retries_are_n_re_runs(max_retries: int) -> None:
    options = Options(retry=RetryRule(max_retries=max_retries))

    decisions = [verdict(Ending.RAISED, Spent(failures=n), options).retry for n in range(1, 6)]

    assert decisions == [n <= max_retries for n in range(1, 6)]


@pytest.mark.parametrize("crash_limit", [0, 1, 3])
def test_a_crash_limit_of_n_is_n_re_runs(crash_limit: int) -> None:
    options = Options(crash_limit=crash_limit)

    decisions = [verdict(Ending.CRASHED, Spent(crashes=n), options).retry for n in range(1, 6)]

    assert decisions == [n <= crash_limit for n in range(1, 6)]


def test_neither_budget_pays_for_the_other() -> None:
    options = Options(retry=RetryRule(max_retries=1), crash_limit=1)

    assert verdict(Ending.RAISED, Spent(failures=1, crashes=9), options).retry
    assert verdict(Ending.CRASHED, Spent(failures=9, crashes=1), options).retry


def test_the_delay_before_a_re_run_grows_by_the_factor() -> None:
    steady = RetryRule(max_retries=9, backoff=0.5, factor=3.0, jitter=0.0)

    assert [backoff(steady, n, salt=1) for n in (1, 2, 3)] == [0.5, 1.5, 4.5]


@pytest.mark.parametrize("failures", [10, 5000])
def test_the_delay_is_never_longer_than_its_maximum(failures: int) -> None:
    steep = RetryRule(max_retries=9, backoff=1.0, factor=1e6, max_delay=60.0, jitter=0.0)

    assert backoff(steep, failures, salt=1) == 60.0


def test_without_a_backoff_there_is_no_delay_however_often_it_failed() -> None:
    impatient = RetryRule(max_retries=9, backoff=0.0, factor=1e6)

    assert [backoff(impatient, n, salt=1) for n in (1, 2, 5000)] == [0.0, 0.0, 0.0]


def test_jitter_shortens_by_no_more_than_its_fraction() -> None:
    jittery = RetryRule(max_retries=9, backoff=8.0, factor=1.0, jitter=0.25)

    delays = [backoff(jittery, n, salt) for n in (1, 2) for salt in range(1000)]

    assert all(6.0 < delay <= 8.0 for delay in delays)


def test_jitter_spreads_jobs_that_failed_together() -> None:
    jittery = RetryRule(max_retries=9, backoff=1.0, jitter=1.0)

    delays = [backoff(jittery, 1, salt) for salt in range(100)]

    assert len({int(delay * 10) for delay in delays}) == 10, "neighbours share no tenth"


def test_the_same_job_has_the_same_jitter_when_its_failure_is_decided_again() -> None:
    assert backoff(RetryRule(), 1, salt=5) == backoff(RetryRule(), 1, salt=5)


def test_retry_on_chooses_by_any_class_along_the_mro() -> None:
    picky = Options(retry=RetryRule(max_retries=1, retry_on=("builtins.OSError",)))

    assert verdict(Ending.RAISED, Spent(1), picky, "builtins.TimeoutError", "builtins.OSError").retry
    assert verdict(Ending.RAISED, Spent(1), picky, "builtins.ValueError", "builtins.Exception") == GIVE_UP


@pytest.mark.parametrize("ending", [Ending.TIMED_OUT, Ending.UNPICKLABLE])
def test_retry_on_does_not_ask_where_there_is_no_exception_to_choose_by(ending: Ending) -> None:
    picky = Options(retry=RetryRule(max_retries=1, retry_on=("builtins.OSError",)))

    assert verdict(ending, Spent(1), picky).retry


def test_a_crash_is_re_run_soon_and_later_each_time_up_to_a_bound() -> None:
    options = Options(crash_limit=2000)

    delays = [verdict(Ending.CRASHED, Spent(crashes=n), options).delay_seconds for n in (1, 2, 3, 20, 2000)]

    assert delays == [0.05, 0.1, 0.2, 5.0, 5.0]


def test_a_job_whose_worker_was_lost_runs_elsewhere_at_once() -> None:
    assert verdict(Ending.WORKER_LOST, Spent(crashes=4), Options()) == Verdict(retry=True, delay_seconds=0.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(crash_limit=0), True),
        (Options(), False),
        (Options(crash_limit=0, retry=RetryRule(max_retries=1)), False),
    ],
    ids=["no re-run of any kind", "the default", "retries only"],
)
def test_a_job_without_any_re_run_is_at_most_once(options: Options, expected: bool) -> None:
    assert is_at_most_once(options) is expected
