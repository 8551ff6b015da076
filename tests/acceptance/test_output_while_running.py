"""What a job prints can be read while it runs, and is never told twice or of another job."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

import cluster
from cluster.core.states import JobState
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import python, wait_until


def wait_at(gate: str) -> None:
    """In a job: until the test makes this file. Bounded, for a test that failed never makes it."""
    deadline = time.monotonic() + 60.0
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # sleeps because the test decides when the job may go on


def talk(first: str, gate: str, last: str) -> None:
    print(first, flush=True)
    wait_at(gate)
    print(last, flush=True)


def test_output_is_there_while_the_job_runs_and_whole_once_it_has_ended(pool: cluster.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = pool.submit(talk, ("one", str(gate), "two"))

    wait_until(lambda: job.logs() == "one\n")

    gate.touch()
    job.result(30)
    assert job.logs() == "one\ntwo\n"


def test_two_jobs_that_talk_at_once_are_told_apart(pool: cluster.Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [pool.submit(talk, (name, str(gate), "end")) for name in ("left", "right")]

    wait_until(lambda: [job.logs() for job in jobs] == ["left\n", "right\n"])

    gate.touch()
    assert [job.result(30) for job in jobs] == [None, None]
    assert [job.logs() for job in jobs] == ["left\nend\n", "right\nend\n"]


def test_what_a_cancelled_job_had_said_stays_readable(pool: cluster.Cluster, tmp_path: Path) -> None:
    job = pool.submit(talk, ("last words", str(tmp_path / "never"), ""))
    wait_until(lambda: job.logs() == "last words\n")

    assert job.cancel()

    assert job.logs() == "last words\n"


def say_and_wait(words: list[str], gates: list[str]) -> None:
    """A word, and the next one once its gate is there."""
    for word, gate in zip(words, gates, strict=True):
        os.write(1, word.encode())
        wait_at(gate)


def fail_until_the_second(word: str) -> str:
    attempt = cluster.current_job().attempt
    print(word, attempt)
    if attempt < 2:
        raise ValueError(attempt)
    return word


def gates(folder: Path, count: int) -> list[str]:
    return [str(folder / f"gate-{number}") for number in range(count)]


def test_following_yields_what_is_printed_as_it_comes_and_ends_with_the_job(
    pool: cluster.Cluster, tmp_path: Path
) -> None:
    ways = gates(tmp_path, 3)
    job = pool.submit(say_and_wait, (["one ", "two ", "three"], ways))

    pieces = []
    for piece, way in zip(job.logs(follow=True), ways, strict=False):
        pieces.append(piece)
        assert not job.done()
        Path(way).touch()

    assert pieces == ["one ", "two ", "three"]
    assert list(job.logs(follow=True)) == ["one two three"]
    assert "".join(job.logs(follow=True)) == job.logs()


def test_following_ends_where_a_piece_ends_in_the_middle_of_a_character(pool: cluster.Cluster, tmp_path: Path) -> None:
    ways = gates(tmp_path, 2)
    job = pool.submit(write_halves, ("é".encode(), ways))
    following = job.logs(follow=True)
    wait_until(lambda: job.logs() == "\ufffd")

    Path(ways[0]).touch()
    first = next(following)
    Path(ways[1]).touch()

    assert (first, list(following)) == ("é", ["\ufffd"])


def write_halves(character: bytes, ways: list[str]) -> None:
    for half, way in ((character[:1], ways[0]), (character[1:], ways[1])):
        os.write(1, half)
        wait_at(way)
    os.write(1, character[:1])


def test_following_goes_through_all_attempts(pool: cluster.Cluster) -> None:
    retries = cluster.RetryPolicy(max_retries=1, backoff=0.05)
    job = pool.submit(fail_until_the_second, ("try",), retries=retries)

    assert "".join(job.logs(follow=True)) == "try 1\ntry 2\n"
    assert job.result(10) == "try"


def test_following_ends_when_the_job_is_cancelled(pool: cluster.Cluster, tmp_path: Path) -> None:
    job = pool.submit(talk, ("last words", str(tmp_path / "never"), ""))
    following = job.logs(follow=True)
    assert next(following) == "last words\n"

    assert job.cancel()

    assert list(following) == []


def test_several_threads_follow_one_job_each_alone_or_together(pool: cluster.Cluster, tmp_path: Path) -> None:
    ways = gates(tmp_path, 4)
    job = pool.submit(say_and_wait, (["a", "b", "c", "d"], ways))
    shared = job.logs(follow=True)
    alone: list[str] = []
    together: list[str] = []
    threads = [threading.Thread(target=lambda: alone.append("".join(job.logs(follow=True)))) for _ in range(3)]
    threads += [threading.Thread(target=lambda: together.extend(shared)) for _ in range(3)]

    for thread in threads:
        thread.start()
    for count, way in enumerate(ways):
        wait_until(lambda: len("".join(together)) > count)  # noqa: B023 - it is called before the next round
        Path(way).touch()
    for thread in threads:
        thread.join(20)

    assert alone == ["abcd"] * 3
    assert sorted("".join(together)) == ["a", "b", "c", "d"]


def test_a_job_that_runs_for_a_while_shows_as_running_long_before_the_next_heartbeat(tmp_path: Path) -> None:
    with a_lab(tmp_path, heartbeat_timeout_seconds=60.0) as lab, lab.connect() as client:  # a heartbeat in 12 s
        lab.start_worker()
        job = client.submit(talk, ("", str(tmp_path / "gate"), ""))

        wait_until(lambda: job.refresh().state is JobState.RUNNING, 6.0)

        assert "is running" in job.explain()
        assert [info.state for info in client.jobs(state="running")] == [JobState.RUNNING]
        (tmp_path / "gate").touch()
        job.result(20)


def test_who_follows_from_afar_misses_nothing_when_the_master_is_killed(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker()
        ways = gates(tmp_path, 4)
        job = client.submit(say_and_wait, (["one ", "two ", "three ", "four"], ways)).accepted(10)
        following = job.logs(follow=True)
        assert next(following) == "one "
        client.submit(int).result(10)  # its commit covers the lease

        lab.processes[0].kill()
        lab.processes[0].wait()
        Path(ways[0]).touch()  # nobody hears of this word before the master is back
        lab.start_master()

        assert next(following) == "two "
        late = job.logs(follow=True)  # of what the old master was told the new one is told again
        assert next(late) == "one two "
        Path(ways[1]).touch()
        assert next(following) == "three "
        for way in ways[2:]:
            Path(way).touch()
        assert "".join(following) == "four"
        assert "".join(late) == "three four"
        job.result(20)
        assert job.attempts == 1


def test_jobs_in_threads_are_followed_too_and_told_apart(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker(threads=2)
        jobs = [client.submit(talk, (name, str(tmp_path / name), "end")) for name in ("left", "right")]
        following = [job.logs(follow=True) for job in jobs]

        assert [next(each) for each in following] == ["left\n", "right\n"]
        wait_until(lambda: {job.refresh().state for job in jobs} == {JobState.RUNNING})

        for name in ("left", "right"):
            (tmp_path / name).touch()
        assert [list(each) for each in following] == [["end\n"], ["end\n"]]


ECHO = """
import sys, time
from pathlib import Path
import cluster

