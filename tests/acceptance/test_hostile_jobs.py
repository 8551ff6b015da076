"""Jobs that do to their process what they shouldn't: their own outcome is told rightly, and no neighbour notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cluster
from tests.acceptance import hostile
from tests.acceptance.programs import wait_until


@pytest.fixture(scope="module")
def one() -> Any:
    """One slot: each job follows another into the same process."""
    with cluster.local(slots=1) as handle:
        yield handle


@pytest.mark.parametrize("disorder", hostile.DISORDER)
def test_the_next_job_in_the_process_finds_it_in_order(one: cluster.Cluster, disorder: str) -> None:
    one.submit(hostile.DISORDER[disorder], crash_limit=0).result(timeout=20)
    job = one.submit(hostile.look_around, crash_limit=0)

    assert job.result(timeout=20) == {"directory": str(Path.cwd()), "umask": 0o022, "status": 3}
    assert sorted(job.logs().split()) == ["err", "fd", "out"]


ENDINGS: dict[str, tuple[Callable[..., Any], type[BaseException], str]] = {
    "all descriptors closed": (hostile.close_all_descriptors, cluster.JobCrashed, "exited with code 70"),
    "garbage in every descriptor": (hostile.write_everywhere, cluster.JobCrashed, "nonsense"),
    "its process group killed": (hostile.kill_own_group, cluster.JobCrashed, "SIGTERM"),
    "another program": (hostile.become_another_program, cluster.JobCrashed, "exited with code 0"),
    "the nursery killed": (hostile.kill_parent, cluster.JobCrashed, "nursery"),
    "all memory eaten": (hostile.eat_memory, MemoryError, ""),
    "recursion without end": (hostile.recurse, RecursionError, ""),
    "a result too deep to pickle": (hostile.nest, cluster.RemoteError, "its result can't be pickled"),
    "a text that is no UTF-8": (hostile.raise_surrogate, ValueError, "half a pair"),
    "an exception group": (hostile.raise_group, ExceptionGroup, "both"),
    "an exception that is its own cause": (hostile.raise_in_a_circle, ValueError, "its own cause"),
    "an exception of thirty megabytes": (hostile.raise_thirty_megabytes, cluster.RemoteError, "raised ValueError: xxx"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_ends_a_job_is_named_and_its_neighbours_are_right(one: cluster.Cluster, ending: str) -> None:
    func, error_type, words = ENDINGS[ending]

    job = one.submit(func, crash_limit=0)
    neighbours = [one.submit(pow, (n, 2)) for n in range(20)]

    with pytest.raises(error_type) as raised:
        job.result(timeout=30)
    assert words in str(raised.value)
    assert [neighbour.result(timeout=30) for neighbour in neighbours] == [n**2 for n in range(20)]


def test_halves_of_surrogate_pairs_travel_and_are_printed(one: cluster.Cluster) -> None:
    job = one.submit(hostile.return_surrogate)
    said = one.submit(hostile.say_half_a_pair)

    assert job.result(timeout=20) == "\ud800"
    assert job.logs() == "half a pair: \\ud800\n"
    said.result(timeout=20)
    wait_until(lambda: said.progress is not None)
    assert said.progress is not None
    assert said.progress.note == "half a pair: \\ud800"


def test_a_job_that_stopped_itself_is_timed_out(one: cluster.Cluster) -> None:
    assert isinstance(one.submit(hostile.stop_itself, timeout=0.3).exception(timeout=20), cluster.JobTimeout)
    assert one.submit(abs, (-1,)).result(timeout=20) == 1


@pytest.mark.parametrize("task", [hostile.hold_and_tell, hostile.ignore_and_last])
def test_code_that_hears_nothing_is_cancelled_all_the_same(
    one: cluster.Cluster, tmp_path: Path, task: Callable[[str], None]
) -> None:
    job = one.submit(task, (str(tmp_path / "begun"),))
    wait_until((tmp_path / "begun").exists)
    begun = time.monotonic()

    assert job.cancel()

    assert one.submit(abs, (-1,)).result(timeout=20) == 1
    assert time.monotonic() - begun < 5


def test_a_program_that_holds_its_interpreter_longer_than_any_heartbeat_loses_nothing(one: cluster.Cluster) -> None:
    import ctypes

    jobs = [one.submit(abs, (-n,), crash_limit=0) for n in range(50)]

    ctypes.PyDLL(None).sleep(3)  # C code that doesn't let go of the interpreter's lock

    assert [job.result(timeout=20) for job in jobs] == list(range(50))
