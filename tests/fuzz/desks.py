"""Fuzzed: the master itself, by calls whose arguments have the right types and say anything.

An input is a list of [call, arguments]. Each is decoded as from the wire and carried out on a real master by real desks;
its store files what is committed in real tables, so that what no table takes is found too.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from cluster.core import events
from cluster.core.digests import name_function
from cluster.core.effects import Record
from cluster.errors import ClusterError
from cluster.master.master import Clock, Master
from cluster.master.served_admin import ServedAdminDesk
from cluster.master.served_jobs import ServedJobsDesk
from cluster.master.served_work import ServedWorkDesk
from cluster.store import journal, rows, scribe, sql
from cluster.store.leases import LeaseBook
from cluster.store.memory import MemoryStore
from cluster.store.seal import Seal
from cluster.wire import codec
from cluster.wire.calls import CALLS, Submit
from cluster.wire.codec import Request
from cluster.wire.faults import KINDS
from cluster.wire.keys import Role
from cluster.wire.peer import Peer
from tests.fuzz.samples import sample
from tests.sim.invariants import check_board

NAMES = list(CALLS)
MAX_CALLS = 12
OWN_DIGEST = b"f"  # stands for a function's own digest, as "s" does for the session
_PEER = Peer(1, Role.ADMIN, "fuzz")
_EXPECTED = tuple(KINDS.values())

encode = msgspec.msgpack.Encoder().encode


class TabledStore(MemoryStore):
    """The memory store, which also writes each group as the durable one does: journal, seals, tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = sqlite3.connect(":memory:", isolation_level=None)
        self.tables.executescript(sql.script("schema.sql"))
        self.tables.executescript(sql.script("inbox.sql"))
        self._scribe = scribe.Scribe(Seal(b"k" * 32), LeaseBook(), rows.Marks(1, 0))

    def commit(self, records: Sequence[Record]) -> None:
        body = journal.encode(records)
        assert journal.encode(journal.decode(body)) == body, "the journal is not read as it was written"
        made = self._scribe.rows(records)
        if made:
            self.tables.execute(scribe.insert_statement(len(made)), [value for row in made for value in row])
        self._scribe.written()
        super().commit(records)


def session(data: bytes) -> str:
    """Calls in a row, and the tick of a clock."""
    try:
        said = msgspec.msgpack.decode(data, type=list[tuple[int, Raw]])[:MAX_CALLS]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "no input"
    time = [1000.0]
    store = TabledStore()
    with contextlib.closing(store.tables):
        master = Master(store, clock=Clock(lambda: time[0], lambda: time[0] + 1e9))
        master.open(grace_seconds=0.0)
        desks: dict[str, object] = {
            "jobs": ServedJobsDesk(master),
            "work": ServedWorkDesk(master),
            "admin": ServedAdminDesk(master, lambda drain: None),
        }
        opened = desks["jobs"].open(_PEER, None).session  # type: ignore[attr-defined]
        label = "no calls"
        for number, raw in said:
            desk, method = NAMES[number % len(NAMES)]
            label = _call(desks[desk], Request("r", desk, method, raw), opened)
            check_board(master.board)
            time[0] += 1.0
        time[0] += 60.0
        master.decide(events.Tick())
        check_board(master.board)
        assert not master.board.refusing, master.board.refusing
        return label


def _call(desk: Any, request: Request, session: str) -> str:
    name = f"{request.desk}.{request.method}"
    try:
        said = codec.read_arguments(request)
    except ClusterError:
        return f"{name} misread"
    if getattr(said, "session", None) == "s":
        said = msgspec.structs.replace(said, session=session)
    if isinstance(said, Submit):
        said = _genuine(said)
    if getattr(said, "timeout", 0.0) > 0.0:  # what a peer waits for is not waited for here
        said = msgspec.structs.replace(said, timeout=0.0)
    call = CALLS[request.desk, request.method]
    method = getattr(desk, request.method)
    try:
        answer = method(_PEER, said, request=request.request) if call.is_once else method(_PEER, said)
    except _EXPECTED as error:
        return f"{name} {type(error).__name__}"
    wire = codec.encode_answer(request, answer)
    codec.read_answer(codec.open_answer(memoryview(wire), "r"), request.desk, request.method)
    return f"{name} answered {type(answer).__name__}"


