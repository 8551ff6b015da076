"""Tasks as bytes: by reference where a worker can import them, else by value, and pickled only when they changed.

Authority: the function object in the caller's hands, as it is at the moment of `submit`. What is kept here only saves
work, and each look-up proves that it still tells the truth:

    pickle(func) ─┬ known reference?   module and name still lead to this object             about 0.2 us
                  ├ known by value?    its `captures.Proof` still holds                      1 to 3 us
                  ├ importable?        "module, name"                                        remembered
                  └ anything else      cloudpickle; remembered if a proof could be made      15 us or more

`Functions` may be used by any thread. Two threads that pickle the same new function both do the work, and the later one
is remembered: no lock is held while a user's `__reduce__` runs.
"""

from __future__ import annotations

import pickle
import re
import sys
import types
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, cast

import cloudpickle
from msgspec import Struct

from cluster.client import captures, unsendable
from cluster.client.identity_cache import IdentityCache
from cluster.client.task import Task
from cluster.core.digests import name_function
from cluster.core.records import FunctionBlob

PROTOCOL: Final = 5
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
PICKLER: Final[str] = cloudpickle.__version__

_MAX_REFERENCES = 4096
_MAX_BY_VALUE = 1024
# Small pickles stay as long as their code, so that a lambda in a loop is pickled once. A large one goes with its very
# function: what it captured is the caller's data, and outliving the caller's own copy would look like a leak.
_SMALL_BYTES = 16 * 1024
_MAX_BY_VALUE_BYTES = 64 * 1024 * 1024

# Compiled when first used: a program's first result need not wait for it.
_NAME = r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:(?:[^\W\d]\w*\.)*[^\W\d]\w*"


class _Reference(Struct, frozen=True):
    func: object  # held, so that its id can't come back as another's
    module: str
    find: Callable[[Any], object]  # from the module to the object
    blob: FunctionBlob


class _ByValue(Struct, frozen=True):
    proof: captures.Proof
    blob: FunctionBlob


class Functions:
    """The pickled tasks of one cluster handle."""

    def __init__(self) -> None:
        self._references: dict[int, _Reference] = {}
        self._names: dict[str, FunctionBlob] = {}
        self._by_value: IdentityCache[_ByValue] = IdentityCache(_MAX_BY_VALUE, _MAX_BY_VALUE_BYTES)

    def pickle(self, func: Callable[..., object] | str) -> FunctionBlob:
        """The task as a record for the wire; the same object again while nothing about the task changed.

        Args:
            func: a callable, or "module:name", which is not imported here.

        Raises:
            TypeError: it is neither, or it can't be pickled; the text names what is in the way.
            pickle.PicklingError: it can't be pickled for another reason than a type.
        """
        if type(func) is Task:
            func = func.function
        known = self._references.get(id(func))
        if known is not None:
            try:
                is_current = known.find(sys.modules.get(known.module)) is known.func
            except Exception:  # noqa: BLE001 - a module may run anything when an attribute is asked for
                is_current = False
            if is_current and not cloudpickle.list_registry_pickle_by_value():
                return known.blob
        if type(func) is types.FunctionType:
            remembered = self._by_value.get(func.__code__)
            if remembered is not None and remembered.proof.holds(func):
                return remembered.blob
        if isinstance(func, str):
            return self._named(func)
        if not callable(func):
            raise TypeError(_not_callable(func))
        return self._refer(func) or self._pickle_by_value(func)

    def _named(self, func: str) -> FunctionBlob:
        blob = self._names.get(func)
        if blob is None:
            if not re.fullmatch(_NAME, func):
                raise TypeError(
                    f"func {func!r} is no name of a task; write 'module:name', as in 'mypackage.jobs:load', "
                    f"or pass the function itself"
                )
            blob = _blob(pickle.dumps(func, PROTOCOL), func.replace(":", "."), reusable=True)
            _remember(self._names, func, blob)
        return blob

    def _refer(self, func: Callable[..., object]) -> FunctionBlob | None:
        """By reference, if a worker that imports the module finds this object."""
        home = captures.home_of(func)
        if home is None:
            # The name may lead to a decorator's object, a `Task` for one, with the function inside it.
            if type(func) is not types.FunctionType or not func.__module__ or "<" in func.__qualname__:
                return None
            home = func.__module__, f"{func.__qualname__}.__wrapped__"
            if not captures.leads_to(func, *home):
                return None
        module, name = home
        blob = _blob(_reference(module, name), f"{module}.{name.removesuffix('.__wrapped__')}", reusable=True)
        _remember(self._references, id(func), _Reference(func, module, attrgetter(name), blob))
        return blob

    def _pickle_by_value(self, func: Callable[..., object]) -> FunctionBlob:
        proof = captures.prove(func) if type(func) is types.FunctionType else None
        try:
            body: bytes = cloudpickle.dumps(func, PROTOCOL)
        except Exception as error:
            raise unsendable.function_error(func, error) from error
        # The second look notices what another thread changed while the pickler was at work.
        is_proved = proof is not None and proof.holds(cast("types.FunctionType", func))
        reusable = proof is not None and is_proved and proof.is_reusable
        module = getattr(func, "__module__", None)
        name = unsendable.name_of(func)
        blob = _blob(body, f"{module}.{name}" if isinstance(module, str) else name, reusable=reusable)
        if proof is not None and is_proved:
            code = cast("types.FunctionType", func).__code__
            owner = code if len(body) <= _SMALL_BYTES else func
            self._by_value.put(code, _ByValue(proof, blob), owner=owner, size=len(body))
        return blob


def _blob(body: bytes, name: str, *, reusable: bool) -> FunctionBlob:
    shown = name.encode(errors="backslashreplace").decode()  # records are UTF-8; a name needn't be
    return name_function(body, PYTHON, PICKLER, shown, reusable=reusable)


def _reference(module: str, name: str) -> bytes:
    """A pickle that imports `module` and takes `name` from it.

    Written out, because `pickle.dumps` asks the object how it wants to travel, and an instance that stands under the
    name of the function it decorates would travel by value.
    """
    texts = [pickle.BINUNICODE + len(text).to_bytes(4, "little") + text for text in (module.encode(), name.encode())]
    return b"".join([pickle.PROTO, bytes([PROTOCOL]), *texts, pickle.STACK_GLOBAL, pickle.STOP])


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    if len(known) >= _MAX_REFERENCES:
        # Another thread may have taken the oldest one at this moment.
        known.pop(next(iter(tuple(known)), None), None)
    known[key] = value


def _not_callable(func: object) -> str:
    kind = type(func).__name__
    return (
        f"func must be a callable or 'module:name', not {kind}; write submit(func, args): the function itself, "
        f"not its result, and then a tuple of its arguments"
    )
