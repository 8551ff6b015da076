"""What a job may change of its process and would hand on to the next job, and how it is put back.

Looked at after every job, so looking must cost next to nothing: most jobs change nothing. A system call is half a
microsecond, and asking for each timer and limit would be a dozen. So the few doors by which Python code changes such
things note that somebody went through; only then is everything compared with how it was at the child's start.

    os.environ          its dictionary remembers the value that a job's change took the place of
    sys.path            compared with its copy, which takes no system call
    timers, handlers,   `signal`, `alarm`, `setitimer`, `pthread_sigmask`, `resource.setrlimit` and `prlimit` are
    mask, limits        replaced by functions that note the call and pass it on; so are `chdir`, `fchdir` and `umask`,
                        whose effects the child itself undoes

A module sets up things when it is first imported, and counts on them later, but is never imported again in this process.
So what is set in `os.environ` during an import stays, and `sys.path` stays as it is after a job that imported something.

What can't be put back (a hard limit that was lowered) makes the process unfit: its supervisor gets another one. What C
code changes behind Python's back is not seen; neither are the states of random number generators, threads that go on,
and what modules keep for themselves. Whoever must have none of that has children that run one job each
(`max_jobs_per_child: 1`).

Used by a child's main thread. Not where jobs run in threads: what one of many changed can't be told.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the raw half of `signal`, of which typeshed knows nothing
import contextlib
import functools
import os
import posix
import resource
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Where each is found. `signal` wraps some functions of `_signal`, and has others under the same name.
_DOORS: tuple[tuple[str, tuple[ModuleType, ...]], ...] = (
    ("signal", (_signal,)),
    ("pthread_sigmask", (_signal,)),
    ("alarm", (_signal, signal)),
    ("setitimer", (_signal, signal)),
    ("setrlimit", (resource,)),
    ("prlimit", (resource,)),
    ("chdir", (posix, os)),
    ("fchdir", (posix, os)),
    ("umask", (posix, os)),
)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = tuple(sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}))
# Nobody may handle these.
_SIGNALS = tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))


class Surroundings:
    """How things are in a child before any job, and again after each."""

    def __init__(self) -> None:
        """Take things as they are now, and watch the doors from here on."""
        self._environ = os.environ
        self._variables = _watch_variables()
        self._path = sys.path
        self._entries = list(sys.path)
        self._modules = len(sys.modules)
        self.is_touched = False  # somebody went through a door since things were put back
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._limits = {limit: _limit(limit) for limit in _LIMITS}
        for name, modules in _DOORS:
            door = self._noting(getattr(modules[0], name))
            for module in modules:
                setattr(module, name, door)

    def take_over_imports(self) -> None:
        """A job's function has just been imported: what that changed of `sys.path` is nobody's to put back."""
        if len(sys.modules) != self._modules:
            self._modules = len(sys.modules)
            self._entries = list(self._path)

    def restore(self) -> bool:
        """Put back what the last job changed; False if that can't be done, and this process should run no other."""
        if self._variables.before or os.environ is not self._environ:
            self._restore_variables()
        if sys.path is not self._path or self._path != self._entries:
            self._restore_path()
        if not self.is_touched:
            return True
        try:
            self._restore_signals()
            return self._restore_limits()
        finally:
            self.is_touched = False

    def _restore_variables(self) -> None:
        os.environ = self._environ  # noqa: B003 - it was replaced; this is the one that the process really has
        before = dict(self._variables.before)
        for name, value in before.items():
            if value is None:
                os.environb.pop(name, None)
            else:
                os.environb[name] = value
        self._variables.before.clear()

    def _restore_path(self) -> None:
        if sys.path is not self._path:
            self._path[:] = sys.path
            sys.path = self._path
        if len(sys.modules) != self._modules:
            self.take_over_imports()
        else:
            self._path[:] = self._entries

    def _restore_signals(self) -> None:
        for timer in _TIMERS:
            signal.setitimer(timer, 0.0)
        for number, handler in self._handlers.items():
            # None: it was not set from Python, and can't be from here either.
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        # Last, so that what waited for an open mask meets the handlers that belong here.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _restore_limits(self) -> bool:
        for limit, before in self._limits.items():
            if _limit(limit) != before:
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(limit, before)
                if _limit(limit) != before:
                    return False
        return True

    def _noting(self, door: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(door)
        def note(*args: Any, **kwargs: Any) -> Any:
            self.is_touched = True
            return door(*args, **kwargs)

        return note


class _Variables(dict[bytes, bytes]):
    """The dictionary inside `os.environ`, which remembers what a job changed; None where there was nothing before."""

    def __init__(self, found: dict[bytes, bytes]) -> None:
        super().__init__(found)
        self.before: dict[bytes, bytes | None] = {}

    def __setitem__(self, name: bytes, value: bytes) -> None:
        self._remember(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: bytes) -> None:
        if name in self:
            self._remember(name)
        super().__delitem__(name)

    def __reduce__(self) -> tuple[type, tuple[dict[bytes, bytes]]]:
        return dict, (dict(self),)

    def _remember(self, name: bytes) -> None:
        if _is_importing():
            self.before.pop(name, None)
        else:
            self.before.setdefault(name, self.get(name))


def _watch_variables() -> _Variables:
    """Put the remembering dictionary into `os.environ` and `os.environb`, which share one."""
    variables = _Variables(vars(os.environ)["_data"])
    vars(os.environ)["_data"] = vars(os.environb)["_data"] = variables
    return variables


def _is_importing() -> bool:
    """Whether some module is being imported further up in this thread."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
    return False


def _limit(limit: int) -> tuple[int, int]:
    try:
        return resource.getrlimit(limit)
    except (OSError, ValueError):  # named by Python, and unknown to this kernel
        return (0, 0)
