"""The tasks that live jobs refer to: each pickled function once, dropped when no job needs it any more."""

from __future__ import annotations

from cluster.core.records import Digest, FunctionBlob

# Tasks that no live job refers to are kept for a while: a program that submits one job at a time would otherwise hand
# over the same function for each.
MAX_IDLE_FUNCTIONS = 256


class Shelf:
    """Functions by digest, with the number of live jobs that refer to each."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, FunctionBlob] = {}  # for others to look into
        self._users: dict[Digest, int] = {}
        self._idle: dict[Digest, None] = {}  # ordered: the one idle for longest is dropped first

    def __contains__(self, digest: Digest) -> bool:
        return digest in self.blobs

    def get(self, digest: Digest) -> FunctionBlob | None:
        """The function, if it is here."""
        return self.blobs.get(digest)

    def offer(self, blob: FunctionBlob) -> None:
        """Put a function on the shelf; without users it stays only for a while."""
        if blob.digest not in self.blobs:
            self.blobs[blob.digest] = blob
            self._rest(blob.digest)

    def acquire(self, digest: Digest) -> bool:
        """Count one more job; True if it is the first, so that the store must be told of the function again."""
        users = self._users.get(digest, 0)
        self._users[digest] = users + 1
        if users:
            return False
        self._idle.pop(digest, None)
        return True

    def release(self, digest: Digest) -> None:
        """Count one job less."""
        users = self._users[digest] - 1
        if users:
            self._users[digest] = users
            return
        del self._users[digest]
        self._rest(digest)

    def _rest(self, digest: Digest) -> None:
        self._idle[digest] = None
        if len(self._idle) > MAX_IDLE_FUNCTIONS:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            del self.blobs[oldest]
