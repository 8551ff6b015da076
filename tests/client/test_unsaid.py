from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from cluster.client.options import NO_OPTIONS, complete, parse_options
from cluster.client.retries import RetryChanges, RetryPolicy
from cluster.client.unsaid import EVERYTHING, fill
from cluster.core.records import DEFAULT_OPTIONS, Options, RetryRule

RETRY = RetryRule(max_retries=3, backoff=0.5, factor=3.0, max_delay=9.0, jitter=0.0)
DEFAULTS = Options(retry=RETRY, crash_limit=1, result_ttl=60.0)


def test_who_says_nothing_leaves_all_of_it_unsaid() -> None:
    assert NO_OPTIONS.unsaid == EVERYTHING
    assert complete(NO_OPTIONS, DEFAULTS).options == DEFAULTS


@pytest.mark.parametrize(
    ("said", "unsaid"),
    [
        ({"priority": 1, "timeout": 5}, EVERYTHING),
        ({"crash_limit": 5}, EVERYTHING - {"crash_limit"}),
        ({"result_ttl": 5}, EVERYTHING - {"result_ttl"}),
        ({"retries": 0}, EVERYTHING - {"max_retries"}),
        ({"retries": RetryPolicy()}, {"crash_limit", "result_ttl"}),
        ({"retries": RetryChanges(backoff=0, jitter=0)}, EVERYTHING - {"backoff", "jitter"}),
        ({"retries": RetryChanges(retry_on=OSError)}, EVERYTHING),
    ],
    ids=str,
)
def test_what_is_said_is_no_longer_unsaid(said: Any, unsaid: frozenset[str]) -> None:
    assert parse_options(said).unsaid == unsaid


def test_a_number_said_after_a_policy_takes_its_backoff_back() -> None:
    policy = parse_options({"retries": RetryPolicy(max_retries=1, backoff=7)})

    later = parse_options({"retries": 2}, policy)

    assert complete(later, DEFAULTS).options.retry == replace(RETRY, max_retries=2)


def test_some_fields_of_a_policy_leave_the_others_to_the_cluster() -> None:
    said = parse_options({"retries": RetryChanges(backoff="2s", retry_on=OSError)})

    options = complete(said, DEFAULTS).options

    assert options.retry == replace(RETRY, backoff=2.0, retry_on=("builtins.OSError",))


def test_a_cluster_with_the_kit_s_own_defaults_changes_nothing() -> None:
    said = parse_options({"priority": 1})

    assert complete(said, DEFAULT_OPTIONS) is said


def test_equal_options_are_filled_in_to_one_record() -> None:
    first, second = (fill(Options(priority=1), frozenset({"crash_limit"}), DEFAULTS) for _ in range(2))

    assert first is second
    assert first == Options(priority=1, crash_limit=1)
