"""`RetryPolicy`: what a caller may say of re-runs, in the caller's own types. The board goes by `core.records.RetryRule`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TypeAlias

from msgspec import Struct

# A number of seconds, or a text like "250ms", "10m", "1h30m".
Duration: TypeAlias = float | timedelta | str
Errors: TypeAlias = type[BaseException] | str


class RetryPolicy(Struct, frozen=True):
    """How often, and how soon, a job runs again after its own failure (exception, timeout, unpicklable result).

    The delay before re-run n (1, 2, ...) is `backoff * factor ** (n - 1)`, at most `max_delay`, shortened by up to
    `jitter` so that jobs that failed together don't come back together. Checked when a job is submitted with it.

    Args:
        max_retries: re-runs, so one attempt more.
        backoff: the delay before the first re-run; by default one second.
        factor: how much longer each further delay is; at least 1.
        max_delay: the longest delay; by default five minutes.
        jitter: a fraction between 0 and 1.
        retry_on: classes of exceptions, or their names with the module; only these, and what derives from them, are
            retried. Empty: every exception is. Timeouts and unpicklable results are retried whatever it says.
    """

    max_retries: int = 0
    backoff: Duration = 1.0
    factor: float = 2.0
    max_delay: Duration = 300.0
    jitter: float = 0.1
    retry_on: Errors | Iterable[Errors] = ()


class RetryChanges(Struct, frozen=True):
    """Some fields of a policy, as a command line says them; what is None is as the cluster's defaults have it."""

    max_retries: int | None = None
    backoff: Duration | None = None
    factor: float | None = None
    max_delay: Duration | None = None
    jitter: float | None = None
    retry_on: Errors | Iterable[Errors] = ()
