"""The thread that runs the user's done-callbacks.

One per session, started when the first callback is added. Outcomes are delivered by threads of the master; a callback
that blocks there would keep everybody else's outcomes back, here it only keeps back other callbacks. At interpreter
exit no thread can be started: then callbacks are called where they fall due.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

_LOG = logging.getLogger("cluster")
_JOIN_SECONDS = 5.0  # for one that doesn't return when the session closes


class Callbacks:
    """Runs calls in order, one at a time, in a thread of its own."""

    def __init__(self, on_idle: Callable[[], None]) -> None:
        """Make one.

        Args:
            on_idle: called, by that thread, whenever nothing is left to call.
        """
        self._on_idle = on_idle
        self._lock = threading.Lock()
        self._waiting = 0  # calls that wait or run; guarded by `_lock`
        self._thread: threading.Thread | None = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread, if it isn't there; in the user's thread, so that a delivery never has to."""
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="cluster-callbacks", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is going down
                return
            self._thread = thread

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called soon."""
        if self._thread is None:
            function()
            return
        with self._lock:
            self._waiting += 1
        self._calls.put(function)

    def is_here(self) -> bool:
        """Whether the caller is called back himself."""
        return threading.current_thread() is self._thread

    def is_busy(self) -> bool:
        """Whether there are calls to wait for. None are, for whoever is called back himself."""
        return self._waiting > 0 and not self.is_here()

    def close(self) -> None:
        """Call what waits, and end; a call that doesn't return is left to itself after five seconds."""
        self._calls.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while (function := self._calls.get()) is not None:
            try:
                function()
            except BaseException:  # noqa: BLE001 - one user's SystemExit must not end the callbacks of others
                _LOG.exception("a done-callback raised what it should not; the next ones are called all the same")
            with self._lock:
                self._waiting -= 1
                is_idle = self._waiting == 0
            if is_idle:
                self._on_idle()
