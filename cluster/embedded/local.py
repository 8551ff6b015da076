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

import atexit
import contextlib
from collections.abc import Mapping

from cluster.client.handle import Cluster
from cluster.embedded.cpus import usable_cpus
from cluster.embedded.shield import ShieldedDesk
from cluster.master.jobs_desk import JobsDesk
from cluster.master.master import Master
from cluster.master.work_desk import WorkDesk
from cluster.store.locate import open_store
from cluster.worker.config import MAX_SLACK_SECONDS, WorkerConfig
from cluster.worker.supervisor import Supervisor

WORKER_NAME = "local"

# Strongly: a handle that the program let go of without closing it still has its processes, and its jobs their futures.
_open_handles: set[Cluster] = set()


def local(
    *,
    slots: int | None = None,
    store: str = "memory:",
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
    opened = open_store(store)
    config = WorkerConfig(
        name=WORKER_NAME,
        slots=_check_slots(slots),
        resources=tuple(sorted((resources or {}).items())),
        labels=tuple(sorted((labels or {}).items())),
        max_slack_seconds=0.0 if opened.is_instant else MAX_SLACK_SECONDS,
    )
    # Closed in the opposite order: the desk first (it lets go of who calls), then the work, then the record of it.
    with contextlib.ExitStack() as parts:
        master = Master(opened)
        parts.callback(master.stop)
        master.open(grace_seconds=0.0)
        master.start()
        supervisor = Supervisor(WorkDesk(master), config)
        parts.callback(supervisor.stop)
        supervisor.start()
        desk = ShieldedDesk(JobsDesk(master))
        parts.callback(desk.stop)
        closing = parts.pop_all()
    handle = Cluster(desk, owns_workers=True, on_close=closing.close)
    closing.callback(_open_handles.discard, handle)
    _open_handles.add(handle)
    return handle


def _check_slots(slots: int | None) -> int:
    if slots is None:
        return usable_cpus()
    if not isinstance(slots, int) or isinstance(slots, bool):
        raise TypeError(f"slots must be a whole number of processes, not {slots!r}; leave it out for one per cpu")
    if slots < 1:
        raise ValueError(f"slots must be at least 1, not {slots}; leave it out for one per cpu")
    return slots


@atexit.register
def _close_all() -> None:
    """Stop whatever the program left open: no process outlives it, and a durable store gets its leases back."""
    for handle in list(_open_handles):
        handle.close(wait=False)
