"""Who listens where, from the kernel's own tables: every socket of a process that takes connections or datagrams."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path

import psutil

_LISTEN, _UNCONNECTED = "0A", "07"
_ACCEPTS = 0x10000  # __SO_ACCEPTCON, in the flags of /proc/net/unix


def listening(processes: Iterable[psutil.Process]) -> set[tuple[int, str]]:
    """Pid and address ("tcp 127.0.0.1:7601", "unix /path") for each socket on which a process can be reached."""
    addresses = _addresses()
    found: set[tuple[int, str]] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    if target.startswith("socket:[") and target[8:-1] in addresses:
                        found.add((process.pid, addresses[target[8:-1]]))
    return found


def _addresses() -> dict[str, str]:
    """By inode."""
    found: dict[str, str] = {}
    for kind, reachable in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UNCONNECTED), ("udp6", _UNCONNECTED)):
        for line in Path("/proc/net", kind).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == reachable:
                found[fields[9]] = f"{kind} {_readable(fields[1])}"
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if int(fields[3], 16) & _ACCEPTS:
            found[fields[6]] = f"unix {fields[7] if len(fields) > 7 else '?'}"
    return found


def _readable(address: str) -> str:
    host, port = address.split(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    return f"{ipaddress.ip_address(struct.pack(f'={len(words)}I', *words))}:{int(port, 16)}"
