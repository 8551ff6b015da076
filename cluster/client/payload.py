"""Arguments out, results and errors in: the client's side of pickling.

    (args, kwargs) ── dump_call ──► bytes, ids of the Jobs inside ──► a child loads them: each Job is its result by then
    a job's outcome ── load_result ──► what the task returned
                    └─ rebuild_error ─► what to raise instead

A `Job` among the arguments, at any depth, is a dependency. It pickles itself as a call of `wire.dependency.result_of`
with its id, and notes the id in the list that `dump_call` has opened for its thread; outside of such a list a Job can't
be pickled, for nobody would wait for it.

Plain data takes a shorter way: if every argument is exactly a number, text, bytes or None, the C pickler does it alone.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from itertools import chain
from operator import countOf
from pickle import dumps, loads
from types import TracebackType
from typing import Any, Final

import cloudpickle

from cluster.client import unsendable
from cluster.core.bounds import MAX_RANGE
from cluster.core.records import Certificate, Ending, JobId, Outcome
from cluster.core.states import JobState
from cluster.errors import (
    DependencyFailed,
    EnvironmentMismatch,
    JobCancelled,
    JobCrashed,
    JobError,
    JobExpired,
    JobTimeout,
    OutOfMemory,
    Refused,
    RemoteError,
    RemoteTraceback,
    WorkerLost,
)
from cluster.wire import dependency

_PROTOCOL: Final = 5
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
_are_plain = _PLAIN.issuperset

# --- Jobs among the arguments -------------------------------------------------------------------------------------


class _Open(threading.local):
    """The list that takes the ids of the Jobs that this thread pickles; None: Jobs can't be pickled now."""

    jobs: list[JobId] | None = None


_open = _Open()


class _Collecting:
    """A list open for one `with` block; blocks may nest, because a `__reduce__` may submit a job of its own."""

    __slots__ = ("_jobs", "_outer")

    def __init__(self) -> None:
        self._jobs: list[JobId] = []

    def __enter__(self) -> list[JobId]:
        self._outer = _open.jobs
        _open.jobs = self._jobs
        return self._jobs

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _open.jobs = self._outer


def collecting() -> _Collecting:
    """A `with` block whose list receives the id of each Job that this thread pickles inside, in order."""
    return _Collecting()


def reduce_job(job: JobId) -> tuple[Callable[[JobId], object], tuple[JobId]]:
    """What a Job's `__reduce__` returns: where it is loaded, the job's result takes its place."""
    jobs = _open.jobs
    if jobs is None:
        raise TypeError("a Job can't be pickled; pass it as an argument of submit, or send its id and use c.job(id)")
    jobs.append(job)
    return dependency.result_of, (job,)


# --- arguments ----------------------------------------------------------------------------------------------------


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, tuple[JobId, ...]]:
    """The pickled `(args, kwargs)`, and the ids of the Jobs inside, each once.

    Raises:
        TypeError: an argument can't be pickled; the text says which, and what in it.
        pickle.PicklingError: the same, for another reason than a type.
    """
    if _are_plain(map(type, args)) and (not kwargs or _are_plain(map(type, kwargs.values()))):
        return dumps((args, kwargs), 5), ()
    with _Collecting() as jobs:
        try:
            body = cloudpickle.dumps((args, kwargs), _PROTOCOL)
        except Exception as error:
            raise _blame(args, kwargs, "", error) from error
    return body, tuple(dict.fromkeys(jobs))


def dump_items(items: Sequence[Any], *, is_column: bool = False) -> tuple[bytes, tuple[JobId, ...]]:
    """The arguments of a chunk, and the ids of the Jobs inside, each once.

    If all of it is plain data, a pickled list of argument tuples, or, of a column, a pickled tuple with the items in it,
    of which a range stays one unless it is a very long one.
    Else a pickled list of bytes, each a pickled argument tuple, so that an item whose loading kills the child can be told
    from its neighbours. Raises as `dump_call`, and names the item by its place in the chunk.

    Args:
        items: argument tuples.
        is_column: it is the one argument of each item instead. A tuple for each would take ten times as long to pickle.
    """
    if is_column and type(items) is range:
        return pickle.dumps((items if len(items) <= MAX_RANGE else list(items),), _PROTOCOL), ()
    if _are_all_plain(items if is_column else list(chain.from_iterable(items))):
        return pickle.dumps((items,) if is_column else items, _PROTOCOL), ()
    rows = [(item,) for item in items] if is_column else items
    bodies: list[bytes] = []
    with _Collecting() as jobs:
        for place, args in enumerate(rows):
            try:
                bodies.append(cloudpickle.dumps(args, _PROTOCOL))
            except Exception as error:
                raise _blame(args, {}, f"item {place}, ", error) from error
    return pickle.dumps(bodies, _PROTOCOL), tuple(dict.fromkeys(jobs))


def _are_all_plain(values: Sequence[Any]) -> bool:
    # Nearly always all are of one type, and to compare with that takes less than to look each up.
    kind = type(values[0]) if values else None
    return (kind in _PLAIN and countOf(map(type, values), kind) == len(values)) or _are_plain(map(type, values))


