"""A job loaded outside any slot: what it is, what it sees, and what is refused before anything is unpickled."""

from __future__ import annotations

import pickle

import cloudpickle
import pytest

import cluster
from cluster.core.records import FunctionBlob, JobSpec
from cluster.errors import EnvironmentMismatch, Refused
from cluster.wire import dependency
from cluster.wire.messages import JobParts
from cluster.worker import replay
from cluster.worker.blobs import PICKLER, PYTHON


def parts_of(args: object, *, items: int = 0, python: str = PYTHON, pickler: str = PICKLER) -> JobParts:
    blob = FunctionBlob(b"f", cloudpickle.dumps(divmod), python, pickler, "divmod")
    return JobParts(JobSpec("j", b"f", pickle.dumps(args), items=items), blob)


def test_a_call_is_loaded_with_its_arguments() -> None:
    call = replay.load(parts_of(((7, 2), {})), -1)

    assert call == replay.Call(divmod, (7, 2), {})


@pytest.mark.parametrize("items", [[(7, 2), (9, 4)], [pickle.dumps((7, 2)), pickle.dumps((9, 4))]])
def test_an_item_of_a_chunk_is_loaded_alone(items: object) -> None:
    call = replay.load(parts_of(items, items=2), 1)

    assert call == replay.Call(divmod, (9, 4), {})


def test_an_item_of_a_column_is_loaded_alone() -> None:
    call = replay.load(parts_of(([(7, 2), [9]],), items=2), 1)

    assert call.args == ([9],)


def test_while_it_is_at_a_job_the_process_knows_it_and_its_inputs() -> None:
    with replay.as_job(parts_of(((), {})), 3, {"first": pickle.dumps("result")}):
        job = cluster.current_job()
        seen = (job.id, job.run, job.fence, dependency.result_of("first"), dependency.inside_job)

    assert seen == ("j", 3, 0, "result", True)
    assert (cluster.current_job().id, dependency.current, dependency.inside_job) == ("", {}, False)


@pytest.mark.parametrize(("python", "pickler"), [("2.7", PICKLER), (PYTHON, "0.1")])
def test_what_was_pickled_elsewhere_is_refused(python: str, pickler: str) -> None:
    with pytest.raises(EnvironmentMismatch, match="it was pickled by"):
        replay.check(parts_of(((), {}), python=python, pickler=pickler), -1)


@pytest.mark.parametrize("item", [-1, 2])
def test_an_item_that_is_not_there_is_refused(item: int) -> None:
    with pytest.raises(Refused, match="from 0 to 1"):
        replay.check(parts_of([], items=2), item)


def test_a_job_that_is_no_chunk_has_no_items_to_name() -> None:
    replay.check(parts_of(((), {})), -1)

    with pytest.raises(Refused, match="job j is no chunk"):
        replay.check(parts_of(((), {})), 0)
