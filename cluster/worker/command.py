"""A command of the shell as a job: the importable task behind `cluster submit -- COMMAND...`.

It runs inside a child like any task, so the command's output is the job's output (both write to the child's
descriptors 1 and 2), and whatever stops the job kills the command with it. A command that fails is a task that raises:
it is retried, given up and explained as any other.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence

TASK = f"{__name__}:run_command"  # by name, so that a client needs nothing but this text

NOT_FOUND_STATUS = 127  # the shell's conventions
NOT_EXECUTABLE_STATUS = 126
SIGNAL_BASE = 128


class CommandFailed(Exception):
    """A command ended with another exit status than 0, or could not be started."""

    def __init__(self, program: str, exit_status: int, reason: str) -> None:
        super().__init__(program, exit_status, reason)
        self.program = program
        self.exit_status = exit_status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.program} {self.reason}"


def run_command(argv: Sequence[str], directory: str | None = None) -> None:
    """Run the command, without a shell. Raises `CommandFailed` with what a shell would call its status, unless that is 0.

    Args:
        argv: program and arguments.
        directory: where to run it; None: the job's own working directory.
    """
    program = argv[0]
    try:
        done = subprocess.run(list(argv), cwd=directory, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        # Popen names the directory, if that is what can't be entered.
        subject = f": {error.filename}" if error.filename not in {None, program} else ""
        is_missing = isinstance(error, FileNotFoundError)
        status = NOT_FOUND_STATUS if is_missing else NOT_EXECUTABLE_STATUS
        raise CommandFailed(program, status, f"can't be started{subject}: {error.strerror}") from None
    if done.returncode < 0:
        raise CommandFailed(program, SIGNAL_BASE - done.returncode, f"was killed by {_signal_name(-done.returncode)}")
    if done.returncode:
        raise CommandFailed(program, done.returncode, f"ended with exit status {done.returncode}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
