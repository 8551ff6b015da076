from __future__ import annotations

import functools
import pickle
from typing import Any

import cloudpickle
import pytest

from cluster.worker.channel import Task
from cluster.worker.functions import MAX_FUNCTIONS, Functions


def task(digest: bytes, function: Any = None, *, is_reusable: bool = False) -> Task:
    body = b"" if function is None else cloudpickle.dumps(function, protocol=5)
    return Task("j", 1, 1, digest, body, is_reusable, b"", None)


def test_a_function_is_loaded_from_its_pickle() -> None:
    functions = Functions()

    assert functions.keep(task(b"d", lambda x: x + 1))
    assert functions.load(task(b"d"))(1) == 2


def test_a_name_is_imported() -> None:
    functions = Functions()
    functions.keep(task(b"d", "os.path:join"))

    assert functions.load(task(b"d"))("a", "b") == "a/b"


def test_a_reusable_function_stays_loaded_and_another_is_loaded_anew() -> None:
    functions = Functions()
    counter: list[int] = []

    def count() -> int:
        counter.append(1)
        return len(counter)

    for reusable in (False, True):
        functions.keep(task(b"%d" % reusable, count, is_reusable=reusable))

    assert [functions.load(task(b"0"))() for _ in range(2)] == [1, 1]
    assert [functions.load(task(b"1", is_reusable=True))() for _ in range(2)] == [1, 2]


def test_a_function_that_never_came_or_was_dropped_is_missing() -> None:
    functions = Functions()
    functions.keep(task(b"first", len, is_reusable=True))
    functions.load(task(b"first", is_reusable=True))
    for number in range(MAX_FUNCTIONS):
        functions.keep(task(b"%d" % number, len))

    assert not functions.keep(task(b"first"))
    assert not functions.keep(task(b"never"))
    assert functions.keep(task(b"7"))


def test_a_coroutine_function_runs_under_asyncio() -> None:
    async def add(x: int, y: int) -> int:
        return x + y

    functions = Functions()
    functions.keep(task(b"plain", add))
    functions.keep(task(b"partial", functools.partial(add, 1)))

    assert functions.load(task(b"plain"))(1, 2) == 3
    assert functions.load(task(b"partial"))(2) == 3


@pytest.mark.parametrize(("wrong", "error"), [(3, TypeError), ("no_such_module:f", ImportError)])
def test_what_is_no_function_raises(wrong: object, error: type[Exception]) -> None:
    functions = Functions()
    functions.keep(task(b"d", wrong))

    with pytest.raises(error):
        functions.load(task(b"d"))


def test_a_body_that_is_no_pickle_raises() -> None:
    functions = Functions()
    functions.keep(Task("j", 1, 1, b"d", b"garbage", False, b"", None))

    with pytest.raises(pickle.UnpicklingError):
        functions.load(task(b"d"))
