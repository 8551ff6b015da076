"""An operator's order to a worker: take no more jobs, or take them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.core import events
from cluster.core.records import WorkerId
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.master.master import Master


def set_draining(master: Master, worker: str, *, draining: bool) -> None:
    """Lease nothing more to a worker, or do so again; what it has goes on.

    It holds for the worker's registration with this master: a worker that is started anew takes jobs again, and so does
    one that comes back to a restarted master.

    Args:
        master: the master.
        worker: the worker's id, or its name, if only one of that name is registered.
        draining: whether it is to run empty.

    Raises:
        Refused: no such worker is registered, or several of that name are.
    """
    master.decide(events.Drain(_find(master, worker), draining))


def _find(master: Master, worker: str) -> WorkerId:
    with master.lock:
        live = set(master.board.workers)
    if worker in live:
        return worker
    named = [box.hello for box in master.mailboxes.all() if box.hello.worker in live]
    found = [hello.worker for hello in named if hello.name == worker]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"{len(found)} workers are named {worker!r}; name one by its id: {', '.join(found)}")
    known = ", ".join(sorted({hello.name for hello in named})) or "none"
    raise Refused(f"no worker {worker!r} is registered; registered are: {known}")
