from __future__ import annotations

import functools
import pickle
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from cluster.client.functions import Functions
from cluster.client.payload import dump_call, dump_items, reduce_job


class Holder:
    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def method(self) -> bool:
        return bool(self.lock.locked())


class Sulking:
    def __reduce__(self) -> Any:
        raise ValueError("not today")


class FakeJob(Future[int]):
    def __reduce__(self) -> Any:
        return reduce_job("s-1")


def refusal_of(func: Any) -> str:
    with pytest.raises((TypeError, pickle.PicklingError)) as caught:
        Functions().pickle(func)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_a_captured_variable_is_named_with_its_type_and_a_remedy() -> None:
    lock = threading.Lock()

    def f() -> bool:
        return lock.locked()

    text = refusal_of(f)

    assert "f' captures 'lock' (a _thread.lock), which can't be sent: TypeError" in text
    assert text.endswith("create it inside the function")


def test_a_global_variable_is_named() -> None:
    namespace: dict[str, Any] = {"__name__": "notebook", "lock": threading.Lock()}
    exec("def f():\n    def inner(): return lock\n    return inner", namespace)

    assert "function 'f' captures 'lock'" in refusal_of(namespace["f"])


def test_a_default_is_named() -> None:
    def f(first: int, lock: Any = threading.Lock()) -> Any:  # noqa: B008
        return lock

    assert "captures 'lock' (a _thread.lock)" in refusal_of(f)


def test_the_way_through_another_function_and_an_attribute_is_shown() -> None:
    holder = Holder(threading.Lock())

    def helper() -> bool:
        return holder.method()

    text = refusal_of(lambda: not helper())

    assert "captures 'helper', which captures 'holder.lock' (a _thread.lock)" in text


def test_the_object_of_a_bound_method_is_named() -> None:
    assert "function 'Holder.method' captures 'self.lock'" in refusal_of(Holder(threading.Lock()).method)


def test_the_argument_of_a_partial_is_named() -> None:
    text = refusal_of(functools.partial(pow, 2, threading.Lock()))

    assert "function 'pow' captures 'argument 1' (a _thread.lock)" in text


def test_a_captured_job_is_to_be_passed_as_an_argument() -> None:
    job = FakeJob()

    text = refusal_of(lambda: job.result() + 1)

    assert "captures 'job'" in text
    assert text.endswith("pass it as an argument instead, and the function gets its result")


def test_another_error_than_a_type_error_arrives_as_a_pickling_error() -> None:
    thing = Sulking()

    with pytest.raises(pickle.PicklingError, match=r"captures 'thing' .*ValueError: not today") as caught:
        Functions().pickle(lambda: thing)

    assert isinstance(caught.value.__cause__, ValueError)


def test_a_function_that_captures_itself_does_not_send_the_search_round_in_circles() -> None:
    lock = threading.Lock()

    def f(n: int) -> Any:
        return lock if n == 0 else f(n - 1)

    assert "captures 'lock'" in refusal_of(f)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((1, threading.Lock()), {}, r"^argument 1 \(a _thread.lock\), which can't be sent"),
        ((1,), {"x": threading.Lock()}, r"^argument 'x' \(a _thread.lock\), which can't be sent"),
        (([1, {"a": threading.Lock()}],), {}, r"^argument 0 holds \"\[1\]\['a'\]\" \(a _thread.lock\)"),
        ((Holder(threading.Lock()),), {}, r"^argument 0 holds 'lock' \(a _thread.lock\)"),
    ],
)
def test_the_argument_that_cannot_be_sent_is_named(args: Any, kwargs: Any, expected: str) -> None:
    with pytest.raises(TypeError, match=expected):
        dump_call(args, kwargs)


def test_the_item_of_a_map_is_named_too() -> None:
    with pytest.raises(TypeError, match=r"^item 2, argument 0 \(a _thread.lock\)"):
        dump_items([(1,), (2,), (threading.Lock(),)])
