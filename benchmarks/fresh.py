"""Runs one interpreter from start to end, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
# The slowest measurement, 10,000 jobs through ProcessPoolExecutor, takes 3 s on the machine of the notes.
TIMEOUT_SECONDS = 180.0


class RunFailed(Exception):
    """An interpreter did not end well; the text says how."""


@dataclass(frozen=True, slots=True)
class Run:
    """What an interpreter printed, and when (`time.monotonic`, one clock for all processes of a machine)."""

    began: float
    ended: float
    output: str


def run_python(*arguments: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Run:
    """Start `python` with these arguments, in the project's folder and able to import it; wait for its end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=environment(),
        # A group of its own: a peer that hangs leaves workers behind, which its parent's death does not end.
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
        ended = time.monotonic()
    except subprocess.TimeoutExpired:
        raise RunFailed(f"no end in {timeout_seconds:.0f} s") from None
    finally:
        end_group(process)
    if process.returncode != 0:
        last_words = (errors.strip() or "it said nothing").splitlines()[-1]
        raise RunFailed(f"exit status {process.returncode}: {last_words}")
    return Run(began, ended, output)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of the interpreter's processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def environment() -> dict[str, str]:
    """This process's environment, with the project importable whether it is installed or not.

    Where bytecode is not to be kept, ours would be compiled at each start and the standard library's would not.
    """
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}
