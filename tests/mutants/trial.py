"""A mutant's trial: the tests that run its line, the likeliest first, until one fails.

    judge (tests.mutants.__main__): imports pytest, and nothing of the kit
      ├─ fork: a bench with one pytest session, all tests collected
      │    ├─ fork: all tests once, each noting which lines it runs and how long it takes
      │    └─ fork for each mutant inside a function: its code put in place of the function's own; the tests run
      └─ fork for each other one: the module is imported with the fault in it; all tests are collected, and run

A fork costs milliseconds, so most mutants are over before a fresh interpreter would have imported pytest; as many are
tried at a time as there are processors. A trial has bounds of its own, on processor time and on time that all its threads
sleep (so that a busy machine does not kill), on memory, and, for one that does neither and never ends, on the clock;
whatever a mutant breaks, it dies with its process and all that this one started.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import coverage
import pytest

from tests.mutants.operators import Mutant

ROOT = Path(__file__).parents[2]
SUITE = ("tests/core", "tests/master")
# Real masters are other processes, which import the kit anew, without the mutant.
LEFT_OUT = ("tests/master/test_process.py",)

# Exit statuses of a trial; any other one (a signal, a traceback) is as good as a failed test.
SURVIVED, KILLED, BROKEN = 0, 10, 11
TEST_SECONDS, TEST_FACTOR = 1.0, 5.0  # of processor time, and so many times what the test takes without a fault
# All threads of a trial asleep, without a tick of processor time: so long, and so many times what the test takes without
# a fault. It waits for what a fault keeps from coming.
ASLEEP_SECONDS, ASLEEP_FACTOR = 2.0, 3.0
MEMORY_BYTES = 8 << 30
WALL_SECONDS = 180.0
LOOK_SECONDS = 0.25


def own_tests(path: str) -> str:
    """The test module of a module."""
    room, _, name = path.removeprefix("cluster/").rpartition("/")
    return f"tests/{room}/test_{name}"


class Patience:
    """How long all threads of a trial may sleep: set in its process, test by test, and read by whoever watches it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)
        self.seconds = ASLEEP_SECONDS

    @property
    def seconds(self) -> float:
        return float(struct.unpack_from("d", self._shared)[0])

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        struct.pack_into("d", self._shared, 0, seconds)


Run = Callable[[Patience], int]


@dataclass
class _Trial:
    number: int
    pid: int
    patience: Patience
    began: float = field(default_factory=time.monotonic)
    awake: float = field(default_factory=time.monotonic)  # when it was last seen to do something
    ticks: int = 0

    def is_stuck(self) -> bool:
        """Whether it will not end by itself."""
        now = time.monotonic()
        ticks, is_asleep = _looked_at(self.pid)
        if ticks != self.ticks or not is_asleep:
            self.ticks, self.awake = ticks, now
        return now - self.awake > self.patience.seconds or now - self.began > WALL_SECONDS


class Crew:
    """Processes that each try one thing, so many at a time; `note` is told the number of each and what it came to."""

    def __init__(self, places: int, note: Callable[[int, int], None]) -> None:
        self._places = places
        self._note = note
        self._busy: dict[int, _Trial] = {}  # by the descriptor that tells of its end

    def put(self, number: int, run: Run) -> None:
        """Have `run` come to something in a process of its own, once there is a place."""
        while len(self._busy) >= self._places:
            self._look()
        sys.stdout.flush()
        patience = Patience()
        pid = os.fork()
        if not pid:
            status = BROKEN
            with contextlib.suppress(BaseException):
                os.setsid()
                quiet = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(quiet, stream)
                status = run(patience)
            os._exit(status)
        self._busy[os.pidfd_open(pid)] = _Trial(number, pid, patience)

    def finish(self) -> None:
        """Wait for all that are left."""
        while self._busy:
            self._look()

    def _look(self) -> None:
        poll = select.poll()
        for watch in self._busy:
            poll.register(watch, select.POLLIN)
        ended = {watch for watch, _ in poll.poll(LOOK_SECONDS * 1000)}
        for watch, trial in list(self._busy.items()):
            if watch in ended or trial.is_stuck():
                self._bury(watch, self._busy.pop(watch))

    def _bury(self, watch: int, trial: _Trial) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(trial.pid, signal.SIGKILL)  # it, if it is stuck, and what it started and left behind
        os.close(watch)
        _, status = os.waitpid(trial.pid, 0)
        self._note(trial.number, os.waitstatus_to_exitcode(status))


def in_fork(run: Run) -> int:
    """What `run` comes to in a process of its own; negative: the signal that ended it."""
    statuses: list[int] = []
    crew = Crew(1, lambda _, status: statuses.append(status))
    crew.put(0, run)
    crew.finish()
    return statuses[0]


def _looked_at(pid: int) -> tuple[int, bool]:
    """Ticks of processor time that a process has had, and whether all its threads sleep."""
    ticks, states = 0, set()
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = task.read_text().rpartition(")")[2].split()
            states.add(fields[0])
            ticks += int(fields[11]) + int(fields[12])
    return ticks, states <= {"S"}


