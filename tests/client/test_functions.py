from __future__ import annotations

import functools
import gc
import json
import math
import os.path
import pickle
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.client.functions import Functions
from cluster.client.task import task
from cluster.core.records import FunctionBlob


def importable(x: int) -> int:
    return x + 1


class Importable:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        return x * self.n

    @classmethod
    def made(cls, n: int) -> int:
        return cls(n).n


class Decorated:
    """A decorator's object that stands under the name of its function, and counts in itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.calls = [function]

    def __call__(self, x: int) -> Any:
        return self.calls[0](x)


@Decorated
def decorated(x: int) -> int:
    return x + 5


@functools.lru_cache
def cached(x: int) -> int:
    return x + 6


@functools.wraps(importable)
def local_wrapper(x: int) -> int:
    return x + 8


@task
def tasked(x: int) -> int:
    return x + 7


def notebook(source: str, **names: Any) -> dict[str, Any]:
    """The namespace of a module that no other process can import, as `__main__` and a notebook are."""
    namespace: dict[str, Any] = {"__name__": "a_notebook", **names}
    exec(source, namespace)
    return namespace


def run(blob: FunctionBlob, *args: Any) -> Any:
    return pickle.loads(blob.body)(*args)


# --- what travels, and how ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "func",
    [
        pow,
        len,
        math.sqrt,
        os.path.join,
        str.upper,
        json.JSONDecoder.decode,
        importable,
        Importable,
        Importable.method,
        decorated,
        cached,
    ],
)
def test_an_importable_callable_travels_by_reference(func: Any) -> None:
    blob = Functions().pickle(func)

    assert pickle.loads(blob.body) is func
    assert blob.reusable
    assert len(blob.body) < 100


def by_value_callables() -> list[tuple[Any, tuple[Any, ...], Any]]:
    offset = 3

    def closure(x: int) -> int:
        return x + offset

    @functools.wraps(closure)
    def wrapper(x: int) -> int:
        return closure(x) * 2

    async def coroutine(x: int) -> int:
        return x

    class Local:
        def __call__(self, x: int) -> int:
            return x + offset

    return [
        (lambda x: x + 1, (1,), 2),
        (closure, (1,), 4),
        (wrapper, (1,), 8),
        (functools.partial(pow, 2), (5,), 32),
        (functools.partial(closure, 5), (), 8),
        (Importable(4).method, (3,), 12),
        (Importable.made, (9,), 9),
        (Importable(4), (3,), 7),
        (Local(), (1,), 4),
        ("abc".upper, (), "ABC"),
        (dict.fromkeys, ("a",), {"a": None}),
        ([3, 1, 2].count, (1,), 1),
    ]


@pytest.mark.parametrize(("func", "args", "expected"), by_value_callables())
def test_any_other_callable_travels_by_value(func: Any, args: tuple[Any, ...], expected: Any) -> None:
    functions = Functions()

    first, second = functions.pickle(func), functions.pickle(func)

    assert run(first, *args) == run(second, *args) == expected


def test_a_local_class_is_a_callable() -> None:
    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

    assert run(Functions().pickle(Local), 3).n == 3


def test_a_function_of_main_runs_in_another_process() -> None:
    script = (
        "from cluster.client.functions import Functions\n"
        "K = 2\n"
        "def helper(x): return x * K\n"
        "def job(x): return helper(x) + 1\n"
        "print(Functions().pickle(job).body.hex())\n"
    )

    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert pickle.loads(bytes.fromhex(printed))(20) == 41


def test_a_module_level_task_travels_as_a_reference_to_its_function() -> None:
    functions = Functions()

    blob = functions.pickle(tasked)

    assert pickle.loads(blob.body) is tasked.__wrapped__
    assert blob.reusable
    assert blob.name.endswith("test_functions.tasked")
    assert functions.pickle(tasked.options(retries=3)) is blob


def test_a_local_task_travels_as_its_function() -> None:
    @task
    def local(x: int) -> int:
        return x + 1

    loaded = pickle.loads(Functions().pickle(local).body)

    assert type(loaded) is types.FunctionType
    assert loaded(1) == 2


def test_a_function_that_is_hidden_by_another_of_its_name_travels_by_value() -> None:
    loaded = pickle.loads(Functions().pickle(local_wrapper).body)

    assert loaded(1) == 9


def test_a_name_is_checked_for_its_shape_and_not_imported() -> None:
    blob = Functions().pickle("no.such_module:Class.method")

    assert pickle.loads(blob.body) == "no.such_module:Class.method"
    assert blob.name == "no.such_module.Class.method"
    assert blob.reusable


@pytest.mark.parametrize(
    "name", ["", "len", "os.path.join", "os:", ":len", "os:path:join", "os path:join", "1os:a", "a..b:c"]
)
def test_a_name_without_its_shape_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"write 'module:name'"):
        Functions().pickle(name)


@pytest.mark.parametrize("func", [3, None, b"x", [len]])
def test_what_is_no_callable_is_refused_with_what_to_write(func: Any) -> None:
    with pytest.raises(TypeError, match=r"callable or 'module:name', not \w+; write submit\(func, args\)"):
        Functions().pickle(func)


def test_a_module_registered_by_value_travels_by_value(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registered_later.py").write_text("def job(x): return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import registered_later  # type: ignore[import-not-found]

    functions = Functions()
    reference = functions.pickle(registered_later.job)
    cloudpickle.register_pickle_by_value(registered_later)
    try:
        by_value = functions.pickle(registered_later.job)
    finally:
        cloudpickle.unregister_pickle_by_value(registered_later)
        del sys.modules["registered_later"]

    assert b"registered_later" in reference.body
    assert len(reference.body) < 60 < len(by_value.body)
    assert run(by_value, 1) == 2


def test_the_blob_names_its_python_and_pickler_and_the_digest_covers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Functions().pickle(len)
    monkeypatch.setattr("cluster.client.functions.PICKLER", "0.0")
    there = Functions().pickle(len)

    assert (here.python, here.pickler) == (f"{sys.version_info[0]}.{sys.version_info[1]}", cloudpickle.__version__)
    assert here.body == there.body
    assert here.digest != there.digest
    assert len(here.digest) == 16


# --- reuse --------------------------------------------------------------------------------------------------------


def test_an_unchanged_function_is_pickled_once() -> None:
    namespace = notebook(
        "import math, json.decoder\n"
        "K, T = 2, (1, 'a')\n"
        "def helper(x: list[int] | None = None, *, k: float = 1.5): return math.sqrt(K)\n"
        "def job(n): return helper(n) if n < 2 else job(n - 1) + helper(n) + len(T) + json.loads('1')\n"
    )
    functions = Functions()

    first = functions.pickle(namespace["job"])

    assert functions.pickle(namespace["job"]) is first
    assert first.reusable


def test_a_lambda_in_a_loop_is_pickled_once() -> None:
    functions = Functions()

    blobs = [functions.pickle(lambda x: x + 1) for _ in range(3)]

    assert blobs[0] is blobs[1] is blobs[2]


def test_a_lambda_in_a_loop_with_another_value_each_time_is_pickled_each_time() -> None:
    functions = Functions()

    def make(n: int) -> Callable[[], int]:
        return lambda: n

    assert [run(functions.pickle(make(n))) for n in (1, True, 1000, 1)] == [1, True, 1000, 1]


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, Importable(1), (1, [2]), bytearray(b"x"), object])
def test_what_captured_something_mutable_is_pickled_each_time_and_not_reused(value: Any) -> None:
    local = type("Local", (), {}) if value is object else value
    namespace = notebook("def job(): return captured", captured=local)
    functions = Functions()

    first, second = functions.pickle(namespace["job"]), functions.pickle(namespace["job"])

    assert first is not second
    assert not first.reusable


@pytest.mark.parametrize(
    "source",
    [
        "def job():\n    global n\n    n += 1\n    return n",
        "def job():\n    globals()['n'] += 1\n    return n",
        "def job():\n    exec('n = 5', globals())\n    return n",
        "def job():\n    job.n = getattr(job, 'n', 0) + 1\n    return job.n",
        "def make():\n    n = 0\n    def job():\n        nonlocal n\n        n += 1\n        return n\n    return job\njob = make()",
        "def job():\n    setattr(job, 'x', 1)\n    return n",
    ],
)
def test_a_function_that_could_change_its_own_copy_is_never_reusable(source: str) -> None:
    namespace = notebook(source, n=0)

    blob = Functions().pickle(namespace["job"])

    assert not blob.reusable


def test_a_rebound_name_of_a_module_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    functions, original = Functions(), importable
    assert len(functions.pickle(original).body) < 100

    monkeypatch.setattr(sys.modules[__name__], "importable", lambda x: x + 100)

    assert run(functions.pickle(original), 1) == 2
    assert run(functions.pickle(importable), 1) == 101


def test_a_submodule_that_is_imported_between_two_submits_is_noticed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "halfloaded"
    (package / "deep").mkdir(parents=True)
    for path in (package / "__init__.py", package / "deep" / "__init__.py", package / "deep" / "end.py"):
        path.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    namespace = notebook("import halfloaded, halfloaded.deep\ndef job(): return halfloaded.deep.end.__name__")
    functions = Functions()
    before = functions.pickle(namespace["job"])
    assert functions.pickle(namespace["job"]) is before

    exec("import halfloaded.deep.end", {})
    after = functions.pickle(namespace["job"])
    for name in [name for name in sys.modules if name.startswith("halfloaded")]:
        del sys.modules[name]

    assert run(after) == "halfloaded.deep.end"


@pytest.mark.parametrize("value", [min, None])
def test_a_name_that_appears_later_counts_as_a_change(value: Any) -> None:
    namespace = notebook("def job(): return max")
    functions = Functions()
    before = functions.pickle(namespace["job"])

    namespace["max"] = value
    after = functions.pickle(namespace["job"])

    assert (run(before), run(after)) == (max, value)


def test_a_captured_function_whose_module_is_registered_by_value_later_counts_as_a_change(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "captured_later.py").write_text("def helper(x): return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    namespace = notebook("from captured_later import helper\ndef job(x): return helper(x)")
    functions = Functions()
    before = functions.pickle(namespace["job"])
    assert functions.pickle(namespace["job"]) is before

    module = sys.modules["captured_later"]
    cloudpickle.register_pickle_by_value(module)
    try:
        after = functions.pickle(namespace["job"])
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["captured_later"]

    monkeypatch.undo()
    assert run(after, 1) == 2


def test_a_forgotten_function_is_freed_even_if_it_refers_to_itself() -> None:
    def make() -> Callable[[int], int]:
        def even(n: int) -> bool:
            return n == 0 or odd(n - 1)

        def odd(n: int) -> bool:
            return n != 0 and even(n - 1)

        return even

    functions = Functions()
    even = make()
    assert functions.pickle(even) is functions.pickle(even)
    freed = weakref.ref(even)

    del even
    gc.collect()

    assert freed() is None


def test_a_large_pickle_is_kept_only_as_long_as_its_function() -> None:
    def make(data: bytes) -> Callable[[], int]:
        return lambda: len(data)

    functions = Functions()
    func = make(bytes(1_000_000))
    assert functions.pickle(func) is functions.pickle(func)

    del func
    gc.collect()

    assert len(functions._by_value) == 0


def test_the_memory_of_pickles_is_bounded() -> None:
    functions = Functions()
    kept = []
    for n in range(1100):
        namespace = notebook(f"def job(): return {n}")
        kept.append(namespace["job"])
        functions.pickle(namespace["job"])

    assert len(functions._by_value) == 1024
    assert run(functions.pickle(kept[0])) == 0


# --- never stale --------------------------------------------------------------------------------------------------

PROGRAM = """
import math

