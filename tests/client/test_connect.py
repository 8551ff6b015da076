"""`cluster.connect`, against a master's service in this process: real sockets, a real worker, real forks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cluster
from cluster.client import default, functions
from cluster.master.process import MasterConfig, Service
from cluster.wire.keys import Role, load_key
from cluster.wire.proxy import connect_desk
from cluster.wire.remote_work import RemoteWorkDesk
from cluster.worker.config import WorkerConfig
from cluster.worker.supervisor import Supervisor
from tests.acceptance.programs import ROOT

DEADLINE_SECONDS = 20.0


class Lab:
    def __init__(self, folder: Path) -> None:
        self.keys = folder / "keys"
        self.service = Service(MasterConfig(bind="tcp://127.0.0.1:0", store="memory:", keys=self.keys))
        self.service.start()
        address = self.service.server.address
        self.address = str(address)
        caller = connect_desk("work", address, Role.WORKER, load_key(self.keys / "worker.key"), patience_seconds=2.0)
        self._desk = RemoteWorkDesk(caller)
        self._supervisor = Supervisor(WorkerConfig(name="w", slots=1))
        self._supervisor.start(self._desk, self._desk.line(caller))

    def connect(self) -> cluster.Cluster:
        return cluster.connect(self.address, self.keys / "client.key", patience_seconds=5.0)

    def stop(self) -> None:
        self._supervisor.stop()
        self._desk.close()
        self.service.stop()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.stop()


@pytest.fixture
def _named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_ADDRESS", lab.address)
    monkeypatch.setenv("CLUSTER_AUTHKEY_FILE", str(lab.keys / "client.key"))


def in_fork(check: Callable[[], None]) -> int:
    """The exit status of a forked child that runs this."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_with_block_detaches_and_the_jobs_go_on(lab: Lab) -> None:
    with lab.connect() as c:
        job = c.submit(pow, (2, 10))

    with lab.connect() as c:
        assert c.job(job.id).result(DEADLINE_SECONDS) == 1024


def test_a_future_of_a_closed_handle_says_how_to_go_on(lab: Lab) -> None:
    c = lab.connect()
    c.queue("later").pause()
    job = c.submit(pow, (2, 3), queue="later")

    c.close(wait=False)

    with pytest.raises(cluster.Detached, match=r"c\.job"):
        job.result(DEADLINE_SECONDS)
    with lab.connect() as again:
        again.queue("later").resume()
        assert again.job(job.id).result(DEADLINE_SECONDS) == 8


@pytest.mark.usefixtures("_named")
def test_the_environment_names_address_and_key() -> None:
    with cluster.connect() as c:
        assert c.submit(abs, (-1,)).result(DEADLINE_SECONDS) == 1


def test_what_is_missing_is_said(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLUSTER_ADDRESS", raising=False)
    monkeypatch.delenv("CLUSTER_AUTHKEY_FILE", raising=False)

    with pytest.raises(cluster.Refused, match="CLUSTER_ADDRESS"):
        cluster.connect()
    with pytest.raises(cluster.Refused, match="CLUSTER_AUTHKEY_FILE"):
        cluster.connect(lab.address)
    with pytest.raises(cluster.Refused, match="not as 'worker'"):
        cluster.connect(lab.address, lab.keys / "worker.key", role="worker")
    with pytest.raises(ValueError, match="must not be negative"):
        cluster.connect(lab.address, lab.keys / "client.key", patience_seconds=-1)


def test_nobody_at_the_address_is_an_error_within_the_patience(lab: Lab) -> None:
    with pytest.raises(cluster.MasterUnavailable, match="can't be reached"):
        cluster.connect("tcp://127.0.0.1:1", lab.keys / "client.key", patience_seconds=0.1)


@pytest.mark.usefixtures("_named")
def test_the_default_cluster_is_the_one_of_the_environment_for_the_whole_program(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_connected", {})

    assert cluster.submit(pow, (2, 5)).result(DEADLINE_SECONDS) == 32
    assert cluster.gather(cluster.submit(abs, (-n,)) for n in range(3)) == [0, 1, 2]

    (handle,) = default._connected.values()
    handle.close()


def test_a_program_that_submits_and_ends_has_handed_its_job_over(lab: Lab) -> None:
    script = """
    import cluster
    print(cluster.submit(pow, (2, 6)).id)
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CLUSTER_ADDRESS": lab.address,
        "CLUSTER_AUTHKEY_FILE": str(lab.keys / "client.key"),
    }

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=60, env=environment,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    with lab.connect() as c:
        assert c.job(done.stdout.strip()).result(DEADLINE_SECONDS) == 64


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_child_connects_anew_and_the_parent_goes_on(lab: Lab) -> None:
    with lab.connect() as c:
        before = c.submit(pow, (2, 2))
        before.result(DEADLINE_SECONDS)
        pending = c.submit(pow, (2, 7))

        def child() -> None:
            assert c.submit(pow, (2, 8)).result(DEADLINE_SECONDS) == 256
            assert c.job(pending.id).result(DEADLINE_SECONDS) == 128
            assert before.result() == 4
            c.close()

        assert in_fork(child) == 0
        assert pending.result(DEADLINE_SECONDS) == 128
        assert c.submit(pow, (2, 9)).result(DEADLINE_SECONDS) == 512


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_job_submitted_before_a_fork_belongs_to_the_parent(lab: Lab) -> None:
    with lab.connect() as c:
        c.queue("held").pause()
        job = c.submit(pow, (2, 2), queue="held")

        def child() -> None:
            with pytest.raises(cluster.MasterUnavailable, match=r"c\.job"):
                _ = job.result(DEADLINE_SECONDS)

        assert in_fork(child) == 0
        c.queue("held").resume()
        assert job.result(DEADLINE_SECONDS) == 4


def test_progress_and_refusals_cross_the_wire(lab: Lab) -> None:
    with lab.connect() as c:
        refused = c.submit(pow, (2, 2), after=["ghost"])

        with pytest.raises(cluster.Refused, match="'ghost', which is not in this cluster"):
            refused.result(DEADLINE_SECONDS)


def test_a_task_s_error_arrives_as_itself_and_its_job_is_requeued_and_purged(lab: Lab) -> None:
    with lab.connect() as c:
        job = c.submit(divmod, (1, 0))
        with pytest.raises(ZeroDivisionError):
            job.result(DEADLINE_SECONDS)

        again = job.retry()
        with pytest.raises(ZeroDivisionError):
            again.result(DEADLINE_SECONDS)

        assert [run for run, _ in again.history().attempts] == [1, 2]
        assert c.purge(job) == 1
        with pytest.raises(cluster.UnknownJob):
            _ = c.job(job.id)


def test_a_job_of_another_python_is_refused_before_it_is_unpickled(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "PYTHON", "3.99")
    captured = object()

    with (
        lab.connect() as c,
        pytest.raises(cluster.EnvironmentMismatch, match=r"pickled by Python 3\.99, and this worker"),
    ):
        _ = c.submit(lambda: captured).result(DEADLINE_SECONDS)
