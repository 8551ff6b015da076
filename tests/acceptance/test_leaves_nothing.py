"""However a program ends, nothing of its cluster is left: no process, no shared memory, no file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.programs import Program, python

# Ends in the way that its argument names, with work on its hands.
PROGRAM = """
import os, signal, sys, time
import cluster
from tests.acceptance import tasks

how = sys.argv[1]


def busy(c):
    # Each job says that it runs, and then lasts.
    [c.submit(tasks.note_and_last, (os.path.abspath("../started"), "x")) for _ in range(6)]
    while not (os.path.exists("../started") and os.path.getsize("../started") >= 4):
        time.sleep(0.002)


if how == "default cluster with unfinished jobs":
    jobs = [cluster.submit(tasks.note, (os.path.abspath("../log"), str(n))) for n in range(200)]
    jobs += [cluster.submit(tasks.last, (0.3,)), cluster.submit(tasks.note, (os.path.abspath("../log"), "end"))]
elif how == "unclosed local with unfinished jobs":
    c = cluster.local(slots=2)
    busy(c)
elif how == "with block left by an exception":
    with cluster.local(slots=2) as c:
        busy(c)
        raise RuntimeError("out")
elif how == "sys.exit in a with block":
    with cluster.local(slots=2) as c:
        busy(c)
        sys.exit(3)
elif how == "closed and cancelled":
    c = cluster.local(slots=2)
    busy(c)
    c.close(cancel=True)
elif how == "exception in the main thread":
    busy(cluster.local(slots=2))
    raise RuntimeError("out")
elif how == "Ctrl-C in a with block":
    with cluster.local(slots=2) as c:
        busy(c)
        print("busy", flush=True)
        c.submit(time.sleep, (600,)).result()
elif how == "Ctrl-C while a with block waits for its jobs":
    with cluster.local(slots=2) as c:
        busy(c)
        print("busy", flush=True)
elif how == "Ctrl-C while the default cluster waits at exit":
    busy(cluster.use(cluster.local(slots=2)).__enter__())
    cluster.submit(time.sleep, (600,))
    print("busy", flush=True)
    signal.pause()
elif how == "Ctrl-C while the default cluster is at work":
    cluster.submit(time.sleep, (600,))
    print("busy", flush=True)
elif how in ("SIGKILL", "SIGTERM", "SIGABRT", "SIGHUP"):
    with cluster.local(slots=2) as c:
        busy(c)
        print("busy", flush=True)
        signal.pause()
elif how == "os._exit":
    with cluster.local(slots=2) as c:
        busy(c)
        os._exit(5)
elif how == "exec":
    with cluster.local(slots=2) as c:
        busy(c)
        os.execv("/bin/true", ["true"])
"""
ENDS = {
    "default cluster with unfinished jobs": 0,
    "unclosed local with unfinished jobs": 0,
    "with block left by an exception": 1,
    "sys.exit in a with block": 3,
    "closed and cancelled": 0,
    "exception in the main thread": 1,
    "os._exit": 5,
    "exec": 0,
}
SIGNALS = {
    "Ctrl-C in a with block": signal.SIGINT,
    "Ctrl-C while a with block waits for its jobs": signal.SIGINT,
    "Ctrl-C while the default cluster waits at exit": signal.SIGINT,
    "Ctrl-C while the default cluster is at work": signal.SIGINT,
    "SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGABRT": signal.SIGABRT,
    "SIGHUP": signal.SIGHUP,
}


class Surroundings:
    """What a program could leave something in, and what was there before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = [folder / "work", folder / "home", folder / "tmp"]
        for place in self.places:
            place.mkdir()
        self.shared = set(Path("/dev/shm").iterdir())

    def program(self, how: str) -> Program:
        program = python(PROGRAM, self.folder, how)
        program.folder = self.places[0]
        program.environment = {"HOME": str(self.places[1]), "TMPDIR": str(self.places[2])}
        return program

    def assert_clean(self, program: Program) -> None:
        assert program.is_gone(), f"still there: {[process.cmdline() for process in program.left()]}"
        for place in self.places:
            assert list(place.iterdir()) == []
        assert set(Path("/dev/shm").iterdir()) <= self.shared


@pytest.mark.parametrize("how", ENDS)
def test_a_program_that_ends_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    surroundings = Surroundings(tmp_path)
    program = surroundings.program(how)

    ran = program.run()

    assert ran.returncode == ENDS[how], ran.stderr
    assert "cluster" not in ran.stderr or "RuntimeError: out" in ran.stderr, ran.stderr
    surroundings.assert_clean(program)


def test_the_default_cluster_finishes_its_jobs_before_the_program_ends(tmp_path: Path) -> None:
    ran = Surroundings(tmp_path).program("default cluster with unfinished jobs").run()

    assert ran.returncode == 0, ran.stderr
    assert sorted((tmp_path / "log").read_text().split()) == sorted([*map(str, range(200)), "end"])


@pytest.mark.parametrize("how", SIGNALS)
def test_a_program_that_is_signalled_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    surroundings = Surroundings(tmp_path)
    program = surroundings.program(how)

    with program.started() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        process.send_signal(SIGNALS[how])
        status = process.wait(timeout=20)
        words = process.stdout.read()

    assert status in (-SIGNALS[how], 1, 130, 0), words
    surroundings.assert_clean(program)


def test_a_sqlite_store_leaves_its_file_and_key_and_nothing_else(tmp_path: Path) -> None:
    source = "import cluster\nwith cluster.local(slots=1, store='sqlite:///jobs.db') as c:\n    c.submit(abs, (1,))\n"
    work = tmp_path / "work"
    work.mkdir()
    program = python(source, tmp_path)
    program.folder = work

    ran = program.run()

    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in work.iterdir()) == ["jobs.db", "jobs.db.epoch", "jobs.db.key"]
    assert {path.stat().st_mode & 0o777 for path in work.iterdir()} == {0o600}
