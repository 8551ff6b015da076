"""What `import cluster` offers, name by name: adding or dropping one is a decision, made here as well."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import cluster
from cluster import errors

NAMES = {
    # the default cluster
    "submit",
    "map",
    "starmap",
    "gather",
    "use",
    # clusters and what they hand out
    "local",
    "connect",
    "launch",
    "Cluster",
    "Job",
    "Batch",
    "JobInfo",
    "JobState",
    "WorkerInfo",
    "Certificate",
    "Stats",
    # tasks and jobs
    "task",
    "current_job",
    "RetryPolicy",
    # errors
    "ClusterError",
    "Refused",
    "KeyConflict",
    "QueueFull",
    "UnknownJob",
    "JobError",
    "RemoteError",
    "JobTimeout",
    "JobCrashed",
    "OutOfMemory",
    "WorkerLost",
    "DependencyFailed",
    "EnvironmentMismatch",
    "JobCancelled",
    "JobExpired",
    "MasterUnavailable",
    "StoreError",
    "StoreFull",
    "StoreUnwritten",
    "StoreInUse",
    "StoreUnsafe",
    "StoreTampered",
    "Detached",
    "RemoteTraceback",
}

# Each costs more than the whole of `import cluster` may: they load where they are used.
HEAVY = ["asyncio", "psutil", "pydantic", "rich", "sqlite3", "typer", "yaml"]


def test_the_public_names_are_these() -> None:
    assert sorted(cluster.__all__) == sorted(NAMES)


def test_every_public_name_is_there_and_documented() -> None:
    for name in cluster.__all__:
        assert inspect.getdoc(getattr(cluster, name)), name


def test_every_error_is_public() -> None:
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }

    assert defined <= set(cluster.__all__)


def printed_by(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_name_that_is_none_is_missed_as_usual() -> None:
    assert not hasattr(cluster, "submitt")
    with pytest.raises(ImportError, match="submitt"):
        exec("from cluster import submitt")


def test_all_names_come_with_a_star_and_are_listed() -> None:
    script = (
        "import cluster; names = dir(cluster); from cluster import *; print(set(cluster.__all__) <= set(names), local)"
    )

    assert printed_by(script).startswith("True <function local")


def test_importing_the_kit_loads_no_room_of_it_and_naming_all_of_it_nothing_heavy() -> None:
    script = f"""
import sys, cluster
print([name for name in sys.modules if name.startswith("cluster.")], "msgspec" in sys.modules)
from cluster import *
print([name for name in {HEAVY} if name in sys.modules])
"""

    assert printed_by(script).splitlines() == ["['cluster.client', 'cluster.client.origins'] False", "[]"]
