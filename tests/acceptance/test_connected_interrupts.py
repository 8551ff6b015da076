"""Ctrl-C in a program that is connected to a master elsewhere: no job is lost, none runs twice, no answer is mixed up."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path

from tests.acceptance.programs import python
from tests.master.process_rig import lab

ROUNDS = 60

# Each round says that it begins, and goes on until Ctrl-C hits it somewhere.
PROGRAM = """
import sys
import cluster

ROUNDS = int(sys.argv[1])
jobs = []
rounds = 0
with cluster.connect() as c:
    while rounds < ROUNDS:
        try:
            print("round", rounds, flush=True)
            while True:
                n = len(jobs)
                job = c.submit(abs, (-n,))
                jobs.append((n, job))
                if n % 3 == 0:
                    assert c.stats().submitted >= 0
                if n % 5 == 0:
                    assert c.job(job.id).refresh().id == job.id
                if n % 13 == 0:
                    assert job.result(timeout=20) == n
                if n % 17 == 0:
                    c.submit(abs, (-n,), delay=0.5, name="cancelled").cancel()
                if n % 19 == 0:
                    job.accepted(timeout=20)
        except KeyboardInterrupt:
            rounds += 1
    c.flush(timeout=30)
    wrong = [n for n, job in jobs if job.result(timeout=30) != n]
    ids = [info.id for info in c.jobs()]
    print("done", len(jobs), wrong, len(ids) - len(set(ids)), c.submit(pow, (2, 10)).result(timeout=30), flush=True)
"""


def test_a_long_loop_of_calls_that_is_interrupted_again_and_again_stays_whole(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    waiting = threading.Event()

    with lab(tmp_path) as here:
        here.master()
        here.worker()
        program = python(
            PROGRAM, tmp_path, str(ROUNDS), CLUSTER_ADDRESS=here.address, CLUSTER_AUTHKEY_FILE=str(here.key("client"))
        )
        with program.started() as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line
                if not line.startswith("round"):
                    break
                waiting.wait(dice.expovariate(1 / 0.01))  # so that the signal meets the program anywhere
                process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            status = process.wait(timeout=60)

    words = last.split()
    assert words[:1] == ["done"], last + rest
    assert words[2:] == ["[]", "0", "1024"]
    assert (rest, status) == ("", 0)
