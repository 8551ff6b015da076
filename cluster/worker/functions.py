"""The functions that a child holds, by digest."""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any

from cluster.core.records import Digest
from cluster.worker.channel import Task

# The supervisor keeps no exact account of what a child still has: a job whose function was dropped is simply refused
# with `FunctionMissing`, and comes again with it.
MAX_FUNCTIONS = 256

Function = Callable[..., Any]


class Functions:
    """A bounded store of pickled functions; those that captured nothing mutable stay loaded."""

    def __init__(self, on_load: Callable[[], None] = lambda: None) -> None:
        self._on_load = on_load
        self._loaded: dict[Digest, Function] = {}
        self._bodies: dict[Digest, bytes] = {}

    def keep(self, task: Task) -> bool:
        """Keep the function that came with a task; False if neither it nor an earlier task brought it."""
        digest = task.function
        if task.body:
            if len(self._bodies) >= MAX_FUNCTIONS and digest not in self._bodies:
                oldest = next(iter(self._bodies))
                del self._bodies[oldest]
                self._loaded.pop(oldest, None)
            self._bodies[digest] = task.body
            return True
        return digest in self._bodies

    def body_of(self, digest: Digest) -> bytes:
        """The pickled function, as an earlier task brought it."""
        return self._bodies[digest]

    def load(self, task: Task) -> Function:
        """The task's function, ready to be called. Raises whatever unpickling or importing it raises."""
        function = self._loaded.get(task.function)
        if function is None:
            function = load_function(task.body or self._bodies[task.function])
            self._on_load()
            if task.is_reusable:
                self._loaded[task.function] = function
        return function


def load_function(body: bytes) -> Function:
    """A pickled function, ready to be called. Raises whatever unpickling or importing it raises."""
    found = pickle.loads(body)
    if isinstance(found, str):
        found = _imported(found)
    if not callable(found):
        raise TypeError(f"{found!r} can't be called")
    return _under_asyncio(found) if inspect.iscoroutinefunction(found) else found


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))


def _under_asyncio(function: Function) -> Function:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return asyncio.run(function(*args, **kwargs))

    return run
