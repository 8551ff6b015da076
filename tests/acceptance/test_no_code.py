"""Nobody's bytes make a master import, unpickle or execute: watched from outside while every call of the table is made.

The master is the real command. It runs with a `sitecustomize` of the test's, whose audit hook writes down each import, each
compile and exec, each class that a pickle asks for, each program that is started. Nothing of that is in the product.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

import cluster
from cluster.errors import ClusterError
from cluster.wire import codec
from cluster.wire.address import parse_address
from cluster.wire.calls import CALLS, MasterInfo
from cluster.wire.connection import MAX_FRAME_BYTES, ClusterConnection
from cluster.wire.handshake import Greeting, introduce
from cluster.wire.keys import Role, load_key
from cluster.wire.listener import dial
from tests.acceptance.programs import ROOT
from tests.fuzz.samples import sample

DEADLINE_SECONDS = 30.0
WATCH = """
import os, sys

if os.environ.get("WATCHED"):
    _log = os.open(os.environ.pop("WATCHED"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _wanted = ("import", "compile", "exec", "pickle.", "marshal.", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
               "os.fork", "subprocess.", "ctypes.", "code.", "function.", "cpython.run_", "shutil.", "os.startfile")

    def _watch(event, said, _write=os.write, _log=_log, _wanted=_wanted):
        if event.startswith(_wanted):
            _write(_log, f"{event} {str(said)[:200]!r}\\n".encode())

    sys.addaudithook(_watch)
"""


class Watched:
    """A master, and what its interpreter has been asked to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = folder / "events"
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(WATCH)
        paths = os.pathsep.join([str(folder / "hook"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, "WATCHED": str(self._events)}
        reading, writing = os.pipe()
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "importtime", "-m", "cluster", "master", "--bind", "tcp://127.0.0.1:0"]
                + ["--store", f"sqlite:///{folder}/lab.db", "--keys", str(folder / "keys"), "--ready-fd", str(writing)],
                pass_fds=(writing,), cwd=folder, stdout=log, stderr=log, env=environment,
            )  # fmt: skip
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:  # noqa: PTH123 - a descriptor
            assert select.select([pipe], [], [], DEADLINE_SECONDS)[0], self.log
            self.address = pipe.read().split()[1]
        assert "import" in self._events.read_text(), "the hook does not watch"
        self._ready = self._events.stat().st_size

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self) -> list[str]:
        """Each thing that its interpreter was asked to do since it was ready."""
        return self._events.read_text()[self._ready :].splitlines()

    def imported(self) -> set[str]:
        """Every module that it ever imported, by CPython's own list."""
        lines = [line for line in self.log.splitlines() if line.startswith("import time:")]
        return {line.split("|")[2].strip() for line in lines[1:]}

    def mapped(self) -> set[str]:
        """The names of the shared objects in its memory."""
        lines = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        return {Path(line.split(maxsplit=5)[5]).name for line in lines if ".so" in line}

    def key(self, role: Role) -> Path:
        return self.folder / "keys" / f"{role}.key"


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    if found.process.poll() is None:
        found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(DEADLINE_SECONDS) == 0, found.log


@contextlib.contextmanager
def a_worker(master: Watched) -> Iterator[None]:
    command = [sys.executable, "-m", "cluster", "worker", master.address, "--name", "w", "--slots", "2"]
    with (master.folder / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--authkey-file", str(master.key(Role.WORKER))],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=master.folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0, (master.folder / "worker.log").read_text()


class Odd(Exception):
    """Can be pickled, and not rebuilt without code of its own."""

    def __init__(self, first: str, second: int) -> None:
        super().__init__(first, second)


class Planted:
    """Whoever unpickles it starts a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def use_all_of_it(client: cluster.Cluster) -> None:
    """Jobs of every kind, through the client that users have."""
    captured = {"by": "value"}

    def by_value(number: int) -> tuple[int, str]:
        print("printed", number)
        return number, captured["by"]

    def fail(number: int) -> NoReturn:
        raise Odd("failed", number)

    def unpicklable() -> Any:
        return (number for number in range(3))

    first = client.submit(by_value, (7,), name="n", tags=("t",))
    assert first.result(DEADLINE_SECONDS) == (7, "value")
    assert client.submit(lambda pair: pair[0] + 1, (first,)).result(DEADLINE_SECONDS) == 8
    assert list(client.map(math.sqrt, range(200), chunksize=50))[144] == 12.0
    odd: cluster.Job[Any] = client.submit(fail, (3,), retries=1)
    with pytest.raises(Odd):
        odd.result(DEADLINE_SECONDS)
    with pytest.raises(cluster.ClusterError):
        client.submit(unpicklable).result(DEADLINE_SECONDS)
    client.submit(id, (Planted(),)).exception(DEADLINE_SECONDS)  # runs in the child, where it may
    assert "printed 7" in first.logs()
    assert len(odd.history().attempts) == 2
    assert client.stats().completed >= 3


def make_every_call(master: Watched) -> dict[tuple[str, str], str]:
    """Each call of the table, with arguments of every shape that its type has, and with pickles in place of them."""
    chance = random.Random(38)
    planted = b"cos\nsystem\n(S'true'\ntR."
    came_of: dict[tuple[str, str], str] = {}
    for (desk, method), call in CALLS.items():
        if (desk, method) == ("admin", "shutdown"):
            continue
        role = Role.WORKER if Role.WORKER in call.roles and Role.ADMIN not in call.roles else Role.ADMIN
        with spoken_to(master, role) as connection:
            for number in range(12):
                said: Any = sample(call.args, chance, is_sane=True) if number else planted
                if hasattr(said, "timeout"):
                    said = msgspec.structs.replace(said, timeout=0.0)
                connection.send_frame(codec.encode_request(f"r{number}", desk, method, said))
                answer = codec.open_answer(connection.receive_frame(DEADLINE_SECONDS), f"r{number}")
                try:
                    came_of[desk, method] = type(codec.read_answer(answer, desk, method)).__name__
                except ClusterError as error:
                    came_of.setdefault((desk, method), type(error).__name__)
    return came_of


@contextlib.contextmanager
def spoken_to(master: Watched, role: Role) -> Iterator[ClusterConnection]:
    address = parse_address(master.address)
    with dial(address, timeout=DEADLINE_SECONDS) as connection:
        introduce(connection, Greeting(role, load_key(master.key(role)), address))
        connection.max_frame_bytes = MAX_FRAME_BYTES
        yield connection


def test_nothing_that_is_said_to_a_master_makes_it_import_unpickle_or_execute(master: Watched) -> None:
    with a_worker(master), cluster.connect(master.address, master.key(Role.CLIENT)) as client:
        use_all_of_it(client)
    came_of = make_every_call(master)
    mapped = master.mapped()

    assert came_of.keys() == CALLS.keys() - {("admin", "shutdown")}
    assert came_of["admin", "ping"] == MasterInfo.__name__
    with spoken_to(master, Role.ADMIN) as connection:
        connection.send_frame(codec.encode_request("r", "admin", "shutdown", CALLS["admin", "shutdown"].args()))
        codec.open_answer(connection.receive_frame(DEADLINE_SECONDS), "r")
    assert master.process.wait(DEADLINE_SECONDS) == 0
    assert master.events() == [], "\n".join(master.events())
    modules = {name.split(".", maxsplit=1)[0] for name in master.imported()}
    assert "cluster" in modules
    assert not modules & {"cloudpickle", "dill", "shelve", "numpy", "code"}
    assert not {
        name for name in master.imported() if name.startswith(("cluster.worker.child", "cluster.client.payload"))
    }
    # multiprocessing imports pickle; that nothing asks it for a class is what the events say.
    assert {name.split(".")[0] for name in mapped if "pickle" in name} <= {"_pickle"}


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    source = "import pickle, os; pickle.loads(b\"cos\\nsystem\\n(S'true'\\ntR.\"); exec('1'); import colorsys"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "WATCHED": str(tmp_path / "events")}

    subprocess.run([sys.executable, "-c", source], env=environment, check=True, timeout=DEADLINE_SECONDS)

    seen = (tmp_path / "events").read_text()
    for event in ("pickle.find_class", "os.system", "exec", "compile", "colorsys", "marshal.loads"):
        assert event in seen, event
