"""What can't be meant is refused where it is written, in a sentence; the cluster goes on."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cluster
from tests.acceptance import tasks

Call = Callable[[Any], Any]


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def c(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("store")
    store = "memory:" if request.param == "memory" else f"sqlite:///{folder}/jobs.db"
    with cluster.local(slots=1, store=store) as handle:
        yield handle


class Pair(NamedTuple):
    a: int
    b: int


def nested() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


HALF = "\ud800"  # of a surrogate pair: no UTF-8, so it fits into no record
REFUSED: dict[str, tuple[Call, type[BaseException], str]] = {
    "no function": (lambda c: c.submit(None), TypeError, "callable or 'module:name', not NoneType"),
    "a result for a function": (lambda c: c.submit(abs(-1)), TypeError, "the function itself, not its result"),
    "a name without a module": (lambda c: c.submit("abs"), TypeError, "write 'module:name'"),
    "a text for args": (lambda c: c.submit(len, "abc"), TypeError, "write submit(len, ('abc',))"),
    "a named tuple for args": (lambda c: c.submit(len, Pair(1, 2)), TypeError, "submit(len, tuple(args))"),
    "a list for kwargs": (lambda c: c.submit(dict, (), [1]), TypeError, "kwargs must be a dict or None, not list"),
    "numbers for names": (lambda c: c.submit(dict, (), {1: 2}), TypeError, "kwargs must have names as keys, not 1"),
    "a lock as argument": (lambda c: c.submit(len, (threading.Lock(),)), TypeError, "argument 0 (a _thread.lock)"),
    "a handle as argument": (lambda c: c.submit(len, (c,)), TypeError, "argument 0 holds"),
    "an argument too deep": (lambda c: c.submit(len, (nested(),)), Exception, "argument 0"),
    "a negative timeout": (lambda c: c.submit(abs, (1,), timeout=-1), ValueError, "a duration above zero"),
    "no time at all": (lambda c: c.submit(abs, (1,), timeout=0), ValueError, "a duration above zero"),
    "an endless timeout": (lambda c: c.submit(abs, (1,), timeout=float("inf")), ValueError, "at most a hundred years"),
    "a timeout that is no number": (lambda c: c.submit(abs, (1,), timeout=float("nan")), ValueError, "finite"),
    "a timeout in parsecs": (lambda c: c.submit(abs, (1,), timeout="10 parsecs"), ValueError, "'10m'"),
    "a true timeout": (lambda c: c.submit(abs, (1,), timeout=True), TypeError, "not True (bool)"),
    "half a retry": (lambda c: c.submit(abs, (1,), retries=0.5), TypeError, "a whole number"),
    "fewer retries than none": (lambda c: c.submit(abs, (1,), retries=-1), ValueError, "a whole number from 0"),
    "a huge priority": (lambda c: c.submit(abs, (1,), priority=10**30), ValueError, "from -2147483647 to 2147483647"),
    "a text for tags": (lambda c: c.submit(abs, (1,), tags="night"), TypeError, "tags=('night',)"),
    "half a resource": (lambda c: c.submit(abs, (1,), resources={"gpu": 0.5}), TypeError, "a whole number, not 0.5"),
    "a moment and a delay": (
        lambda c: c.submit(abs, (1,), delay=1, at=datetime.now(UTC)), TypeError, "exclude each other",
    ),
    "a job of another cluster": (lambda c: c.submit(abs, (1,), after="no-such"), cluster.Refused, "not in this cluster"),
    "half a character for a name": (lambda c: c.submit(abs, (1,), name=HALF), ValueError, "a surrogate"),
    "half a character for a key": (lambda c: c.submit(abs, (1,), key=HALF), ValueError, "a surrogate"),
    "half a character for a tag": (lambda c: c.submit(abs, (1,), tags=[HALF]), ValueError, "a surrogate"),
    "half a character for a queue": (lambda c: c.queue(HALF).pause(), ValueError, "a surrogate"),
    "half a character for a job": (lambda c: c.submit(abs, (1,), after=HALF), TypeError, "a Job, its id"),
    "half a character for an id": (lambda c: c.job(HALF), cluster.UnknownJob, "no job '\\ud800' here"),
    "nothing to map": (lambda c: c.map(abs), TypeError, "at least one iterable"),
    "chunks of none": (lambda c: c.map(abs, [1], chunksize=0), ValueError, "from 1 on"),
    "a key for a map": (lambda c: c.map(abs, [1], key="x"), TypeError, "a map has no `key`"),
    "errors to swallow": (lambda c: c.map(abs, [1], errors="swallow"), ValueError, "'raise', 'return', 'skip'"),
    "a state that isn't": (lambda c: list(c.jobs(state="runing")), cluster.Refused, "did you mean 'running'?"),
    "a job that isn't, requeued": (lambda c: c.requeue(["no-such"]), cluster.UnknownJob, "no-such"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_t_be_meant_is_refused_in_a_sentence(c: cluster.Cluster, what: str) -> None:
    call, error_type, words = REFUSED[what]

    with pytest.raises(error_type) as raised:
        answer = call(c)
        if isinstance(answer, cluster.Job):
            answer.result(timeout=20)

    assert words in str(raised.value)
    assert c.submit(abs, (-1,)).result(timeout=20) == 1


async def double(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, m: int) -> int:
        return self.n + m

    def __call__(self, m: int) -> int:
        return self.n * m

    @classmethod
    def make(cls, n: int) -> Adder:
        return cls(n)


ACCEPTED: dict[str, tuple[Callable[..., Any] | str, tuple[Any, ...], Any]] = {
    "a coroutine function": (double, (4,), 8),
    "a bound method": (Adder(1).add, (2,), 3),
    "a callable object": (Adder(2), (3,), 6),
    "a partial": (functools.partial(pow, 2), (5,), 32),
    "a lambda": (lambda n: n + 1, (1,), 2),
    "a name": ("math:sqrt", (4,), 2.0),
    "a dotted name": ("os:path.join", ("a", "b"), "a/b"),
    "a class": (complex, (1, 2), 1 + 2j),
    "empty arguments": (dict, (), {}),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_whatever_can_be_called_can_be_submitted(c: cluster.Cluster, what: str) -> None:
    func, args, expected = ACCEPTED[what]

    assert c.submit(func, args).result(timeout=20) == expected


def test_a_function_whose_name_is_no_text_runs_and_is_listed(c: cluster.Cluster) -> None:
    def task() -> int:
        return 5

    task.__qualname__ = f"odd{HALF}"

    job = c.submit(task)

    assert job.result(timeout=20) == 5
    assert job.refresh().name.endswith("odd\\ud800")


def test_an_item_that_can_t_be_pickled_fails_alone(c: cluster.Cluster) -> None:
    results = list(c.map(tasks.give, [abs, len, abs], [-1, threading.Lock(), -3], errors="return"))

    assert (results[0], results[2]) == (1, 3)
    assert isinstance(results[1], TypeError)
    assert "item 0, argument 1 (a _thread.lock)" in str(results[1])


def test_a_job_can_t_be_pickled_and_says_what_to_do_instead(c: cluster.Cluster) -> None:
    import pickle

    job = c.submit(abs, (-9,))

    with pytest.raises(TypeError, match=r"pass it as an argument of submit"):
        pickle.dumps(job)
    with pytest.raises(TypeError, match=r"captures 'job'"):
        _ = c.submit(lambda: job)
