"""Puts an embedded cluster together, and keeps it until it is closed.

Apart from `local` and `worker`, because loading this takes longer than all else that a program's first result waits for.
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable

from cluster.client.handle import Cluster
from cluster.embedded.shield import ShieldedDesk
from cluster.master.jobs_desk import JobsDesk
from cluster.master.master import Master
from cluster.master.work_desk import WorkDesk
from cluster.store.locate import open_store
from cluster.worker.supervisor import Supervisor

# Strongly: a handle that the program let go of without closing it still has its processes, and its jobs their futures.
_open_handles: set[Cluster] = set()


def assemble(supervisor: Supervisor, store: str) -> Cluster:
    """The handle of a cluster in this process; if it can't be made, its caller stops the supervisor."""
    # Closed in the opposite order: the desk first (it lets go of who calls), then the work, then the record of it.
    with contextlib.ExitStack() as parts:
        master = Master(open_store(store))
        parts.callback(master.stop)
        master.open(grace_seconds=0.0)
        master.start()
        parts.callback(supervisor.stop)
        supervisor.start(WorkDesk(master))
        desk = ShieldedDesk(JobsDesk(master))
        parts.callback(desk.stop)
        closing = parts.pop_all()

    def lend(errand: Callable[[], None]) -> Callable[[], None]:
        """Lend the supervisor's thread, which starts what it submits before it commits that."""

        def run() -> None:
            master.committer.hold_back()
            errand()

        return supervisor.lend(run, master.committer.let_go)

    handle = Cluster(desk, owns_workers=True, on_close=closing.close, lend=lend)
    closing.callback(_open_handles.discard, handle)
    _open_handles.add(handle)
    return handle


@atexit.register
def _close_all() -> None:
    """Stop whatever the program left open: no process outlives it, and a durable store gets its leases back."""
    for handle in list(_open_handles):
        handle.close(wait=False)
