"""The error tree: everything that the kit raises, by whose hand it went wrong.

    ClusterError
    ├── (caller)   Refused ── KeyConflict, QueueFull, UnknownJob
    ├── JobError
    │   ├── (task)     RemoteError, JobTimeout, DependencyFailed, EnvironmentMismatch
    │   ├── (stopped)  JobCancelled, JobExpired
    │   └── (worker)   JobCrashed ── OutOfMemory
    │                  WorkerLost
    ├── (master)   MasterUnavailable, StoreError ── StoreUnwritten ── StoreFull
    │                                          StoreInUse, StoreUnsafe, StoreTampered
    └── (handle)   Detached

A task's own exception is raised as itself, with a `RemoteTraceback` as its cause; it is not part of this tree.
Rules of this file: fields come first and the text is built from them; `args` mirror the signature, because pickle
rebuilds an exception from them; each error of a job carries its death certificate.
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.core.records import Certificate


class ClusterError(Exception):
    """Whatever the kit itself has to say; the base of every error below."""


# --- the caller asked for what can't be had -----------------------------------------------------------------------


class Refused(ClusterError):
    """The cluster did not take a request; nothing of it was kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class KeyConflict(Refused):
    """A `key` names an earlier job of another function."""

    def __init__(self, key: str, job: str) -> None:
        Exception.__init__(self, key, job)
        self.key = key
        self.job = job

    def __str__(self) -> str:
        return f"key {self.key!r} belongs to job {self.job}, which runs another function; choose another key"


class QueueFull(Refused):
    """Too many submitted jobs wait for their acknowledgement, and waiting for room took too long."""


class UnknownJob(Refused):
    """No job of this id is in the cluster; it never was, or its retention is over."""

    def __init__(self, job: str) -> None:
        Exception.__init__(self, job)
        self.job = job

    def __str__(self) -> str:
        return f"no job {self.job!r} here; it was never submitted to this store, or its retention is over"


# --- a job ended without a result ---------------------------------------------------------------------------------


class JobError(ClusterError):
    """Base of the errors that end one job; `certificate` tells the whole story."""

    def __init__(self, job: str, reason: str, certificate: Certificate | None = None) -> None:
        super().__init__(job, reason, certificate)
        self.job = job
        self.reason = reason
        self.certificate = certificate

    def __str__(self) -> str:
        why = self.certificate
        if why is None or not why.worker:
            return f"job {self.job}: {self.reason}"
        return f"job {self.job}: {self.reason} (attempt {why.attempt}, worker {why.place})"

    def __repr__(self) -> str:
        # Without the certificate, which is a page of text.
        return f"{type(self).__name__}({self.job!r}, {self.reason!r})"


class RemoteError(JobError):
    """The task raised something that can't be rebuilt here, or must not escape; its type and text are in the reason."""


class JobTimeout(JobError):
    """One attempt ran longer than the job's `timeout` and was killed. Not a `TimeoutError`: that is your own wait."""


class JobCrashed(JobError):
    """The process that ran the job died: a signal, an exit, a segmentation fault."""


class OutOfMemory(JobCrashed):
    """The process that ran the job was killed for its memory."""


class WorkerLost(JobError):
    """The worker that held the job vanished, once more than `crash_limit` allows."""


class DependencyFailed(JobError):
    """A job that this one waited for ended without a result."""


class EnvironmentMismatch(JobError):
    """The job was pickled by another Python or cloudpickle than the worker's; nothing was unpickled."""


class JobCancelled(JobError, concurrent.futures.CancelledError):
    """Someone cancelled the job, and that was committed."""


class JobExpired(JobError):
    """The job's `expires` passed before it had an outcome."""


# --- the master's side --------------------------------------------------------------------------------------------


class MasterUnavailable(ClusterError):
    """The master can't be reached, or can't acknowledge anything now."""


class StoreError(ClusterError):
    """The store can't be opened, read or written as it is."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store = store
        self.reason = reason

    def __str__(self) -> str:
        return f"store {self.store}: {self.reason}"


class StoreUnwritten(StoreError):
    """The store did not take what was to be written, and nothing of it was."""


class StoreFull(StoreUnwritten):
    """There is no room for what was to be written, and nothing of it was."""


class StoreInUse(StoreError):
    """Another cluster has the store open; the reason names it."""


class StoreUnsafe(StoreError):
    """The store's file could be read or written by others; the reason has the command that mends it."""


class StoreTampered(StoreError):
    """A stored record is not what this cluster wrote; it is neither run nor answered."""


# --- the handle in the user's program -----------------------------------------------------------------------------


class Detached(ClusterError):
    """This future can no longer resolve: its cluster handle is closed. The job itself may go on; re-attach by id."""

    def __init__(self, job: str, reason: str = "its cluster handle is closed") -> None:
        super().__init__(job, reason)
        self.job = job
        self.reason = reason

    def __str__(self) -> str:
        return f"job {self.job} can't be waited for: {self.reason}; open the cluster again and use c.job({self.job!r})"


class RemoteTraceback(Exception):  # the name that users know from the standard library's pools
    """The traceback of a task, as text: the `__cause__` of the exception that the task raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
