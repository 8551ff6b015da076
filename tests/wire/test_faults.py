from __future__ import annotations

import inspect
import logging
from typing import Any

import msgspec
import pytest

from cluster import errors
from cluster.core.records import Certificate, Ending
from cluster.errors import ClusterError, JobError
from cluster.wire.faults import KINDS, MAX_TEXT, Fault, fault_of, rebuild

CERTIFICATE = Certificate(ending=Ending.CRASHED, reason="killed by SIGSEGV", signal=11)


def tree(base: type[ClusterError] = ClusterError) -> list[type[ClusterError]]:
    return [
        base,
        *(one for child in base.__subclasses__() if child.__module__ == errors.__name__ for one in tree(child)),
    ]


def sample(kind: type[ClusterError]) -> ClusterError:
    if issubclass(kind, JobError):
        return kind("abc-1", "it crashed", CERTIFICATE)
    if kind.__init__ in (Exception.__init__, ClusterError.__init__):
        return kind("the master is away")
    return kind(*[f"some {name}" for name in inspect.signature(kind).parameters])


def there_and_back(error: BaseException) -> ClusterError:
    frame = msgspec.msgpack.encode(fault_of(error, "jobs.page"))
    return rebuild(msgspec.msgpack.decode(frame, type=Fault))


def test_every_error_of_the_tree_may_travel() -> None:
    assert set(KINDS.values()) == set(tree())


@pytest.mark.parametrize("kind", KINDS.values())
def test_an_error_arrives_with_type_fields_and_text(kind: type[ClusterError]) -> None:
    error = sample(kind)

    again = there_and_back(error)

    assert type(again) is kind
    assert (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))


class NotRebuildable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("only one argument for pickle to go by")


class OurOwnSubclass(ClusterError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the secret file"),
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        NotRebuildable(1, 2),
        OurOwnSubclass("x"),
        ClusterError(object()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_other_error_says_that_the_master_failed_and_its_story_stays_in_the_log(  # row A23
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        again = there_and_back(error)

    assert type(again) is ClusterError
    assert str(again).startswith(f"the master failed: jobs.page ended in {type(error).__name__}")
    assert "secret" not in str(again)
    assert caplog.records[0].exc_info


def test_an_error_is_no_way_to_send_a_gigabyte() -> None:
    again = there_and_back(ClusterError("x" * (MAX_TEXT + 1)))

    assert len(str(again)) == MAX_TEXT


@pytest.mark.parametrize(
    "fault", [Fault("FromTheFuture", ("a", "b")), Fault("KeyConflict", ("only one",)), Fault("os.system", ("ls",))]
)
def test_a_fault_this_version_can_not_rebuild_is_a_cluster_error_at_least(fault: Fault) -> None:
    again: Any = rebuild(fault)

    assert type(again) is ClusterError
    assert fault.fields[0] in str(again)
