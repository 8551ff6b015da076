"""Where a job is on its way, and when: marks at the seams of the kit, put there from outside.

Every process of a machine reads the same clock (CLOCK_MONOTONIC), so marks of several can be laid side by side. A mark costs
about half a microsecond.
"""

from __future__ import annotations

import functools
import importlib
import time
from typing import Any

Marks = list[tuple[str, int]]  # a milestone's name, nanoseconds

# In the order in which a job comes by: what is said of the span that ends there; the module; what is called in it; whether
# the mark is at the end of the call. Stages that a job does not pass on some way (embedded, in memory) are left out there.
MILESTONES: tuple[tuple[str, str, str, bool], ...] = (
    ("client: the sender has it", "cluster.client.outbox", "Outbox._pass_batch", False),
    ("master: it is at the desk", "cluster.master.jobs_desk", "JobsDesk.submit", False),
    ("master: admitted", "cluster.core.admission", "on_submit", True),
    ("master: leased", "cluster.core.leases", "on_poll", True),
    ("worker: it has the lease", "cluster.worker.dealing", "deal", False),
    ("worker: sent to a child", "cluster.worker.slot", "Slot.add", False),
    ("child: has run it, and the worker has the result", "cluster.worker.slots", "Slots._on_finished", False),
    ("master: the report is at the desk", "cluster.master.work_desk", "WorkDesk.report", False),
    ("master: decided", "cluster.core.settlement", "on_reported", True),
    ("master: its commit begins", "cluster.store.sqlite", "SqliteStore.commit", False),
    ("master: its commit is durable", "cluster.store.sqlite", "SqliteStore.commit", True),
    ("client: it is told", "cluster.client.session", "Session.ended", False),
)
LAST = "client: result() returns"


def install(marks: Marks) -> None:
    """From now on whatever passes a milestone in this process is noted in `marks`."""
    importlib.import_module("cluster.core.handlers")  # fills the board's table
    for name, module, path, is_end in MILESTONES:
        _wrap(marks, name, importlib.import_module(module), path, is_end=is_end)


def _wrap(marks: Marks, name: str, module: Any, path: str, *, is_end: bool) -> None:
    *owners, attribute = path.split(".")
    owner = functools.reduce(getattr, owners, module)
    original = getattr(owner, attribute)
    clock = time.perf_counter_ns

    @functools.wraps(original)
    def marked(*args: Any, **kwargs: Any) -> Any:
        if not is_end:
            marks.append((name, clock()))
        answer = original(*args, **kwargs)
        if is_end:
            marks.append((name, clock()))
        return answer

    setattr(owner, attribute, marked)
    if not owners:
        _replace_handler(original, marked)


def _replace_handler(original: Any, marked: Any) -> None:
    """The board finds its handlers in a table, by the kind of event."""
    from cluster.core.board import HANDLERS

    for event, handler in HANDLERS.items():
        if handler is original:
            HANDLERS[event] = marked
