"""`cluster.local` from the outside: opening, closing, reopening, two at once, forks."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import cluster
from cluster.core.records import FunctionBlob, JobSpec
from cluster.core.states import JobState
from cluster.embedded import local as local_module
from cluster.errors import Refused
from cluster.master.jobs_desk import JobsDesk
from cluster.worker.nursery_start import Interpreter, start_interpreter
from tests.acceptance import tasks
from tests.acceptance.programs import is_gone, python, wait_until
from tests.client.test_gate import Interrupter
from tests.worker.gate import Gate


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"slots": 0}, ValueError, "at least 1, not 0"),
        ({"slots": -3}, ValueError, "leave it out for one per cpu"),
        ({"slots": "2"}, TypeError, "whole number of processes, not '2'"),
        ({"slots": 2.0}, TypeError, "not 2.0"),
        ({"slots": True}, TypeError, "not True"),
        ({"store": "runs.db"}, cluster.ClusterError, "sqlite:///"),
        ({"store": "redis://x"}, cluster.ClusterError, "sqlite:///"),
        ({"store": "sqlite:///no/such/folder/x.db"}, cluster.StoreError, "no/such/folder"),
    ],
)
def test_what_can_t_be_opened_is_refused_in_a_sentence(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = len(psutil.Process().children())

    with pytest.raises(error) as raised:
        cluster.local(**given)

    assert words in str(raised.value)
    assert len(psutil.Process().children()) == before


def test_two_clusters_at_once_do_not_know_each_other(tmp_path: Path) -> None:
    with cluster.local(slots=1) as a, cluster.local(slots=1, store=f"sqlite:///{tmp_path}/b.db") as b:
        mine, theirs = a.submit(os.getpid), b.submit(os.getpid)

        assert mine.result(timeout=20) != theirs.result(timeout=20)
        with pytest.raises(cluster.UnknownJob):
            _ = a.job(theirs.id)
        assert cluster.submit(os.getpid).result(timeout=20) == theirs.result()  # the innermost block's

    assert [worker.done() for worker in (mine, theirs)] == [True, True]


def test_the_innermost_block_or_use_is_the_default_and_closing_ends_that() -> None:
    with cluster.local(slots=1) as outer:
        pid = outer.submit(os.getpid).result(timeout=20)
        with cluster.local(slots=1):
            assert cluster.submit(os.getpid).result(timeout=20) != pid
            with cluster.use(outer):
                assert cluster.submit(os.getpid).result(timeout=20) == pid
        assert cluster.submit(os.getpid).result(timeout=20) == pid


def test_an_address_in_the_environment_is_an_error_and_no_silent_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_ADDRESS", "tcp://head:7601")

    with pytest.raises(cluster.MasterUnavailable, match="tcp://head:7601"):
        _ = cluster.submit(abs, (1,))


def test_closing_twice_and_from_many_threads_is_harmless() -> None:
    c = cluster.local(slots=1)
    jobs = [c.submit(abs, (-n,)) for n in range(20)]
    threads = [threading.Thread(target=c.close) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    c.close()

    assert [job.result() for job in jobs] == list(range(20))


def test_a_closed_handle_says_what_to_do() -> None:
    c = cluster.local(slots=1)
    job = c.submit(abs, (-1,))
    c.close()

    for call in (lambda: c.submit(abs, (1,)), c.stats, lambda: c.job(job.id), job.refresh, job.logs):
        with pytest.raises(cluster.MasterUnavailable, match="open the cluster again"):
            call()
    assert job.result() == 1
    with pytest.raises(cluster.MasterUnavailable):
        list(c.map(abs, [1]))


def test_left_by_an_exception_it_stops_at_once_and_what_is_pending_is_detached(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with pytest.raises(ZeroDivisionError), cluster.local(slots=1) as c:
        running = c.submit(gate.pass_through)
        pid = gate.wait_entered()
        waiting = c.submit(abs, (-1,))
        begun = time.monotonic()
        1 / 0  # noqa: B018 - that is the point

    assert time.monotonic() - begun < 5
    assert is_gone(pid)
    for job in (running, waiting):
        with pytest.raises(cluster.Detached, match=f"use c.job\\('{job.id}'\\)"):
            job.result(timeout=5)


def test_leaving_the_block_waits_for_its_jobs_and_their_dependants(tmp_path: Path) -> None:
    with cluster.local(slots=2) as c:
        first = c.submit(tasks.last, (0.2,))
        second = c.submit(tasks.add, (1,), after=first)
        third = c.submit(tasks.add, (1, second), delay=0.1)
        batch = c.map(abs, range(-100, 0))

    assert (first.result(), second.result(), third.result()) == (0.2, 1, 2)
    assert sum(batch) == 5050


def test_closing_with_cancel_ends_every_job(tmp_path: Path) -> None:
    c = cluster.local(slots=1)
    jobs = [c.submit(tasks.last_for_ever) for _ in range(3)]

    c.close(cancel=True)

    assert [job.state for job in jobs] == [JobState.CANCELLED] * 3


# --- the store ----------------------------------------------------------------------------------------------------------


def test_a_second_opener_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    other = python("import sys, cluster\ncluster.local(slots=1, store=sys.argv[1])", tmp_path, store, name="second.py")

    with cluster.local(slots=1, store=store):
        with pytest.raises(cluster.StoreInUse, match=f"process {os.getpid()} .*this very process"):
            cluster.local(slots=1, store=store)
        ran = other.run()

    assert ran.returncode == 1
    assert f"process {os.getpid()} (" in ran.stderr.splitlines()[-1]
    assert "StoreInUse" in ran.stderr.splitlines()[-1]
    assert other.run().returncode == 0


def test_a_reopened_store_goes_on_with_every_kind_of_job(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    mark = tmp_path / "mark"
    c = cluster.local(slots=1, store=store)
    c.queue("held").pause()
    done = c.submit(pow, (2, 10))
    dead = c.submit(os.stat, (str(mark),))
    assert isinstance(dead.exception(timeout=20), FileNotFoundError)
    gate = Gate(tmp_path)
    running = c.submit(gate.pass_through)
    gate.wait_entered()
    queued = c.submit(tasks.add, (1, 2))
    waiting = c.submit(tasks.add, (1, queued, done))
    scheduled = c.submit(tasks.add, (5,), delay=1)
    held = c.submit(tasks.add, (6,), queue="held")
    cancelled = c.submit(abs, (1,), delay=60)
    assert cancelled.cancel()
    ids = [job.id for job in (done, dead, running, queued, waiting, scheduled, held, cancelled)]
    c.flush()
    c.close(wait=False)

    gate.release()
    with cluster.local(slots=1, store=store) as c:
        assert [info.id for info in c.jobs()] == ids
        assert c.job(done.id).result(timeout=20) == 1024
        assert isinstance(c.job(dead.id).exception(timeout=20), FileNotFoundError)
        assert c.job(running.id).result(timeout=20) == gate.wait_entered()
        assert c.job(queued.id).result(timeout=20) == 3
        assert c.job(waiting.id).result(timeout=20) == 1028
        assert c.job(scheduled.id).result(timeout=20) == 5
        assert "paused" in c.job(held.id).explain()
        c.queue("held").resume()
        assert c.job(held.id).result(timeout=20) == 6
        assert c.job(cancelled.id).state is JobState.CANCELLED
        mark.write_text("")
        assert [info.run for info in c.requeue(c.dead_letters())] == [2]
        assert c.job(dead.id).result(timeout=20).st_size == 0


def test_an_interrupted_map_is_found_again_by_its_id(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/jobs.db"
    with cluster.local(slots=2, store=store) as c:
        batch = c.map(abs, range(-50, 0), chunksize=7)

    with cluster.local(slots=1, store=store) as c:
        assert list(c.batch(batch.id)) == list(range(50, 0, -1))


# --- forks and processes of the user --------------------------------------------------------------------------------------

FORK = """
import os, sys
import cluster

