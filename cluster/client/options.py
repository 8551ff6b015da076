"""What a caller may say about a job, checked at the moment it is said.

One table, `_READERS`, has an entry per option; each reader turns what the user wrote into what the records hold, or
raises one sentence with the option's name, what was given and what to write. Equal options become the same `Options`
record, because a million queued jobs hold one each.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypedDict

from msgspec import Struct
from msgspec.structs import replace

from cluster.client import option_values as values
from cluster.client import unsaid
from cluster.client.retries import RetryPolicy
from cluster.core.records import DEFAULT_OPTIONS, JobId, JobInfo, Options

JobLike = Future[Any] | JobInfo | JobId
Duration = float | timedelta | str
Size = int | str


class SubmitOptions(TypedDict, total=False):
    """The keyword options of `submit`, `map` and `task`, for type checkers: `**options: Unpack[SubmitOptions]`."""

    name: str | None
    queue: str
    priority: int
    retries: int | RetryPolicy
    crash_limit: int
    timeout: Duration | None
    delay: Duration | None
    at: datetime | None
    expires: Duration | None
    after: JobLike | Iterable[JobLike]
    key: str | None
    resources: dict[str, int]
    memory: Size | Sequence[Size] | None
    labels: dict[str, str]
    tags: Iterable[str]
    result_ttl: Duration
    echo: bool


class Submission(Struct, frozen=True, gc=False, kw_only=True):
    """All that a caller said about one job, or left unsaid."""

    options: Options = DEFAULT_OPTIONS
    after: tuple[JobId, ...] = ()
    delay: float = 0.0  # seconds
    at: float | None = None  # wall time; not together with `delay`
    expires: float | None = None  # seconds from admission
    key: str = ""
    unsaid: frozenset[str] = unsaid.EVERYTHING  # of `options`: what a cluster's defaults may say


NO_OPTIONS = Submission()

# Of a later version, by the design; named, so that nobody searches for a spelling mistake.
_LATER = frozenset({"idempotent"})

_RECORDED = MappingProxyType(
    {
        "name": values.optional_text,
        "queue": values.text,
        "priority": values.priority,
        "crash_limit": values.count,
        "timeout": values.optional_duration,
        "resources": values.resources,
        "memory": values.memory,
        "labels": values.labels,
        "tags": values.tags,
        "result_ttl": values.duration,
        "echo": values.switch,
    }
)
_SAID_ONCE = MappingProxyType(
    {
        "after": values.jobs,
        "delay": values.delay,
        "at": values.moment,
        "expires": values.optional_duration,
        "key": values.optional_text,
    }
)
KNOWN = tuple(sorted({*_RECORDED, *_SAID_ONCE, "retries"}))

# What was parsed before, by exactly what was written: a loop of submits writes the same options each time. Dictionary
# operations are atomic, and a lost entry is only parsed again.
_max_remembered = 1024
_parsed: dict[object, Submission] = {}
_shared: dict[Options, Options] = {}
_PLAIN = frozenset({int, float, str, bool, type(None)})


def parse_options(given: dict[str, Any] | SubmitOptions, defaults: Submission = NO_OPTIONS) -> Submission:
    """The options as records; what is not given comes from `defaults`.

    Raises:
        TypeError: an unknown option, one that is not there yet, or a value of the wrong type.
        ValueError: a value of the right type that can't be meant.
    """
    if not given:
        return defaults
    if defaults is not NO_OPTIONS or not _PLAIN.issuperset(map(type, given.values())):
        return _parse(dict(given), defaults)
    # Types belong to the key, because 1, 1.0 and True are equal and not equally right.
    key = (*given.items(), *map(type, given.values()))
    submission = _parsed.get(key)
    if submission is None:
        submission = _parse(dict(given), defaults)
        if len(_parsed) >= _max_remembered:
            _parsed.clear()
        _parsed[key] = submission
    return submission


def _parse(given: dict[str, Any], defaults: Submission) -> Submission:
    said: dict[str, Any] = {}
    recorded: dict[str, Any] = {}
    for name, value in given.items():
        if name == "retries":
            recorded["retry"] = values.retry_rule(name, value)
        elif name in _RECORDED:
            recorded[name] = _RECORDED[name](name, value)
        elif name in _SAID_ONCE:
            said[name] = _SAID_ONCE[name](name, value)
        else:
            raise TypeError(_unknown(name))
    if said.get("at") is not None:
        if said.get("delay"):
            raise TypeError("options 'delay' and 'at' exclude each other; write the one that you mean")
        said["delay"] = 0.0
    elif said.get("delay"):
        said["at"] = None
    said["unsaid"] = unsaid.left_unsaid(defaults.unsaid, given)
    said["options"] = _share({**_fields(defaults.options), **recorded}) if recorded else defaults.options
    return Submission(**{**_fields(defaults), **said})


def complete(said: Submission, defaults: Options) -> Submission:
    """What a caller said, with the defaults of the cluster that it goes to for the rest."""
    if defaults is DEFAULT_OPTIONS or not said.unsaid:
        return said
    return replace(said, options=unsaid.fill(said.options, said.unsaid, defaults))


def _fields(record: Struct) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _share(fields: dict[str, Any]) -> Options:
    options = Options(**fields)
    if len(_shared) >= _max_remembered:
        _shared.clear()
    return _shared.setdefault(options, options)


def _unknown(name: str) -> str:
    if name in _LATER:
        return f"option {name!r} is not there yet; leave it out"
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(name, KNOWN, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"unknown option {name!r}{meant} The options are {', '.join(KNOWN)}. "
        f"What is meant for the function goes into kwargs: submit(func, args, {{{name!r}: ...}})"
    )


# --- args and kwargs ----------------------------------------------------------------------------------------------

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40


def check_args(args: object, kwargs: object = None, func: object = None) -> None:
    """Raise a `TypeError` that says what to write, unless `args` is exactly a tuple and `kwargs` a dict of names."""
    if type(args) is not tuple:
        raise TypeError(_not_a_tuple(args, func))
    if kwargs is None:
        return
    if type(kwargs) is not dict:
        raise TypeError(
            f"kwargs must be a dict or None, not {type(kwargs).__name__}: write submit(func, args, {{'name': value}})"
        )
    for name in kwargs:
        if type(name) is not str:
            raise TypeError(f"kwargs must have names as keys, not {_short.repr(name)} ({type(name).__name__})")


def _not_a_tuple(args: object, func: object) -> str:
    name = getattr(func, "__name__", None) or (repr(func) if isinstance(func, str) else "func")
    kind = type(args).__name__
    shown = _short.repr(args)
    whole = f"submit({name}, ({shown},))"
    if isinstance(args, tuple):
        return (
            f"args must be exactly a tuple, not {kind} (a named tuple): write {whole} to pass it as one argument, "
            f"or submit({name}, tuple(args)) to pass its fields as arguments"
        )
    if isinstance(args, dict):
        return (
            f"args must be a tuple, not {kind}: write {whole} to pass it as one argument, "
            f"or submit({name}, (), {shown}) to pass keyword arguments"
        )
    if isinstance(args, Iterable) and not isinstance(args, str | bytes | bytearray):
        return (
            f"args must be a tuple, not {kind}: write {whole} to pass it as one argument, "
            f"or submit({name}, tuple(args)) to pass its items as arguments"
        )
    return f"args must be a tuple, not {kind}: write {whole}"
