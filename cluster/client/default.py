"""The default cluster: what `cluster.submit(...)`, without a handle, means.

    inside a job                     the surrounding cluster; not there yet, so a sentence that says so
    a `with` block or `use(c)`       the innermost one that is open
    CLUSTER_ADDRESS is set           that cluster, connected to once; an error if it can't be reached
    otherwise                        one embedded cluster, made once, closed at exit after its jobs

The stack is the process's, not the thread's: a thread started in a `with` block means the same cluster as its parent.
A forked child finds the stack as it was; handles that stayed in the parent say so when they are used.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from cluster.client import origins
from cluster.errors import ClusterError
from cluster.wire import dependency

if TYPE_CHECKING:
    from cluster.client.batch import Batch
    from cluster.client.handle import Cluster
    from cluster.client.job import Job
    from cluster.client.options import SubmitOptions

R = TypeVar("R")
Errors = Literal["raise", "return", "skip"]

# Guards what follows, and the making of the embedded cluster. Reentrant: making one must not be in its own way.
_lock = threading.RLock()
_stack: list[Cluster] = []
_embedded: Cluster | None = None
# By address: the environment may change while a program runs.
_connected: dict[str, Cluster] = {}


def push(handle: Cluster) -> None:
    """Make a handle the innermost one."""
    with _lock:
        _stack.append(handle)


def remove(handle: Cluster) -> None:
    """Take a handle's innermost entry away, if it has one. Blocks in several threads may end in any order."""
    with _lock:
        for place in reversed(range(len(_stack))):
            if _stack[place] is handle:
                del _stack[place]
                return


def remove_all(handle: Cluster) -> None:
    """Take every entry of a closed handle away."""
    with _lock:
        _stack[:] = [other for other in _stack if other is not handle]


def current() -> Cluster:
    """The default cluster, by the rule above."""
    if dependency.inside_job:
        raise ClusterError(
            "a job can't submit to its own cluster: that is not there yet; return what is to be done, "
            "and submit it from the program"
        )
    with _lock:
        if _stack:
            return _stack[-1]
        address = os.environ.get("CLUSTER_ADDRESS")
        if address:
            return _connected.get(address) or _make_connected(address)
        return _embedded or _make_embedded()


def _make_connected(address: str) -> Cluster:
    if origins.connected is None:
        raise ClusterError("no cluster can be connected to: import the package `cluster`, not one of its rooms alone")
    handle = _connected[address] = origins.connected()
    # Its jobs go on without this program; what it has submitted is handed over.
    atexit.register(handle.close, wait=False)
    return handle


def _make_embedded() -> Cluster:
    global _embedded  # noqa: PLW0603 - see above
    if origins.embedded is None:
        raise ClusterError("no default cluster can be made: import the package `cluster`, not one of its rooms alone")
    _embedded = origins.embedded()
    # After whatever the kit registered when it was imported, so before it: exit handlers run last in, first out.
    atexit.register(_close_at_exit, _embedded)
    return _embedded


def _close_at_exit(handle: Cluster) -> None:
    """Wait for the jobs of the default cluster; Ctrl-C, here or as the reason why the program ends, stops at once."""
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    with contextlib.suppress(KeyboardInterrupt):
        handle.close(wait=not is_interrupted)


class _Use:
    """What `use` returns: leaving its `with` block ends the use."""

    def __init__(self, handle: Cluster) -> None:
        self._handle = handle

    def __enter__(self) -> Cluster:
        return self._handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        remove(self._handle)


def use(handle: Cluster) -> _Use:
    """Make a handle the default, until it is closed; or, as `with cluster.use(c):`, for the block."""
    push(handle)
    return _Use(handle)


# --- the functions of the package: each is the method of the default cluster ------------------------------------------


@overload
def submit(
    func: Callable[..., Coroutine[Any, Any, R]],
    args: tuple[Any, ...] = ...,
    kwargs: dict[str, Any] | None = ...,
    **options: Unpack[SubmitOptions],
) -> Job[R]: ...
@overload
def submit(
    func: Callable[..., R],
    args: tuple[Any, ...] = ...,
    kwargs: dict[str, Any] | None = ...,
    **options: Unpack[SubmitOptions],
) -> Job[R]: ...
@overload
def submit(
    func: str,
    args: tuple[Any, ...] = ...,
    kwargs: dict[str, Any] | None = ...,
    **options: Unpack[SubmitOptions],
) -> Job[Any]: ...
def submit(
    func: Callable[..., Any] | str,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> Job[Any]:
    """`Cluster.submit` of the default cluster."""
    return current().submit(func, args, kwargs, **options)


def map(  # noqa: A001 - as in `Pool` and `Executor`
    func: Callable[..., R] | str,
    *iterables: Iterable[Any],
    chunksize: int | None = None,
    ordered: bool = True,
    errors: Errors = "raise",
    progress: bool = False,
    **options: Unpack[SubmitOptions],
) -> Batch[R]:
    """`Cluster.map` of the default cluster."""
    return current().map(
        func, *iterables, chunksize=chunksize, ordered=ordered, errors=errors, progress=progress, **options
    )


def starmap(
    func: Callable[..., R] | str,
    iterable: Iterable[Iterable[Any]],
    *,
    chunksize: int | None = None,
    ordered: bool = True,
    errors: Errors = "raise",
    progress: bool = False,
    **options: Unpack[SubmitOptions],
) -> Batch[R]:
    """`Cluster.starmap` of the default cluster."""
    return current().starmap(
        func, iterable, chunksize=chunksize, ordered=ordered, errors=errors, progress=progress, **options
    )


def gather(jobs: Iterable[Job[R]], errors: Errors = "raise") -> list[R]:
    """`Cluster.gather`; jobs of any cluster."""
    from cluster.client.handle import gather_results  # at the top this import would be a cycle

    return gather_results(jobs, errors)


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - a thread that isn't here may hold the old one
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
