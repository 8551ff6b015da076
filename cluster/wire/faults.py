"""Errors that cross the network, as data: a closed table of kinds, each rebuilt from its fields.

An exception object never travels: to unpickle one is to run code that the other side chose, and some can't be rebuilt
at all. What is not of this table (a bug, a full disk, `SystemExit` in a desk) arrives as a `ClusterError` that says so;
its traceback stays in the master's log.
"""

from __future__ import annotations

import logging

from msgspec import Struct

from cluster import errors
from cluster.core.records import Certificate
from cluster.errors import ClusterError, JobError

LOG = logging.getLogger("cluster.wire")

# Enough for any sentence; an error must not be a way to send a gigabyte.
MAX_TEXT = 64 * 1024

# A class whose `args` are all texts, but for a job's error, which ends with its certificate. The name on the wire is
# the class's, and stays when the class is renamed.
KINDS: dict[str, type[ClusterError]] = {
    "ClusterError": errors.ClusterError,
    "Refused": errors.Refused,
    "KeyConflict": errors.KeyConflict,
    "QueueFull": errors.QueueFull,
    "UnknownJob": errors.UnknownJob,
    "JobError": errors.JobError,
    "RemoteError": errors.RemoteError,
    "JobTimeout": errors.JobTimeout,
    "JobCrashed": errors.JobCrashed,
    "OutOfMemory": errors.OutOfMemory,
    "WorkerLost": errors.WorkerLost,
    "DependencyFailed": errors.DependencyFailed,
    "EnvironmentMismatch": errors.EnvironmentMismatch,
    "JobCancelled": errors.JobCancelled,
    "JobExpired": errors.JobExpired,
    "MasterUnavailable": errors.MasterUnavailable,
    "StoreError": errors.StoreError,
    "StoreUnwritten": errors.StoreUnwritten,
    "StoreFull": errors.StoreFull,
    "StoreInUse": errors.StoreInUse,
    "StoreUnsafe": errors.StoreUnsafe,
    "StoreTampered": errors.StoreTampered,
    "Detached": errors.Detached,
}
_NAMES: dict[type[BaseException], str] = {kind: name for name, kind in KINDS.items()}


class Fault(Struct, frozen=True, array_like=True):
    """An error on its way."""

    kind: str
    fields: tuple[str, ...] = ()
    certificate: Certificate | None = None


def fault_of(error: BaseException, call: str) -> Fault:
    """What of an error travels. One that isn't of the table is logged here, for nobody else will see it whole."""
    name = _NAMES.get(type(error))
    if name is not None:
        args = error.args
        certificate = args[-1] if isinstance(error, JobError) and isinstance(args[-1], Certificate) else None
        texts = args[:2] if isinstance(error, JobError) else args
        if all(isinstance(text, str) for text in texts):
            return Fault(name, tuple(_sendable(text) for text in texts), certificate)
    LOG.error("call failed: call=%s error=%s", call, type(error).__name__, exc_info=error)
    return Fault("ClusterError", (f"the master failed: {call} ended in {type(error).__name__}; its log tells more",))


def _sendable(text: str) -> str:
    """Bounded, and without the halves of characters that Python has for bytes in a file's name."""
    return text[:MAX_TEXT].encode(errors="backslashreplace").decode()


def rebuild(fault: Fault) -> ClusterError:
    """The error that a fault tells of. One of an unknown kind, from a newer master, is a `ClusterError` at least."""
    kind = KINDS.get(fault.kind)
    if kind is not None:
        fields = (*fault.fields, fault.certificate) if issubclass(kind, JobError) else fault.fields
        try:
            return kind(*fields)
        except TypeError:
            pass  # other fields than this version's
    return ClusterError(f"the master says {fault.kind}: {'; '.join(fault.fields)}")
