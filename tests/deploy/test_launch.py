"""The real thing: a keeper, a master and workers as processes, over TCP, from a YAML file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster
from cluster.deploy import lifecycle
from cluster.deploy.load import load_config
from cluster.deploy.processes import marked_processes
from cluster.deploy.runtime import Runtime
from cluster.deploy.schema import Config
from cluster.deploy.status import status
from tests.acceptance.programs import python, wait_until

TEXT = """
name: lab
master: {bind: "tcp://127.0.0.1:0", store: "sqlite:///state/jobs.db"}
heartbeat: {interval: 500ms, timeout: 3s}
drain: {timeout: 10s}
workers:
  - {name: one, slots: 1}
  - {name: two, slots: 1, resources: {gpu: 1}, env: {LAB: "yes"}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "lab.yaml"
    path.write_text(TEXT)

    yield path

    path.write_text(TEXT)
    lifecycle.down(load_config(path, environment={}), now=True)
    assert left(path) == []


def config_of(file: Path) -> Config:
    return load_config(file, environment={})


def left(file: Path) -> list[list[str]]:
    return [command for _, command in marked_processes(Runtime.of(config_of(file)).mark)]


def kill(file: Path, part: str) -> int:
    runtime = Runtime.of(config_of(file))
    record = runtime.part(part)
    process = runtime.keeper() if part == "keeper" else record and record.process
    assert process
    process.signal(signal.SIGKILL)
    wait_until(lambda: not process.is_alive())
    return process.pid


def wait_up(file: Path) -> None:
    wait_until(lambda: status(config_of(file)).state == "up")


def test_a_launched_cluster_runs_jobs_and_is_gone_with_its_block(file: Path) -> None:
    with cluster.launch(file) as c:
        answers = [c.submit(pow, (2, n)) for n in range(100)]
        where = c.submit(os.getenv, ("LAB",), resources={"gpu": 1}).result(30)

        assert [job.result(30) for job in answers] == [2**n for n in range(100)]
        assert where == "yes"
        assert len(left(file)) >= 4

    assert left(file) == []
    assert not (file.parent / "state" / "run").exists()


def test_status_is_the_contract_that_others_rely_on(file: Path) -> None:
    with cluster.launch(file):
        wait_up(file)
        told = status(config_of(file))

        assert told.master.pid > 0
        assert told.master.address.startswith("tcp://127.0.0.1:")
        assert told.master.state == "ready"
        assert [(worker.name, worker.state, worker.slots) for worker in told.workers] == [
            ("one", "ready", 1),
            ("two", "ready", 1),
        ]
        assert all(worker.host and worker.pid and worker.health for worker in told.workers)

    told = status(config_of(file))
    assert (told.state, told.keeper, told.master.pid, told.master.state) == ("down", 0, 0, "down")
    assert [worker.state for worker in told.workers] == ["down", "down"]


def test_a_worker_that_joined_by_hand_is_told_too_and_the_state_does_not_depend_on_it(file: Path) -> None:
    with cluster.launch(file):
        wait_up(file)
        address = status(config_of(file)).master.address
        key = file.parent / "state" / "keys" / "worker.key"
        joined = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cluster",
                "worker",
                address,
                "--name",
                "node1",
                "--slots",
                "3",
                "--authkey-file",
                key,
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: len(status(config_of(file)).workers) == 3)
            told = status(config_of(file))
            joined.kill()
            joined.wait()
            wait_until(lambda: len(status(config_of(file)).workers) == 2)
            without = status(config_of(file))
        finally:
            joined.kill()
            joined.wait()

    last = told.workers[2]
    assert (last.name, last.pid, last.state, last.slots, last.is_kept) == ("node1", joined.pid, "ready", 3, False)
    assert [worker.is_kept for worker in told.workers[:2]] == [True, True]
    assert (told.state, without.state) == ("up", "up")


def test_whatever_is_killed_in_the_middle_every_job_has_its_one_result(file: Path) -> None:
    with cluster.launch(file) as c:
        jobs = [c.submit(pow, (n, 2)) for n in range(2000)]
        for number, part in enumerate(["one", "master", "keeper", "two"]):
            jobs[100 * number].result(60)
            kill(file, part)
            if part == "keeper":
                lifecycle.up(config_of(file))

        assert [job.result(60) for job in jobs] == [n**2 for n in range(2000)]
        assert len(list(c.jobs(state="COMPLETED"))) == 2000