def show(value):
    return value() if getattr(value, "__name__", "") == "<lambda>" else repr(value)

def helper(default=0):
    return [show(default), show(g2), show(g3) if "g3" in globals() else "no g3"]

def make(value):
    def job(default=0, *, keyword=0):
        def nested():
            return show(g1)
        class Body:
            attribute = "body"
        seen = []
        for read in (lambda: g0, nested, helper, lambda: value, lambda: default, lambda: keyword,
                     lambda: math.floor(2.5), lambda: later, lambda: other.mark):
            try:
                seen.append(show(read()) if read is not helper and read is not nested else read())
            except (NameError, AttributeError, TypeError) as error:
                seen.append(type(error).__name__)
        return seen
    return job

def other():
    return "other"

other.mark = 0
swapped = [helper.__code__, (lambda default=0: [show(g0)]).__code__]
g0 = g1 = g2 = g3 = 0
job = make(0)
"""


def values() -> list[Callable[[], Any]]:
    """Makers of values: equal ones of other types, mutable ones, callables; each call makes a new object."""
    shared = [1]
    return [
        lambda: 1,
        lambda: True,
        lambda: 1.0,
        lambda: -0.0,
        lambda: 0.0,
        lambda: int("100000"),
        lambda: "text",
        lambda: None,
        lambda: (1, (2,)),
        lambda: (1, [2]),
        lambda: shared,
        lambda: [1, 2],
        lambda: {"a": 1},
        lambda: frozenset({1, 2}),
        lambda: math.sqrt,
        lambda: math,
        lambda: lambda: 5,
        lambda: lambda: shared[0],
        lambda: Importable,
        lambda: types.SimpleNamespace(x=1),
    ]


def mutate(value: Any) -> None:
    """Change a value where it is, if that is possible."""
    if isinstance(value, list):
        value.append(len(value))
    elif isinstance(value, dict):
        value["n"] = len(value)
    elif isinstance(value, types.SimpleNamespace):
        value.x += 1
    elif isinstance(value, tuple) and isinstance(value[1], list):
        value[1].append(3)
    elif isinstance(value, types.FunctionType) and value.__closure__:
        value.__closure__[0].cell_contents[0] += 1


PLACES = ["g0", "g1", "g2", "g3", "later", "max", "cell", "default", "keyword", "helper", "mark", "code", "rebuild"]


def change(namespace: dict[str, Any], place: str, value: Any) -> None:
    job = namespace["job"]
    if place == "cell":
        job.__closure__[job.__code__.co_freevars.index("value")].cell_contents = value
    elif place == "default":
        job.__defaults__ = (value,)
    elif place == "keyword":
        job.__kwdefaults__["keyword"] = value
    elif place == "helper":
        namespace["helper"].__defaults__ = (value,)
    elif place == "mark":
        namespace["other"].mark = value
    elif place == "code":
        codes = namespace["swapped"]
        namespace["helper"].__code__ = codes[namespace["helper"].__code__ is codes[0]]
    elif place == "rebuild":
        namespace["job"] = namespace["make"](value)
    else:
        namespace[place] = value


steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from(PLACES), st.integers(0, len(values()) - 1)),
        st.tuples(st.just("mutate"), st.sampled_from(["g0", "g1", "g2", "g3"]), st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from(["g0", "g2", "g3", "later"]), st.just(0)),
        st.tuples(st.just("nothing"), st.just(""), st.just(0)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_whatever_changes_between_two_pickles_the_second_is_as_a_fresh_one(steps: list[tuple[str, str, int]]) -> None:
    namespace, functions, pool = notebook(PROGRAM), Functions(), values()
    functions.pickle(namespace["job"])

    for kind, place, index in steps:
        if kind == "change":
            change(namespace, place, pool[index]())
        elif kind == "mutate":
            mutate(namespace.get(place))
        elif kind == "delete":
            namespace.pop(place, None)
        kept = run(functions.pickle(namespace["job"]))
        fresh = pickle.loads(cloudpickle.dumps(namespace["job"], 5))()

        assert kept == fresh


def test_the_program_of_the_test_above_is_remembered_while_nothing_changes() -> None:
    namespace, functions = notebook(PROGRAM), Functions()

    first = functions.pickle(namespace["job"])

    assert functions.pickle(namespace["job"]) is first


def test_threads_that_change_and_pickle_at_once_never_keep_a_stale_pickle() -> None:
    namespace, functions = notebook("n = 0\ndef helper(): return n\ndef job(): return helper(), n"), Functions()
    stop = threading.Event()

    def pickle_on() -> None:
        while not stop.is_set():
            run(functions.pickle(namespace["job"]))

    with ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(pickle_on) for _ in range(2)]
        seen = []
        for n in range(300):
            namespace["n"] = n
            seen.append(run(functions.pickle(namespace["job"])))
        stop.set()
        for future in pending:
            future.result(timeout=10)

    assert seen == [(n, n) for n in range(300)]
