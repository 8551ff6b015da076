"""The staleness rule: may the pickle of a by-value function be used again?

cloudpickle writes a function's code and everything that it captured: defaults, closure cells, the globals that its code
names, annotations, attributes, and again the same of each captured function. A pickle made a moment ago is right only
while all of that is what it was. `prove` looks at each captured value once and answers in one of two ways:

    Proof   everything captured is *settled*: it can't change without becoming another object. Then "unchanged" is
            "the same objects in the same places", which `Proof.holds` checks in about two microseconds.
    None    something captured could change where it is (a list, an instance, a class of `__main__`, ...), or the
            function writes to what it captured. Then the function is pickled anew each time.

                       ┌ settled value     held, compared with `is`
    function ─ captures┼ code object       held weakly, compared with `is`
                       └ by-value function held weakly, compared with `is`, and its own captures likewise

What the proof rests on, and where it ends:
- `_captures` lists a function's captures in a fixed order. Build and check use the same list, so they can't disagree.
- A global that does not exist is captured as `_MISSING`: when it appears later, that is a change.
- A module is settled, but cloudpickle also writes which of its submodules are loaded; those that a function could name
  and that are not loaded yet are remembered as `absent`.
- A proof is made before the pickle and checked again after it (see `functions.py`), so a change made by another thread
  in between is noticed. One that is made *and taken back* within those microseconds is not.

Proofs are immutable and may be checked by any thread. They hold no function by a strong reference: a recursive function
captures itself, and would otherwise never be freed.
"""

from __future__ import annotations

import dis
import functools
import logging
import re
import sys
import types
import typing
import weakref
from collections.abc import Iterator
from enum import Enum
from itertools import repeat
from operator import attrgetter, is_
from typing import Final

import cloudpickle
from msgspec import Struct

from cluster.client.identity_cache import IdentityCache


class _Nothing(Enum):
    """Stands for what is not there. An enum, so that `is` is safe and the text is readable."""

    MISSING = "no such global"
    EMPTY = "a closure cell without a value"


_MISSING: Final = _Nothing.MISSING
_EMPTY: Final = _Nothing.EMPTY

# Immutable all through, if the type is exactly this one: a subclass may carry attributes.
_ATOMS = frozenset(
    {
        int,
        float,
        complex,
        str,
        bytes,
        bool,
        range,
        type(None),
        type(...),
        type(NotImplemented),
        re.Pattern,
        _Nothing,
        logging.Logger,  # travels as its name
    }
)
# What cloudpickle writes as "module, name" whenever that leads to the identical object.
_NAMED = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    type(functools.lru_cache(abs)),
    type,
)
_GENERICS = (types.GenericAlias, types.UnionType, type(typing.List[int]), type(typing.Union[int, str]))  # noqa: UP006, UP007 - their types are wanted

# cloudpickle puts these into the globals of a loaded function, whatever its code names.
_ALWAYS_CAPTURED = ("__package__", "__name__", "__path__", "__file__")

