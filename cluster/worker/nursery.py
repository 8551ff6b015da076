"""The nursery: our own fork server, from which every child comes, and to which every orphan falls.

Why not fork from the user's process: it has threads, and a lock that another thread holds at the fork stays locked in
the child for ever. Why not start each child anew: an interpreter with cloudpickle costs 40 ms, a fork of this one 2 ms.

The process has one thread, runs no user code, and never imports the user's `__main__`.

    supervisor ──Setup, Spawn + (socket, output file)──► nursery ──fork──► child (one per slot) ──► what jobs start
               ◄─Spawned + pidfd, SpawnFailed, Died─────    ▲ SIGCHLD          │ dies
                                                            └── its orphans ◄──┘

Who dies, and what follows:
- A child: its session, its process group and whatever it daemonised become ours, because each child is the subreaper of
  its own descendants and we are that of all. Every process below us that is no registered child is therefore such an
  orphan: it is killed and reaped, until none is left. Only then is the death told.
- The supervisor (or the whole user's process): the control socket ends, or, where a fork of the user's process holds a
  copy of its other end, our parent changes. Then every child's tree is killed, and we exit.
- We: children have asked the kernel to die with their parent. What jobs themselves had started is then the business of
  the supervisor (see `orphans`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import types

import cloudpickle  # noqa: F401 - every child needs it, and inherits it

from cluster.wire.hiding import hide_memory
from cluster.worker import child, isolation, scratch
from cluster.worker.nursery_protocol import (
    Died,
    Setup,
    Spawn,
    Spawned,
    SpawnFailed,
    decoder_of_orders,
    receive,
    send,
)

PARENT_CHECK_SECONDS = 1.0
SWEEP_SECONDS = 0.002
# A process in an uninterruptible wait can't be reaped; its slot must not stay empty for that. It is still killed, and
# reaped whenever it comes back.
MAX_SWEEP_SECONDS = 2.0
MAX_FAREWELL_SECONDS = 5.0
FAILED_CHILD_STATUS = 70  # EX_SOFTWARE: our own code failed in the child

_decode = decoder_of_orders()


class Nursery:
    """Forks children on request and cleans up after each."""

    def __init__(self, control: socket.socket, parent: int) -> None:
        self._control = control
        self._parent = parent
        self._pid = os.getpid()
        self._setup = Setup("", "", b"", 0, 0)
        self._children: dict[int, Spawn] = {}
        # Deaths that are told once nothing of those children is left.
        self._dead: list[Died] = []
        self._sweeping_since = 0.0
        # A signal that comes just before the poll must end it.
        self._alarm, alarm_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(alarm_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        isolation.become_subreaper()

    def serve(self) -> None:
        """Work until the supervisor is gone, then leave nothing behind."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._alarm, select.POLLIN)
        is_sweeping = False
        with contextlib.suppress(EOFError, ConnectionError):
            while os.getppid() == self._parent:
                ready = poll.poll(1000 * (SWEEP_SECONDS if is_sweeping else PARENT_CHECK_SECONDS))
                for descriptor, _ in ready:
                    if descriptor == self._alarm:
                        os.read(self._alarm, 4096)
                    else:
                        self._on_message()
                is_sweeping = self._bury()
        self._farewell()

    def _on_message(self) -> None:
        received = receive(self._control)
        if received is None:
            return
        data, descriptors = received
        message = _decode(data)
        if isinstance(message, Setup):
            self._setup = message
            with contextlib.suppress(OSError):  # gone meanwhile: jobs start where we are
                os.chdir(message.directory)
            return
        try:
            self._spawn(message, descriptors[0], descriptors[1])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn(self, order: Spawn, end: int, output: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            send(self._control, SpawnFailed(order.slot, order.generation, f"can't fork: {error}"))
            return
        if pid == 0:
            self._be_child(end, output)
        self._children[pid] = order
        pidfd = os.pidfd_open(pid)
        try:
            send(self._control, Spawned(order.slot, order.generation, pid), (pidfd,))
        finally:
            os.close(pidfd)

    def _be_child(self, end: int, output: int) -> None:
        # Whatever happens, this copy must not return into the nursery's loop.
        try:
            # What it says when it fails to become a child goes to the supervisor, who reads that file of the dead.
            os.dup2(output, 2)
            if self._setup.scratch and not self._setup.threads:
                scratch.enter(os.fsdecode(self._setup.scratch), self._setup.identity)
            if self._setup.threads:
                # Before it may be a user who can't read it.
                from cluster.worker import threaded_child
            setup = self._setup
            terms = isolation.Terms(self._pid, setup.identity, setup.limits, setup.group)
            kept = isolation.separate(end, output, terms)
            if self._setup.threads:
                threaded_child.ThreadedChild(self._setup, kept).serve()
            child.Child(self._setup, kept).serve()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(FAILED_CHILD_STATUS)

    def _bury(self) -> bool:
        """Reap the dead, kill their orphans, tell of deaths whose trees are gone; True while there is more to do."""
        self._reap()
        orphans = [pid for pid in _children_of_this_process() if pid not in self._children]
        for pid in orphans:
            # An unreaped child of ours: its number can't have been given to anyone else.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not orphans or time.monotonic() - self._sweeping_since > MAX_SWEEP_SECONDS:
            for died in self._dead:
                send(self._control, died)
            self._dead.clear()
        return bool(orphans)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            order = self._children.pop(pid, None)
            if order is None:
                continue
            if not self._dead:
                self._sweeping_since = time.monotonic()
            cpu_seconds = usage.ru_utime + usage.ru_stime
            self._dead.append(Died(order.slot, order.generation, pid, status, usage.ru_maxrss * 1024, cpu_seconds))

    def _farewell(self) -> None:
        deadline = time.monotonic() + MAX_FAREWELL_SECONDS
        poll = select.poll()
        poll.register(self._alarm, select.POLLIN)
        while time.monotonic() < deadline:
            for pid in _children_of_this_process():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.wait4(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            if poll.poll(1000 * SWEEP_SECONDS):  # a child's death ends the wait
                os.read(self._alarm, 4096)


def _children_of_this_process() -> list[int]:
    pid = os.getpid()
    try:
        with open(f"/proc/self/task/{pid}/children", "rb") as file:  # noqa: PTH123 - three times as fast
            return [int(word) for word in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        with os.scandir("/proc") as entries:
            others = [int(entry.name) for entry in entries if entry.name.isdecimal()]
        return [other for other in others if _parent_of(other) == pid]


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def main(control: int, parent: int) -> None:
    """The process's life. `control` is the inherited socket's descriptor, `parent` the supervisor's pid."""
    # The boot script is nobody's `__main__`; a job that looks for its own must find an empty one.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]
    hide_memory()
    nursery = Nursery(socket.socket(fileno=control), parent)
    # Children share our pages until one of them writes; a collector's round would write to all of them.
    gc.freeze()
    gc.enable()
    nursery.serve()
    os._exit(0)
