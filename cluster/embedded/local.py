"""`cluster.local`: a whole cluster inside the calling process.

    user's threads ── handle ──► shielded desk ──► master (board, committer, store) ◄── work desk ── supervisor thread
                                                                                                     │
                                                                                       nursery process ── children

Everything but the nursery and its children lives and dies with this process. If it is SIGKILLed the nursery finds its
control socket closed and takes the children along; what was acknowledged is in the store, if that is a durable one,
and the next `local(store=...)` goes on with it. Nobody else can hold a lease of that store then, so what was leased is
tried again at once. The heartbeat comes from a thread of this process: code that holds the interpreter's lock for long
delays it, and delays the master that waits for it just as much.
"""

from __future__ import annotations

import gc
import sys

from cluster.embedded.cpus import usable_cpus
from cluster.worker.nursery_start import Interpreter, start_interpreter

TYPE_CHECKING = False  # as in `cluster`: a checker knows the name, and `typing` is slow to load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.client.handle import Cluster
    from cluster.worker.supervisor import Supervisor

MEMORY_STORE = "memory:"


def local(
    *,
    slots: int | None = None,
    store: str = MEMORY_STORE,
    resources: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Cluster:
    """Start a cluster in this process; returns at once, while its workers come up.

    Leaving its `with` block waits for the jobs that were submitted through it; left by an exception it stops at once,
    and what has not ended stays in the store.

    Args:
        slots: processes that run jobs; by default one for each cpu that this process may use.
        store: "memory:" (jobs live as long as this process) or "sqlite:///PATH" (durable: open it again and go on).
        resources: what the worker offers besides slots, to jobs that ask for `resources`.
        labels: what the worker is, to jobs that ask for `labels`.

    Raises:
        TypeError, ValueError: an argument can't be what it is.
        StoreError: the store can't be opened; `StoreInUse` names who has it.
    """
    slots = _check_slots(slots)
    # First of all: what this process needs is loaded while that interpreter starts on another cpu.
    interpreter: Interpreter | None = None
    supervisor: Supervisor | None = None
    try:  # noqa: SIM105 - `contextlib` is slow to load
        interpreter = start_interpreter(tuple(sys.path), slots)
    except OSError:  # the supervisor tries again, and says so
        pass
    # What is loaded and made here stays, and the collector's rounds through it would take a twentieth of the time.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        from cluster.embedded.worker import prepare_worker

        marks = resources or {}, labels or {}
        supervisor = prepare_worker(interpreter, slots, marks, is_durable=store != MEMORY_STORE)
        from cluster.embedded.assembly import assemble

        return assemble(supervisor, store)
    except BaseException:
        if supervisor is not None:
            supervisor.stop()
        elif interpreter is not None:
            interpreter.discard()
        raise
    finally:
        if is_collecting:
            _age_all()
            gc.enable()


def _age_all() -> None:
    """Count what is there among the old, as the collector would after three rounds through it, each of which is felt."""
    if not gc.get_freeze_count():  # else it would melt what the program itself has frozen
        gc.freeze()
        gc.unfreeze()


def _check_slots(slots: int | None) -> int:
    if slots is None:
        return usable_cpus()
    if not isinstance(slots, int) or isinstance(slots, bool):
        raise TypeError(f"slots must be a whole number of processes, not {slots!r}; leave it out for one per cpu")
    if slots < 1:
        raise ValueError(f"slots must be at least 1, not {slots}; leave it out for one per cpu")
    return slots
