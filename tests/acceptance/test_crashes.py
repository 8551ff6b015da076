"""Issue 2: whatever a job does to its process is told on that job alone; 100 neighbours are right, and the pool whole."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cluster
from cluster.core.records import Ending
from tests.acceptance import tasks
from tests.worker.gate import Gate

# Name, task, its arguments, the error's type, words of its text, and what the certificate must hold.
Kind = tuple[Callable[..., Any], tuple[Any, ...], type[BaseException], str, dict[str, Any]]
KINDS: dict[str, Kind] = {
    "sys.exit": (tasks.leave, (), cluster.RemoteError, "SystemExit: left by sys.exit", {"ending": Ending.RAISED}),
    "os._exit(0)": (tasks.vanish, (), cluster.JobCrashed, "exit", {"ending": Ending.CRASHED, "exit_code": 0}),
    "os._exit(3)": (tasks.vanish, (3,), cluster.JobCrashed, "3", {"ending": Ending.CRASHED, "exit_code": 3}),
    "abort": (tasks.abort, (), cluster.JobCrashed, "SIGABRT", {"signal": signal.SIGABRT}),
    "segfault": (tasks.segfault, (), cluster.JobCrashed, "SIGSEGV", {"signal": signal.SIGSEGV}),
    "SIGKILL": (tasks.kill_itself, (), cluster.JobCrashed, "SIGKILL", {"signal": signal.SIGKILL}),
    "SIGTERM": (tasks.kill_itself, (signal.SIGTERM,), cluster.JobCrashed, "SIGTERM", {"signal": signal.SIGTERM}),
    "KeyboardInterrupt": (tasks.interrupt, (), cluster.RemoteError, "KeyboardInterrupt", {"ending": Ending.RAISED}),
    "result that can't be pickled": (
        tasks.give_lock, (), cluster.RemoteError, "its result can't be pickled: TypeError: cannot pickle '_thread.lock'",
        {"ending": Ending.UNPICKLABLE},
    ),
    "result that can't be unpickled": (
        tasks.give, (tasks.AtUnpickle, "error"), cluster.RemoteError, "as it should", {},
    ),
    "exception that can't be pickled": (
        tasks.fail_with, (tasks.WithLock, "locked up"), cluster.RemoteError, "WithLock: locked up",
        {"ending": Ending.RAISED},
    ),
    "exception that can't be unpickled": (
        tasks.fail_with, (tasks.WithTwo, "fault", "home"), cluster.RemoteError, "WithTwo: fault at home",
        {"ending": Ending.RAISED},
    ),
    "exception that ends who unpickles it": (
        tasks.fail_with, (tasks.Rude, "bye"), cluster.RemoteError, "Rude: bye", {"ending": Ending.RAISED},
    ),
    "exception without a text": (tasks.fail_with, (tasks.Mute,), tasks.Mute, "", {}),
    "StopIteration": (tasks.fail_with, (StopIteration, "end"), cluster.RemoteError, "StopIteration: end", {}),
    "its own exception": (tasks.fail, (), RuntimeError, "as it should", {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_is_named_on_its_own_job_and_a_hundred_neighbours_are_right(
    pool: cluster.Cluster, tmp_path: Path, kind: str
) -> None:
    # A child that calls `sys.exit`, `os._exit(0)`, aborts, segfaults, is SIGKILLed, raises `KeyboardInterrupt`, or
    # returns or raises something that cannot be pickled or unpickled: an error naming exactly that on its own job, 100
    # neighbours right, pool whole.
    func, args, error_type, words, facts = KINDS[kind]

    # Neighbours that may be started once only: one that was blamed by mistake, or run twice, would not be right.
    before = [pool.submit(pow, (n, 2), crash_limit=0) for n in range(50)]
    bad = pool.submit(func, args, crash_limit=0)
    after = [pool.submit(pow, (n, 2), crash_limit=0) for n in range(50, 100)]

    with pytest.raises(error_type) as raised:
        bad.result(timeout=20)
    if words:
        assert words in str(raised.value)
    told = getattr(raised.value, "certificate", None)
    for name, value in facts.items():
        assert getattr(told, name) == value
    assert [job.result(timeout=20) for job in before + after] == [n**2 for n in range(100)]
    assert_whole(pool, tmp_path)


def assert_whole(pool: cluster.Cluster, folder: Path) -> None:
    """Both slots run a job at the same time, in processes of their own."""
    gate = Gate(folder)
    jobs = [pool.submit(gate.pass_through) for _ in range(2)]
    pids = {gate.wait_entered() for _ in jobs}
    gate.release(2)
    assert {job.result(timeout=20) for job in jobs} == pids
    assert len(pids) == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][2] is cluster.JobCrashed])
def test_a_task_that_kills_every_child_is_given_up_after_its_crash_limit(pool: cluster.Cluster, kind: str) -> None:
    func, args, *_ = KINDS[kind]

    job = pool.submit(func, args, crash_limit=2)

    assert isinstance(job.exception(timeout=20), cluster.JobCrashed)
    assert job.refresh().attempts == 3
    assert [certificate.ending for _, certificate in job.history().attempts] == [Ending.CRASHED] * 3


def test_a_crash_that_is_survived_costs_no_retry(pool: cluster.Cluster) -> None:
    assert pool.submit(tasks.crash_before, (3,), retries=0).result(timeout=20) == 3


# --- loky's sixteen -----------------------------------------------------------------------------------------------------

POINTS: dict[str, Callable[[str], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "pickle": lambda way: (tasks.give, (tasks.AtPickle, way)),
    "unpickle": lambda way: (tasks.ignore, (tasks.AtUnpickle(way),)),
    "run": lambda way: (tasks.end_in, (way,)),
    "collect": lambda way: (tasks.give, (tasks.AtCollect, way)),
}
EXPECTED: dict[tuple[str, str], type[BaseException] | int] = {
    ("pickle", "exit"): cluster.RemoteError,
    ("pickle", "error"): cluster.RemoteError,
    ("unpickle", "exit"): cluster.RemoteError,
    ("unpickle", "error"): cluster.RemoteError,
    ("run", "exit"): cluster.RemoteError,
    ("run", "error"): RuntimeError,
    # Python lets no exception out of a finaliser: such a job has a result.
    ("collect", "exit"): 7,
    ("collect", "error"): 7,
}


@pytest.mark.parametrize("way", tasks.WAYS)
@pytest.mark.parametrize("point", POINTS)
def test_each_of_loky_s_sixteen_crash_points_ends_in_under_five_seconds(
    pool: cluster.Cluster, point: str, way: str
) -> None:
    # All 16 crash points of loky's deadlock tests (pickle, unpickle, run, collect x exit, C exit, error, segfault) end
    # in under 5 s.
    func, args = POINTS[point](way)
    expected = EXPECTED.get((point, way), cluster.JobCrashed)
    begun = time.monotonic()

    job = pool.submit(func, args, crash_limit=0)
    neighbours = [pool.submit(abs, (-n,), crash_limit=0) for n in range(10)]

    if isinstance(expected, int):
        assert job.result(timeout=5) == expected
    else:
        with pytest.raises(expected):
            job.result(timeout=5)
    assert [neighbour.result(timeout=5) for neighbour in neighbours] == list(range(10))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("way", ["exit", "error"])
def test_what_can_t_be_pickled_here_is_told_in_the_line_that_submits_it(pool: cluster.Cluster, way: str) -> None:
    with pytest.raises((SystemExit, pickle.PicklingError, RuntimeError)):
        _ = pool.submit(tasks.ignore, (tasks.AtPickle(way),))

    assert pool.submit(abs, (-1,)).result(timeout=5) == 1


@pytest.mark.parametrize("way", ["exit", "error"])
def test_a_result_that_harms_who_unpickles_it_harms_one_reader_and_no_thread_of_the_kit(
    pool: cluster.Cluster, way: str
) -> None:
    job = pool.submit(tasks.give, (tasks.AtUnpickle, way))
    concurrent.futures.wait([job], timeout=5)

    with pytest.raises(cluster.RemoteError):
        job.result(timeout=5)

    assert pool.submit(os.getpid).result(timeout=5) != os.getpid()


def test_a_chunk_whose_items_crash_loses_those_items_and_no_other(pool: cluster.Cluster) -> None:
    # Exactly the poison items fail, each with its own certificate; what they shared a chunk with is right.
    poison = {7: "exit", 20: "C exit", 33: "segfault", 34: "error"}

    results = list(pool.map(tasks.poisoned, range(50), [poison.get(n, "") for n in range(50)], errors="return", chunksize=10,
                            crash_limit=1))  # fmt: skip

    assert [n for n in range(50) if n not in poison] == [result for result in results if isinstance(result, int)]
    assert [type(results[n]) for n in sorted(poison)] == [
        cluster.RemoteError, cluster.JobCrashed, cluster.JobCrashed, RuntimeError,
    ]  # fmt: skip
