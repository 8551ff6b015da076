"""Roles (the rest of this module, loading and making keys, is written with the transport)."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a connection may do; each has a key of its own."""

    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"
