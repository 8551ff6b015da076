"""The sampling profile: which room a stack is in, and whose cpu time is counted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.fresh import PROJECT
from benchmarks.profile import per_job, table
from benchmarks.rooms import CALLER, OTHER, room_of_frame, room_of_path
from benchmarks.watch import Watch, ask

PACKAGE = "/somewhere/cluster"


@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("/somewhere/cluster/client/session.py", "client"),
        ("/somewhere/cluster/core/board.py", "board"),
        ("/somewhere/cluster/master/committer.py", "committer"),
        ("/somewhere/cluster/master/jobs_desk.py", "desks"),
        ("/somewhere/cluster/store/sqlite.py", "committer"),
        ("/somewhere/cluster/wire/proxy.py", "wire"),
        ("/somewhere/cluster/worker/supervisor.py", "supervisor"),
        ("/somewhere/cluster/errors.py", OTHER),
        ("/somewhere/cluster2/core/board.py", None),
        ("/usr/lib/python3/threading.py", None),
    ],
)
def test_a_source_file_has_its_room(path: str, room: str | None) -> None:
    assert room_of_path(path, PACKAGE) == room


def test_every_folder_of_the_kit_that_a_job_goes_through_has_a_room() -> None:
    folders = {path.parent.name for path in (PROJECT / "cluster").glob("*/__init__.py")}

    without = {name for name in folders if room_of_path(f"{PACKAGE}/{name}/module.py", PACKAGE) == OTHER}

    assert without == {"cli", "deploy"}


def held(path: str, inner: str) -> str:
    """The room of a stack while it stands: a frame that has returned has no caller any more."""
    found: list[str] = []
    scope: dict[str, object] = {"look": lambda: found.append(room_of_frame(sys._getframe(1), PACKAGE))}
    exec(compile("def inner():\n    look()\n", inner, "exec"), scope)
    exec(compile("def outer():\n    inner()\n", path, "exec"), scope)
    scope["outer"]()  # type: ignore[operator]
    return found[0]


def test_what_a_library_does_is_on_the_account_of_the_room_that_asked_for_it() -> None:
    assert held("/somewhere/cluster/wire/codec.py", "/usr/lib/python3/json.py") == "wire"


def test_of_two_rooms_the_inner_one_counts() -> None:
    assert held("/somewhere/cluster/master/master.py", "/somewhere/cluster/core/board.py") == "board"


def test_a_stack_without_the_kit_is_the_caller_s() -> None:
    assert held("/elsewhere/script.py", "/usr/lib/python3/json.py") == CALLER


def test_who_computes_is_counted_and_who_waits_is_not() -> None:
    watch = Watch(PACKAGE)
    is_over = threading.Event()
    scope: dict[str, object] = {"is_over": is_over}
    exec(compile("def wait():\n    is_over.wait(60)\n", f"{PACKAGE}/wire/waiting.py", "exec"), scope)
    waiting = threading.Thread(target=scope["wait"])  # type: ignore[arg-type]
    waiting.start()
    interval = sys.getswitchinterval()
    try:
        watch.start_sampling()
        compute(0.3, f"{PACKAGE}/core/board.py")
        found = watch.read()
    finally:
        watch.stop()
        sys.setswitchinterval(interval)
        is_over.set()
        waiting.join()

    rooms = found["rooms"]
    assert rooms["board"] > 0.15
    assert rooms.get("wire", 0.0) < 0.1 * rooms["board"]


def compute(cpu_seconds: float, path: str) -> None:
    """Use so much cpu time in a function of this file."""
    source = "def work(until):\n    while process_time() < until:\n        pass\n"
    scope: dict[str, object] = {"process_time": time.process_time}
    exec(compile(source, path, "exec"), scope)
    scope["work"](time.process_time() + cpu_seconds)  # type: ignore[operator]


def test_what_the_kernel_counts_from_the_start_is_taken_as_a_difference() -> None:
    before = {"worker": {"child": 2.0, "wire": 0.5}}
    after = {"worker": {"child": 5.0, "wire": 1.0}}

    found = per_job(before, after, jobs=1_000_000)

    assert found == {"worker": {"child": 3.0, "wire": 1.0}}


def test_the_table_has_sums_over_rooms_and_processes() -> None:
    rows = table({"client": {"client": 2.0, "wire": 1.0}, "master": {"board": 3.0, "wire": 4.0}})

    assert rows[0] == ("room", "client", "master", "all")
    assert ("wire", "1.0", "4.0", "5.0") in rows
    assert rows[-1] == ("all", "3.0", "7.0", "10.0")


def test_a_process_that_is_watched_tells_its_collector_s_pauses(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    script = tmp_path / "collecting.py"
    script.write_text("import gc\ngc.collect()\nprint('ready', flush=True)\ninput()\n", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.profiled", "collecting"],
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT}:{tmp_path}", "BENCHMARK_WATCH": str(socket)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        pauses = ask(socket, "read")["pauses"]
    finally:
        process.communicate(b"\n", timeout=30)

    assert len(pauses["2"]) >= 1
    assert all(seconds > 0 for seconds in pauses["2"])


def test_a_small_profile_over_tcp_names_every_room(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "profile", "--side", "tcp", "--jobs", "1500", "--json", str(file)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))["cpu_us"]
    assert found.keys() == {"client", "master", "worker 1", "worker 2"}
    assert {"board", "committer", "desks", "wire"} <= found["master"].keys()
    assert found["worker 1"]["child"] > 0
