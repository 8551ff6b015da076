from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from typing import Any

import cloudpickle
import pytest

from cluster.client.payload import (
    collecting,
    dump_call,
    dump_items,
    error_of,
    is_atom,
    load_result,
    rebuild_error,
    reduce_job,
)
from cluster.core.bounds import MAX_RANGE
from cluster.core.records import Certificate, Ending, Outcome
from cluster.core.states import JobState
from cluster.errors import (
    ClusterError,
    DependencyFailed,
    EnvironmentMismatch,
    JobCancelled,
    JobCrashed,
    JobExpired,
    JobTimeout,
    OutOfMemory,
    Refused,
    RemoteError,
    RemoteTraceback,
    WorkerLost,
)
from cluster.wire import dependency


class FakeJob:
    def __init__(self, job: str) -> None:
        self.id = job

    def __reduce__(self) -> Any:
        return reduce_job(self.id)


class Submitting:
    """A user's object that pickles another call while it is pickled itself."""

    def __reduce__(self) -> Any:
        assert dump_call((FakeJob("inner"),), {})[1] == ("inner",)
        return Submitting, ()


class Trap:
    """Raises when it is unpickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return spring, (self.error,)


def spring(error: BaseException) -> None:
    raise error


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, 2.5, "a", b"b", None, True, 2j), {"x": 1}),
        (([1, (2,)], {"a": {3}}), {"x": [None]}),
        ((range(3),), {}),
    ],
)
def test_arguments_arrive_as_they_were_sent(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    body, jobs = dump_call(args, kwargs)

    assert pickle.loads(body) == (args, kwargs)
    assert jobs == ()


def test_a_lambda_is_an_argument_like_any_other() -> None:
    offset = 2

    body, _ = dump_call((lambda x: x + offset,), {})

    assert pickle.loads(body)[0][0](1) == 3


def test_jobs_at_any_depth_are_dependencies_in_order_and_each_once() -> None:
    first, second = FakeJob("s-1"), FakeJob("s-2")

    _, jobs = dump_call((second, [first, {"k": second}]), {"x": (first, FakeJob("s-3"), FakeJob("s-1"))})

    assert jobs == ("s-2", "s-1", "s-3")


def test_a_job_that_an_argument_function_captured_is_a_dependency() -> None:
    job = FakeJob("s-1")

    _, jobs = dump_call((lambda: job,), {})

    assert jobs == ("s-1",)


def test_a_job_is_loaded_as_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    body, _ = dump_call((FakeJob("s-1"), 2), {})
    monkeypatch.setitem(dependency.current, "s-1", pickle.dumps("the result"))

    assert pickle.loads(body) == (("the result", 2), {})


def test_a_job_cannot_be_pickled_outside_of_a_call() -> None:
    with pytest.raises(TypeError, match=r"^a Job can't be pickled; pass it as an argument of submit, or send its id"):
        pickle.dumps(FakeJob("s-1"))


def test_a_failed_dump_leaves_no_list_open() -> None:
    with pytest.raises(TypeError, match="argument 1"):
        dump_call((FakeJob("s-1"), threading.Lock()), {})

    with pytest.raises(TypeError, match="a Job can't be pickled"):
        pickle.dumps(FakeJob("s-1"))


def test_each_thread_has_its_own_list() -> None:
    inside, done = threading.Event(), threading.Event()
    refused: list[bool] = []

    def elsewhere() -> None:
        assert inside.wait(10)
        try:
            pickle.dumps(FakeJob("other"))
        except TypeError:
            refused.append(True)
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with collecting() as jobs:
        inside.set()
        assert done.wait(10)
        pickle.dumps(FakeJob("mine"))
    thread.join()

    assert jobs == ["mine"]
    assert refused == [True]


def test_a_call_that_is_pickled_within_another_keeps_its_jobs_to_itself() -> None:
    _, jobs = dump_call((FakeJob("a"), Submitting(), FakeJob("b")), {})

    assert jobs == ("a", "b")


# --- items of a map -----------------------------------------------------------------------------------------------


def test_plain_items_travel_as_one_list_of_tuples() -> None:
    body, jobs = dump_items([(1, "a"), (2, None)])

    assert pickle.loads(body) == [(1, "a"), (2, None)]
    assert jobs == ()


def test_plain_items_of_a_column_travel_as_one_list() -> None:
    body, jobs = dump_items([1, "a", None], is_column=True)

    assert pickle.loads(body) == ([1, "a", None],)
    assert jobs == ()


def test_a_range_travels_as_one_if_the_master_takes_its_length_on_trust() -> None:
    short, _ = dump_items(range(MAX_RANGE), is_column=True)
    long, _ = dump_items(range(MAX_RANGE + 1), is_column=True)

    assert pickle.loads(short) == (range(MAX_RANGE),)
    assert len(short) < 100
    assert pickle.loads(long) == (list(range(MAX_RANGE + 1)),)


def test_other_items_of_a_column_travel_one_by_one_as_argument_tuples() -> None:
    body, jobs = dump_items([1, (2, 3), FakeJob("s-1")], is_column=True)

    items = pickle.loads(body)

    assert [pickle.loads(item) for item in items[:2]] == [(1,), ((2, 3),)]
    assert jobs == ("s-1",)


def test_other_items_travel_one_by_one() -> None:
    body, jobs = dump_items([(1,), ([2],), (FakeJob("s-1"),), (FakeJob("s-1"),)])

    items = pickle.loads(body)

    assert [type(item) for item in items] == [bytes] * 4
    assert [pickle.loads(item) for item in items[:2]] == [(1,), ([2],)]
    assert jobs == ("s-1",)


def test_a_subclass_of_a_plain_type_is_not_plain() -> None:
    class Number(int):
        pass

    body, _ = dump_items([(Number(1),)])

    assert type(pickle.loads(body)[0]) is bytes


# --- results ------------------------------------------------------------------------------------------------------


def test_a_result_is_what_was_pickled() -> None:
    assert load_result(pickle.dumps([1, 2])) == [1, 2]


def test_an_interrupt_while_a_result_is_unpickled_is_the_callers_own() -> None:
    payload = pickle.dumps(Trap(KeyboardInterrupt()))

    with pytest.raises(KeyboardInterrupt):
        load_result(payload)


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), RecursionError("deep")])
def test_whatever_a_result_does_when_it_is_unpickled_is_an_error_of_its_job(error: BaseException) -> None:
    payload = pickle.dumps(Trap(error))

    with pytest.raises(RemoteError, match=f"job fit: its result can't be unpickled here: {type(error).__name__}") as e:
        load_result(payload, "fit")

    assert e.value.job == "fit"
    assert type(e.value.__cause__) is type(error)


@pytest.mark.parametrize("value", [None, True, False, 0, 255, 256, -1, 65536, 2**31 - 1, 1.5, float("inf")])
def test_a_number_a_truth_or_nothing_is_an_atom(value: object) -> None:
    assert is_atom(pickle.dumps(value, 5))


@pytest.mark.parametrize(
    "value", ["", "abc", b"", b"\x01" * 4, (), (1,), [], {}, 2**40, 1j, Trap(ValueError()), object()]
)
def test_whatever_could_run_code_or_have_an_identity_is_no_atom(value: object) -> None:
    assert not is_atom(pickle.dumps(value, 5))


def test_bytes_that_are_no_pickle_are_an_error_of_their_job() -> None:
    with pytest.raises(RemoteError, match=r"can't be unpickled here: UnpicklingError"):
        load_result(b"nonsense")


# --- errors -------------------------------------------------------------------------------------------------------


def outcome(
    ending: Ending | None, payload: bytes = b"", state: JobState = JobState.DEAD_LETTER, **fields: Any
) -> Outcome:
    fields = {"reason": "the reason", "traceback": "Traceback: line 1", **fields}
    certificate = None if ending is None else Certificate(ending=ending, **fields)
    return Outcome(job="s-1", run=1, state=state, ended=0.0, payload=payload, certificate=certificate)


def raised(error: BaseException) -> Outcome:
    names = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return outcome(Ending.RAISED, cloudpickle.dumps(error), error_types=names, message=str(error))


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (Ending.UNPICKLABLE, RemoteError),
        (Ending.TIMED_OUT, JobTimeout),
        (Ending.CRASHED, JobCrashed),
        (Ending.OUT_OF_MEMORY, OutOfMemory),
        (Ending.WORKER_LOST, WorkerLost),
        (Ending.ENVIRONMENT, EnvironmentMismatch),
        (Ending.CANCELLED, JobCancelled),
        (Ending.EXPIRED, JobExpired),
        (Ending.DEPENDENCY, DependencyFailed),
    ],
)
def test_each_ending_has_its_error_which_carries_the_certificate(ending: Ending, kind: type[Any]) -> None:
    ended = outcome(ending)

    error = rebuild_error(ended)

    assert type(error) is kind
    assert isinstance(error, ClusterError)
    assert str(error) == "job s-1: the reason"
    assert getattr(error, "certificate", None) is ended.certificate


def test_an_admission_that_could_not_be_made_durable_is_a_refusal() -> None:
    error = rebuild_error(outcome(Ending.ADMISSION), "fit")

    assert type(error) is Refused
    assert str(error) == "job fit: the reason"


def test_every_ending_without_a_result_has_an_error() -> None:
    for ending in set(Ending) - {Ending.SUCCEEDED}:
        assert isinstance(rebuild_error(outcome(ending)), ClusterError)


@pytest.mark.parametrize(
    ("state", "kind"),
    [(JobState.CANCELLED, JobCancelled), (JobState.EXPIRED, JobExpired), (JobState.DEAD_LETTER, RemoteError)],
)
def test_an_outcome_without_a_certificate_is_judged_by_its_state(state: JobState, kind: type[Any]) -> None:
    assert type(rebuild_error(outcome(None, state=state))) is kind


def test_the_tasks_own_exception_is_raised_with_its_remote_traceback() -> None:
    ended = raised(ValueError("bad", 7))

    first, second = rebuild_error(ended), rebuild_error(ended)

    assert type(first) is ValueError
    assert first.args == ("bad", 7)
    assert isinstance(first.__cause__, RemoteTraceback)
    assert first.__cause__.text == "Traceback: line 1"
    assert first is not second


def test_an_exception_that_forbids_attributes_still_gets_its_traceback() -> None:
    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    error = rebuild_error(raised(FrozenError(3)))

    assert type(error).__name__ == "FrozenError"
    assert isinstance(error.__cause__, RemoteTraceback)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(7), "raised SystemExit: 7"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt"),
        (GeneratorExit(), "raised GeneratorExit"),
        (StopIteration(3), "raised StopIteration: 3"),
        (StopAsyncIteration(), "raised StopAsyncIteration"),
        (asyncio.CancelledError(), "raised asyncio.exceptions.CancelledError"),
        (concurrent.futures.CancelledError(), "raised concurrent.futures._base.CancelledError"),
        (BaseExceptionGroup("two", [KeyboardInterrupt()]), "raised BaseExceptionGroup: two (1 sub-exception)"),
    ],
)
def test_what_must_not_escape_arrives_as_a_remote_error(error: BaseException, text: str) -> None:
    rebuilt = rebuild_error(raised(error))

    assert type(rebuilt) is RemoteError
    assert rebuilt.reason == text
    assert rebuilt.certificate is not None
    assert isinstance(rebuilt.__cause__, RemoteTraceback)


@pytest.mark.parametrize("trap", [SystemExit(1), ImportError("No module named 'x'")])
def test_an_exception_that_cannot_be_rebuilt_arrives_as_a_remote_error(trap: BaseException) -> None:
    ended = outcome(Ending.RAISED, pickle.dumps(Trap(trap)), error_types=("x.Odd", "builtins.Exception"), message="hm")

    rebuilt = rebuild_error(ended)

    assert type(rebuilt) is RemoteError
    assert rebuilt.reason == f"raised x.Odd: hm (it can't be rebuilt here: {type(trap).__name__}: {trap})"


@pytest.mark.parametrize("payload", [b"", pickle.dumps("no exception")])
def test_without_an_exception_in_the_payload_the_certificate_speaks(payload: bytes) -> None:
    rebuilt = rebuild_error(outcome(Ending.RAISED, payload, error_types=("x.Odd",), message="hm"))

    assert type(rebuilt) is RemoteError
    assert rebuilt.reason == "raised x.Odd: hm"


def test_an_items_error_is_rebuilt_from_its_certificate() -> None:
    certificate = Certificate(ending=Ending.RAISED, reason="r", traceback="t", item=3)

    error = error_of(certificate, pickle.dumps(KeyError("k")), "fit[3]")

    assert type(error) is KeyError
    assert isinstance(error.__cause__, RemoteTraceback)
