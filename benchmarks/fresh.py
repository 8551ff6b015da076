"""Runs one interpreter from start to end, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
# The slowest measurement, 10,000 jobs through ProcessPoolExecutor, takes 3 s on the machine of the notes.
TIMEOUT_SECONDS = 180.0
# In the environment of all that comes of one run, so that it can be found.
MARK_VARIABLE = "BENCHMARK_MARK"


class RunFailed(Exception):
    """An interpreter did not end well; the text says how."""


@dataclass(frozen=True, slots=True)
class Run:
    """What an interpreter printed, and when (`time.monotonic`, one clock for all processes of a machine)."""

    began: float
    ended: float
    output: str


def run_python(
    *arguments: str, timeout_seconds: float = TIMEOUT_SECONDS, python: str = sys.executable, project: Path = PROJECT
) -> Run:
    """Start `python` with these arguments, in the project's folder and able to import it; wait for its end."""
    began = time.monotonic()
    mark = secrets.token_hex(8)
    process = subprocess.Popen(
        [python, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
        env=environment(project) | {MARK_VARIABLE: mark},
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
        end_marked(mark)
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


def end_marked(mark: str) -> None:
    """Kill what has gone into sessions of its own: some peers' servers do, and outlive whoever started them."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or another user's, and then none of ours
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def environment(project: Path = PROJECT) -> dict[str, str]:
    """This process's environment, with the project importable whether it is installed or not.

    Where bytecode is not to be kept, ours would be compiled at each start and the standard library's would not.
    """
    paths = [str(project), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}
