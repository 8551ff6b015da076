"""Locks and bells that Ctrl-C in the main thread can't break.

`KeyboardInterrupt` is raised in the main thread where CPython looks for signals: at calls, at the start of a function,
and when a loop goes back; never between two plain statements without a call. `with threading.Condition():` enters and
leaves through Python functions, so the exception may come when the lock is taken and the block not yet begun, or when
the block has ended and the lock is not yet released. Then nobody ever releases it, and the next thread of the master
that delivers an outcome waits for it for ever. The same holds of `threading.Event`.

So whatever the main thread shares with others is entered and left in one step of the interpreter, as a lock made in C
is; and what must change together is changed without a call in between.
"""

from __future__ import annotations

import _thread
import contextlib
import queue
import threading
from collections import deque


class Gate(_thread.RLock, threading.Condition):  # type: ignore[misc]  # final for typeshed only
    """A `threading.Condition` that is its own lock, acquired and released by C code. Not to be waited on when nested."""

    def __init__(self) -> None:  # not the bases': they would put Python functions in the way again
        self._waiters: deque[_thread.LockType] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock until notified, and take it again; False if that took longer than `timeout` seconds.

        As the base class has it, but for Ctrl-C between letting go and waiting: it, too, leaves with the lock taken.
        """
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("waiting at a gate needs its lock")
        waiter = _thread.allocate_lock()
        waiter.acquire()
        held_once = (1, threading.get_ident())
        self._waiters.append(waiter)
        is_notified = False
        try:
            # First thing in the block, and let go of before Ctrl-C can come: so whoever leaves it must take it again.
            self._release_save()  # type: ignore[attr-defined]  # of the lock in C, as `Condition` uses it too
            is_notified = waiter.acquire(True, -1 if timeout is None else max(0.0, timeout))  # noqa: FBT003
        finally:
            self._acquire_restore(held_once)  # type: ignore[attr-defined]
        if not is_notified:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
        return is_notified


class Bell:
    """A `threading.Event` for one waiting thread, which hears a ring once."""

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Wake the waiter, now or when it next waits."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring; False if none came in time."""
        try:
            self._rings.get(timeout=timeout)
        except queue.Empty:
            return False
        return True

    def hush(self) -> None:
        """Forget the rings that were not heard."""
        while self.wait(0.0):
            pass