c = cluster.local(slots=1)
done = c.submit(abs, (-7,))
print(done.result(), flush=True)
pending = c.submit(__import__("time").sleep, (0.5,))
pid = os.fork()
if pid == 0:
    for call in (lambda: c.submit(abs, (1,)), pending.result, c.stats):
        try:
            call()
            print("worked")
        except Exception as error:
            print(type(error).__name__, "fork" in str(error))
    print(done.result())
    c.close()
    sys.stdout.flush()
    if sys.argv[1] == "exits":
        sys.exit(0)
    os._exit(0)
os.waitpid(pid, 0)
print(pending.result(), c.submit(abs, (-8,)).result())
c.close()
"""


@pytest.mark.parametrize("how", ["exits", "_exits"])
def test_a_fork_of_the_program_is_told_that_it_has_no_cluster_and_harms_none(tmp_path: Path, how: str) -> None:
    program = python(FORK, tmp_path, how)
    program.command = [sys.executable, *program.command[3:]]  # a fork of a program with threads is worth a warning

    ran = program.run()

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["7", *["MasterUnavailable True"] * 3, "7", "None 8"]
    assert program.is_gone()


FORK_OPENS = """
import os
import cluster

with cluster.local(slots=1) as c:
    print(c.submit(abs, (-1,)).result(), flush=True)
    pid = os.fork()
    if pid == 0:
        with cluster.local(slots=1) as own:
            print(own.submit(abs, (-2,)).result(), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print(c.submit(abs, (-3,)).result(), flush=True)
"""


def test_a_fork_may_open_a_cluster_of_its_own(tmp_path: Path) -> None:
    program = python(FORK_OPENS, tmp_path)
    program.command = [sys.executable, *program.command[3:]]

    ran = program.run()

    assert (ran.stdout, ran.returncode) == ("1\n2\n3\n", 0), ran.stderr


def test_subprocesses_of_the_program_do_not_keep_the_cluster_alive() -> None:
    c = cluster.local(slots=1)
    pid = c.submit(os.getpid).result(timeout=20)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as holder:
        c.close()

        assert is_gone(pid)
        holder.kill()


def test_done_callbacks_run_once_and_may_use_the_cluster() -> None:
    seen: list[int] = []
    with cluster.local(slots=1) as c:

        def go_on(job: concurrent.futures.Future[int]) -> None:
            seen.append(job.result())
            if len(seen) < 5:
                c.submit(abs, (-len(seen),)).add_done_callback(go_on)

        c.submit(abs, (0,)).add_done_callback(go_on)

    assert seen == [0, 1, 2, 3, 4]
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("cluster")])


def test_what_was_started_for_a_cluster_that_can_not_be_made_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Interpreter] = []

    def start(sys_path: tuple[str, ...], slots: int) -> Interpreter:
        started.append(start_interpreter(sys_path, slots))
        return started[-1]

    monkeypatch.setattr(local_module, "start_interpreter", start)

    with pytest.raises(Refused, match="names no store"):
        _ = cluster.local(slots=1, store="nonsense")

    with pytest.raises(ChildProcessError):  # it was waited for
        os.waitpid(started[0].pid, os.WNOHANG)
    assert started[0].control.fileno() == -1


def test_a_nursery_that_can_not_be_started_at_once_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(sys_path: tuple[str, ...], slots: int) -> Interpreter:
        raise BlockingIOError(errno.EAGAIN, "no process to be had")

    monkeypatch.setattr(local_module, "start_interpreter", start)

    with cluster.local(slots=1) as c:
        assert c.submit(abs, (-1,)).result(timeout=30) == 1


# All that a program may have loaded by its first result, with whatever that loads in turn; and so its children. What comes
# to it, each first result waits for: measure it (`python -m benchmarks --help`, "cold"), and load it where it is used.
NEEDED = (
    "_blake2", "atexit", "base64", "cloudpickle", "concurrent.futures", "contextvars", "fcntl", "gc", "heapq", "msgspec",
    "queue", "resource", "select", "signal", "socket", "subprocess",  # the last only where Python has flags, as here
)  # fmt: skip
NEEDED_BY_CHILDREN = (*NEEDED, "ctypes", "faulthandler")
NEEDED_BY_STORE = (*NEEDED, "pathlib", "sqlite3")
# Modules of ours, of which each costs a tenth of a millisecond or more.
MAX_ROOMS, MAX_ROOMS_WITH_STORE, MAX_ROOMS_OF_CHILDREN = 119, 137, 31


@pytest.mark.parametrize(
    ("store", "needed", "rooms"),
    [("memory:", NEEDED, MAX_ROOMS), ("sqlite:///jobs.db", NEEDED_BY_STORE, MAX_ROOMS_WITH_STORE)],
)
def test_a_first_result_loads_nothing_that_it_does_not_need(
    store: str, needed: tuple[str, ...], rooms: int, tmp_path: Path
) -> None:
    program = f"""
import gc
import cluster
from cluster.worker.supervisor import Supervisor
# The first one loads psutil, and on a slow machine it may come before the first result.
Supervisor._beat = lambda self, now: setattr(self, "_heartbeat_at", now + 600)
with cluster.local(slots=1, store={store!r}) as c:
    assert c.submit(pow, (2, 10)).result() == 1024 and gc.isenabled()
    print(*sys.modules)
    print(*c.submit(lambda: list(__import__("sys").modules)).result())
"""

    of_program, of_child = printed_words(program, tmp_path)

    for loaded, allowed, most in ((of_program, needed, rooms), (of_child, NEEDED_BY_CHILDREN, MAX_ROOMS_OF_CHILDREN)):
        (others,) = printed_words(f"import {', '.join(allowed)}; print(*sys.modules)", tmp_path)
        ours = {name for name in loaded if name.split(".")[0] == "cluster"}
        assert loaded - ours - others == set()
        assert len(ours) <= most, sorted(ours)


def printed_words(program: str, folder: Path) -> list[set[str]]:
    """What a program prints, the words of each line. Without `site`, whose .pth files load what they like."""
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return [set(line.split()) for line in said.splitlines()]


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_it_has_loaded_is_old_to_the_collector_and_what_the_program_froze_stays_frozen(frozen: int) -> None:
    program = f"""
import gc
import cluster
if {frozen}:
    gc.freeze()
before = gc.get_freeze_count()
c = cluster.local(slots=1)
print(gc.get_freeze_count() > before / 2, gc.get_freeze_count() <= before)  # a few may have been let go of
print(gc.isenabled(), len(gc.get_objects(0)) + len(gc.get_objects(1)))
c.close()
"""

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    is_still_frozen, is_no_more_frozen, is_enabled, young = said.stdout.split()
    assert (is_still_frozen, is_no_more_frozen, is_enabled) == (str(frozen == 1), "True", "True")
    if not frozen:
        assert int(young) < 5_000  # of several ten thousand


def test_a_reader_that_is_interrupted_again_and_again_has_every_result_once() -> None:
    interrupter = Interrupter()
    results: list[Any] = []
    interrupts = 0
    is_over = False

    with cluster.local(slots=1) as c:
        batch = c.map(itself_or_nothing, range(3_000), chunksize=50, errors="return")
        with interrupter.at_work():
            while not is_over:
                try:
                    interrupter.is_armed = True
                    for result in batch:
                        results.append(result)
                        interrupter.is_armed = True
                    interrupter.is_armed = False
                    is_over = True
                except KeyboardInterrupt:
                    interrupts += 1

    assert [result if type(result) is int else result.args[0] for result in results] == list(range(3_000))
    assert interrupts > 0


def itself_or_nothing(number: int) -> int:
    if number % 7 == 0:
        raise ValueError(number)
    return number


def test_a_long_job_s_submission_is_told_at_once_though_it_starts_before_it_is_committed(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with cluster.local(slots=1) as c:
        for _ in range(3):
            job = c.submit(gate.pass_through)

            assert job.accepted(timeout=20) is job

        assert not job.done()
        gate.release(3)


def test_the_main_thread_s_jobs_are_submitted_by_the_thread_that_hands_them_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[str] = []
    submit = JobsDesk.submit

    def noting(desk: JobsDesk, session: int, jobs: Sequence[JobSpec], functions: Sequence[FunctionBlob]) -> None:
        found.extend([threading.current_thread().name] * len(jobs))
        submit(desk, session, jobs, functions)

    monkeypatch.setattr(JobsDesk, "submit", noting)
    with cluster.local(slots=1) as c:
        first = c.submit(abs, (-1,))
        assert first.result(timeout=20) == 1
        assert c.submit(abs, (first,)).result(timeout=20) == 1

    assert found == ["cluster-supervisor", "cluster-sender"], "a dependency may make the desk read its store"
