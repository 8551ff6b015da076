"""Ctrl-C in the main thread never leaves the board or the log half changed: real signals, many rounds."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import cluster
from cluster.embedded.shield import ShieldedDesk
from cluster.wire.desks import JobsDesk
from tests.acceptance.programs import python

ROUNDS = 150

# Each round says that it begins, and goes on until Ctrl-C hits it somewhere.
PROGRAM = """
import sys
import cluster

ROUNDS = int(sys.argv[1])
jobs = []
rounds = 0
with cluster.local(slots=2, store=sys.argv[2]) as c:
    while rounds < ROUNDS:
        try:
            print("round", rounds, flush=True)
            while True:
                n = len(jobs)
                job = c.submit(abs, (-n,))
                jobs.append((n, job))
                if n % 7 == 0:
                    c.stats()
                if n % 11 == 0:
                    c.job(job.id).refresh()
                if n % 13 == 0:
                    job.result(timeout=20)
                if n % 17 == 0:
                    c.submit(abs, (-n,), delay=0.5).cancel()
                if n % 19 == 0:
                    job.accepted(timeout=20)
                if n % 50 == 0:
                    list(c.map(abs, range(-20, 0)))
        except KeyboardInterrupt:
            rounds += 1
    c.flush(timeout=30)
    wrong = [n for n, job in jobs if job.result(timeout=30) != n]
    stats = c.stats()
    print("done", len(jobs), wrong, stats.dead, c.submit(pow, (2, 10)).result(timeout=30), flush=True)
"""


@pytest.mark.parametrize("store", ["memory:", "sqlite:///jobs.db"])
def test_a_long_loop_of_calls_that_is_interrupted_again_and_again_leaves_the_cluster_whole(
    tmp_path: Path, store: str
) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    program = python(PROGRAM, tmp_path, str(ROUNDS), store)
    waiting = threading.Event()

    with program.started() as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line
            if not line.startswith("round"):
                break
            waiting.wait(dice.expovariate(1 / 0.004))  # so that the signal meets the program anywhere
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        status = process.wait(timeout=60)

    words = last.split()
    assert words[:1] == ["done"], last + rest
    assert words[2:] == ["[]", "0", "1024"]
    assert int(words[1]) > ROUNDS
    assert (rest, status) == ("", 0)
    assert program.is_gone()


READING = """
import signal
import cluster
from tests.acceptance import tasks

got = []
with cluster.local(slots=2) as c:
    batch = c.map(tasks.last, [0.01] * 200, chunksize=1)
    interrupts = 0
    while True:
        try:
            print("reading", flush=True)
            for result in batch:
                got.append(result)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            break
        except KeyboardInterrupt:
            interrupts += 1
print("done", len(got), interrupts > 10, flush=True)
"""


def test_an_interrupted_iteration_over_a_map_goes_on_where_it_stopped(tmp_path: Path) -> None:
    program = python(READING, tmp_path)

    with program.started() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line != "reading\n":
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)  # it waits for results nearly all the time
            process.send_signal(signal.SIGINT)
        words, status = line + process.stdout.read(), process.wait(timeout=20)

    assert (words, status) == ("done 200 True\n", 0)


class Recorder:
    """Notes by which thread each call was carried out."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def info(self, job: str) -> str:
        self.threads.append(threading.current_thread().name)
        if job == "bad":
            raise cluster.UnknownJob(job)
        return job

    def close(self, session: int) -> None:
        self.threads.append(threading.current_thread().name)


def shielded() -> tuple[Recorder, ShieldedDesk]:
    recorder = Recorder()
    return recorder, ShieldedDesk(cast("JobsDesk", recorder))


def test_the_main_thread_s_calls_are_carried_out_by_another_and_answered() -> None:
    recorder, desk = shielded()

    answer: Any = desk.info("good")
    with pytest.raises(cluster.UnknownJob):
        desk.info("bad")

    desk.stop()
    assert answer == "good"
    assert recorder.threads == ["cluster-desk"] * 2


def test_other_threads_call_directly() -> None:
    recorder, desk = shielded()

    thread = threading.Thread(target=desk.info, args=("good",), name="mine")
    thread.start()
    thread.join()

    desk.stop()
    assert recorder.threads == ["mine"]


def test_a_stopped_desk_takes_no_calls_of_the_main_thread_but_its_goodbye() -> None:
    recorder, desk = shielded()

    desk.stop()
    desk.stop()

    with pytest.raises(cluster.MasterUnavailable, match="closed"):
        desk.info("good")
    desk.close(1)
    assert recorder.threads == ["MainThread"]
