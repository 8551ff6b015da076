"""Many, large, deep, racing: what a test bench does to a pool."""

from __future__ import annotations

import itertools
import operator
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import cluster
from tests.acceptance import tasks
from tests.acceptance.programs import python


def test_a_hundred_thousand_jobs_one_by_one() -> None:
    with cluster.local(slots=2) as c:
        jobs = [c.submit(abs, (-n,)) for n in range(100_000)]

        assert sum(job.result(timeout=100) for job in jobs) == sum(range(100_000))


def test_a_hundred_thousand_items_in_a_map_durable(tmp_path: Path) -> None:
    with cluster.local(slots=2, store=f"sqlite:///{tmp_path}/jobs.db") as c:
        assert sum(c.map(abs, range(-100_000, 0))) == sum(range(100_001))


def test_a_map_of_ten_thousand_items_loses_exactly_the_hundred_poisoned_ones() -> None:
    with cluster.local(slots=2) as c:
        ways = ["" if n % 100 else "error" if n % 500 else "C exit" for n in range(10_000)]

        results = list(c.map(tasks.poisoned, range(10_000), ways, errors="return", crash_limit=0, chunksize=100))

    assert [result for result in results if isinstance(result, int)] == [n for n in range(10_000) if n % 100]
    assert Counter(type(result) for result in results if not isinstance(result, int)) == {
        RuntimeError: 80,
        cluster.JobCrashed: 20,
    }


@pytest.mark.parametrize("store", ["memory:", "sqlite:///{}/jobs.db"])
def test_fifty_megabytes_there_and_back(tmp_path: Path, store: str) -> None:
    data = os.urandom(50 << 20)
    with cluster.local(slots=2, store=store.format(tmp_path)) as c:
        there = c.submit(len, (data,))
        back = c.submit(bytes, (50 << 20,))
        both: cluster.Job[bytes] = c.submit(operator.getitem, (data, slice(None)))

        assert (there.result(timeout=60), len(back.result(timeout=60))) == (50 << 20, 50 << 20)
        assert both.result(timeout=60) == data


def test_a_result_beyond_the_limit_is_refused_by_name() -> None:
    with cluster.local(slots=1) as c:
        error = c.submit(bytes, ((1 << 30) + 1,)).exception(timeout=60)

        assert isinstance(error, cluster.RemoteError)
        assert "more than the 1,073,741,824 that a job may return" in str(error)
        assert c.submit(abs, (-1,)).result(timeout=20) == 1


def test_a_tree_and_a_chain_of_dependencies() -> None:
    with cluster.local(slots=2) as c:
        layer = [c.submit(abs, (-1,)) for _ in range(1024)]
        while len(layer) > 1:
            layer = [c.submit(operator.add, pair) for pair in zip(layer[::2], layer[1::2], strict=True)]
        chain = c.submit(abs, (-1,))
        for _ in range(2000):
            chain = c.submit(operator.add, (chain, 1))

        assert layer[0].result(timeout=60) == 1024
        assert chain.result(timeout=60) == 2001


def test_a_failure_at_the_root_of_a_long_chain_reaches_its_end() -> None:
    with cluster.local(slots=2) as c:
        chain: list[cluster.Job[None]] = [c.submit(tasks.fail)]
        for _ in range(5000):
            chain.append(c.submit(tasks.ignore, (chain[-1],)))

        error = chain[-1].exception(timeout=60)

    assert isinstance(error, cluster.DependencyFailed)
    assert chain[-2].id in str(error)


def test_an_endless_map_is_read_no_further_than_needed_and_can_be_cancelled() -> None:
    with cluster.local(slots=2) as c:
        batch = c.map(abs, itertools.count())

        first = [result for result, _ in zip(batch, range(1000), strict=False)]

        assert first == list(range(1000))
        assert batch.cancel() is True or batch.progress().done == batch.progress().submitted


def test_an_input_that_fails_is_told_after_what_came_before_it() -> None:
    def read() -> Iterator[int]:
        yield from (-1, -2)
        raise KeyError("input")

    with cluster.local(slots=1) as c:
        batch = c.map(abs, read())
        results = [next(batch), next(batch)]

        with pytest.raises(KeyError, match="input"):
            next(batch)
    assert results == [1, 2]


@pytest.mark.parametrize("wait", [True, False])
def test_closing_while_eight_threads_submit_ends_every_thread_and_every_future(wait: bool) -> None:
    c = cluster.local(slots=2)
    jobs: list[cluster.Job[int]] = []
    errors: list[BaseException] = []
    has_begun = threading.Barrier(9)

    def submit() -> None:
        jobs.append(c.submit(abs, (-1,)))
        has_begun.wait(20)
        try:
            while True:
                jobs.append(c.submit(abs, (-1,)))
        except cluster.ClusterError as error:
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    has_begun.wait(20)

    c.close(wait=wait)

    for thread in threads:
        thread.join(20)
    assert [type(error) for error in errors] == [cluster.MasterUnavailable] * 8
    ends = Counter(type(job.exception(timeout=1)) for job in jobs)
    assert set(ends) <= ({type(None)} if wait else {type(None), cluster.Detached})


def test_forks_in_the_middle_of_everything_harm_nobody(tmp_path: Path) -> None:
    ran = python(FORKS, tmp_path)
    ran.command = [ran.command[0], *ran.command[3:]]  # a fork of a program with threads is worth a warning
    told = ran.run()

    assert (told.stdout, told.returncode) == ("[0]\n", 0), told.stderr
    assert ran.is_gone()


FORKS = """
import os, threading
import cluster

with cluster.local(slots=2) as c:
    enough = threading.Event()

    def work():
        while not enough.is_set():
            assert c.submit(abs, (-1,)).result(timeout=20) == 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    ends = set()
    for _ in range(50):
        pid = os.fork()
        if pid == 0:
            try:
                c.submit(abs, (1,))
            except cluster.MasterUnavailable:
                os._exit(0)
            os._exit(1)
        ends.add(os.waitpid(pid, 0)[1])
    enough.set()
    for thread in threads:
        thread.join()
    print(sorted(ends))
"""


def test_a_hundred_crashes_and_twenty_clusters_leak_no_descriptor_and_no_thread() -> None:
    def count() -> tuple[int, int, int]:
        here = psutil.Process()
        return here.num_fds(), threading.active_count(), len(here.children())

    def use() -> int:
        with cluster.local(slots=2) as c:
            jobs = [c.submit(tasks.kill_itself, (signal.SIGKILL,), crash_limit=0) for _ in range(5)]
            return sum(job.exception(timeout=20) is not None for job in jobs)

    use()
    before = count()

    crashes = sum(use() for _ in range(20))

    assert crashes == 100
    assert count() == before


def test_a_handle_that_was_let_go_of_still_serves_its_jobs_and_leaves_nothing(tmp_path: Path) -> None:
    source = """
import gc, sys
import cluster

job = cluster.local(slots=1, store=sys.argv[1]).submit(pow, (2, 10))
gc.collect()
print(job.result(timeout=20))
"""
    program = python(source, tmp_path, f"sqlite:///{tmp_path}/jobs.db")

    ran = program.run()

    assert (ran.stdout, ran.stderr, ran.returncode) == ("1024\n", "", 0)
    assert program.is_gone()
    assert not (tmp_path / "jobs.db.lock").exists()