def _blame(args: tuple[Any, ...], kwargs: dict[str, Any], where: str, error: Exception) -> Exception:
    """Name the first argument that can't be pickled on its own."""
    named = [(f"{where}argument {place}", value) for place, value in enumerate(args)]
    named += [(f"{where}argument {name!r}", value) for name, value in kwargs.items()]
    for place, value in named:
        try:
            cloudpickle.dumps(value, _PROTOCOL)
        except Exception as culprit:  # noqa: BLE001 - whatever a user's __reduce__ raises is what is looked for
            return unsendable.argument_error(place, value, culprit)
    return unsendable.argument_error(f"{where}arguments", args, error)


# --- results and errors -------------------------------------------------------------------------------------------


# Whole pickles, by their one opcode with its number of bytes in all: None, a bool, a small int; and, in a frame, a
# longer int or a float.
_ATOMS_ALONE = {b"N": 4, b"\x88": 4, b"\x89": 4, b"K": 5}
_ATOMS_IN_FRAME = {b"M": 15, b"J": 17, b"G": 21}


def is_atom(payload: bytes) -> bool:
    """Whether unpickling it runs no code, and makes nothing whose identity could matter."""
    if payload[:3] == b"\x80\x05\x95":  # protocol 5, and a frame around the rest
        return _ATOMS_IN_FRAME.get(payload[11:12]) == len(payload)
    return payload[:2] == b"\x80\x05" and _ATOMS_ALONE.get(payload[2:3]) == len(payload)


def load_result(payload: bytes, job: str = "") -> Any:
    """What the task returned.

    Raises:
        RemoteError: it can't be unpickled here. Nothing else escapes, whatever a user's `__setstate__` raises, but
            for `KeyboardInterrupt`: that is far more likely somebody's Ctrl-C, and the next call tries again.
    """
    try:
        return loads(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RemoteError(job, f"its result can't be unpickled here: {type(error).__name__}: {error}") from error


_ERRORS: dict[Ending, type[JobError]] = {
    Ending.UNPICKLABLE: RemoteError,
    Ending.TIMED_OUT: JobTimeout,
    Ending.CRASHED: JobCrashed,
    Ending.OUT_OF_MEMORY: OutOfMemory,
    Ending.WORKER_LOST: WorkerLost,
    Ending.ENVIRONMENT: EnvironmentMismatch,
    Ending.CANCELLED: JobCancelled,
    Ending.EXPIRED: JobExpired,
    Ending.DEPENDENCY: DependencyFailed,
    Ending.TAMPERED: JobError,
}
_BY_STATE: dict[JobState, Ending] = {JobState.CANCELLED: Ending.CANCELLED, JobState.EXPIRED: Ending.EXPIRED}


def rebuild_error(outcome: Outcome, job: str = "") -> BaseException:
    """The exception that an unsuccessful outcome means; a new one each time, so that tracebacks don't pile up.

    Args:
        outcome: of a job, without a result.
        job: what the message calls the job; its id if not given.
    """
    certificate = outcome.certificate
    if certificate is None:
        ending = _BY_STATE.get(outcome.state)
        if ending is None:
            return RemoteError(job or outcome.job, "it ended without a result, and nothing says why")
        certificate = Certificate(ending=ending, reason=f"it is {outcome.state.name}")
    return error_of(certificate, outcome.payload, job or outcome.job)


def error_of(certificate: Certificate, payload: bytes, job: str) -> BaseException:
    """The same for one item of a chunk: its certificate, and its pickled exception if there is one."""
    if certificate.ending is Ending.ADMISSION:
        return Refused(f"job {job}: {certificate.reason}")
    if certificate.ending is Ending.RAISED:
        return _raised(certificate, payload, job)
    error = _ERRORS.get(certificate.ending, RemoteError)(job, certificate.reason, certificate)
    return _with_traceback(error, certificate)


def _raised(certificate: Certificate, payload: bytes, job: str) -> BaseException:
    """The task's own exception, unless it can't be rebuilt, or would mean something else to the code that waits."""
    kind = certificate.error_types[0] if certificate.error_types else ""
    message = f": {certificate.message}" if certificate.message else ""
    text = f"raised {kind.removeprefix('builtins.')}{message}" if kind else certificate.reason
    if payload:
        try:
            error = pickle.loads(payload)
        except KeyboardInterrupt:  # as in `load_result`
            raise
        except BaseException as obstacle:  # noqa: BLE001 - it belongs to the job, not to whoever waits for it
            text += f" (it can't be rebuilt here: {type(obstacle).__name__}: {obstacle})"
        else:
            if _may_escape(error):
                return _with_traceback(error, certificate)
    return _with_traceback(RemoteError(job, text, certificate), certificate)


def _may_escape(error: object) -> bool:
    """Whether raising it here is harmless: it must not end a generator, an iteration, a task or the interpreter."""
    return isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration | CancelledError)


def _with_traceback(error: BaseException, certificate: Certificate) -> BaseException:
    if certificate.traceback:
        # Not `error.__cause__ = ...`: a user's class may have its own `__setattr__`, as a frozen dataclass has.
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(certificate.traceback))
    return error
