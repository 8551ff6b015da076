"""What holds for every test: signals are as in a terminal, no process and no handler of the log is left, Hypothesis knows
of a busy machine.

Each process that a test starts inherits `TESTS_RUN` in its environment, and so do that one's children, whoever adopts
them. After each module every process that carries this run's mark must be gone. (The kit scrubs names that start with
`CLUSTER_` from a job's environment, so the mark has another name.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import uuid
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = uuid.uuid4().hex
os.environ["TESTS_RUN"] = RUN

# A nursery looks for its supervisor each second; what it needs beyond that is the machine being busy.
GRACE_SECONDS = 10.0

hypothesis.settings.register_profile("kit", deadline=None, print_blob=True)
# Of the machines, by night: `HYPOTHESIS_PROFILE=long pytest tests/store/test_machine.py --timeout=0`.
hypothesis.settings.register_profile(
    "long", deadline=None, print_blob=True, max_examples=50_000, stateful_step_count=100
)
# The same examples for each mutant, and a failure is enough: it need not be a short one.
hypothesis.settings.register_profile(
    "mutants", deadline=None, derandomize=True, database=None, phases=[hypothesis.Phase.generate]
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "kit"))


def pytest_configure() -> None:
    """Whoever runs the tests may have SIGHUP (nohup) or SIGINT (a script's background job) ignored: not so the tests.

    What is ignored stays so in the programs that they start. A handler does not: those have the default. Not at import:
    jobs import this module too, in a child where SIGINT is ignored on purpose, or in a thread of one.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _leaves_this_process_s_log_alone() -> Iterator[None]:
    """What runs a command here instead of in a process of its own may set up the log, for every later test too."""
    before = log_handlers()

    yield

    assert log_handlers() == before, "the log of the tests' own process was set up"


def log_handlers() -> list[logging.Handler]:
    """The root's, but for pytest's own."""
    return [handler for handler in logging.getLogger().handlers if not type(handler).__module__.startswith("_pytest")]


def processes_of_this_run() -> list[psutil.Process]:
    """Every living process that was started, however indirectly, by this run of the tests."""
    found = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get("TESTS_RUN") == RUN:
                found[process.pid] = process
    return [process for process in found.values() if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it could still do something; a zombie only waits for its parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module", autouse=True)
def _leaves_no_process_behind() -> Iterator[None]:
    before = {process.pid for process in processes_of_this_run()}

    yield

    started = [process for process in processes_of_this_run() if process.pid not in before]
    _, left = psutil.wait_procs(started, timeout=GRACE_SECONDS)
    told = []
    for process in filter(is_alive, left):
        with contextlib.suppress(psutil.Error):
            told.append(f"{process.pid}: {' '.join(process.cmdline())}")
            process.kill()  # so that one test's fault is not every later module's
    assert not told, "left running by this module:\n" + "\n".join(told)
