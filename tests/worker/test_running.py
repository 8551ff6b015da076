from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import cloudpickle
import pytest

from cluster.core.records import Ending, Segment
from cluster.worker.channel import Task
from cluster.worker.functions import Functions
from cluster.worker.running import Ended, run_call, run_carefully, run_chunk

LIMIT = 1 << 20
DEADLINE_SECONDS = 60.0


def call(function: Any, *args: Any, payload: bytes | None = None, limit: int = LIMIT, **kwargs: Any) -> Ended:
    data = cloudpickle.dumps((args, kwargs), protocol=5) if payload is None else payload
    task = Task("j", 1, 1, b"d", cloudpickle.dumps(function, protocol=5), False, data, None)
    functions = Functions()
    functions.keep(task)
    return run_call(functions, task, limit)


def chunk(
    function: Any, items: Any, run: Callable[..., Ended] = run_chunk, ranges: tuple[tuple[int, int], ...] = ()
) -> Ended:
    data = cloudpickle.dumps(items, protocol=5)
    body = cloudpickle.dumps(function, protocol=5)
    task = Task("j", 1, 1, b"d", body, False, data, None, ranges=ranges or ((0, len(items)),))
    functions = Functions()
    functions.keep(task)
    return run(functions, task, LIMIT)


def shape(segments: tuple[Segment, ...]) -> list[tuple[int, int, Any]]:
    """(first, count, results or how it failed) of each segment."""
    return [
        (s.first, s.count, pickle.loads(s.data) if s.certificate is None else s.certificate.ending) for s in segments
    ]


def reason_of(ended: Ended) -> str:
    assert ended.certificate is not None
    return ended.certificate.reason


# --- one call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "text", b"bytes", [1, {2: "x"}], (1,), {4}])
def test_a_result_comes_back(value: Any) -> None:
    ended = call(lambda x: x, value)

    assert ended.ending is Ending.SUCCEEDED
    assert pickle.loads(ended.payload) == value


def test_keywords_are_passed() -> None:
    assert pickle.loads(call(lambda a, *, b: (a, b), 1, b=2).payload) == (1, 2)


def test_a_lambda_can_be_returned() -> None:
    assert pickle.loads(call(lambda: lambda x: x + 1).payload)(1) == 2


@pytest.mark.parametrize(
    "error", [ValueError("v"), SystemExit(7), KeyboardInterrupt(), GeneratorExit(), StopIteration(3), MemoryError()]
)
def test_whatever_is_raised_is_the_task_s_own_failure(error: BaseException) -> None:
    def fail() -> None:
        raise error

    ended = call(fail)

    assert ended.ending is Ending.RAISED
    assert type(error).__name__ in reason_of(ended)
    assert type(pickle.loads(ended.payload)) is type(error)


def test_endless_recursion_is_raised() -> None:
    def dive() -> None:
        dive()

    ended = call(dive)

    assert ended.ending is Ending.RAISED
    assert "RecursionError" in reason_of(ended)


def test_the_traceback_begins_in_the_task() -> None:
    def fail() -> None:
        raise ValueError("here")

    certificate = call(fail).certificate

    assert certificate is not None
    assert "in fail" in certificate.traceback
    assert "run_call" not in certificate.traceback


def test_a_result_that_can_t_be_pickled_is_named() -> None:
    ended = call(threading.Lock)

    assert ended.ending is Ending.UNPICKLABLE
    assert reason_of(ended).startswith("its result can't be pickled: TypeError: ")


def test_a_coroutine_made_by_a_plain_function_is_a_result_like_any() -> None:
    def make() -> Any:
        async def later() -> None: ...

        return later()

    with pytest.warns(RuntimeWarning, match="never awaited"):
        ended = call(make)

    assert ended.ending is Ending.UNPICKLABLE


def test_a_result_that_nests_too_deeply_is_named() -> None:
    def nest() -> list[Any]:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        return deep

    ended = call(nest)

    assert ended.ending is Ending.UNPICKLABLE
    assert "its result can't be pickled" in reason_of(ended)


def test_a_result_above_the_bound_is_named_with_both_sizes() -> None:
    ended = call(lambda: b"x" * 2000, limit=1000)

    assert ended.ending is Ending.UNPICKLABLE
    assert "2,0" in reason_of(ended)
    assert "1,000" in reason_of(ended)


