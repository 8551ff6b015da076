"""Retry or give up: the one place that decides, for every way in which an attempt can end.

Two budgets, because their culprits differ. `retries` pays for what the task did itself (an exception, a timeout, a
result that can't be pickled); `crash_limit` pays for what befell it (its process died, memory ran out, its worker was
lost). n means n re-runs, so n + 1 attempts. What no re-run can mend (another Python, a cancel) pays from neither.
"""

from __future__ import annotations

from msgspec import Struct, structs

from cluster.core.records import Budget, Ending, Options, RetryRule

SPENDS_RETRIES = frozenset({Ending.RAISED, Ending.UNPICKLABLE, Ending.TIMED_OUT})
SPENDS_CRASHES = frozenset({Ending.CRASHED, Ending.OUT_OF_MEMORY, Ending.WORKER_LOST})

# A crash is re-run soon, for the next child is likely fine; but a job that kills every child must not respawn them in a
# tight loop. With the default crash_limit of 5 the delays add up to 1.55 s.
CRASH_BACKOFF_SECONDS = 0.05
MAX_CRASH_BACKOFF_SECONDS = 5.0


class Spent(Struct, frozen=True, gc=False):
    """How much of each budget is used up, the ending under judgement included."""

    failures: int = 0
    crashes: int = 0


class Verdict(Struct, frozen=True, gc=False):
    """What happens to the job now."""

    retry: bool
    delay_seconds: float = 0.0


GIVE_UP = Verdict(retry=False)


def spend(spent: Spent, ending: Ending) -> Spent:
    """The budgets after one more attempt that ended so."""
    if ending in SPENDS_RETRIES:
        return Spent(spent.failures + 1, spent.crashes)
    if ending in SPENDS_CRASHES:
        return Spent(spent.failures, spent.crashes + 1)
    return spent


def decide(options: Options, ending: Ending, spent: Spent, *, error_types: tuple[str, ...], salt: int) -> Verdict:
    """Retry after a delay, or give up.

    Args:
        options: the job's budgets.
        ending: how the attempt ended.
        spent: the budgets used, this attempt included (`spend`).
        error_types: qualified names along the raised exception's MRO, for `retry_on`.
        salt: any number that differs between jobs; it takes the place of randomness in the jitter.
    """
    if ending in SPENDS_RETRIES:
        if spent.failures > options.retry.max_retries or not _is_retryable(options.retry, ending, error_types):
            return GIVE_UP
        return Verdict(retry=True, delay_seconds=backoff(options.retry, spent.failures, salt))
    if ending in SPENDS_CRASHES:
        if spent.crashes > options.crash_limit:
            return GIVE_UP
        if ending is Ending.WORKER_LOST:
            return Verdict(retry=True)  # the host is gone, so nothing is in a tight loop: elsewhere, at once
        delay = CRASH_BACKOFF_SECONDS * 2.0 ** min(spent.crashes - 1, 30)
        return Verdict(retry=True, delay_seconds=min(delay, MAX_CRASH_BACKOFF_SECONDS))
    return GIVE_UP


def is_at_most_once(options: Options) -> bool:
    """Such a job may never run twice, so its admission and its lease must be durable before it starts."""
    return options.crash_limit == 0 and options.retry.max_retries == 0


def with_budget(options: Options, budget: Budget) -> Options:
    """The options with another budget; the very same object where nothing changes."""
    retry = options.retry
    if isinstance(budget.retries, RetryRule):
        retry = budget.retries
    elif budget.retries is not None:
        retry = structs.replace(retry, max_retries=budget.retries)
    crash_limit = options.crash_limit if budget.crash_limit is None else budget.crash_limit
    if (retry, crash_limit) == (options.retry, options.crash_limit):
        return options
    return structs.replace(options, retry=retry, crash_limit=crash_limit)


def backoff(policy: RetryRule, failures: int, salt: int) -> float:
    """Seconds until re-run number `failures`: exponential, capped, and shortened by a fraction that `salt` picks."""
    try:
        delay = min(policy.backoff * float(policy.factor) ** (failures - 1), policy.max_delay)
    except OverflowError:
        delay = policy.max_delay if policy.backoff else 0.0
    # Knuth's multiplicative hash spreads neighbouring salts over [0, 1).
    fraction = ((salt * 2654435761 + failures * 40503) & 0xFFFFFFFF) / 2.0**32
    return delay * (1.0 - policy.jitter * fraction)


def _is_retryable(policy: RetryRule, ending: Ending, error_types: tuple[str, ...]) -> bool:
    # `retry_on` chooses among the task's exceptions; a timeout or an unpicklable result has none to choose by.
    if not policy.retry_on or ending is not Ending.RAISED:
        return True
    return not set(policy.retry_on).isdisjoint(error_types)
