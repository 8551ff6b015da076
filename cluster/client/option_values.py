"""How each kind of option is read: a value as users write it in, a value as the records hold it out.

Every reader takes the option's name and the value, and raises one sentence: `TypeError` for a value of the wrong type,
`ValueError` for one that can't be meant. Every number, text and collection has a bound.
"""

from __future__ import annotations

import builtins
import itertools
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

from cluster.client.retries import RetryChanges, RetryPolicy
from cluster.core.bounds import (
    FACTORS,
    MAX_COUNT,
    MAX_DURATION_SECONDS,
    MAX_ITEMS,
    MAX_LIMITS,
    MAX_PRIORITY,
    MAX_SIZE,
    MAX_TEXT_LENGTH,
)
from cluster.core.records import SAME_BUDGET, Budget, JobId, JobInfo, RetryRule

MIN_MEMORY = 50 * 10**6  # below this a process could die of the interpreter that it is

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Compiled when first used (`re` keeps them): a program's first result need not wait for it.
_DURATION = "".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?)\s*{unit}\s*)?" for unit in _SECONDS)
_SIZE = r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?"
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
_HOW_LARGE = "a number of bytes, or a text like '500MB' (a million each) or '2GiB' (1024 MiB)"
_HOW_LONG = "a number of seconds, a timedelta, or a text like '250ms', '10m', '1h30m' or '7d'"


def _wrong_type(name: str, value: object, wanted: str) -> TypeError:
    return TypeError(f"option {name!r} takes {wanted}, not {reprlib.repr(value)} ({type(value).__name__})")


def _wrong_value(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"option {name!r} can't be {reprlib.repr(value)}; write {wanted}")


# --- durations and moments ----------------------------------------------------------------------------------------


def _seconds(name: str, value: object) -> float:
    """Seconds of any sign; finite and bounded."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = re.fullmatch(_DURATION, value.strip(), re.ASCII)
        if match is None or not value.strip():
            raise _wrong_value(name, value, _HOW_LONG)
        seconds = sum(float(amount) * _SECONDS[unit] for unit, amount in match.groupdict().items() if amount)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    else:
        raise _wrong_type(name, value, _HOW_LONG)
    if not abs(seconds) <= MAX_DURATION_SECONDS:  # false for nan as well
        raise _wrong_value(name, value, "a finite duration of at most a hundred years")
    return seconds


def duration(name: str, value: object) -> float:
    """Seconds above zero."""
    seconds = _seconds(name, value)
    if seconds <= 0:
        raise _wrong_value(name, value, f"a duration above zero: {_HOW_LONG}")
    return seconds


def optional_duration(name: str, value: object) -> float | None:
    """Seconds above zero, or None."""
    return None if value is None else duration(name, value)


def delay(name: str, value: object) -> float:
    """Seconds from zero on; None means zero."""
    seconds = 0.0 if value is None else _seconds(name, value)
    if seconds < 0:
        raise _wrong_value(name, value, f"a duration from zero on: {_HOW_LONG}")
    return seconds


def moment(name: str, value: object) -> float | None:
    """Wall time of a datetime that knows its time zone."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise _wrong_type(name, value, "a datetime with a time zone")
    if value.utcoffset() is None:
        raise ValueError(
            f"option {name!r} needs a datetime with a time zone, and {value.isoformat()} has none; "
            f"write when.astimezone() for local time, or when.replace(tzinfo=UTC)"
        )
    return value.timestamp()


# --- numbers and texts --------------------------------------------------------------------------------------------


def switch(name: str, value: object) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise _wrong_type(name, value, "True or False")
    return value


def _whole(name: str, value: object, low: int, high: int) -> int:
    if type(value) is not int:
        raise _wrong_type(name, value, "a whole number")
    if not low <= value <= high:
        raise _wrong_value(name, value, f"a whole number from {low} to {high}")
    return value


def count(name: str, value: object) -> int:
    """How many times: zero or more."""
    return _whole(name, value, 0, MAX_COUNT)


def priority(name: str, value: object) -> int:
    """Any whole number; higher goes first."""
    return _whole(name, value, -MAX_PRIORITY, MAX_PRIORITY)