def test_arguments_that_can_t_be_unpickled_are_named() -> None:
    missing = cloudpickle.dumps(((), {})).replace(b"}", b"") + b"junk"

    ended = call(len, payload=missing)

    assert ended.ending is Ending.UNPICKLABLE
    assert reason_of(ended).startswith("its arguments can't be unpickled on the worker: ")


def test_a_missing_module_is_named() -> None:
    payload = b"cno_such_module_here\nthing\n."

    assert "ModuleNotFoundError: No module named 'no_such_module_here'" in reason_of(call(len, payload=payload))


def test_a_function_that_can_t_be_loaded_is_named() -> None:
    ended = call("no_such_module_here:f")

    assert ended.ending is Ending.UNPICKLABLE
    assert reason_of(ended).startswith("its function can't be loaded on the worker: ModuleNotFoundError")


def test_arguments_and_result_are_gone_when_the_job_has_ended() -> None:
    gone: list[str] = []

    class Traced:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            gone.append(self.name)

    def make(*, fails: bool) -> Any:
        held = Traced("local")
        if fails:
            raise ValueError("v")
        return held.name

    function = make
    task = Task("j", 1, 1, b"d", b"x", True, pickle.dumps(((), {"fails": False})), None)
    functions = Functions()
    functions.keep(task)
    functions._loaded[b"d"] = function
    run_call(functions, task, LIMIT)
    after_success = list(gone)
    failing = Task("j", 1, 1, b"d", b"", True, pickle.dumps(((), {"fails": True})), None)

    run_call(functions, failing, LIMIT)

    assert after_success == ["local"]
    assert gone == ["local", "local"]


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_all_items_of_a_chunk_are_one_segment() -> None:
    ended = chunk(lambda x: x * 2, [(1,), (2,), (3,)])

    assert ended.ending is Ending.SUCCEEDED
    assert shape(ended.segments) == [(0, 3, [2, 4, 6])]


def column(function: Any, values: list[Any], ranges: tuple[tuple[int, int], ...], run: Any = run_chunk) -> Ended:
    return chunk(function, (values,), run, ranges)


