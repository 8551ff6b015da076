"""Running one job in a child: load, call, dump, and let go of everything before a word is sent.

The order is the point. The result is dumped in memory first, so that one that can't be pickled is an error of its own
job. Arguments and result are dropped before the result is sent, so that a crash in somebody's `__del__` is blamed on
this job and not on the next. No exception leaves this module: whatever a job raises, `SystemExit` and
`KeyboardInterrupt` too, is an ending.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from pickle import dumps, loads
from time import perf_counter
from typing import Any, TypeAlias

import cloudpickle
from msgspec import Struct

from cluster.core.records import Certificate, Ending, Payload, Segment
from cluster.worker.channel import Task
from cluster.worker.failure import describe, pickle_exception
from cluster.worker.functions import Functions

# A chunk's arguments as its client pickled them (`client.payload.dump_items`): argument tuples; pickled argument tuples; or
# a column, the one argument of each item.
Items: TypeAlias = list[tuple[Any, ...]] | list[bytes] | tuple[Sequence[Any]]

# Exactly these types (no subclass) need none of cloudpickle's care, and are what most jobs return.
_ATOMS = frozenset({int, float, str, bytes, bool, type(None)})

_SUCCEEDED = Ending.SUCCEEDED  # a look at an enum's class is slow on Python 3.11

# What was being done when an exception came: how that ends the job, and the first words of the reason.
_FUNCTION = (Ending.UNPICKLABLE, "its function can't be loaded on the worker:")
_ARGUMENTS = (Ending.UNPICKLABLE, "its arguments can't be unpickled on the worker:")
_CALL = (Ending.RAISED, "raised")
_RESULT = (Ending.UNPICKLABLE, "its result can't be pickled:")


class Ended(Struct, frozen=True, gc=False):
    """How a job's code ended; the child adds times, memory and output."""

    ending: Ending
    payload: Payload = b""
    certificate: Certificate | None = None
    segments: tuple[Segment, ...] = ()


def run_call(functions: Functions, task: Task, max_result_bytes: int) -> Ended:
    """Run a job that is one call."""
    function: Any = None
    args = kwargs = result = None
    stage = _FUNCTION
    try:
        function = functions.load(task)
        stage = _ARGUMENTS
        args, kwargs = loads(task.args)
        stage = _CALL
        result = function(*args, **kwargs)
        stage = _RESULT
        payload = dumps(result, 5) if type(result) in _ATOMS else dump(result)
    except BaseException as error:
        # The exception's traceback holds this frame, and this frame the arguments.
        function = args = kwargs = result = None
        ending, what = stage
        data = pickle_exception(error) if ending is Ending.RAISED else b""
        return Ended(ending, data, describe(error, ending, what))
    if len(payload) > max_result_bytes:
        return _too_large(len(payload), max_result_bytes)
    return Ended(_SUCCEEDED, payload)


def run_chunk(functions: Functions, task: Task, max_result_bytes: int) -> Ended:
    """Run a chunk's items in one go: no word is sent before all are through."""
    segments: list[Segment] = []
    opened = _open_chunk(functions, task)
    if isinstance(opened, Ended):
        return opened
    function, items = opened
    for first, end in task.ranges:
        _run_range(function, items, first, end, segments)
    size = sum(len(segment.data) for segment in segments)
    if size > max_result_bytes:
        return _too_large(size, max_result_bytes)
    return sum_up(tuple(segments), segments)


def run_carefully(
    functions: Functions, task: Task, begin: Callable[[int], None], end: Callable[[Segment], None]
) -> Ended:
    """Run a chunk item by item, telling of each before it starts and when it has ended."""
    opened = _open_chunk(functions, task)
    if isinstance(opened, Ended):
        return opened
    function, items = opened
    failed: list[Segment] = []
    for first, last in task.ranges:
        for item in range(first, last):
            begin(item)
            told: list[Segment] = []
            _run_range(function, items, item, item + 1, told)
            end(told[0])
            if told[0].certificate is not None:
                failed.append(told[0])
    return sum_up((), failed)