def fraction(name: str, value: object, low: float, high: float) -> float:
    """A number within these bounds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_type(name, value, "a number")
    if not low <= value <= high:
        raise _wrong_value(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def text(name: str, value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str):
        raise _wrong_type(name, value, "a text")
    if not is_storable(value):
        raise _wrong_value(name, value, f"a text of 1 to {MAX_TEXT_LENGTH} characters, none of them NUL or a surrogate")
    return str(value)


def is_storable(value: str) -> bool:
    """Whether a text may stand in a record at all."""
    if not value or len(value) > MAX_TEXT_LENGTH or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair, as `os.fsdecode` makes of bytes that are no text
        return False
    return True


def optional_text(name: str, value: object) -> str:
    """A text; None means none."""
    return "" if value is None else text(name, value)


# --- sizes --------------------------------------------------------------------------------------------------------


def size(name: str, value: object) -> int:
    """Bytes above zero."""
    if isinstance(value, str):
        match = re.fullmatch(_SIZE, value.strip(), re.ASCII)
        bytes_ = int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2]]) if match else 0
    elif type(value) is int:
        bytes_ = value
    else:
        raise _wrong_type(name, value, _HOW_LARGE)
    if not 0 < bytes_ <= MAX_SIZE:
        raise _wrong_value(name, value, _HOW_LARGE)
    return bytes_


def memory(name: str, value: object) -> tuple[int, ...]:
    """One limit, or several that grow: the next one holds once an attempt ran out of memory."""
    if value is None:
        return ()
    several = value if isinstance(value, tuple | list) else (value,)
    limits = tuple(size(name, one) for one in several)
    wanted = (
        f"a size from {MIN_MEMORY // 10**6}MB on (an idle process takes a part of that), or up to {MAX_LIMITS} of them, "
        "each larger than the one before, as in ('2GB', '4GB')"
    )
    if not 0 < len(limits) <= MAX_LIMITS or limits[0] < MIN_MEMORY:
        raise _wrong_value(name, value, wanted)
    if any(later <= earlier for earlier, later in itertools.pairwise(limits)):
        raise _wrong_value(name, value, wanted)
    return limits


# --- collections --------------------------------------------------------------------------------------------------


def _bounded(name: str, found: list[Any]) -> tuple[Any, ...]:
    if len(found) > MAX_ITEMS:
        raise ValueError(f"option {name!r} takes at most {MAX_ITEMS} items, not {len(found)}")
    return tuple(found)


def tags(name: str, value: object) -> tuple[str, ...]:
    """Texts, each once, in the order given."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _wrong_type(name, value, "a tuple or list of texts, as in tags=('night',)")
    return _bounded(name, list(dict.fromkeys(text(name, tag) for tag in value)))


def labels(name: str, value: object) -> tuple[tuple[str, str], ...]:
    """Pairs, sorted, so that equal labels are equal records."""
    if not isinstance(value, Mapping):
        raise _wrong_type(name, value, "a dict of texts, as in labels={'zone': 'lab'}")
    return _bounded(name, sorted((text(name, label), text(name, wanted)) for label, wanted in value.items()))


def resources(name: str, value: object) -> tuple[tuple[str, int], ...]:
    """Pairs, sorted, so that equal resources are equal records."""
    if not isinstance(value, Mapping):
        raise _wrong_type(name, value, "a dict of whole numbers, as in resources={'gpu': 1}")
    return _bounded(name, sorted((text(name, kind), _whole(name, many, 1, MAX_COUNT)) for kind, many in value.items()))


def jobs(name: str, value: object) -> tuple[JobId, ...]:
    """Ids of the jobs to wait for, each once, in the order given."""
    alone = _job_id(value)
    if alone is not None:
        return (alone,)
    if callable(getattr(value, "jobs", None)):
        raise _wrong_type(name, value, "jobs; a batch has many: write after=batch.jobs()")
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _wrong_type(name, value, "a Job, its id, or a tuple or list of such")
    found: dict[JobId, None] = {}
    for item in value:
        job = _job_id(item)
        if job is None:
            raise _wrong_type(name, item, "Jobs or their ids")
        found[job] = None
    return _bounded(name, list(found))


def _job_id(value: object) -> JobId | None:
    if isinstance(value, JobInfo):
        return value.id
    if isinstance(value, Future):  # the kit's Job; another library's future has no id
        value = getattr(value, "id", None)
    return value if isinstance(value, str) and is_storable(value) else None


# --- retries ------------------------------------------------------------------------------------------------------


def retry_rule(name: str, value: object) -> RetryRule:
    """A rule with every field checked; a whole number means that many re-runs with the default backoff."""
    if isinstance(value, RetryChanges):
        said = {field: getattr(value, field) for field in value.__struct_fields__}
        value = RetryPolicy(**{field: one for field, one in said.items() if one is not None})
    if not isinstance(value, RetryPolicy):
        if type(value) is not int:
            raise _wrong_type(name, value, "a whole number or a cluster.RetryPolicy")
        return RetryRule(max_retries=count(name, value))
    return RetryRule(
        max_retries=count(f"{name}.max_retries", value.max_retries),
        backoff=delay(f"{name}.backoff", value.backoff),
        factor=fraction(f"{name}.factor", value.factor, *FACTORS),
        max_delay=delay(f"{name}.max_delay", value.max_delay),
        jitter=fraction(f"{name}.jitter", value.jitter, 0.0, 1.0),
        retry_on=_error_names(f"{name}.retry_on", value.retry_on),
    )


def budget(retries: object, crash_limit: object) -> Budget:
    """What a requeued job may spend; None keeps what it had."""
    if retries is None and crash_limit is None:
        return SAME_BUDGET
    rule: int | RetryRule | None = None
    if retries is not None:
        rule = count("retries", retries) if type(retries) is int else retry_rule("retries", retries)
    return Budget(retries=rule, crash_limit=None if crash_limit is None else count("crash_limit", crash_limit))


def _error_names(name: str, value: object) -> tuple[str, ...]:
    given = value if isinstance(value, tuple | list | set | frozenset) else (value,)
    return _bounded(name, list(dict.fromkeys(_error_name(name, item) for item in given)))


def _error_name(name: str, value: object) -> str:
    """Written as the worker writes them in a certificate: module and qualified name."""
    if isinstance(value, str) and "." not in value:
        value = getattr(builtins, value, value)  # "OSError"
    if isinstance(value, type) and issubclass(value, BaseException):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, str) and "." in value:
        return value
    raise _wrong_type(name, value, "classes of exceptions, or their names with the module, as in 'requests.Timeout'")
