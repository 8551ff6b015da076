from __future__ import annotations

import inspect
import pickle
from typing import Any

import cloudpickle
import pytest

from cluster.client.options import NO_OPTIONS, parse_options
from cluster.client.task import Task, defaults_of, task


@task
def bare(x: int) -> int:
    """The function's own text."""
    return x + 1


@task(retries=3, timeout="10m")
def with_options(x: int, *, y: int = 0) -> int:
    return x + y


class RecordingHandle:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, func: Any, args: Any, kwargs: Any, **options: Any) -> str:
        self.calls.append((func, args, kwargs, options))
        return "the job"


def test_a_called_task_runs_here() -> None:
    assert bare(1) == 2
    assert with_options(1, y=2) == 3


def test_a_task_looks_like_its_function() -> None:
    assert bare.__name__ == "bare"
    assert bare.__doc__ == "The function's own text."
    assert str(inspect.signature(with_options)) == "(x: 'int', *, y: 'int' = 0) -> 'int'"
    assert repr(bare) == "<cluster.task bare>"


def test_a_tasks_options_are_the_defaults_of_its_jobs() -> None:
    assert defaults_of(bare) is NO_OPTIONS
    assert defaults_of(with_options) == parse_options({"retries": 3, "timeout": 600})
    assert defaults_of(len) is NO_OPTIONS


def test_options_make_another_task_and_leave_this_one() -> None:
    other = with_options.options(timeout=None, priority=2)

    assert other(1) == 1
    assert other.defaults.options.retry.max_retries == 3
    assert (other.defaults.options.timeout, other.defaults.options.priority) == (None, 2)
    assert with_options.defaults.options.timeout == 600.0


def test_wrong_options_are_refused_where_they_are_written() -> None:
    with pytest.raises(TypeError, match="did you mean 'retries'"):
        task(retrys=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        bare.options(timeot=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("wrong", [int, staticmethod(len), classmethod(lambda cls: cls), 3])
def test_a_task_is_made_of_a_function_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^@cluster\.task decorates a function, not a"):
        task(wrong)


def test_submit_passes_the_arguments_to_the_default_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = RecordingHandle()
    monkeypatch.setattr("cluster.client.default.current", lambda: handle)

    job: object = with_options.submit(1, y=2)

    assert job == "the job"
    assert handle.calls == [(with_options, (1,), {"y": 2}, {})]


def test_a_module_level_task_is_pickled_by_reference() -> None:
    assert pickle.loads(pickle.dumps(bare)) is bare
    assert pickle.loads(cloudpickle.dumps(bare)) is bare


def test_a_task_with_other_options_keeps_them_when_pickled() -> None:
    loaded = pickle.loads(cloudpickle.dumps(bare.options(retries=4)))

    assert isinstance(loaded, Task)
    assert loaded(1) == 2
    assert loaded.defaults.options.retry.max_retries == 4


def test_a_local_task_that_refers_to_itself_survives_pickling() -> None:
    namespace: dict[str, Any] = {"__name__": "a_notebook", "task": task}
    exec("@task(retries=2)\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)", namespace)

    loaded = pickle.loads(cloudpickle.dumps(namespace["fib"]))

    assert isinstance(loaded, Task)
    assert loaded(10) == 55
    assert loaded.defaults.options.retry.max_retries == 2
    assert loaded.function.__globals__["fib"] is loaded
