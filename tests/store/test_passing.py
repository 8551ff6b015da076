from __future__ import annotations

import errno
import sqlite3

import pytest

from cluster.errors import StoreError
from cluster.store.passing import may_pass


def caused_by(cause: BaseException) -> StoreError:
    error = StoreError("s", "why")
    error.__cause__ = cause
    return error


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    "cause",
    [
        sqlite_error("SQLITE_FULL"),
        sqlite_error("SQLITE_IOERR_SHMSIZE"),
        sqlite_error("SQLITE_BUSY_SNAPSHOT"),
        OSError(errno.ENOSPC, "No space left on device"),
        caused_by(OSError(errno.EIO, "Input/output error")),
    ],
)
def test_a_disk_that_is_full_or_unwell_or_a_lock_may_pass(cause: BaseException) -> None:
    assert may_pass(caused_by(cause))


@pytest.mark.parametrize(
    "cause", [sqlite_error("SQLITE_CORRUPT"), OSError(errno.EACCES, "Permission denied"), KeyError()]
)
def test_what_someone_has_to_mend_does_not_pass(cause: BaseException) -> None:
    assert not may_pass(caused_by(cause))
    assert not may_pass(StoreError("s", "its key is missing"))