def _genuine(said: Submit) -> Submit:
    """With functions under their own digests, where the input leaves that to us: it could not find them by chance."""
    named = [
        name_function(blob.body, blob.python, blob.pickler, blob.name, reusable=blob.reusable)
        if blob.digest == OWN_DIGEST
        else blob
        for blob in said.functions
    ]
    own = next((new.digest for new, old in zip(named, said.functions, strict=True) if new is not old), OWN_DIGEST)
    jobs = [msgspec.structs.replace(job, function=own) if job.function == OWN_DIGEST else job for job in said.jobs]
    return msgspec.structs.replace(said, functions=tuple(named), jobs=tuple(jobs))


def seeds() -> list[bytes]:
    chance = random.Random(8)
    number = {name: at for at, name in enumerate(NAMES)}

    def call(desk: str, method: str, **said: Any) -> list[Any]:
        return [number[desk, method], said]

    function = {"digest": OWN_DIGEST, "body": b"b", "python": "3.11", "pickler": "3", "name": "f"}
    digest = OWN_DIGEST
    retry = {"max_retries": 2, "backoff": 1.0, "factor": 2.0, "max_delay": 9.0, "jitter": 0.1, "retry_on": ["a.B"]}
    options = {
        "name": "n", "queue": "q", "priority": 1, "retry": retry, "crash_limit": 1, "timeout": 1.0, "tags": ["t"],
        "resources": [["gpu", 1]], "memory": [100], "labels": [["zone", "a"]], "result_ttl": 9.0, "echo": True,
    }  # fmt: skip
    jobs: list[list[Any]] = [
        ["a", digest, b"x", options],
        ["b", digest, b"x", {}, ["a"], ["a"]],
        ["c", digest, b"x", {"memory": [100]}],
    ]
    jobs += [["d", digest, b"x", {}, [], [], 5.0, None, 60.0]]
    jobs += [["e", digest, b"x" * 10, {}, [], [], 0.0, None, None, "k", 10]]
    submit = call("jobs", "submit", session="s", jobs=jobs, functions=[function], number=1)
    hello = {"worker": "w#1", "name": "w", "host": "h", "pid": 1, "slots": 2, "resources": [["gpu", 1]]}
    hello |= {"labels": [["zone", "a"]], "memory_room": 1000, "memory_most": 1000}
    register = call("work", "register", hello=hello)
    lease = call("work", "listen", worker="w#1", seen=0, timeout=0.0, credit=4, turn=1)
    fence = (1 << 40) + 1
    reports = [[fence, 1, b"result"], [fence + 1, 2, b"", {"ending": 2, "reason": "r"}, b"out"]]
    tell = call("work", "tell", worker="w#1", reports=reports, given_back=[fence + 2], begun=[fence])
    whole = [submit, register, lease, tell, call("jobs", "listen", session="s", seen=0, timeout=0.0)]
    told = [
        whole,
        [submit, call("jobs", "cancel", jobs=["a", "b"], timeout=0.0), call("jobs", "requeue", jobs=["a"])],
        [submit, call("jobs", "watch", session="s", jobs=["a", "z"]), call("jobs", "page", limit=2)],
        [register, call("admin", "drain", worker="w"), call("work", "leave", worker="w#1")],
        [submit, *(call("jobs", method, job="a") for method in ("info", "outcome", "history", "parts", "explain"))],
        [submit, register, lease, call("work", "heartbeat", worker="w#1", health={"memory_room": 7})],
    ]
    found = [encode(calls) for calls in told]
    for at, known in enumerate(CALLS.values()):
        found += [encode([submit, register, lease, [at, sample(known.args, chance)]]) for _ in range(2)]
    return found
