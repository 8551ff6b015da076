from __future__ import annotations

from typing import Any

import pytest
from msgspec import NODEFAULT, Struct, structs

from cluster.core.board import EndOfRun
from cluster.core.chunks import Judgement
from cluster.core.events import Heartbeat, Register
from cluster.core.job import Job, LeaseHeld, Suspicion, WorkerHeld
from cluster.core.states import JobState


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        (
            Job,
            {
                "state": JobState.SUBMITTED, "run": 1, "attempts": 0, "failures": 0, "crashes": 0, "outgrown": 0,
                "unmet": 0, "fence": 0, "stopping": 0, "due_mono": 0.0, "expires_mono": 0.0, "is_settled": False,
                "started": 0.0, "worker": "", "chunk": None, "owner": 0,
            },
        ),
        (LeaseHeld, {"is_granted": True, "is_revoked": False, "memory": 0, "pid": 0}),
        (EndOfRun, {"fence": 0, "payload": b"", "certificate": None, "output": b""}),
        (Judgement, {"delay_seconds": 0.0, "certificate": None}),
        (Register, {"resources": (), "labels": (), "held": None, "memory_room": 0, "memory_most": 0, "host": ""}),
        (Heartbeat, {"running": (), "pids": (), "memory_room": 0, "memory_most": 0, "is_short": False}),
        (Suspicion, {"reason": "", "first_probe": 0, "probes": 0, "probe_at": 0.0}),
        (
            WorkerHeld,
            {
                "is_draining": False, "memory_room": 0, "memory_most": 0, "promised": 0, "is_short": False,
                "last_good": b"", "suspicion": None, "host": "",
            },
        ),
    ],
)  # fmt: skip
def test_what_the_board_has_begins_with_nothing_done_nothing_owed_and_nothing_held(
    kind: type[Struct], begins: dict[str, Any]
) -> None:
    assert {one.name: one.default for one in structs.fields(kind) if one.default is not NODEFAULT} == begins
