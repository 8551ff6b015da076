"""Submissions that were not taken: as errors, and in the log where nobody reads them."""

from __future__ import annotations

import logging

from cluster.core.records import JobId
from cluster.errors import ClusterError, KeyConflict, MasterUnavailable, Refused
from cluster.wire.messages import Refusal

_LOG = logging.getLogger("cluster")


class UnreadRefusal:
    """Hangs on a refused future, and logs the reason when that goes away and nobody ever asked."""

    def __init__(self, job: JobId, error: Exception) -> None:
        self.job = job
        self.error = error
        self.is_read = False

    def tell(self) -> None:
        """Log it now, unless somebody read it or it was told before."""
        if not self.is_read:
            self.is_read = True
            _LOG.warning("job %s was refused, and nobody asked for its result: %s", self.job, self.error)

    def __del__(self) -> None:
        self.tell()


def error_of(refusal: Refusal, key: str) -> ClusterError:
    """What a refused future raises."""
    if refusal.kind == "key":
        return KeyConflict(key, refusal.other or refusal.job)
    if refusal.kind == "store":
        return MasterUnavailable(refusal.reason)
    return Refused(refusal.reason)
