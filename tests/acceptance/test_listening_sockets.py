"""Every way to run the kit listens where it was told, and nowhere else; what runs users' code never listens at all."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import cluster
from tests.acceptance.lab import a_lab
from tests.acceptance.programs import Program, wait_until
from tests.acceptance.sockets import listening
from tests.conftest import processes_of_this_run

DEADLINE_SECONDS = 60.0


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """Every process that the test has started, however indirectly, and that lives."""
    before = {process.pid for process in processes_of_this_run()}
    return lambda: [process for process in processes_of_this_run() if process.pid not in before]


def hold(folder: str) -> int:
    """A job that is here to be looked at."""
    Path(folder, f"here-{os.getpid()}").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)  # sleeps because there is nothing to wait on: job and test meet at a file
    return os.getpid()


def look_while_jobs_run(
    client: cluster.Cluster, folder: Path, look: Callable[[], set[tuple[int, str]]]
) -> set[tuple[int, str]]:
    """What listens while two jobs are at work; they did run elsewhere than here."""
    jobs = [client.submit(hold, (str(folder),)) for _ in range(2)]
    wait_until(lambda: any(folder.glob("here-*")), DEADLINE_SECONDS)
    found = look()
    (folder / "go").touch()
    assert os.getpid() not in {job.result(DEADLINE_SECONDS) for job in jobs}
    return found


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("options", [{"slots": 2}, {"slots": 4, "threads": 4}], ids=["processes", "threads"])
def test_by_hand_only_the_master_listens_and_only_at_its_address(
    kind: str, options: dict[str, int], tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    bind = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix://{tmp_path}/m.sock"
    with a_lab(tmp_path, bind=bind) as lab:
        lab.start_worker("w", **options)
        with lab.connect() as client:
            found = look_while_jobs_run(client, tmp_path, lambda: listening(started()))

        assert len(started()) >= 3  # master, worker, and what the worker has started
        where = lab.bind.replace("://", " ")
        assert found == {(lab.processes[0].pid, where)}


@pytest.mark.parametrize("slots", ["2", "{threads: 4}"], ids=["processes", "threads"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_cluster_that_is_up_listens_as_its_file_says(
    kind: str, slots: str, tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    bind = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix://{tmp_path}/m.sock"
    (tmp_path / "lab.yaml").write_text(
        f"name: lab\nmaster: {{bind: '{bind}', store: 'sqlite:///lab.db', keys: keys}}\nworkers: [{{slots: {slots}}}]\n"
    )

    def command(*words: str) -> str:
        ran = Program([sys.executable, "-m", "cluster", *words], tmp_path).run()
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    command("up", "lab.yaml")
    try:
        master = json.loads(command("status", "lab.yaml", "--json"))["master"]
        with cluster.connect(master["address"], tmp_path / "keys" / "client.key") as client:
            found = look_while_jobs_run(client, tmp_path, lambda: listening(started()))
        assert len(started()) >= 4  # the keeper too
    finally:
        command("down", "lab.yaml")

    assert found == {(master["pid"], master["address"].replace("://", " "))}
    assert master["security"] == {}


def test_an_embedded_cluster_listens_nowhere(tmp_path: Path, started: Callable[[], list[psutil.Process]]) -> None:
    own = psutil.Process()
    before = listening([own])

    with cluster.local(slots=2) as client:
        found = look_while_jobs_run(client, tmp_path, lambda: listening([own, *started()]))

    assert found == before


def test_the_look_itself_sees_what_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(path)
        unix.listen()

        found = {where for _, where in listening([psutil.Process()])}

        assert found >= {
            f"tcp 127.0.0.1:{tcp.getsockname()[1]}",
            f"tcp6 ::1:{tcp6.getsockname()[1]}",
            f"udp 127.0.0.1:{udp.getsockname()[1]}",
            f"unix {path}",
        }
