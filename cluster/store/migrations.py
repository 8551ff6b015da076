"""Older stores to today's tables: one SQL script for each step, all of them in one transaction, after a copy.

A step is the file `migrate_from_N.sql`, which turns the tables of version N into those of version N + 1. The copy is a
complete store (`runs.db.schema-1-20261124-073000` with its key), so that whoever goes back to the older version of the
kit opens that one. A process that is killed half-way leaves the old store as it was, and at most a copy too many.

The version is asked of a connection here, and not read from the header: the log may have a later one.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from cluster.errors import StoreError
from cluster.store import sql
from cluster.store.connection import connect, has_tables_of_today
from cluster.store.copying import copy_database, copy_key, unused_name
from cluster.store.files import OLDEST_SCHEMA_VERSION, SCHEMA_VERSION, StoreFiles

LOG = logging.getLogger("cluster.store")


def bring_up_to_date(store: str, files: StoreFiles) -> Path | None:
    """Migrate a store of an older version; where the copy of the old one is, if that was needed.

    Raises:
        StoreError: it is of a newer version, or can't be migrated; then it is as it was.
    """
    with contextlib.closing(connect(files.uri("rw"), 0.0)) as connection:
        version = version_of(connection)
        if version == SCHEMA_VERSION:
            return None
        require_known(store, version)
        copy = unused_name(files.database, f"schema-{version}")
        copy_key(files.key_file, copy)
        try:
            copy_database(store, connection, copy)
            _migrate(store, connection, version)
        except BaseException:
            for made in (copy, copy.with_name(copy.name + ".key")):
                made.unlink(missing_ok=True)
            raise
    LOG.warning(
        "store %s: migrated from schema %d to %d; as it was it is kept as %s", store, version, SCHEMA_VERSION, copy
    )
    return copy


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def require_known(store: str, version: int) -> None:
    """Refuse a version that never was, or that is still to come."""
    if version > SCHEMA_VERSION:
        raise StoreError(
            store,
            f"it was written by a newer version of cluster (schema {version}, this one knows {SCHEMA_VERSION}); "
            "upgrade with `pip install -U cluster-kit`",
        )
    if version < OLDEST_SCHEMA_VERSION:
        raise StoreError(store, f"its schema version {version} never was; restore the file from a backup")


def _migrate(store: str, connection: sqlite3.Connection, version: int) -> None:
    steps = "".join(sql.script(f"migrate_from_{step}.sql") for step in range(version, SCHEMA_VERSION))
    try:
        # `executescript` commits what is open before it begins, so the transaction is begun by the script.
        connection.executescript(f"BEGIN IMMEDIATE; {steps}; PRAGMA user_version = {SCHEMA_VERSION};")
        if not has_tables_of_today(connection):
            raise StoreError(
                store,
                f"its tables are not those of schema {version}, as those of a development version may be; it was left "
                "as it is, begin a new store",
            )
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
