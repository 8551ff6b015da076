"""`cluster`: one machine, or a handful, as one durable pool of processes.

import cluster

cluster.submit(pow, (2, 10)).result()

with cluster.local(slots=4, store="sqlite:///runs.db") as c:
    job = c.submit(func, args, retries=3, timeout=60)
    print(job.result())
"""

from __future__ import annotations

from cluster.client.batch import Batch
from cluster.client.connect import connect, connect_default
from cluster.client.default import gather, map, set_factory, starmap, submit, use  # noqa: A004 - as in Pool and Executor
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
    StoreInUse,
    StoreTampered,
    StoreUnsafe,
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
    "StoreInUse",
    "StoreTampered",
    "StoreUnsafe",
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

set_factory(local, connect_default)