def bounded() -> None:
    """Hold this process to what a trial may take; see `Session.run` for each of its tests."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_pytest(session: Session, tests: Sequence[str]) -> int:
    """Collect these tests, and let `session` do with them what it wants."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--rootdir", str(ROOT)]
    options += [f"--ignore={path}" for path in LEFT_OUT]
    os.chdir(ROOT)
    return int(pytest.main([*options, *tests], plugins=[session]))


class Session:
    """A plugin that gets the collected tests and decides what to run. `use` is called with them, once."""

    def __init__(self, use: Callable[[Session], None]) -> None:
        self._use = use
        self.items: list[pytest.Item] = []
        self.is_trial = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        # A look at all processes of the machine, twice for each test module; `in_fork` sees to what is left.
        conftest: Any = next(
            p for p in session.config.pluginmanager.get_plugins() if hasattr(p, "processes_of_this_run")
        )
        conftest.processes_of_this_run = list
        self.items = session.items
        if not session.testsfailed:  # all could be collected
            self._use(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.is_trial:
            os._exit(KILLED)

    def run(self, items: Sequence[pytest.Item], rehearsal: Rehearsal, patience: Patience) -> int:
        """Run these tests in this order; does not return after the first that fails, or takes much longer than it did."""
        self.is_trial = True
        for item, after in zip_longest(items, items[1:]):
            patience.seconds = ASLEEP_SECONDS + ASLEEP_FACTOR * rehearsal.lasted[item.nodeid]
            # The signal's default action ends the process. The real-time one is pytest-timeout's.
            signal.setitimer(signal.ITIMER_VIRTUAL, TEST_SECONDS + TEST_FACTOR * rehearsal.seconds[item.nodeid])
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        return SURVIVED

    def rehearse(self, answer: Path) -> int:
        """Run all tests once without a fault, and write down which lines each of them runs and how long it takes."""
        tracer = coverage.Coverage(data_file=None, config_file=False, include=[str(ROOT / "cluster/*")])
        seconds: dict[str, float] = {}
        lasted: dict[str, float] = {}
        self.is_trial = True
        tracer.start()
        for item, after in zip(self.items, [*self.items[1:], None], strict=True):
            tracer.switch_context(item.nodeid)
            before, began = time.process_time(), time.monotonic()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            seconds[item.nodeid] = time.process_time() - before
            lasted[item.nodeid] = time.monotonic() - began
        tracer.stop()
        data = tracer.get_data()
        lines = {
            str(Path(name).relative_to(ROOT)): {
                str(line): [test for test in tests if test] for line, tests in data.contexts_by_lineno(name).items()
            }
            for name in data.measured_files()
        }
        answer.write_text(json.dumps({"seconds": seconds, "lasted": lasted, "lines": lines}))
        return SURVIVED


class Rehearsal:
    """What is known of the tests: which to run for a mutant, and in which order."""

    def __init__(self, answer: Path) -> None:
        told = json.loads(answer.read_text())
        self.seconds: dict[str, float] = told["seconds"]  # of processor time
        self.lasted: dict[str, float] = told["lasted"]  # by the clock
        self._lines: dict[str, dict[str, list[str]]] = told["lines"]

    def witnesses(self, mutant: Mutant) -> set[str]:
        """The tests that run the mutant's line; all, where that is at import."""
        if not mutant.scope:
            return set(self.seconds)
        lines = self._lines.get(mutant.path, {})
        return {test for line in range(mutant.line, mutant.last_line + 1) for test in lines.get(str(line), ())}

    def order(self, mutant: Mutant, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """The witnesses among these tests: the module's own first, the quick ones of each sort before the slow."""
        wanted, own = self.witnesses(mutant), own_tests(mutant.path)
        return sorted(
            (item for item in items if item.nodeid in wanted),
            key=lambda item: (
                self.seconds[item.nodeid] > 1.0,
                not item.nodeid.startswith(own),
                self.seconds[item.nodeid],
            ),
        )


# --- putting the fault in -----------------------------------------------------------------------------------------


def put_in(mutant: Mutant) -> bool:
    """Give the function that holds the fault its mutated code; False where that can't be done."""
    module = sys.modules[mutant.path.removesuffix(".py").replace("/", ".")]
    found: Any = module
    for name in mutant.scope.split("."):
        found = vars(found)[name]
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "__func__", found)
    code = _code_of(compile(mutant.source, str(ROOT / mutant.path), "exec"), mutant.scope)
    if not isinstance(found, types.FunctionType) or code is None or code.co_freevars != found.__code__.co_freevars:
        return False
    found.__code__ = code
    return True


def _code_of(code: types.CodeType, scope: str) -> types.CodeType | None:
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            if one.co_qualname == scope:
                return one
            if scope.startswith(one.co_qualname + "."):
                return _code_of(one, scope)
    return None


class Importer(importlib.abc.MetaPathFinder):
    """Imports one module from another text."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = mutant.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        file = str(ROOT / self._mutant.path)
        return importlib.util.spec_from_file_location(
            fullname, file, loader=_Loader(fullname, file, self._mutant.source)
        )


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, text: str) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self._text, self.path, "exec")
