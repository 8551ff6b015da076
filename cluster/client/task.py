"""`@cluster.task`: a function that knows how it wants to be run elsewhere.

A `Task` stands in its module under the function's name. Called, it runs the function here and now; `submit` sends it to
the default cluster. Workers never meet a `Task` that can be imported: they are told "module, name.__wrapped__", which
is the function inside it (see `functions.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from cluster.client.captures import home_of
from cluster.client.options import NO_OPTIONS, Submission, SubmitOptions, parse_options

if TYPE_CHECKING:
    from cluster.client.job import Job

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function with the options that its jobs have unless a call says otherwise. Made by `cluster.task`."""

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], defaults: Submission = NO_OPTIONS) -> None:
        self.function = function
        self.defaults = defaults
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, as if it were not decorated."""
        return self.function(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Have the default cluster run the function with these arguments. Returns at once."""
        from cluster.client import default  # a handle reads `Task`s: at the top this import would be a cycle

        return default.current().submit(self, args, kwargs)

    def options(self, **overrides: Unpack[SubmitOptions]) -> Task[P, R]:
        """The same function with other options; this task stays as it is."""
        return Task(self.function, parse_options(overrides, self.defaults))

    def __repr__(self) -> str:
        return f"<cluster.task {self.__qualname__}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        if home_of(self) is not None:
            return self.__qualname__
        return Task, (self.function, self.defaults)


def defaults_of(func: object) -> Submission:
    """The options that a job of `func` has unless the caller says otherwise."""
    return func.defaults if type(func) is Task else NO_OPTIONS


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Unpack[SubmitOptions]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function submittable: `@task`, or `@task(retries=3, timeout="10m")` with the options of `submit`.

    The task has `.submit(*args, **kwargs)` for the default cluster and `.options(...)` for other options; calling it
    runs the function here; `c.submit(task, args)` and `c.map(task, ...)` start from its options. Functions only: a
    method has no `self` to travel with.
    """
    defaults = parse_options(options)

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        if isinstance(function, type | staticmethod | classmethod) or not callable(function):
            raise TypeError(
                f"@cluster.task decorates a function, not a {type(function).__name__}; write it directly above "
                f"a module's `def`, as @cluster.task or @cluster.task(retries=3)"
            )
        return Task(function, defaults)

    return decorate if function is None else decorate(function)
