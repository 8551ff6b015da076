"""Issue 4, "Death certificates everywhere: job, error, CLI, log": of each kind of end, what, where and why, in all four."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import cluster
from cluster import errors
from cluster.core.records import Ending
from tests.acceptance import tasks
from tests.acceptance.lab import Lab, a_lab
from tests.acceptance.programs import ROOT, wait_until


class Picky(Exception):
    """Can't be rebuilt from its pickle."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def raise_picky() -> NoReturn:
    raise Picky("one", "two")


class Unloadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return tasks.fail, ("not here",)


_LOST = "was lost: no heartbeat for 1.5 s"
# Task, arguments, options; the error, and what it says.
ENDS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], Ending, str]] = {
    "exception": (tasks.fail, (), {}, RuntimeError, Ending.RAISED, "raised RuntimeError: as it should"),
    "exception that can't be rebuilt": (raise_picky, (), {}, errors.RemoteError, Ending.RAISED, "Picky: onetwo"),
    "SystemExit": (tasks.leave, (), {}, errors.RemoteError, Ending.RAISED, "raised SystemExit"),
    "signal": (tasks.segfault, (), {}, errors.JobCrashed, Ending.CRASHED, "killed by SIGSEGV (a segmentation fault"),
    "exit code": (tasks.vanish, (3,), {}, errors.JobCrashed, Ending.CRASHED, "exited with code 3 before the job ended"),
    "memory": (tasks.fill, (400,), {"memory": "100MB"}, errors.OutOfMemory, Ending.OUT_OF_MEMORY, "more than its limit of 100 MB"),
    "timeout": (tasks.last_for_ever, (), {"timeout": 0.2}, errors.JobTimeout, Ending.TIMED_OUT, "longer than its timeout of 0.2 s"),
    "tiny timeout": (tasks.last_for_ever, (), {"timeout": 0.001}, errors.JobTimeout, Ending.TIMED_OUT, "longer than its timeout of 0.001 s"),
    "unpicklable result": (tasks.give_lock, (), {}, errors.RemoteError, Ending.UNPICKLABLE, "its result can't be pickled: TypeError"),
    "arguments": (tasks.ignore, (Unloadable(),), {}, errors.RemoteError, Ending.UNPICKLABLE, "its arguments can't be unpickled on the worker: RuntimeError: not here"),
    "no such module": ("nowhere_to_be:found", (), {}, errors.RemoteError, Ending.UNPICKLABLE, "its function can't be loaded on the worker: ModuleNotFoundError"),
    "expired": (tasks.last_for_ever, (), {"expires": 0.3}, errors.JobExpired, Ending.EXPIRED, "its time to live was over"),
    "cancelled": (tasks.note_and_last, (), {}, errors.JobCancelled, Ending.CANCELLED, "it was cancelled"),
    "worker lost": (tasks.note_and_last, (), {}, errors.WorkerLost, Ending.WORKER_LOST, _LOST),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with a_lab(tmp_path_factory.mktemp("ends"), heartbeat_timeout_seconds=1.5) as one:
        one.start_worker()
        yield one


def show(lab: Lab, job: str) -> str:
    """What `cluster job show` prints."""
    given = {"CLUSTER_ADDRESS": lab.bind, "CLUSTER_AUTHKEY_FILE": str(lab.folder / "keys" / "client.key")}
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-m", "cluster", "job", "show", job],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONPATH": str(ROOT), **given},
    )  # fmt: skip
    return shown.stdout


@pytest.mark.parametrize("how", ENDS)
def test_job_error_command_line_and_log_say_what_where_and_why(lab: Lab, how: str, tmp_path: Path) -> None:
    task, args, options, kind, ending, words = ENDS[how]
    budget: dict[str, Any] = {"retries": 0, "crash_limit": 0, **options}
    with lab.connect() as client:
        if task is tasks.note_and_last:
            args = (str(tmp_path / "begun"), "begun")
        job = client.submit(task, args, **budget)
        if how == "cancelled":
            wait_until((tmp_path / "begun").exists)
            assert job.cancel()
        elif how == "worker lost":
            wait_until((tmp_path / "begun").exists)
            lab.processes[-1].kill()
            lab.processes[-1].wait()
            lab.start_worker()
        error = fail_of(job)
        (_, why), = job.history().attempts  # fmt: skip

    # The job.
    assert (why.ending, why.attempt) == (ending, 1)
    assert words in why.reason
    assert why.worker.startswith("w#")
    assert why.started > 0
    assert why.seconds > 0
    if ending not in (Ending.EXPIRED, Ending.CANCELLED, Ending.WORKER_LOST):  # judged by the master, from afar
        assert (why.host, why.pid > 0) == (os.uname().nodename, True)
    # The error.
    assert type(error) is kind
    if isinstance(error, errors.JobError):
        assert words in str(error)
        assert f"(attempt 1, worker {why.place})" in str(error)
    # The command line.
    shown = show(lab, job.id)
    assert words in shown
    assert f"  where   {why.place}" in shown
    # The log.
    (line,) = [line for line in lab.log().splitlines() if f" job={job.id} " in line]
    assert "job ended without a result: " in line
    assert words in line
    assert f"ending={ending.name.lower()} worker={why.worker}" in line


def fail_of(job: cluster.Job[Any]) -> BaseException:
    """What its result raises."""
    with pytest.raises(BaseException) as caught:
        job.result(timeout=30)
    return caught.value
