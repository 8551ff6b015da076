"""A disk that is full, processes that are stopped or killed from outside, and a program that was started oddly."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

import cluster
from cluster.core.states import HELD
from tests.acceptance import tasks
from tests.acceptance.programs import Program, is_gone, python, wait_until

FULL = """
import os, resource, sys
import cluster

folder = sys.argv[1]
store = f"sqlite:///{folder}/jobs.db"
with cluster.local(slots=2, store=store) as c:
    before = [c.submit(pow, (n, 2)).accepted().id for n in range(20)]
    blocked = c.submit(os.read, (int(sys.argv[2]), 1)) if len(sys.argv) > 2 else None
    # From here on no file can grow: for SQLite that is a disk that doesn't write.
    size = max(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    refused = None
    during = []
    for n in range(1000):
        job = c.submit(len, (os.urandom(5000),))
        try:
            during.append(job.accepted(timeout=20).id)
        except cluster.MasterUnavailable as error:
            refused = job
            print("refused:", error)
            break
    try:
        c.submit(abs, (-5,)).result(timeout=20)
    except cluster.MasterUnavailable as error:
        print("and again:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while True:
        try:
            print("healed:", c.submit(abs, (-6,)).result(timeout=20))
            break
        except cluster.MasterUnavailable:
            pass
with cluster.local(slots=2, store=store) as c:
    known = {info.id for info in c.jobs()}
    print(set(before) <= known, set(during) <= known, refused.id in known)
    print([c.job(name).result(timeout=20) for name in before] == [n ** 2 for n in range(20)])
"""


def test_a_full_disk_refuses_new_jobs_keeps_the_old_ones_and_heals(tmp_path: Path) -> None:
    ran = python(FULL, tmp_path, str(tmp_path)).run()

    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    # The first commit that fails may be that of an earlier job's outcome; then the board knows before it admits.
    assert re.match(
        r"refused: (its admission could not be stored \(.*\); nothing of it was kept, submit it again later$"
        r"|the store takes no new jobs now \(.*\); submit again later$)",
        lines[0],
    )
    assert lines[1].startswith("and again: the store takes no new jobs now (")
    assert lines[2:] == ["healed: 6", "True True False", "True"]


def nursery() -> psutil.Process:
    (found,) = psutil.Process().children()
    return found


def test_a_nursery_that_is_killed_again_and_again_costs_no_job() -> None:
    with cluster.local(slots=2) as c:
        for _ in range(3):
            jobs = [c.submit(pow, (n, 2)) for n in range(200)]
            last: cluster.Job[None] = c.submit(tasks.last_for_ever)
            wait_until(lambda: last.refresh().state in HELD)  # noqa: B023 - it is asked here and now

            nursery().kill()

            assert [job.result(timeout=30) for job in jobs] == [n**2 for n in range(200)]
            assert last.cancel()


def test_children_die_with_their_nursery_and_what_they_started_too(tmp_path: Path) -> None:
    with cluster.local(slots=1) as c:
        job = c.submit(tasks.note_and_last, (str(tmp_path / "log"), "x"), crash_limit=0)
        wait_until((tmp_path / "log").exists)
        pids = [process.pid for process in nursery().children()]

        nursery().kill()

        assert isinstance(job.exception(timeout=20), cluster.JobCrashed)
        assert all(is_gone(pid) for pid in pids)


def test_a_stopped_child_holds_up_one_job_and_no_other() -> None:
    with cluster.local(slots=2) as c:
        assert c.gather([c.submit(abs, (-n,)) for n in range(20)]) == list(range(20))
        child = nursery().children()[0]
        child.suspend()

        jobs = [c.submit(abs, (-n,)) for n in range(300)]
        wait_until(lambda: sum(job.done() for job in jobs) >= 299)
        child.resume()

        assert c.gather(jobs) == list(range(300))


def test_a_stopped_nursery_holds_up_new_children_only() -> None:
    with cluster.local(slots=2) as c:
        assert c.submit(abs, (-1,)).result(timeout=20) == 1
        stopped = nursery()
        stopped.suspend()

        working = [c.submit(abs, (-n,)).result(timeout=20) for n in range(50)]
        dead: cluster.Job[None] = c.submit(tasks.vanish, (1,), crash_limit=0)
        with pytest.raises(TimeoutError):
            dead.result(timeout=0.2)
        stopped.resume()

        assert working == list(range(50))
        assert isinstance(dead.exception(timeout=20), cluster.JobCrashed)


def test_a_program_that_is_stopped_for_longer_than_a_heartbeat_goes_on(tmp_path: Path) -> None:
    source = """
import sys
import cluster

with cluster.local(slots=2) as c:
    jobs = [c.submit(pow, (n, 2), crash_limit=0) for n in range(200)]
    print("busy", flush=True)
    sys.stdin.readline()
    print([job.result(timeout=20) for job in jobs] == [n ** 2 for n in range(200)])
"""
    program = python(source, tmp_path)
    with program.started() as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "busy\n"
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(process.pid).wait(timeout=3)
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("go on\n")
        process.stdin.flush()

        assert process.stdout.readline() == "True\n"
        assert process.wait(timeout=20) == 0


ONE = """
import cluster
with open("answer", "w") as file:
    print(cluster.submit(pow, (2, 10)).result(timeout=20), file=file)
"""
ODDLY = {
    "without standard input": "exec {python} <&-",
    "without standard output": "exec {python} >&-",
    "without any standard stream": "exec {python} <&- >&- 2>&-",
    "with 64 descriptors": "ulimit -n 64; exec {python}",
    "with 24 descriptors": "ulimit -n 24; exec {python}",
    "with SIGCHLD ignored": "trap '' CHLD; exec {python}",
    "with SIGINT and SIGTERM ignored": "trap '' INT TERM; exec {python}",
    "isolated": "exec {python} -I",
    "optimised": "exec {python} -OO",
    "without an environment": "exec env -i TESTS_RUN=$TESTS_RUN TESTS_PROGRAM=$TESTS_PROGRAM {python}",
    "with a umask that forbids everything": "umask 0777; touch answer; chmod 600 answer; exec {python}",
}


@pytest.mark.parametrize("how", ODDLY)
def test_a_program_works_however_it_was_started(tmp_path: Path, how: str) -> None:
    root = str(Path(cluster.__file__).parents[1])
    (tmp_path / "program.py").write_text(f"import sys; sys.path.insert(0, {root!r})\n{ONE}")
    program = Program(["sh", "-c", ODDLY[how].format(python=sys.executable) + " program.py"], tmp_path)

    ran = program.run()

    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "answer").read_text() == "1024\n"
    assert program.is_gone()


def test_a_program_whose_library_reaps_every_child_still_works(tmp_path: Path) -> None:
    source = """
import os, threading
import cluster
from tests.acceptance import tasks

def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass

threading.Thread(target=reap, daemon=True).start()
with cluster.local(slots=1) as c:
    print(c.submit(pow, (2, 10)).result(timeout=20))
    print(type(c.submit(tasks.vanish, (1,), crash_limit=0).exception(timeout=20)).__name__)
"""
    program = python(source, tmp_path)

    ran = program.run()

    assert (ran.stdout, ran.returncode) == ("1024\nJobCrashed\n", 0), ran.stderr
    assert program.is_gone()