def test_of_a_column_each_value_is_the_one_argument() -> None:
    ended = column(lambda x: 10 // x, [1, 2, 0, 5, 0, 10], ((0, 2), (2, 6)))

    assert [(part.first, part.count, part.certificate is None) for part in ended.segments] == [
        (0, 2, True), (2, 1, False), (3, 1, True), (4, 1, False), (5, 1, True),
    ]  # fmt: skip
    assert [pickle.loads(part.data) for part in ended.segments if part.certificate is None] == [[10, 5], [2], [1]]


@pytest.mark.parametrize("items", [[(1,), (2,), (3,)], ([1, 2, 3],)])
def test_a_stop_iteration_of_one_item_ends_no_other(items: Any) -> None:
    def stop(x: int) -> int:
        if x == 2:
            raise StopIteration
        return x

    ended = chunk(stop, items, ranges=((0, 3),))

    assert [(part.first, part.certificate is None) for part in ended.segments] == [(0, True), (1, False), (2, True)]
    failed = ended.segments[1].certificate
    assert failed is not None
    assert "StopIteration" in failed.reason


@pytest.mark.parametrize("items", [[(1,), (2,)], ([1, 2],), [pickle.dumps((1,)), pickle.dumps((2,))], [], ([],)])
def test_items_that_are_not_there_fail_one_by_one(items: Any) -> None:
    ended = chunk(lambda x: x, items, ranges=((0, 4),))

    failed = [part for part in ended.segments if part.certificate is not None]
    assert sum(part.count for part in ended.segments) == 4
    assert failed[-1].certificate is not None
    assert "has no item 3" in failed[-1].certificate.reason


def test_only_the_ranges_are_run() -> None:
    ended = chunk(lambda x: x, [(n,) for n in range(10)], ranges=((1, 3), (7, 8)))

    assert shape(ended.segments) == [(1, 2, [1, 2]), (7, 1, [7])]


def test_a_failed_item_is_a_segment_of_its_own() -> None:
    ended = chunk(lambda x: 1 // x, [(1,), (0,), (2,), (0,)])

    assert shape(ended.segments) == [(0, 1, [1]), (1, 1, Ending.RAISED), (2, 1, [0]), (3, 1, Ending.RAISED)]
    assert ended.ending is Ending.RAISED
    assert ended.certificate is not None
    assert ended.certificate.item == 1
    assert isinstance(pickle.loads(ended.segments[1].data), ZeroDivisionError)


def test_an_item_whose_result_can_t_be_pickled_fails_alone() -> None:
    ended = chunk(lambda x: threading.Lock() if x == 1 else x, [(0,), (1,), (2,)])

    assert shape(ended.segments) == [(0, 1, [0]), (1, 1, Ending.UNPICKLABLE), (2, 1, [2])]


def test_an_item_that_can_t_be_unpickled_fails_alone() -> None:
    items = [pickle.dumps((1,)), b"garbage", pickle.dumps((3,))]

    ended = chunk(lambda x: x, items)

    assert shape(ended.segments) == [(0, 1, [1]), (1, 1, Ending.UNPICKLABLE), (2, 1, [3])]


def test_every_kind_of_exception_is_the_item_s_own() -> None:
    def leave(x: int) -> int:
        if x == 1:
            raise SystemExit(1)
        raise KeyboardInterrupt

    ended = chunk(leave, [(1,), (2,)])

    assert shape(ended.segments) == [(0, 1, Ending.RAISED), (1, 1, Ending.RAISED)]


def test_a_list_that_can_t_be_unpickled_fails_the_chunk() -> None:
    task = Task("j", 1, 1, b"d", cloudpickle.dumps(len), False, b"garbage", None, ranges=((0, 2),))
    functions = Functions()
    functions.keep(task)

    for run in (run_chunk, lambda f, t, limit: run_carefully(f, t, lambda item: None, lambda segment: None)):
        ended = run(functions, task, LIMIT)
        assert ended.ending is Ending.UNPICKLABLE
        assert ended.segments == ()


def test_a_careful_chunk_tells_of_each_item() -> None:
    told: list[object] = []

    def run(functions: Functions, task: Task, limit: int) -> Ended:
        return run_carefully(functions, task, told.append, lambda segment: told.append(shape((segment,))[0]))

    ended = chunk(lambda x: 1 // x, [(1,), (0,), (2,)], run)

    assert told == [0, (0, 1, [1]), 1, (1, 1, Ending.RAISED), 2, (2, 1, [0])]
    assert ended.ending is Ending.RAISED
    assert ended.segments == ()


@pytest.mark.parametrize("run", [run_chunk, lambda f, t, _: run_telling(f, t)])
@pytest.mark.parametrize("items", [[(0.02,), (0.01,)], ([0.02, 0.01],)])
def test_what_the_items_took_is_told(run: Any, items: Any) -> None:
    ended = chunk(busy, items, run, ranges=((0, 2),))

    assert 0.03 <= sum(part.seconds for part in ended.segments) < DEADLINE_SECONDS


def test_what_a_failed_item_took_is_told_too() -> None:
    def fail(seconds: float) -> None:
        busy(seconds)
        raise ValueError

    ended = chunk(fail, [(0.02,), (0.01,)])

    assert [part.count for part in ended.segments] == [1, 1]
    assert ended.segments[0].seconds >= 0.02
    assert ended.segments[1].seconds >= 0.01


def test_what_unpickling_the_function_took_is_no_item_s() -> None:
    ended = chunk(SlowToLoad(), [(1,)])

    assert shape(ended.segments) == [(0, 1, [1])]
    assert ended.segments[0].seconds < SlowToLoad.seconds


def busy(seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


class SlowToLoad:
    seconds = 0.5

    def __call__(self, x: int) -> int:
        return x

    def __reduce__(self) -> tuple[Any, ...]:
        return load_slowly, ()


def load_slowly() -> SlowToLoad:
    busy(SlowToLoad.seconds)
    return SlowToLoad()


def run_telling(functions: Functions, task: Task) -> Ended:
    told: list[Segment] = []
    ended = run_carefully(functions, task, lambda item: None, told.append)
    return Ended(ended.ending, segments=tuple(told))


def test_a_range_is_run_as_its_numbers() -> None:
    ended = chunk(lambda x: 10 // x, (range(3, -1, -1),), ranges=((0, 1), (2, 4)))

    assert shape(ended.segments) == [(0, 1, [3]), (2, 1, [10]), (3, 1, Ending.RAISED)]


def test_a_chunk_s_results_above_the_bound_are_named() -> None:
    ended = chunk(lambda x: b"x" * x, [(LIMIT,), (LIMIT,)])

    assert ended.ending is Ending.UNPICKLABLE
    assert "more than" in reason_of(ended)
