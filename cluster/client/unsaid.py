"""What a caller left unsaid about a job is what the cluster's `defaults` say.

A master tells its defaults when a session is opened. They come in where a job's record is made, and not where its
options are read: `@cluster.task(...)` is read when its module is imported, long before there is a cluster, and one task
may go to several. So what was read remembers which of these options nobody wrote.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from cluster.client.retries import RetryChanges, RetryPolicy
from cluster.core.records import Options

_OF_A_RETRY = ("max_retries", "backoff", "factor", "max_delay", "jitter")
_OF_A_JOB = ("crash_limit", "result_ttl")
EVERYTHING = frozenset({*_OF_A_RETRY, *_OF_A_JOB})

_max_remembered = 1024


def left_unsaid(before: frozenset[str], given: Mapping[str, Any]) -> frozenset[str]:
    """What is still unsaid once these options, which were found sound, are said too."""
    unsaid = before.difference(given)
    if "retries" in given:
        unsaid = unsaid.difference(_OF_A_RETRY).union(_unsaid_by(given["retries"]))
    return unsaid


def _unsaid_by(retries: object) -> Iterable[str]:
    if isinstance(retries, RetryPolicy):
        return ()
    if isinstance(retries, RetryChanges):
        return [name for name in _OF_A_RETRY if getattr(retries, name) is None]
    return [name for name in _OF_A_RETRY if name != "max_retries"]  # a number


@functools.lru_cache(maxsize=_max_remembered)  # equal options are to be one record: a million queued jobs hold one each
def fill(options: Options, unsaid: frozenset[str], defaults: Options) -> Options:
    """The options with the cluster's defaults in place of what nobody said."""
    retry = {name: getattr(defaults.retry, name) for name in _OF_A_RETRY if name in unsaid}
    rest = {name: getattr(defaults, name) for name in _OF_A_JOB if name in unsaid}
    return replace(options, retry=replace(options.retry, **retry), **rest)
