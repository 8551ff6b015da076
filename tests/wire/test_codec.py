from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.records import FunctionBlob, JobSpec
from cluster.errors import ClusterError, Refused, UnknownJob
from cluster.wire import codec
from cluster.wire.calls import CALLS, JobArgs, Listen, Submit
from cluster.wire.codec import ProtocolError, Request
from cluster.wire.faults import fault_of


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/owned",)


def request_of(said: Any, desk: str = "jobs", method: str = "submit") -> Request:
    return codec.open_request(memoryview(codec.encode_request("r-1", desk, method, said)))


def test_a_call_arrives_as_it_was_made() -> None:
    said = Submit("s", (JobSpec("a", b"d", b"args"),), (FunctionBlob(b"d", b"body", "3.11", "3.0", "f"),), again=True)

    request = request_of(said)

    assert (request.request, request.desk, request.method) == ("r-1", "jobs", "submit")
    assert codec.read_arguments(request) == said


def test_an_answer_and_a_fault_arrive_as_they_were_given() -> None:
    request = request_of(JobArgs("a"), method="output")

    good = codec.open_answer(memoryview(codec.encode_answer(request, b"text")), "r-1")
    bad = codec.open_answer(memoryview(codec.encode_fault(request, fault_of(UnknownJob("a"), "x"))), "r-1")

    assert codec.read_answer(good, "jobs", "output") == b"text"
    with pytest.raises(UnknownJob, match="'a'"):
        codec.read_answer(bad, "jobs", "output")


@pytest.mark.parametrize(
    "said",
    [
        None,
        7,
        "x",
        {},
        [],
        {"session": 1, "jobs": [], "functions": []},
        {"session": "s", "jobs": [{"id": "a"}], "functions": []},
    ],
)
def test_arguments_that_do_not_fit_their_type_reach_no_desk(said: Any) -> None:
    request = request_of(said)

    with pytest.raises(Refused, match=r"jobs\.submit: its arguments are not what they must be"):
        codec.read_arguments(request)


NUMBERS = [float("nan"), float("inf"), -1.0, 1e300]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", ["result_ttl", "timeout"])
def test_options_that_no_table_and_no_deadline_could_take_are_refused(field: str, number: float) -> None:
    said = {"session": "s", "jobs": [["a", b"d", b"x", {field: number}]], "functions": []}

    with pytest.raises(Refused, match=rf"jobs\.submit: its arguments .*{field}"):
        codec.read_arguments(request_of(said))


@pytest.mark.parametrize(
    ("desk", "method", "said"),
    [
        ("jobs", "listen", {"session": "s", "seen": 0, "timeout": float("nan")}),
        ("work", "listen", {"worker": "w", "seen": 0, "timeout": float("nan")}),
        ("jobs", "requeue", {"jobs": ["a"], "budget": {"crash_limit": -1}}),
        (
            "jobs",
            "submit",
            {"session": "s", "functions": [], "jobs": [["a", b"d", b"x", {"resources": [["gpu", -1]]}]]},
        ),
        ("jobs", "submit", {"session": "s", "functions": [], "jobs": [["a", b"d", b"x", {}, [], [], float("nan")]]}),
    ],
)
def test_numbers_out_of_all_range_reach_no_desk(desk: str, method: str, said: Any) -> None:
    with pytest.raises(Refused, match="its arguments are not what they must be"):
        codec.read_arguments(request_of(said, desk, method))


def test_a_number_is_not_quietly_taken_for_a_text() -> None:
    with pytest.raises(Refused, match="session"):
        codec.read_arguments(request_of({"session": 3, "seen": 1, "timeout": 1.0}, method="listen"))
    assert codec.read_arguments(request_of({"session": "s", "seen": 1, "timeout": 1}, method="listen")) == Listen(
        "s", 1, 1
    )


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc0",
        b"garbage",
        pickle.dumps(Hostile()),
        msgspec.msgpack.encode([1, 2, 3, 4]),
        msgspec.msgpack.encode(["a", "b"]),
    ],
)
def test_what_is_no_call_ends_the_connection(frame: bytes) -> None:  # row A13
    with pytest.raises(ProtocolError):
        codec.open_request(memoryview(frame))
    with pytest.raises(ProtocolError):
        codec.open_answer(memoryview(frame), "r-1")


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(frame: bytes) -> None:
    try:
        request = codec.open_request(memoryview(frame))
        if codec.call_of(request.desk, request.method):
            codec.read_arguments(request)
    except (ProtocolError, Refused):
        pass


def test_deep_nesting_is_refused_and_does_no_harm() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    frame = b"\x94" + b"\xa1r" + b"\xa4jobs" + b"\xa4info" + deep

    with pytest.raises((ProtocolError, Refused)):
        codec.read_arguments(codec.open_request(memoryview(frame)))


def test_another_request_s_answer_is_never_taken() -> None:  # row A21
    request = request_of(JobArgs("a"), method="output")
    frame = memoryview(codec.encode_answer(request, b"text"))

    with pytest.raises(ProtocolError, match="another request"):
        codec.open_answer(frame, "r-2")


def test_an_answer_of_another_version_is_a_sentence() -> None:
    request = request_of(JobArgs("a"), method="output")
    answer = codec.open_answer(memoryview(codec.encode_answer(request, {"new": 1})), "r-1")

    with pytest.raises(ClusterError, match="install the same cluster-kit on both sides"):
        codec.read_answer(answer, "jobs", "output")


def test_what_is_too_long_for_a_frame_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_BYTES", 1000)
    request = request_of(JobArgs("a"), method="output")

    with pytest.raises(Refused, match="fewer or smaller arguments"):
        codec.encode_request("r", "jobs", "output", JobArgs("x" * 1001))
    with pytest.raises(Refused, match="ask for less"):
        codec.encode_answer(request, bytes(1001))


@pytest.mark.parametrize(("desk", "method"), CALLS)
def test_every_call_of_the_table_can_be_read_by_type(desk: str, method: str) -> None:
    assert codec._argument_decoder(desk, method)
    assert codec._answer_decoder(desk, method)


def test_a_call_that_is_not_in_the_table_does_not_exist() -> None:
    for method in ("shutdown", "create", "incref", "decref", "debug_info", "__class__", "_callmethod"):
        assert codec.call_of("jobs", method) is None


# Eight threads read answers of a type that nobody has read before, again and again: each time a type of its own.
_READ_AT_ONCE = """
import sys, threading, types
import msgspec
from cluster.wire import codec
from cluster.wire.calls import CALLS, Call

SOURCE = '''
from __future__ import annotations
from typing import Annotated
from msgspec import Meta, Struct

class Inner(Struct, frozen=True):
    number: Annotated[int, Meta(ge=0)] = 0
    figures: tuple[float, ...] = ()

class Outer(Struct, frozen=True):
    inner: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}
'''
BODY = msgspec.Raw(msgspec.msgpack.encode({"inner": [{"number": 1, "figures": [1.0]}], "named": {"a": {"number": 2}}}))

def read(start, method):
    start.wait()
    codec.read_answer(codec.Answer("r-1", BODY), "work", method)

sys.setswitchinterval(1e-6)
for number in range(100):
    module = types.ModuleType(f"fresh{number}")
    sys.modules[module.__name__] = module
    exec(compile(SOURCE, module.__name__, "exec"), module.__dict__)
    CALLS["work", f"fresh{number}"] = Call(module.Outer, module.Outer, frozenset())
    start = threading.Barrier(8)
    threads = [threading.Thread(target=read, args=(start, f"fresh{number}")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_read_a_type_for_the_first_time_at_once_do_not_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READ_AT_ONCE], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
