"""What `cluster master` and `cluster worker ADDRESS` make of their command lines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli.processes import MasterOptions, WorkerOptions, read_master, read_worker
from tests.cli.rig import Call

ADDRESS = "tcp://127.0.0.1:7777"
MASTER = ["master", "--bind", ADDRESS, "--keys", "k", "--store", "memory:"]


def test_a_master_is_told_what_the_command_line_says() -> None:
    options = MasterOptions(
        bind=ADDRESS, store="memory:", keys=Path("keys"), heartbeat_timeout="30s", drain_timeout="2m", log_level="debug"
    )

    config = read_master(options, None, ready_fd=7)

    assert (config.bind, config.store, config.keys, config.ready_fd) == (ADDRESS, "memory:", Path("keys"), 7)
    assert (config.heartbeat_interval_seconds, config.heartbeat_timeout_seconds) == (2.0, 30.0)
    assert (config.drain_timeout_seconds, config.log_level) == (120.0, "debug")


def test_a_master_is_told_what_its_configuration_says(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(f"master: {{bind: '{ADDRESS}', store: 'memory:', keys: keys}}\ndrain: {{timeout: 5s}}\n")

    config = read_master(MasterOptions(), file, ready_fd=-1)

    assert (config.bind, config.store, config.keys) == (ADDRESS, "memory:", tmp_path / "keys")
    assert config.drain_timeout_seconds == 5.0


def test_a_master_of_a_configuration_with_tls_has_its_certificate_made(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("name: lab\nmaster: {tls: auto}\n")

    config = read_master(MasterOptions(), file, ready_fd=-1)

    assert config.tls is not None
    assert config.tls.cert == tmp_path / "state" / "tls" / "master-lab.pem"
    assert config.tls.cert.exists()
    file.write_text("name: lab\nmaster: {bind: 'tcp://0.0.0.0:7601', insecure: true}\n")
    assert read_master(MasterOptions(), file, ready_fd=-1).insecure


def test_a_worker_is_told_what_the_command_line_says() -> None:
    options = WorkerOptions(
        name="big",
        slots="threads:32",
        authkey_file=Path("worker.key"),
        resource=["gpu=2", "disk=1"],
        label=["zone=lab"],
        env=["OMP_NUM_THREADS=1"],
        max_jobs_per_child=10,
        drain_timeout="5",
        cgroup=["pids=200", "memory=4GB", "cpu=1.5"],
    )

    config = read_worker(ADDRESS, options, ready_fd=-1)

    assert (config.address, config.authkey_file, config.name) == (ADDRESS, "worker.key", "big")
    assert (config.slots, config.threads, config.max_jobs_per_child) == (32, 32, 10)
    assert config.resources == (("disk", 1), ("gpu", 2))
    assert (config.labels, config.env) == ((("zone", "lab"),), (("OMP_NUM_THREADS", "1"),))
    assert (config.drain_seconds, config.ready_fd) == (5.0, None)
    assert config.cgroup == (("cpu", 1.5), ("memory", 4 * 10**9), ("pids", 200))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["master"], "a master needs --bind and --store and --keys"),
        (["master", "--bind", ADDRESS, "--keys", "keys"], "a master needs --store"),
        (["master", "--config", "x.yaml", "--bind", ADDRESS], "--config says all that a master needs"),
        (["master", "--config", "x.yaml"], "x.yaml"),
        (
            ["master", "--bind", ADDRESS, "--keys", "k", "--store", "memory:", "--log-level", "loud"],
            "no log level is called 'loud'; write one of debug, info, warning, error",
        ),
        (
            ["master", "--bind", ADDRESS, "--keys", "k", "--store", "memory:", "--drain-timeout", "soon"],
            "'drain-timeout' can't be 'soon'",
        ),
        ([*MASTER, "--log-format", "xml"], "no log format is called 'xml'; write one of text, json"),
        ([*MASTER, "--default-retries", "-1"], "option 'default-retries' can't be -1"),
        ([*MASTER, "--default-factor", "nan"], "option 'default-factor' can't be nan; write a number from 1 to 1000"),
        ([*MASTER, "--default-backoff", "never"], "option 'default-backoff' can't be 'never'"),
        ([*MASTER, "--retention-results", "0"], "option 'retention-results' can't be 0.0; write a duration above zero"),
        ([*MASTER, "--retention-max-size", "10kB"], "--retention-max-size: 10000 bytes are less than a store takes"),
        ([*MASTER, "--retention-max-size", "much"], "--retention-max-size: 'much' is no size"),
        (["master", "--config", "x.yaml", "--default-retries", "1"], "--config says all that a master needs"),
        (["worker", "lst"], "'lst' is neither an address nor a command"),
        (["worker", ADDRESS], "an address needs a key: write --authkey-file KEYS/worker.key"),
        (["worker", "--slots", "few", ADDRESS, "--authkey-file", "k"], "slots can't be 'few'"),
        (["worker", ADDRESS, "--authkey-file", "k", "--resource", "gpu"], "--resource 'gpu' is not what it takes"),
        (["worker", ADDRESS, "--authkey-file", "k", "--cgroup", "pids"], "--cgroup 'pids' is not what it takes"),
        (
            ["worker", ADDRESS, "--authkey-file", "k", "--cgroup", "pids=some"],
            "--cgroup: cgroup pids: 'some' is no number",
        ),
        (["worker", ADDRESS, "--authkey-file", "k", "--cgroup", "io=1"], "no limit of a cgroup is called 'io'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_2(call_alone: Call, arguments: list[str], said: str) -> None:
    told = call_alone(*arguments)

    assert (told.status, told.out) == (2, "")
    assert said in told.err
    assert "Traceback" not in told.err


def test_an_address_that_is_none_is_a_mistake_too(tmp_path: Path) -> None:
    # In a process of its own: it has begun to be a master, with a log, limits and hidden memory.
    command = [sys.executable, "-m", "cluster", "master", "--bind", "7601", "--keys", "k", "--store", "memory:"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cluster master: '7601' is no address")
    assert len(done.stderr.splitlines()) == 1


def test_options_may_stand_before_a_worker_s_address() -> None:
    options = WorkerOptions(authkey_file=Path("worker.key"))

    first = read_worker(ADDRESS, replace(options, name="a"), ready_fd=3)

    assert (first.name, first.ready_fd) == ("a", 3)
