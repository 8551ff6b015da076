"""The worker of an embedded cluster, made before there is a master for it.

Apart from `assembly`, because this is half of what has to be loaded: the nursery has its orders, and forks the children,
while this process loads the other half and opens the store.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.worker.config import MAX_SLACK_SECONDS, WorkerConfig
from cluster.worker.nursery_start import Interpreter
from cluster.worker.supervisor import Supervisor

WORKER_NAME = "local"


def prepare_worker(
    interpreter: Interpreter | None, slots: int, marks: tuple[Mapping[str, int], Mapping[str, str]], *, is_durable: bool
) -> Supervisor:
    """A supervisor whose children are under way; it is to be started with a desk, or stopped.

    Args:
        interpreter: its nursery's, if that could be started. If this raises, it is still the caller's.
        slots: how many children.
        marks: the worker's resources and labels.
        is_durable: results are written to a disk before they are told, which is cheaper for many together.
    """
    resources, labels = marks
    config = WorkerConfig(
        name=WORKER_NAME,
        slots=slots,
        resources=tuple(sorted(resources.items())),
        labels=tuple(sorted(labels.items())),
        max_slack_seconds=MAX_SLACK_SECONDS if is_durable else 0.0,
    )
    supervisor = Supervisor(config, interpreter)
    supervisor.prepare()
    return supervisor