def talk(name, gate):
    print(name, "begins")
    while not Path(gate).exists():
        time.sleep(0.01)
    print(name, "goes on", end=" ")
    print("and ends", file=sys.stderr, end="")

gate = sys.argv[1]
with {cluster} as c:
    c.submit(print, ("unheard",)).result()
    jobs = [c.submit(talk, (name, gate), echo=True) for name in ("left", "right")]
    for job in jobs:
        job.result()
    list(c.map(print, "abc", echo=True))
"""


@pytest.mark.parametrize("kind", ["embedded", "connected"])
def test_echo_writes_whole_lines_to_the_program_s_own_output_as_they_come(tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        how = "cluster.local(slots=2)"
        if kind == "connected":
            lab = stack.enter_context(a_lab(tmp_path))
            lab.start_worker()
            how = f"cluster.connect({lab.bind!r}, {str(tmp_path / 'keys' / 'client.key')!r})"
        program = python(ECHO.replace("{cluster}", how), tmp_path, str(tmp_path / "gate"))
        process = stack.enter_context(program.started())
        assert process.stdout is not None

        begun = [process.stdout.readline() for _ in range(2)]
        (tmp_path / "gate").touch()
        rest = process.stdout.read()

        assert process.wait(30) == 0, rest
        assert sorted(begun) == ["left begins\n", "right begins\n"]
        assert sorted(rest.splitlines()) == ["a", "b", "c", "left goes on and ends", "right goes on and ends"]
