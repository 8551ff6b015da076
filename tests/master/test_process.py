"""The master as a process: real ones, killed for real. Each test names what a user would see."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import cluster
from cluster.master.process import LOOK_SECONDS
from cluster.wire.address import parse_address
from cluster.wire.calls import MasterInfo, Nothing, Shutdown
from cluster.wire.keys import Role, load_key
from cluster.wire.proxy import connect_desk
from tests.acceptance.programs import wait_until
from tests.master.process_rig import DEADLINE_SECONDS, Lab, lab


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


def ask_admin(here: Lab, method: str, said: object, role: Role = Role.ADMIN) -> object:
    proxy = connect_desk("admin", parse_address(here.address), role, load_key(here.key(role)), patience_seconds=5.0)
    try:
        return proxy.call(method, said)  # type: ignore[arg-type]
    finally:
        proxy.close()


def wait_for_file(path: Path) -> None:
    wait_until(path.exists, DEADLINE_SECONDS)


def hold(folder: str, name: str) -> str:
    """A job that says that it runs, and runs until it is let go of; a line for each time it began."""
    with Path(folder, name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(folder, "go").exists():
        time.sleep(0.005)  # sleeps because it is the job: it stands for work
    return name


def test_it_says_ready_with_its_real_address_and_makes_the_keys(here: Lab) -> None:
    master = here.master()

    assert master.said.startswith("ready tcp://127.0.0.1:")
    assert not master.said.rstrip().endswith(":0")
    assert sorted(path.name for path in (here.folder / "keys").iterdir()) == ["admin.key", "client.key", "worker.key"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (here.folder / "keys").iterdir())


def test_jobs_run_through_it_and_it_stops_in_good_order(here: Lab) -> None:
    master = here.master()
    worker = here.worker()

    with here.connect() as c:
        assert c.submit(pow, (2, 10)).result(DEADLINE_SECONDS) == 1024
        assert list(c.map(abs, range(-100, 0))) == list(range(100, 0, -1))

    assert worker.end(signal.SIGTERM) == 0
    assert master.end(signal.SIGTERM) == 0
    assert sorted(path.name for path in here.folder.iterdir()) == [
        "keys", "master.log", "runs.db", "runs.db.epoch", "runs.db.key", "worker.log",
    ]  # fmt: skip


def test_ping_says_who_answers_to_every_role(here: Lab) -> None:
    master = here.master()

    for role in Role:
        info = ask_admin(here, "ping", Nothing(), role)
        assert isinstance(info, MasterInfo)
        assert (info.pid, info.address, info.store, info.epoch) == (
            master.process.pid, here.address, f"sqlite:///{here.folder / 'runs.db'}", 1,
        )  # fmt: skip


def test_only_an_admin_may_shut_it_down(here: Lab) -> None:
    master = here.master()

    with pytest.raises(cluster.Refused, match="admin"):
        ask_admin(here, "shutdown", Shutdown(), Role.CLIENT)
    ask_admin(here, "shutdown", Shutdown())

    assert master.process.wait(DEADLINE_SECONDS) == 0


def test_a_second_master_on_the_store_is_refused_and_told_who_has_it(here: Lab) -> None:
    first = here.master()

    second = here.master(bind="tcp://127.0.0.1:0")

    assert second.process.wait(DEADLINE_SECONDS) == 2
    assert second.said == ""
    line = second.text.strip().splitlines()[-1]
    assert line.startswith(f"cluster master: store sqlite:///{here.folder / 'runs.db'}:")
    assert f"process {first.process.pid}" in line


def test_a_port_in_use_an_open_bind_and_a_bad_store_are_one_sentence_each(here: Lab) -> None:
    here.master()

    for bind, store, said in (
        (here.address, "sqlite:///other.db", here.address.rpartition(":")[2]),
        ("tcp://0.0.0.0:0", "sqlite:///other.db", "TLS"),
        ("tcp://127.0.0.1:0", "sqlite:///no/such/folder/x.db", "mkdir -p"),
        ("127.0.0.1:0", "memory:", "it has no scheme"),
    ):
        before = len(here.parts[0].text)
        master = here.master(bind=bind, store=store)
        assert master.process.wait(DEADLINE_SECONDS) == 2
        lines = [line for line in master.text[before:].splitlines() if line.startswith("cluster master:")]
        assert len(lines) == 1
        assert said in lines[0]
        assert "Traceback" not in master.text[before:]


def test_a_wrong_key_and_a_worker_s_key_are_refused_with_a_sentence(here: Lab) -> None:
    here.master()
    wrong = here.folder / "wrong.key"
    wrong.write_text("ab" * 32)
    wrong.chmod(0o600)

    for key in (wrong, here.key("worker")):
        with pytest.raises(cluster.ClusterError, match="key"):
            cluster.connect(here.address, key)


def test_sigterm_lets_a_running_job_end_and_its_client_hears_of_it(here: Lab) -> None:
    master = here.master()
    here.worker(slots=1)
    c = here.connect()
    running = c.submit(hold, (str(here.folder), "running"))
    waiting = c.submit(hold, (str(here.folder), "waiting"))
    wait_for_file(here.folder / "running")

    master.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in master.text)
    (here.folder / "go").touch()

    assert running.result(DEADLINE_SECONDS) == "running"
    assert master.process.wait(DEADLINE_SECONDS) == 0
    assert not (here.folder / "waiting").exists()
    assert not waiting.done()
    c.close(wait=False)


def test_a_second_signal_ends_it_at_once(here: Lab) -> None:
    master = here.master()
    here.worker(slots=1)
    c = here.connect()
    _ = c.submit(hold, (str(here.folder), "running"))
    wait_for_file(here.folder / "running")
    master.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in master.text)

    assert master.end(signal.SIGTERM) == 128 + signal.SIGTERM
    c.close(wait=False)


def test_being_stopped_and_going_on_is_no_second_signal(here: Lab) -> None:
    master = here.master()
    here.worker(slots=1)
    c = here.connect()
    running = c.submit(hold, (str(here.folder), "running"))
    wait_for_file(here.folder / "running")
    master.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "draining" in master.text)

    for _ in range(5):
        master.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(master.process.pid).status() == psutil.STATUS_STOPPED)
        time.sleep(2 * LOOK_SECONDS)  # sleeps because a stretch in which it would have looked again is what is tested
        master.process.send_signal(signal.SIGCONT)
    (here.folder / "go").touch()

    assert running.result(DEADLINE_SECONDS) == "running"
    assert master.process.wait(DEADLINE_SECONDS) == 0
    c.close(wait=False)


def test_after_a_kill_everything_goes_on_and_each_job_ends_once(here: Lab) -> None:
    master = here.master()
    here.worker()
    c = here.connect()
    jobs = [c.submit(pow, (n, 2)) for n in range(2000)]
    jobs[500].result(DEADLINE_SECONDS)

    master.end(signal.SIGKILL)
    jobs += [c.submit(pow, (n, 2)) for n in range(2000, 2100)]  # while nobody is there
    here.master()

    assert c.gather(jobs) == [n * n for n in range(2100)]
    assert sum(1 for _ in c.jobs()) == 2100
    c.close(wait=False)


def test_a_running_job_survives_the_death_of_its_master_without_a_second_run(here: Lab) -> None:
    master = here.master()
    here.worker(slots=1)
    c = here.connect()
    job = c.submit(hold, (str(here.folder), "job"))
    wait_for_file(here.folder / "job")

    master.end(signal.SIGKILL)
    here.master()
    wait_until(lambda: [worker.state for worker in c.workers()] == ["ready"])
    (here.folder / "go").touch()

    assert job.result(DEADLINE_SECONDS) == "job"
    assert len((here.folder / "job").read_text().splitlines()) == 1
    c.close(wait=False)


def test_two_clients_share_it_and_one_attaches_to_the_other_s_job(here: Lab) -> None:
    here.master()
    here.worker()
    with here.connect() as first, here.connect() as second:
        jobs = [first.submit(pow, (2, n)) for n in range(50)]
        others = [second.submit(pow, (3, n)) for n in range(50)]

        assert second.job(jobs[7].accepted(DEADLINE_SECONDS).id).result(DEADLINE_SECONDS) == 128
        assert first.gather(jobs) == [2**n for n in range(50)]
        assert second.gather(others) == [3**n for n in range(50)]


def test_it_may_open_as_many_descriptors_as_it_lets_connections_in(here: Lab) -> None:
    master = here.master()

    limits = Path(f"/proc/{master.process.pid}/limits").read_text().splitlines()
    soft, hard = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))

    assert int(soft) == (8192 if hard == "unlimited" else min(8192, int(hard)))