def sum_up(segments: tuple[Segment, ...], judged: list[Segment]) -> Ended:
    """A chunk succeeded if all its items did; else it ended as the first that failed."""
    for segment in judged:
        if segment.certificate is not None:
            return Ended(segment.certificate.ending, b"", segment.certificate, segments)
    return Ended(Ending.SUCCEEDED, b"", None, segments)


def dump(value: Any) -> Payload:
    """Pickle what a job returned."""
    if type(value) in _ATOMS:
        return dumps(value, 5)
    data: bytes = cloudpickle.dumps(value, protocol=5)
    return data


def _open_chunk(functions: Functions, task: Task) -> tuple[Callable[..., Any], Items] | Ended:
    stage = _FUNCTION
    try:
        function = functions.load(task)
        stage = _ARGUMENTS
        return function, pickle.loads(task.args)
    except BaseException as error:
        ending, what = stage
        return Ended(ending, b"", describe(error, ending, what))


def _run_range(function: Callable[..., Any], items: Items, first: int, end: int, segments: list[Segment]) -> None:
    """Run items `first` to `end`, and add one segment for each run of successes and one for each failure."""
    is_column = isinstance(items, tuple)
    rest: Iterator[Any] = iter(items[0][first:end] if isinstance(items, tuple) else items[first:end])
    is_single = not is_column and bool(items) and isinstance(items[0], bytes)
    while first < end:
        results: list[Any] = []
        stage = _CALL
        begun = perf_counter()
        try:
            # Plain loops: in a generator or in `map`, a StopIteration of the function would mean something else.
            if is_column:
                for argument in rest:
                    results.append(function(argument))  # noqa: PERF401
            elif is_single:
                # Pickled one by one, so that an item which can't be unpickled harms no other.
                for body in rest:
                    stage = _ARGUMENTS
                    args = pickle.loads(body)
                    stage = _CALL
                    results.append(function(*args))
            else:
                for args in rest:
                    results.append(function(*args))  # noqa: PERF401
            if first + len(results) < end:
                raise IndexError(f"its chunk has no item {first + len(results)}")
        except BaseException as error:
            args = argument = None
            seconds = perf_counter() - begun
            failed = first + len(results)
            _close_run(first, results, 0.0, segments)
            segments.append(_failed(error, stage, failed, seconds))
            first = failed + 1
        else:
            # Not the pickling, which costs a lone item more than most functions do, and is bounded in bytes.
            _close_run(first, results, perf_counter() - begun, segments)
            return


def _close_run(first: int, results: list[Any], seconds: float, segments: list[Segment]) -> None:
    """Pickle neighbouring results as one list; where that fails, one by one, so that only culprits fail."""
    if not results:
        return
    try:
        segments.append(Segment(first, len(results), _dump_run(results), None, seconds))
    except BaseException as error:
        if len(results) == 1:
            segments.append(_failed(error, _RESULT, first, seconds))
            return
        for offset, result in enumerate(results):
            _close_run(first + offset, [result], seconds / len(results), segments)


class _PlainPickler(pickle.Pickler):
    """Pickles the interpreter's own kinds of data, without a look at each, and raises `TypeError` for all others."""

    def reducer_override(self, value: Any) -> Any:
        raise TypeError(f"a {type(value).__name__} may need cloudpickle")


def _dump_run(results: list[Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        _PlainPickler(buffer, 5).dump(results)
    except Exception:  # it is pickled again by who knows more, and what that raises counts
        data: bytes = cloudpickle.dumps(results, protocol=5)
        return data
    return buffer.getvalue()


def _failed(error: BaseException, stage: tuple[Ending, str], item: int, seconds: float) -> Segment:
    ending, what = stage
    data = pickle_exception(error) if ending is Ending.RAISED else b""
    return Segment(item, 1, data, describe(error, ending, what, item), seconds)


def _too_large(size: int, max_result_bytes: int) -> Ended:
    reason = f"its result is {size:,} bytes when pickled, more than the {max_result_bytes:,} that a job may return"
    return Ended(Ending.UNPICKLABLE, b"", Certificate(ending=Ending.UNPICKLABLE, reason=reason))
