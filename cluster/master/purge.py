"""An operator drops dead letters, history and all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.core.effects import Purged
from cluster.core.records import JobId
from cluster.core.states import JobState
from cluster.errors import Refused
from cluster.master.durable import wait_durable

if TYPE_CHECKING:
    from cluster.master.master import Master


def purge(master: Master, jobs: Sequence[JobId]) -> int:
    """Drop these dead letters; durable on return.

    Returns:
        How many there were; one that is gone already is not counted, so the order may be repeated.

    Raises:
        Refused: one of them is no dead letter, and then none is dropped.
    """
    durable = threading.Event()
    # Held until they are gone from the store, else a requeue could still find one there.
    with master.committer.pruning:
        records: list[Purged] = []
        for job in dict.fromkeys(jobs):
            stored = master.find(job)
            if stored is not None:
                records.append(Purged(stored.seq, job))
                _require_dead(job, stored.state)
        with master.lock:
            for record in records:
                if master.board.needs_result(record.job):
                    raise Refused(f"job {record.job} is in use; purge it once it has ended as a dead letter")
            master.committer.append(list(records), durable.set)
        master.committer.kick()
        wait_durable(master, durable, "the purge")
    return len(records)


def _require_dead(job: JobId, state: JobState | None) -> None:
    if state is not JobState.DEAD_LETTER:
        what = "has not ended" if state is None else f"is {state.name.lower()}"
        raise Refused(f"job {job} {what}; only a dead letter can be purged")
