"""The pickled functions of the jobs at hand, and whether they can be unpickled here at all."""

from __future__ import annotations

import sys

import cloudpickle

from cluster.core.records import Digest, FunctionBlob
from cluster.wire.desks import WorkDesk

MAX_BLOBS = 256
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PICKLER: str = cloudpickle.__version__


class Blobs:
    """Functions fetched from the desk, a bounded number of them."""

    def __init__(self, desk: WorkDesk) -> None:
        self._desk = desk
        self._blobs: dict[Digest, FunctionBlob] = {}

    def get(self, digest: Digest) -> FunctionBlob:
        """The function of a lease. Raises what the desk raises."""
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._desk.fetch_function(digest)
            if len(self._blobs) >= MAX_BLOBS:
                del self._blobs[next(iter(self._blobs))]
            self._blobs[digest] = blob
        return blob


def mismatch(blob: FunctionBlob) -> str | None:
    """Why this function must not be unpickled here; None if it may.

    Byte code differs between minor versions of Python, and cloudpickle's format between its own: unpickling the
    other's can crash the process rather than raise.
    """
    if blob.python != PYTHON:
        return (
            f"it was pickled by Python {blob.python}, and this worker runs Python {PYTHON}; "
            f"run client and worker on the same minor version"
        )
    if blob.pickler and blob.pickler != PICKLER:
        return (
            f"it was pickled by cloudpickle {blob.pickler}, and this worker has {PICKLER}; "
            f"install the same version on both"
        )
    return None