def test_a_cluster_that_was_up_is_used_and_stays_up(file: Path) -> None:
    lifecycle.up(config_of(file))

    with cluster.launch(file) as c:
        assert c.submit(pow, (2, 10)).result(30) == 1024

    assert status(config_of(file)).state != "down"


def test_left_by_an_exception_it_stops_at_once_and_the_job_stays_in_the_store(file: Path) -> None:
    script = python("import sys, time\nprint('runs', flush=True)\ntime.sleep(600)", file.parent)

    with pytest.raises(ZeroDivisionError), cluster.launch(file) as c:
        job = c.submit(subprocess.check_call, (list(script.command),))
        assert job.accepted(30) is job
        raise ZeroDivisionError

    assert left(file) == []
    with cluster.launch(file) as c:
        again = c.job(job.id)
        assert not again.done()
        assert again.cancel()


def test_overrides_go_before_the_file(file: Path) -> None:
    with cluster.launch(file, master__store="memory:", workers=[{"name": "only", "slots": 3}]):
        pass

    assert not (file.parent / "state" / "jobs.db").exists()
    assert (file.parent / "state" / "logs" / "only.log").exists()


def test_modules_that_the_program_finds_are_found_by_its_jobs(file: Path) -> None:
    (file.parent / "elsewhere").mkdir()
    (file.parent / "elsewhere" / "mine.py").write_text("def double(x):\n    return 2 * x\n")
    program = python(
        "import sys; sys.path.append('elsewhere')\n"
        "import cluster, mine\n"
        "with cluster.launch('lab.yaml') as c:\n"
        "    print(c.submit(mine.double, (21,)).result(30))\n",
        file.parent,
    )

    ran = program.run()

    assert ran.stdout == "42\n", ran.stderr


def test_a_program_that_dies_leaves_its_cluster_up_and_down_finds_all_of_it(file: Path) -> None:
    program = python(
        "import cluster, os, signal\ncluster.launch('lab.yaml')\nos.kill(os.getpid(), signal.SIGKILL)\n", file.parent
    )

    ran = program.run()

    assert ran.returncode == -signal.SIGKILL
    assert status(config_of(file)).state in {"up", "degraded"}
    assert lifecycle.down(config_of(file)) == 4
    assert left(file) == []


def test_a_port_in_use_is_one_sentence_and_nothing_is_left(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(cluster.Refused, match=f"^master: .*{port}.*"):
            cluster.launch(file, master__bind=f"tcp://127.0.0.1:{port}")

    assert left(file) == []


def test_a_store_that_another_cluster_has_is_one_sentence_that_names_the_holder(file: Path) -> None:
    with (
        cluster.local(store=f"sqlite:///{file.parent}/state.db", slots=1),
        pytest.raises(cluster.Refused, match=f"process {os.getpid()} .* has had it open since"),
    ):
        cluster.launch(file, master__store="sqlite:///state.db")

    assert left(file) == []


def test_a_typing_error_in_the_file_starts_nothing(file: Path) -> None:
    file.write_text(TEXT.replace("drain", "drian"))

    with pytest.raises(cluster.Refused, match=r"lab\.yaml:5: drian is not known; did you mean drain\?"):
        cluster.launch(file)

    assert not (file.parent / "state").exists()


def test_a_forked_child_that_closes_its_handle_leaves_the_cluster_alone(file: Path) -> None:
    c = cluster.launch(file)
    with contextlib.closing(c):
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                c.close()
            os._exit(0)
        os.waitpid(pid, 0)

        assert c.submit(pow, (2, 10)).result(30) == 1024

    assert left(file) == []


def test_up_and_down_by_command_from_two_shells(file: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster", *arguments],
            cwd=file.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("up", "lab.yaml").returncode == 0
    assert run("up", "lab.yaml").returncode == 0
    assert run("down", "lab.yaml").returncode == 0
    assert run("down", "lab.yaml").returncode == 0
    assert run("up", "nowhere.yaml").returncode == 2
    assert left(file) == []
