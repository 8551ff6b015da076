"""A peer that has a key and sends nonsense: extremes in every field of every call, to a real master with a real worker."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import pytest
from msgspec import Raw, Struct

from cluster.core.digests import name_function
from cluster.core.printed import Place
from cluster.core.records import (
    Budget,
    Certificate,
    Ending,
    JobSpec,
    Options,
    Report,
    RetryRule,
    Segment,
)
from cluster.wire import calls, handshake
from cluster.wire.address import parse_address
from cluster.wire.calls import CALLS, Call
from cluster.wire.connection import MAX_FRAME_BYTES, ClusterConnection
from cluster.wire.handshake import Greeting
from cluster.wire.keys import Role, load_key
from cluster.wire.listener import dial
from cluster.wire.messages import Health, Hello, Progress, SlotHealth
from tests.acceptance.lab import Lab, a_lab
from tests.acceptance.programs import wait_until

WAIT_SECONDS = 30.0

EXTREMES: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -1.5, 0, 1, -(2**63), 2**63, 2**64 - 1, 1e308,
    "", "x" * 100_000, "\0\n\x1b[2J\u202e", b"", bytes(1000),
    [], [[]], [0] * 50_000, [""] * 50_000, {}, {"a": 1}, None, True,
]  # fmt: skip

_RULE = RetryRule(max_retries=1, backoff=1.0, factor=2.0, max_delay=3.0, jitter=0.5, retry_on=("builtins.OSError",))
_OPTIONS = Options(
    name="n", queue="q", priority=1, retry=_RULE, crash_limit=1, timeout=1.0, resources=(("gpu", 1),),
    memory=(10**8,), labels=(("zone", "lab"),), tags=("t",), result_ttl=10.0,
)  # fmt: skip
_TASK = name_function(b"no pickle", "3.11", "3", "name", reusable=False)
_SPEC = JobSpec(
    "hostile", _TASK.digest, b"args", _OPTIONS, after=("a",), inputs=("a",), delay=1.0, at=1.0, expires=1.0, key="",
    items=1, batch="b", first=1,
)  # fmt: skip
_CERTIFICATE = Certificate(
    ending=Ending.RAISED, reason="r", attempt=1, worker="w", host="h", pid=1, error_types=("builtins.OSError",),
    message="m", traceback="t", signal=1, exit_code=1, started=1.0, seconds=1.0, peak_memory=1, cpu_seconds=1.0,
    output_tail="o", item=1,
)  # fmt: skip
_REPORT = Report(7, Ending.RAISED, b"p", _CERTIFICATE, b"o", segments=(Segment(0, 1, b"d", _CERTIFICATE),), seconds=1.0)
_SLOT = SlotHealth(slot=1, pid=1, job="j", seconds=1.0, memory=1, cpu_percent=1.0)
_HELLO = Hello(
    worker="hostile#1", name="hostile", host="h", pid=1, slots=1, resources=(("gpu", 1),), labels=(("a", "b"),),
    memory_room=1, memory_most=1,
)  # fmt: skip
_JOBS = ("no such job",)


def examples(session: str) -> dict[tuple[str, str], Struct]:
    """What each call is sent with, every field of it, before one field is spoilt."""
    nobody = calls.Session("no such session")
    worker = calls.WorkerArgs("nobody")
    one_job = calls.JobArgs("no such job")
    plain = calls.Nothing()
    return {
        ("jobs", "open"): plain,
        ("jobs", "close"): nobody,
        ("jobs", "submit"): calls.Submit(session, (_SPEC,), (_TASK,), number=1),
        ("jobs", "listen"): calls.Listen(session, 0, 0.0),
        ("jobs", "watch"): calls.Watch(session, _JOBS),
        ("jobs", "cancel"): calls.Cancel(_JOBS, 0.0),
        ("jobs", "info"): one_job,
        ("jobs", "outcome"): one_job,
        ("jobs", "page"): calls.Page("queued", "t", "b", "q", 10, 0),
        ("jobs", "history"): one_job,
        ("jobs", "output"): one_job,
        ("jobs", "parts"): one_job,
        ("jobs", "result"): one_job,
        ("jobs", "read_output"): calls.ReadOutput("no such job", Place(1, 1), 0.0),
        ("jobs", "explain"): one_job,
        ("jobs", "requeue"): calls.Requeue(_JOBS, Budget(retries=_RULE, crash_limit=1)),
        ("jobs", "purge"): calls.Purge(_JOBS),
        ("jobs", "stats"): plain,
        ("jobs", "workers"): plain,
        ("jobs", "pause"): calls.QueueArgs("q"),
        ("jobs", "resume"): calls.QueueArgs("q"),
        ("work", "register"): calls.Register(_HELLO, (7,), 1),
        ("work", "listen"): calls.WorkListen("hostile#0", 0, 0.0, 1, 0, 1),
        ("work", "tell"): calls.Tell(
            "hostile#0", (_REPORT,), (7,), (7,), (Progress(7, 1.0, 1.0, "n", b"o", 1),), (7,), 0, 1, 1
        ),
        ("work", "heartbeat"): calls.Heartbeat("hostile#0", Health(load=(1.0, 1.0, 1.0), slots=(_SLOT,))),
        ("work", "fetch_function"): calls.FetchFunction(b"d"),
        ("work", "leave"): worker,
        ("admin", "ping"): plain,
        ("admin", "drain"): worker,
        ("admin", "undrain"): worker,
        ("admin", "shutdown"): calls.Shutdown(),
    }


def whole(value: Any) -> Any:
    """A record with all of its fields, the defaults too, in the shape that it has on the wire."""
    if isinstance(value, Struct):
        fields = {name: whole(getattr(value, name)) for name in value.__struct_fields__}
        return list(fields.values()) if value.__struct_config__.array_like else fields
    return [whole(one) for one in value] if isinstance(value, tuple) else value


def spoilt(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The value with one extreme put in the place of one part of it, for each part and each extreme."""
    for extreme in EXTREMES:
        yield path, extreme
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        for where, other in spoilt(part, f"{path}.{name}"):
            copy: Any = value.copy()
            copy[name] = other
            yield where, copy


