"""Which faults of a store may pass by themselves: a full disk, one that does not answer, another program's lock."""

from __future__ import annotations

import errno

from cluster.errors import StoreError

_NAMES = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED")
_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


def may_pass(error: StoreError) -> bool:
    """Whether the same call may work later, although nobody did anything about this store."""
    cause: BaseException | None = error
    while cause is not None:
        if str(getattr(cause, "sqlite_errorname", "")).startswith(_NAMES):
            return True
        if isinstance(cause, OSError) and cause.errno in _NUMBERS:
            return True
        cause = cause.__cause__
    return False
