"""`cluster`: one machine, or a handful, as one durable pool of processes.

import cluster

cluster.submit(pow, (2, 10)).result()

with cluster.local(slots=4, store="sqlite:///runs.db") as c:
    job = c.submit(func, args, retries=3, timeout=60)
    print(job.result())

A name is loaded when it is first used, with what it needs: `import cluster` costs next to nothing, and an embedded cluster
can start its processes before this one has loaded the rest.
"""

from __future__ import annotations

from importlib import import_module

from cluster.client import origins

TYPE_CHECKING = (
    False  # a checker knows the name, wherever it is from; `typing` alone would double the cost of this module
)

if TYPE_CHECKING:
    from cluster.client.batch import Batch
    from cluster.client.connect import connect
    from cluster.client.default import gather, map, starmap, submit, use  # noqa: A004 - as in Pool and Executor
    from cluster.client.handle import Cluster
    from cluster.client.job import Job
    from cluster.client.retries import RetryPolicy
    from cluster.client.task import task
    from cluster.core.records import Certificate, JobInfo
    from cluster.core.states import JobState
    from cluster.deploy.launch import launch
    from cluster.embedded.local import local
    from cluster.errors import (
        ClusterError,
        DependencyFailed,
        Detached,
        EnvironmentMismatch,
        JobCancelled,
        JobCrashed,
        JobError,
        JobExpired,
        JobTimeout,
        KeyConflict,
        MasterUnavailable,
        OutOfMemory,
        QueueFull,
        Refused,
        RemoteError,
        RemoteTraceback,
        StoreError,
        StoreFull,
        StoreInUse,
        StoreTampered,
        StoreUnsafe,
        StoreUnwritten,
        UnknownJob,
        WorkerLost,
    )
    from cluster.wire.messages import Stats, WorkerInfo
    from cluster.worker.job_context import current_job

__all__ = [
    "Batch",
    "Certificate",
    "Cluster",
    "ClusterError",
    "DependencyFailed",
    "Detached",
    "EnvironmentMismatch",
    "Job",
    "JobCancelled",
    "JobCrashed",
    "JobError",
    "JobExpired",
    "JobInfo",
    "JobState",
    "JobTimeout",
    "KeyConflict",
    "MasterUnavailable",
    "OutOfMemory",
    "QueueFull",
    "Refused",
    "RemoteError",
    "RemoteTraceback",
    "RetryPolicy",
    "Stats",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreTampered",
    "StoreUnsafe",
    "StoreUnwritten",
    "UnknownJob",
    "WorkerInfo",
    "WorkerLost",
    "connect",
    "current_job",
    "gather",
    "launch",
    "local",
    "map",
    "starmap",
    "submit",
    "task",
    "use",
]

# The same as above, for the running program.
_HOMES = {
    "Batch": "cluster.client.batch",
    "Certificate": "cluster.core.records",
    "Cluster": "cluster.client.handle",
    "Job": "cluster.client.job",
    "JobInfo": "cluster.core.records",
    "JobState": "cluster.core.states",
    "RetryPolicy": "cluster.client.retries",
    "Stats": "cluster.wire.messages",
    "WorkerInfo": "cluster.wire.messages",
    "connect": "cluster.client.connect",
    "current_job": "cluster.worker.job_context",
    "gather": "cluster.client.default",
    "launch": "cluster.deploy.launch",
    "local": "cluster.embedded.local",
    "map": "cluster.client.default",
    "starmap": "cluster.client.default",
    "submit": "cluster.client.default",
    "task": "cluster.client.task",
    "use": "cluster.client.default",
}


def __getattr__(name: str) -> object:
    """A public name at its first use. What is in no other room is an error's class."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES.get(name, "cluster.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _make_local() -> Cluster:
    from cluster.embedded.local import local

    return local()


def _connect_default() -> Cluster:
    from cluster.client.connect import connect_default

    return connect_default()


origins.embedded, origins.connected = _make_local, _connect_default
