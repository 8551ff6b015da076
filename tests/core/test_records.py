from __future__ import annotations

from typing import Any

import pytest
from msgspec import NODEFAULT, Struct, structs

from cluster.core import effects, records
from cluster.core.records import DEFAULT_OPTIONS, NO_RETRIES, Certificate, Ending


@pytest.mark.parametrize(
    ("worker", "host", "pid", "place"),
    [
        ("", "here", 7, ""),
        ("w#1", "", 0, "w#1"),
        ("w#1", "here", 0, "w#1 on here"),
        ("w#1", "", 7, "w#1, pid 7"),
        ("w#1", "here", 7, "w#1 on here, pid 7"),
    ],
)
def test_a_certificate_says_as_much_of_the_place_as_is_known(worker: str, host: str, pid: int, place: str) -> None:
    certificate = Certificate(ending=Ending.CRASHED, reason="it died", worker=worker, host=host, pid=pid)

    assert certificate.place == place


NOTHING_SAID: list[tuple[type[Struct], dict[str, Any]]] = [
    (
        records.RetryRule,
        {"max_retries": 0, "backoff": 1.0, "factor": 2.0, "max_delay": 300.0, "jitter": 0.1, "retry_on": ()},
    ),
    (
        records.Options,
        {
            "name": "", "queue": "default", "priority": 0, "retry": NO_RETRIES, "crash_limit": 5, "timeout": None,
            "resources": (), "memory": (), "labels": (), "tags": (), "result_ttl": 604_800.0, "echo": False,
        },
    ),
    (records.Budget, {"retries": None, "crash_limit": None}),
    (records.FunctionBlob, {"reusable": False}),
    (
        records.JobSpec,
        {
            "options": DEFAULT_OPTIONS, "after": (), "inputs": (), "delay": 0.0, "at": None, "expires": None, "key": "",
            "items": 0, "batch": "", "first": 0,
        },
    ),
    (
        records.Certificate,
        {
            "attempt": 0, "worker": "", "host": "", "pid": 0, "error_types": (), "message": "", "traceback": "",
            "signal": 0, "exit_code": None, "started": 0.0, "seconds": 0.0, "peak_memory": 0, "cpu_seconds": 0.0,
            "output_tail": "", "item": -1,
        },
    ),
    (records.Segment, {"certificate": None, "seconds": 0.0}),
    (records.Report, {"payload": b"", "certificate": None, "output": b"", "segments": (), "seconds": 0.0}),
    (records.Lease, {"inputs": (), "ranges": (), "careful": False, "memory": 0}),
    (records.Outcome, {"payload": b"", "certificate": None, "attempts": 0, "worker": "", "items": 0}),
    (
        records.JobInfo,
        {
            "queue": "default", "priority": 0, "run": 1, "attempts": 0, "failures": 0, "crashes": 0, "worker": "",
            "submitted": 0.0, "started": 0.0, "ended": 0.0, "tags": (), "batch": "", "items": 0, "certificate": None,
        },
    ),
    (effects.Admitted, {"due": 0.0, "expires": 0.0, "owner": 0}),
    (effects.AttemptFailed, {"progress": b"", "output": b"", "outgrown": 0}),
    (effects.Ended, {"owner": 0, "output": b""}),
    (effects.TellRefused, {"other": ""}),
    (
        effects.StoredJob,
        {
            "run": 1, "due": 0.0, "expires": 0.0, "attempts": 0, "failures": 0, "crashes": 0, "outgrown": 0,
            "progress": b"", "fence": 0, "worker": "", "outcome": None,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said"), NOTHING_SAID, ids=lambda value: getattr(value, "__name__", ""))
def test_what_a_record_leaves_out_means_this_whichever_version_wrote_it(
    kind: type[Struct], said: dict[str, Any]
) -> None:
    assert {one.name: one.default for one in structs.fields(kind) if one.default is not NODEFAULT} == said


def test_endings_are_stored_by_these_numbers() -> None:
    assert [(int(one), one.name) for one in Ending] == [
        (1, "SUCCEEDED"), (2, "RAISED"), (3, "UNPICKLABLE"), (4, "TIMED_OUT"), (5, "CRASHED"), (6, "OUT_OF_MEMORY"),
        (7, "WORKER_LOST"), (8, "ENVIRONMENT"), (9, "CANCELLED"), (10, "EXPIRED"), (11, "DEPENDENCY"),
        (12, "ADMISSION"), (13, "TAMPERED"),
    ]  # fmt: skip