def is_sent(call: tuple[str, str], path: str, said: Any) -> bool:
    """Not what is in order, and would stop the master, or have us wait for the end of a long poll."""
    if call == ("admin", "shutdown"):
        return not (path == "" and isinstance(said, dict)) and said != {"drain": True}
    if call[1] == "listen" and path == ".timeout":
        return not (isinstance(said["timeout"], int | float) and 0 < said["timeout"] < math.inf)
    return True


@contextlib.contextmanager
def known(lab: Lab, role: Role) -> Iterator[ClusterConnection]:
    """A bare connection of a peer that has the key."""
    address = parse_address(lab.bind)
    with contextlib.closing(dial(address)) as connection:
        handshake.introduce(connection, Greeting(role, load_key(lab.folder / "keys" / f"{role}.key"), address))
        connection.max_frame_bytes = MAX_FRAME_BYTES
        yield connection


def ask(connection: ClusterConnection, call: tuple[str, str], said: Any) -> tuple[Any, Any]:
    """The answer's body and its fault."""
    connection.send_frame(msgspec.msgpack.encode(["request", *call, said]))
    answer = msgspec.msgpack.decode(connection.receive_frame(WAIT_SECONDS))
    return answer[1], answer[2] if len(answer) > 2 else None


def role_of(call: Call) -> Role:
    return next(role for role in (Role.CLIENT, Role.WORKER, Role.ADMIN) if role in call.roles)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with a_lab(tmp_path_factory.mktemp("lab")) as made:
        made.start_worker()
        assert_well(made)  # the worker has both its connections now
        yield made


def assert_well(lab: Lab) -> None:
    with lab.connect() as client:
        assert client.submit(pow, (2, 10)).result(WAIT_SECONDS) == 1024


def test_every_call_has_an_example() -> None:
    assert {call: type(said) for call, said in examples("").items()} == {call: CALLS[call].args for call in CALLS}


@pytest.mark.parametrize("call", CALLS, ids=".".join)
def test_no_extreme_in_any_field_of_a_call_harms_the_master(call: tuple[str, str], lab: Lab) -> None:
    master = psutil.Process(lab.processes[0].pid)
    threads = master.num_threads()
    sent = refused = 0

    with known(lab, role_of(CALLS[call])) as connection:
        session = ""
        if call[0] == "jobs":
            session = ask(connection, ("jobs", "open"), {})[0]["session"]
        elif call[0] == "work":
            ask(
                connection,
                ("work", "register"),
                whole(calls.Register(msgspec.structs.replace(_HELLO, worker="hostile#0"))),
            )
        for path, said in spoilt(whole(examples(session)[call])):
            if not is_sent(call, path, said):
                continue
            _, fault = ask(connection, call, said)
            sent += 1
            if fault is not None:
                refused += 1
                assert fault[0] in {"Refused", "UnknownJob"}, (path, fault)
                assert len(fault[1][0]) < 5000, path
        if session:
            ask(connection, ("jobs", "close"), {"session": session})

    assert 10 <= refused <= sent
    assert_well(lab)
    wait_until(lambda: master.num_threads() <= threads)


@pytest.mark.parametrize("call", set(CALLS) - {("admin", "shutdown")}, ids=".".join)
def test_an_example_that_is_not_spoilt_fits(call: tuple[str, str], lab: Lab) -> None:
    with known(lab, role_of(CALLS[call])) as connection:
        _, fault = ask(connection, call, whole(examples("s")[call]))

        assert fault is None or "its arguments are not" not in fault[1][0]


@pytest.mark.parametrize("depth", [200, 5000, 1_000_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa4jobs"])
def test_nesting_without_end_is_refused_or_ends_its_connection(opening: bytes, depth: int, lab: Lab) -> None:
    with known(lab, Role.CLIENT) as connection:
        try:
            _, fault = ask(connection, ("jobs", "purge"), Raw(opening * depth + b"\xc0"))
        except (EOFError, ConnectionError):
            fault = ["Refused"]

        assert fault[0] == "Refused"
    assert_well(lab)


@pytest.mark.parametrize("call", CALLS, ids=".".join)
def test_no_field_takes_what_is_no_number(call: tuple[str, str], lab: Lab) -> None:
    with known(lab, role_of(CALLS[call])) as connection:
        for extreme in (math.nan, math.inf, -math.inf):
            for path, said in spoilt(whole(examples("s")[call])):
                if holds(said, extreme):
                    _, fault = ask(connection, call, said)
                    assert fault is not None, path
                    assert "its arguments are not what they must be" in fault[1][0], path


def holds(value: Any, extreme: float) -> bool:
    if isinstance(value, dict | list):
        return any(holds(part, extreme) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and (value == extreme or (math.isnan(value) and math.isnan(extreme)))
