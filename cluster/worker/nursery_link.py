"""The supervisor's side of the nursery: starts the process, asks it for children, hears what becomes of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from cluster.worker import output
from cluster.worker.channel import UNREADABLE
from cluster.worker.config import WorkerConfig
from cluster.worker.nursery_protocol import FromNursery, Setup, Spawn, decoder_of_news, receive, send
from cluster.worker.nursery_start import Interpreter, start_interpreter

_decode = decoder_of_news()


class NurseryLink:
    """A running nursery. Used by the supervisor's thread; `start` alone may be called by another before it runs."""

    def __init__(self, config: WorkerConfig, worker: str, host: str, interpreter: Interpreter | None = None) -> None:
        """Make one; an `interpreter` is one that was started already, so as to be up the sooner."""
        self._config = config
        self._setup = Setup(
            worker,
            host,
            os.fsencode(config.directory),
            config.max_output_bytes,
            config.max_result_bytes,
            os.fsencode(config.scratch),
            config.threads,
            config.identity,
            config.limits,
            os.fsencode(config.group),
        )
        self._interpreter = interpreter
        self._control: socket.socket

    @property
    def pid(self) -> int:
        """The nursery's process id; 0 if there is none."""
        return self._interpreter.pid if self._interpreter is not None else 0

    @property
    def mark(self) -> str:
        """What stands in the environment of all that the nursery's jobs start; empty if there is no nursery."""
        return self._interpreter.mark if self._interpreter is not None else ""

    def fileno(self) -> int:
        """The control socket's descriptor."""
        return self._control.fileno()

    def start(self) -> None:
        """Start the process; returns before it is ready. Raises `OSError` where the system won't have it."""
        if self._interpreter is None:
            config = self._config
            self._interpreter = start_interpreter(config.sys_path, config.slots, dict(config.env))
        self._control = socket.socket(fileno=self._interpreter.control.detach())
        send(self._control, self._setup)
        self._control.settimeout(0)

    def spawn(self, slot: int, generation: int, descriptors: tuple[int, int]) -> None:
        """Ask for a child. Raises `OSError` if the nursery is gone, which `news` tells too."""
        send(self._control, Spawn(slot, generation), descriptors)

    def news(self) -> Iterator[tuple[FromNursery, int]]:
        """What it has said, each with the descriptor that came along (or -1). Raises `EOFError` when it is gone."""
        while True:
            received = receive(self._control)
            if received is None:
                return
            data, descriptors = received
            try:
                message = _decode(data)
            except UNREADABLE as error:  # only a foreign hand on its socket can do that
                raise EOFError from error
            yield message, descriptors[0] if descriptors else -1

    def close(self) -> str:
        """End the nursery and all children; returns when it is gone. The last it had to say, where it failed."""
        if self._interpreter is None:
            return ""
        interpreter, self._interpreter = self._interpreter, None
        self._control.close()  # the end of this socket is its order to clean up
        interpreter.wait_for_exit()
        size = output.size_of(interpreter.stderr)
        words = output.tail_text(output.take(interpreter.stderr, size, self._config.max_output_bytes))
        interpreter.discard()
        return words
