"""How the host and each slot's child are, by psutil.

psutil is imported with the first look and not before: it would cost a cold start 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.wire.messages import Health, SlotHealth
from cluster.worker.host_memory import HostMemory
from cluster.worker.slot import NEVER, Slot

if TYPE_CHECKING:
    import psutil


class HealthWatch:
    """Takes the readings; percentages are since the last one."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._processes: dict[int, psutil.Process] = {}

    def look(self, slots: Sequence[Slot], memory: HostMemory) -> Health:
        """The host's health now. What can't be read is left at zero."""
        import psutil

        network = psutil.net_io_counters(pernic=True).values()
        free = 0
        with contextlib.suppress(OSError):
            free = psutil.disk_usage(self._directory).free
        return Health(
            cpu_percent=psutil.cpu_percent(interval=None),
            load=os.getloadavg(),
            memory_total=memory.reading.total,
            memory_available=memory.reading.available,
            memory_room=memory.room,
            memory_most=memory.most,
            is_short_of_memory=memory.is_short,
            disk_free=free,
            network_sent=sum(card.bytes_sent for card in network),
            network_received=sum(card.bytes_recv for card in network),
            slots=self._look_at(slots),
        )

    def _look_at(self, slots: Sequence[Slot]) -> tuple[SlotHealth, ...]:
        import psutil

        now = time.monotonic()
        found: list[SlotHealth] = []
        processes: dict[int, psutil.Process] = {}
        for slot in slots:
            memory, percent = 0, 0.0
            with contextlib.suppress(psutil.Error, OSError):
                if slot.pid:
                    process = self._processes.get(slot.pid) or psutil.Process(slot.pid)
                    percent = process.cpu_percent(interval=None)
                    memory = process.memory_info().rss
                    processes[slot.pid] = process
            head = slot.head
            found.append(
                SlotHealth(
                    slot=slot.index,
                    pid=slot.pid,
                    job=head.job if head is not None else "",
                    seconds=now - slot.started if slot.started != NEVER else 0.0,
                    memory=memory,
                    cpu_percent=percent,
                )
            )
        self._processes = processes
        return tuple(found)
