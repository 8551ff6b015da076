from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import pickle
from typing import Any

import cloudpickle
import pytest

from cluster import errors
from cluster.core.records import Certificate, Ending
from cluster.errors import ClusterError, JobCancelled, JobError, JobTimeout, RemoteTraceback

CERTIFICATE = Certificate(ending=Ending.CRASHED, reason="killed by SIGSEGV", attempt=2, worker="w#1", signal=11)
# By parameter name: one value for everything that an error of the tree is made of.
SAMPLES = {
    "reason": "the disk is full",
    "key": "nightly",
    "job": "abc-1",
    "store": "sqlite:///runs.db",
    "certificate": CERTIFICATE,
    "text": "Traceback (most recent call last):\n  ...",
}


def family(base: type[BaseException]) -> list[type[BaseException]]:
    found = [base]
    for child in base.__subclasses__():
        found += [one for one in family(child) if one not in found]
    return [one for one in found if one.__module__ == errors.__name__]


TREE = family(ClusterError)
EVERY = [*TREE, RemoteTraceback]


def sample(kind: type[BaseException]) -> BaseException:
    if kind.__init__ in (ClusterError.__init__, Exception.__init__):
        return kind("the master is away")
    names = list(inspect.signature(kind).parameters)
    return kind(*[SAMPLES[name] for name in names])


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_an_error_survives_pickling_with_type_arguments_fields_and_text(
    kind: type[BaseException], pickler: object
) -> None:
    error = sample(kind)

    again = pickle.loads(pickler.dumps(error))  # type: ignore[attr-defined]

    assert type(again) is kind
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_can_be_copied(kind: type[BaseException]) -> None:
    error = sample(kind)

    again = copy.copy(error)

    assert (type(again), again.args, str(again)) == (kind, error.args, str(error))


@pytest.mark.parametrize("kind", EVERY)
def test_the_text_of_an_error_holds_each_string_it_was_made_of(kind: type[BaseException]) -> None:
    error = sample(kind)

    for argument in error.args:
        if isinstance(argument, str):
            assert argument in str(error)


@pytest.mark.parametrize("kind", TREE)
def test_an_error_is_drawn_in_the_tree_that_opens_the_file(kind: type[BaseException]) -> None:
    drawing = (errors.__doc__ or "").split("A task's own exception")[0]

    drawn = drawing.replace(",", " ").split()

    assert kind.__name__ in drawn


def test_nothing_is_drawn_that_is_not_there() -> None:
    drawing = (errors.__doc__ or "").split("A task's own exception")[0]

    drawn = {word for word in drawing.partition("\n")[2].replace(",", " ").split() if word[0].isupper()}

    assert drawn == {kind.__name__ for kind in TREE}


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_says_in_its_docstring_when_it_is_raised(kind: type[BaseException]) -> None:
    assert vars(kind)["__doc__"]


@pytest.mark.parametrize("kind", family(JobError))
def test_an_error_that_ends_a_job_carries_its_death_certificate(kind: type[JobError]) -> None:
    error = kind("abc-1", "killed by SIGSEGV", CERTIFICATE)

    assert error.certificate is CERTIFICATE
    assert kind("abc-1", "killed by SIGSEGV").certificate is None


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, ""),
        ({"attempt": 2, "host": "node1"}, ""),  # nobody had it
        ({"attempt": 2, "worker": "w#1"}, " (attempt 2, worker w#1)"),
        ({"attempt": 2, "worker": "w#1", "host": "node1", "pid": 7}, " (attempt 2, worker w#1 on node1, pid 7)"),
    ],
)
def test_an_error_that_ends_a_job_says_where_as_far_as_that_is_known(known: dict[str, Any], told: str) -> None:
    certificate = Certificate(ending=Ending.CRASHED, reason="it died", **known)

    assert str(JobError("abc-1", "it died", certificate)) == f"job abc-1: it died{told}"


def test_a_cancelled_job_is_a_cancelled_future_to_the_standard_library() -> None:
    assert issubclass(JobCancelled, concurrent.futures.CancelledError)


def test_a_cancelled_job_does_not_cancel_the_coroutine_that_awaits_it() -> None:
    assert not issubclass(JobCancelled, asyncio.CancelledError)


def test_a_killed_attempt_is_not_the_waiter_s_own_timeout() -> None:
    assert not issubclass(JobTimeout, TimeoutError)


def test_a_remote_traceback_is_no_cluster_error_for_it_is_only_ever_a_cause() -> None:
    assert not issubclass(RemoteTraceback, ClusterError)
