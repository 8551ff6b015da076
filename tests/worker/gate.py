"""A gate between a test and a running job: the test learns that the job has begun, and says when it may go on."""

from __future__ import annotations

import os
import select
import uuid
from pathlib import Path

DEADLINE_SECONDS = 20.0


class Gate:
    """Two named pipes. Pickles as their paths, so that a job can hold it."""

    def __init__(self, folder: Path) -> None:
        name = uuid.uuid4().hex
        self.entered, self.released = str(folder / f"{name}.in"), str(folder / f"{name}.out")
        self._descriptors: list[int] = []
        for path in (self.entered, self.released):
            os.mkfifo(path)
            # Both ends, so that neither side's opening ever blocks.
            self._descriptors.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    def __getstate__(self) -> tuple[str, str]:
        return self.entered, self.released

    def __setstate__(self, state: tuple[str, str]) -> None:
        self.entered, self.released = state
        self._descriptors = []

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    # --- the job's side -------------------------------------------------------------------------------------------

    def tell(self, number: int) -> None:
        """Say a number and go on."""
        descriptor = os.open(self.entered, os.O_WRONLY)
        os.write(descriptor, b"%d\n" % number)
        os.close(descriptor)

    def pass_through(self) -> int:
        """Say that the job runs, as which process, and wait until it may go on."""
        self.tell(os.getpid())
        descriptor = os.open(self.released, os.O_RDONLY)
        os.read(descriptor, 1)
        os.close(descriptor)
        return os.getpid()

    # --- the test's side ------------------------------------------------------------------------------------------

    def wait_entered(self, seconds: float = DEADLINE_SECONDS) -> int:
        """The next number told: the pid of the next job that stands at the gate."""
        digits = b""
        poll = select.poll()
        poll.register(self._descriptors[0], select.POLLIN)
        while not digits.endswith(b"\n"):
            assert poll.poll(seconds * 1000), f"nobody came to the gate in {seconds} s"
            digits += os.read(self._descriptors[0], 1)
        return int(digits)

    def is_quiet(self) -> bool:
        """Nobody has said anything that was not heard yet."""
        poll = select.poll()
        poll.register(self._descriptors[0], select.POLLIN)
        return not poll.poll(0)

    def release(self, jobs: int = 1) -> None:
        """Let so many jobs go on."""
        os.write(self._descriptors[1], b"x" * jobs)
