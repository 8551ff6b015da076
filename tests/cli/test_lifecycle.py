"""The commands of the README on a real cluster: real processes, TCP, SQLite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.cli.lifecycle import print_status
from cluster.cli.option_groups import Form
from cluster.deploy.status import MasterStatus, Status, WorkerStatus
from tests.cli.rig import Told
from tests.project import ROOT

CONFIGURATION = """\
name: lab
master: {bind: "tcp://127.0.0.1:0"}
drain: {timeout: 5s}
workers:
  - {slots: 1}
  - {slots: 1, labels: {zone: far}}
"""
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Shell:
    """A folder to type commands in."""

    folder: Path

    def environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("CLUSTER_")}
        return {**kept, "PYTHONPATH": str(ROOT)}

    def start(self, *arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )

    def __call__(self, *arguments: str) -> Told:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return Told(process.returncode, out, err)

    def start_ready(self, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """A foreground process, and what it said when it was ready."""
        read, write = os.pipe()
        process = self.start(*arguments, "--ready-fd", str(write), pass_fds=(write,))
        os.close(write)
        with open(read) as file:  # noqa: PTH123 - a descriptor; it ends when the process dies, too
            return process, file.readline()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("lab"))
    (shell.folder / "cluster.yaml").write_text(CONFIGURATION)
    try:
        told = shell("up")
        assert told.status == 0, told.err
        yield shell
    finally:
        shell("down", "--now")


def status(shell: Shell) -> dict[str, Any]:
    document: dict[str, Any] = shell("status", "--json").document
    return document


def test_status_tells_of_the_master_and_of_each_worker(shell: Shell) -> None:
    plain = shell("status")
    document = status(shell)

    assert plain.status == 0
    assert "cluster  lab: up" in plain.out
    assert psutil.pid_exists(document["master"]["pid"])
    assert document["master"]["address"].startswith("tcp://127.0.0.1:")
    assert [(worker["name"], worker["state"], worker["slots"]) for worker in document["workers"]] == [
        ("worker-1", "ready", 1),
        ("worker-2", "ready", 1),
    ]
    assert all({"host", "pid", "health"} <= worker.keys() for worker in document["workers"])


def test_up_said_twice_changes_nothing(shell: Shell) -> None:
    before = status(shell)["master"]["pid"]

    told = shell("up", "--json")

    assert (told.status, told.document["master"]["pid"]) == (0, before)


def test_a_job_goes_there_and_back_and_is_listed(shell: Shell) -> None:
    told = shell("submit", "--wait", "--tag", "there", "builtins:pow", "[2, 10]")

    assert (told.status, told.out) == (0, "1024\n")
    (listed,) = shell("job", "list", "--json", "--tag", "there").document
    assert listed["state"] == "completed"


def test_a_command_s_status_and_output_come_back(shell: Shell) -> None:
    told = shell("submit", "--wait", "--label", "zone=far", "--", "sh", "-c", "echo here; exit 4")

    assert (told.status, told.out) == (4, "here\n")


def test_a_drained_worker_gets_no_jobs_until_it_is_undrained(shell: Shell) -> None:
    drained = shell("worker", "drain", "worker-2")

    (one,) = [worker for worker in shell("worker", "list", "--json").document if worker["name"] == "worker-2"]
    job = shell("submit", "--label", "zone=far", "builtins:len", '["abc"]').out.strip()
    waited = shell("job", "wait", "--timeout", "100ms", job)
    undrained = shell("worker", "undrain", "worker-2")

    assert (drained.status, one["state"]) == (0, "draining")
    assert (waited.status, undrained.status) == (124, 0)
    assert shell("job", "wait", job).status == 0


def test_an_order_to_a_worker_that_is_not_there_is_a_mistake(shell: Shell) -> None:
    told = shell("worker", "drain", "nobody")

    assert told.status == 2
    assert "nobody" in told.err
    assert "Traceback" not in told.err


def test_a_client_s_key_opens_no_admin_desk(shell: Shell) -> None:
    told = shell("worker", "drain", "worker-2", "--authkey-file", "state/keys/client.key")

    assert told.status == 2
    assert "Traceback" not in told.err


def test_logs_name_who_wrote_each_line(shell: Shell) -> None:
    told = shell("logs", "-n", "1000")
    one = shell("logs", "master", "-n", "1")

    assert {line.split(" | ")[0] for line in told.lines} == {"master", "worker-1", "worker-2", "keeper"}
    assert len(one.lines) == 1
    assert shell("logs", "nobody").status == 2


def test_the_first_ctrl_c_drains_a_foreground_worker(shell: Shell) -> None:
    address = status(shell)["master"]["address"]
    worker, said = shell.start_ready(
        "worker", address, "--name", "guest", "--slots", "1", "--authkey-file", "state/keys/worker.key"
    )

    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=PATIENCE_SECONDS)

    assert said.startswith("ready"), err
    assert (worker.returncode, "Traceback" in err) == (0, False)


def test_a_worker_with_a_client_s_key_is_refused_with_a_sentence(shell: Shell) -> None:
    address = status(shell)["master"]["address"]

    told = shell("worker", address, "--name", "guest", "--authkey-file", "state/keys/client.key")

    assert told.status == 2
    assert told.err.splitlines()[-1].startswith("cluster worker: ")
    assert "Traceback" not in told.err


def test_a_master_on_a_port_or_a_store_in_use_is_refused_with_a_sentence(shell: Shell, tmp_path: Path) -> None:
    address = status(shell)["master"]["address"]

    port = shell("master", "--bind", address, "--store", "memory:", "--keys", str(tmp_path / "keys"))
    store = shell(
        "master",
        "--bind",
        "tcp://127.0.0.1:0",
        "--store",
        "sqlite:///state/cluster.db",
        "--keys",
        str(tmp_path / "keys"),
    )

    assert (port.status, store.status) == (2, 2)
    assert address in port.err
    assert str(status(shell)["master"]["pid"]) in store.err  # it names the holder
    assert "Traceback" not in port.err + store.err


def test_a_foreground_master_drains_at_the_first_ctrl_c(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    master, said = shell.start_ready("master", "--bind", "unix://m.sock", "--store", "memory:", "--keys", "keys")

    master.send_signal(signal.SIGINT)
    _, err = master.communicate(timeout=PATIENCE_SECONDS)

    assert said.startswith("ready"), err
    assert (master.returncode, "Traceback" in err) == (0, False)
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"admin.key", "client.key", "worker.key"}


def test_a_cluster_that_is_down_is_told_as_such(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "cluster.yaml").write_text(CONFIGURATION)

    told = shell("status")
    down = shell("down")

    assert (told.status, down.status) == (0, 0)
    assert "lab: down" in told.out
    assert "was not up" in down.err
    assert json.loads(shell("status", "--json").out)["state"] == "down"


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # whose parent, here init, may take its time
    except psutil.NoSuchProcess:
        return False


def test_down_leaves_nothing_running(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "cluster.yaml").write_text(CONFIGURATION)
    shell("up")
    before = status(shell)
    pids = [before["keeper"], before["master"]["pid"], *(worker["pid"] for worker in before["workers"])]

    told = shell("down")

    assert told.status == 0
    assert "4 processes ended" in told.err
    assert not [pid for pid in pids if is_alive(pid)]
    assert not (tmp_path / "state" / "run").exists()


def test_output_is_printed_while_the_command_runs(shell: Shell) -> None:
    gate = shell.folder / "gate"
    script = f"echo first; while [ ! -e '{gate}' ]; do sleep 0.02; done; echo last"
    process = shell.start("submit", "--wait", "--", "sh", "-c", script)
    assert process.stdout is not None

    first = process.stdout.readline()
    gate.touch()
    rest, _ = process.communicate(timeout=PATIENCE_SECONDS)

    assert (first, rest, process.returncode) == ("first\n", "last\n", 0)


def test_a_worker_that_nobody_restarts_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    kept = WorkerStatus(name="one", host="head", pid=11, state="ready", slots=1, restarts=2)
    joined = WorkerStatus(name="node1", host="node1", pid=12, state="ready", slots=3, is_kept=False)
    master = MasterStatus(pid=10, address="tcp://127.0.0.1:7601", state="ready", store="memory:")

    print_status(Status("lab", "up", 9, master, (kept, joined)), Form())

    one, other = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert (one[0], one[-1]) == ("one", "2")
    assert (other[0], other[-2:]) == ("node1", ["by", "hand"])