# A function whose code has one of these words may reach its own globals, or a captured function's attributes, by ways
# that reading its instructions does not show. Its pickle may be reused, a loaded copy of it may not.
_REACHING = frozenset(
    {
        *("globals", "vars", "exec", "eval", "_getframe", "currentframe"),
        *("setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "cell_contents"),
        *("__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__annotations__"),
    }
)


def home_of(value: object) -> tuple[str, str] | None:
    """(module, qualified name) under which any process that can import the module finds this very object."""
    name = getattr(value, "__qualname__", None)
    if type(name) is not str or "<" in name:  # "<lambda>", "f.<locals>.g"
        return None
    module = getattr(value, "__module__", None)
    if module is None:
        # A method of a C type (`str.upper`) names its class instead.
        module = getattr(getattr(value, "__objclass__", None), "__module__", None)
    if type(module) is not str or not leads_to(value, module, name):
        return None
    return module, name


def leads_to(value: object, module: str, name: str) -> bool:
    """Whether a by-reference pickle of `module` and `name` would be this very object."""
    if module == "__main__" or is_by_value(module):
        return False
    try:
        return attrgetter(name)(sys.modules.get(module)) is value
    except Exception:  # noqa: BLE001 - a module or class may run anything when an attribute is asked for
        return False


def is_by_value(module: str) -> bool:
    """Whether the user told cloudpickle to send this module's functions by value (or a package around it)."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return bool(registered) and any(module == name or module.startswith(f"{name}.") for name in registered)


# --- what one function captured -----------------------------------------------------------------------------------


class _Reading(Struct, frozen=True):
    """What a code object's instructions say, nested code included."""

    globals: tuple[str, ...]
    words: frozenset[str]  # all names, attributes too
    writes_captures: bool  # a global, or a variable of an enclosing function
    stores_attributes: bool


_readings: IdentityCache[_Reading] = IdentityCache(max_entries=4096)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _read(code: types.CodeType) -> _Reading:
    known = _readings.get(code)
    if known is not None:
        return known
    names: dict[str, None] = dict.fromkeys(_ALWAYS_CAPTURED)
    words: set[str] = set()
    operations: set[str] = set()
    writes_free = False
    for part in _nested(code):
        words.update(part.co_names)
        for step in dis.get_instructions(part):
            operations.add(step.opname)
            # LOAD_NAME: the body of a class inside the function may read a global so.
            if "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
                names[step.argval] = None
            elif step.opname in ("STORE_DEREF", "DELETE_DEREF"):
                writes_free |= step.argval in code.co_freevars
    reading = _Reading(
        tuple(names),
        frozenset(words),
        writes_free or not operations.isdisjoint({"STORE_GLOBAL", "DELETE_GLOBAL"}),
        not operations.isdisjoint({"STORE_ATTR", "DELETE_ATTR"}),
    )
    _readings.put(code, reading)
    return reading


def _captures(function: types.FunctionType, names: tuple[str, ...]) -> list[object]:
    """Everything that a pickle of `function` depends on, in a fixed order. May raise: annotations can be code."""
    found: list[object] = [
        function.__code__,
        function.__name__,
        function.__qualname__,
        function.__module__,
        function.__doc__,
    ]
    found += map(function.__globals__.get, names, repeat(_MISSING))
    if function.__closure__:
        found += map(_contents, function.__closure__)
    # From here on the number of values may change, so each part is preceded by its length.
    for mapping in (function.__dict__, function.__kwdefaults__, function.__annotations__):
        if mapping:
            found.append(len(mapping))
            found += mapping
            found += mapping.values()
        else:
            found.append(0)
    if function.__defaults__:
        found += function.__defaults__
    return found


def _contents(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _is_settled(value: object) -> bool:
    """Whether a pickle of this value stays right for as long as the object is the same."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is tuple or kind is frozenset:
        return all(map(_is_settled, typing.cast("tuple[object, ...]", value)))
    if kind is types.ModuleType:
        name = typing.cast("types.ModuleType", value).__name__
        return sys.modules.get(name) is value and not is_by_value(name)
    if isinstance(value, _NAMED):
        return home_of(value) is not None
    if isinstance(value, Enum):
        return home_of(kind) is not None
    if isinstance(value, _GENERICS):
        # `list[int]`, `str | None`, `Callable[[int], str]`: in annotations.
        parts = [typing.get_origin(value), *typing.get_args(value)]
        return all(_is_settled(tuple(part) if type(part) is list else part) for part in parts)
    return value is typing.Union or value is typing.Literal


# --- the proof ----------------------------------------------------------------------------------------------------


class _Member(Struct, frozen=True):
    """One function of the proof, and what it had captured."""

    function: weakref.ref[types.FunctionType] | None  # None: the function that the proof is asked about
    names: tuple[str, ...]
    expected: tuple[object, ...]
    weak: tuple[tuple[int, weakref.ref[object]], ...]  # places in `expected` that hold a weak reference instead

    def is_unchanged(self, function: types.FunctionType) -> bool:
        current = _captures(function, self.names)
        if len(current) != len(self.expected):
            return False
        for place, reference in self.weak:
            if current[place] is not reference():
                return False
            current[place] = reference
        return all(map(is_, current, self.expected))


class Proof:
    """What must be as it was for a pickle to be right."""

    __slots__ = ("_absent", "_by_value", "_members", "is_reusable")

    def __init__(self, members: list[_Member], absent: frozenset[str], *, is_reusable: bool) -> None:
        self._members = members
        self._absent = absent
        self._by_value = cloudpickle.list_registry_pickle_by_value()
        # A loaded copy may serve many jobs: running it can't change what it captured.
        self.is_reusable = is_reusable

    def holds(self, function: types.FunctionType) -> bool:
        """Whether `function`, with all it captured, is what it was when this was proved.

        It need not be the same object: a lambda that is evaluated again is another function of the same code.
        """
        if self._absent and not sys.modules.keys().isdisjoint(self._absent):
            return False
        if cloudpickle.list_registry_pickle_by_value() != self._by_value:
            return False
        try:
            for member in self._members:
                target = function if member.function is None else member.function()
                if target is None or not member.is_unchanged(target):
                    return False
        except Exception:  # noqa: BLE001 - see `_captures`
            return False
        return True


def prove(function: types.FunctionType) -> Proof | None:
    """A proof for `function` as it is now, or None if what it captured might change in place."""
    try:
        return _prove(function)
    except Exception:  # noqa: BLE001 - an unreadable capture is an unproved one; the pickler will say what is wrong
        return None


def _prove(root: types.FunctionType) -> Proof | None:
    members: list[_Member] = []
    packages: set[str] = set()
    words: set[str] = set()
    stores_attributes = captures_functions = False
    queue, seen = [root], {root}
    while queue:
        function = queue.pop()
        reading = _read(function.__code__)
        if reading.writes_captures:
            return None
        current = _captures(function, reading.globals)
        weak: list[tuple[int, weakref.ref[object]]] = []
        for place, value in enumerate(current):
            if isinstance(value, types.ModuleType):
                packages.add(value.__name__)
            if _is_settled(value):
                continue
            if type(value) is types.FunctionType:
                captures_functions = True
                if value not in seen:
                    seen.add(value)
                    queue.append(value)
            elif type(value) is not types.CodeType:
                return None
            reference: weakref.ref[object] = weakref.ref(value)
            current[place] = reference
            weak.append((place, reference))
        member = None if function is root else weakref.ref(function)
        members.append(_Member(member, reading.globals, tuple(current), tuple(weak)))
        words |= reading.words
        stores_attributes |= reading.stores_attributes
    is_reusable = words.isdisjoint(_REACHING) and not (captures_functions and stores_attributes)
    return Proof(members, _unloaded_submodules(packages, words), is_reusable=is_reusable)


def _unloaded_submodules(packages: set[str], words: set[str]) -> frozenset[str]:
    """Modules that would join the pickle once someone imports them: cloudpickle guesses them from the code's words."""
    absent: set[str] = set()
    queue = list(packages)
    while queue:
        package = queue.pop()
        if not getattr(sys.modules.get(package), "__package__", ""):
            continue  # a plain module has no submodules
        for word in words:
            name = f"{package}.{word}"
            if name not in sys.modules:
                absent.add(name)
            elif name not in packages:
                packages.add(name)
                queue.append(name)
    return frozenset(absent)
