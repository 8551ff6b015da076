"""One clear sentence for what can't be pickled: which function or argument, what inside it, and what to write instead.

A pickler says only "cannot pickle '_thread.lock' object". The search below pickles the parts of the thing one by one,
goes into the first that fails, and so finds the way to the culprit. It runs only when pickling has failed already.
"""

from __future__ import annotations

import concurrent.futures
import functools
import pickle
import types
from collections.abc import Iterator

import cloudpickle

# How far the search goes: it shall help a reader, not walk a whole heap.
_MAX_DEPTH = 6
_MAX_PARTS = 1000


def name_of(func: object) -> str:
    """The name that a user knows a callable by."""
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    return name if isinstance(name, str) else type(func).__qualname__


def function_error(func: object, error: Exception) -> Exception:
    """What to raise when the function can't be pickled; the caller chains `error`."""
    hops, culprit = _search(func, set(), _MAX_DEPTH)
    if not hops:
        return _like(error, f"function {name_of(func)!r} can't be sent: {_text(error)}")
    way = ", which captures ".join(repr(hop) for hop in "".join(hops).lstrip(_HOP).split(_HOP))
    return _like(error, f"function {name_of(func)!r} captures {way} {_verdict(culprit, error)}; {_remedy(culprit)}")


def argument_error(place: str, value: object, error: Exception) -> Exception:
    """What to raise when the argument at `place` ("argument 0", "argument 'x'") can't be pickled."""
    hops, culprit = _search(value, set(), _MAX_DEPTH)
    if not hops:
        return _like(error, f"{place} {_verdict(value, error)}")
    way = "".join(hops).replace(_HOP, ".")
    return _like(error, f"{place} holds {way.lstrip('.')!r} {_verdict(culprit, error)}")


_HOP = (
    "\0"  # between what captures and what is captured; other steps of a path are written as in Python: ".lock", "[3]"
)


def _search(value: object, seen: set[int], depth: int) -> tuple[list[str], object]:
    """The way to the innermost part that can't be pickled on its own; no way if it is `value` itself."""
    seen.add(id(value))
    for step, part in _parts(value) if depth else ():
        if id(part) in seen:  # a recursive function captures itself
            continue
        try:
            cloudpickle.dumps(part)
        except Exception:  # noqa: BLE001 - whatever a user's __reduce__ raises is the very thing looked for
            hops, culprit = _search(part, seen, depth - 1)
            return [step, *hops], culprit
    return [], value


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, types.FunctionType):
        for name, part in _captured(value):
            yield _HOP + name, part
    elif isinstance(value, types.MethodType):
        yield _HOP + "self", value.__self__
        yield from _parts(value.__func__)
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((f"{_HOP}argument {place}", part) for place, part in enumerate(value.args))
        yield from ((_HOP + name, part) for name, part in value.keywords.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{place}]", part) for place, part in enumerate(value[:_MAX_PARTS]))
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in list(value.items())[:_MAX_PARTS])
    elif isinstance(value, concurrent.futures.Future):
        return  # the locks inside it are nothing that a user knows of
    elif isinstance(attributes := getattr(value, "__dict__", None), dict):
        yield from ((f".{name}", part) for name, part in list(attributes.items())[:_MAX_PARTS])


def _captured(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """Variables by the names that the function's text uses."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    namespace = function.__globals__
    names: dict[str, None] = {}
    codes = [code]
    while codes:
        part = codes.pop()
        names.update(dict.fromkeys(part.co_names))
        codes += [constant for constant in part.co_consts if isinstance(constant, types.CodeType)]
    yield from ((name, namespace[name]) for name in names if name in namespace)
    defaults = function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
    yield from function.__dict__.items()


def _verdict(culprit: object, error: Exception) -> str:
    kind = type(culprit)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"(a {where}{kind.__qualname__}), which can't be sent: {_text(error)}"


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _remedy(culprit: object) -> str:
    if isinstance(culprit, concurrent.futures.Future):
        return "pass it as an argument instead, and the function gets its result"
    return "create it inside the function"


def _like(error: Exception, text: str) -> Exception:
    return TypeError(text) if isinstance(error, TypeError) else pickle.PicklingError(text)
