"""Clusters with TLS, brought up for real; and which certificates they are given."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster
from cluster.deploy import lifecycle, tls
from cluster.deploy.authority import Authority
from cluster.deploy.commands import key_file
from cluster.deploy.load import load_config
from cluster.deploy.processes import MARK, marked_processes
from cluster.deploy.renewal import LOOK_SECONDS, Renewal
from cluster.deploy.runtime import Runtime, Snapshot
from cluster.deploy.schema import Config
from cluster.deploy.status import status
from cluster.errors import ClusterError, Refused
from cluster.wire.address import parse_address
from cluster.wire.calls import Nothing
from cluster.wire.keys import Role, load_key
from cluster.wire.messages import WorkerInfo
from cluster.wire.proxy import connect_desk
from tests.acceptance.programs import Program, wait_until

DAY = 86400.0
# Of a network that RFC 5737 sets aside for documentation: nobody's.
ADDRESS = "198.51.100.77"

LAB = """
name: lab
master: {{bind: "{bind}", tls: {tls}}}
heartbeat: {{interval: 500ms, timeout: 5s}}
drain: {{timeout: 10s}}
workers: [{{slots: 1}}, {{slots: 1}}]
"""


def write(folder: Path, *, bind: str = "tcp://127.0.0.1:0", tls: str = "auto") -> Path:
    file = folder / "lab.yaml"
    file.write_text(LAB.format(bind=bind, tls=tls))
    return file


def read(folder: Path, **said: str) -> Config:
    return load_config(write(folder, **said), environment={})


def state_of(config: Config, worker: str) -> str:
    return next(told.state for told in status(config).workers if told.name == worker)


@contextlib.contextmanager
def brought_up(config: Config) -> Iterator[Config]:
    lifecycle.up(config)
    try:
        yield config
    finally:
        lifecycle.down(config, now=True)


@pytest.fixture
def address() -> Iterator[str]:
    """An address that is not of the loopback network, on the loopback interface: nothing leaves this machine."""
    change = ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"]
    done = subprocess.run(change, capture_output=True, text=True, check=False)
    if done.returncode:
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(f"an address can't be added here: {done.stderr}")
        pytest.skip("only root can add an address")
    yield ADDRESS
    subprocess.run(["ip", "address", "del", f"{ADDRESS}/32", "dev", "lo"], check=True)


# --- up, submit, status, down -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "unix://state/socket"])
def test_a_program_launches_a_cluster_with_tls_and_nothing_of_it_is_left_running(tmp_path: Path, bind: str) -> None:
    file = write(tmp_path, bind=bind)
    config = load_config(file, environment={})

    with cluster.launch(file) as c:
        assert list(c.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        assert {info.name for info in c.workers()} == {"worker-1", "worker-2"}
        where = lifecycle.address_of(config)
        with pytest.raises(ClusterError, match="TLS"):
            cluster.connect(where, tmp_path / "state/keys/client.key", patience_seconds=2)

    assert not Runtime.of(config).folder.exists()
    assert list(marked_processes(Runtime.of(config).mark)) == []
    assert {path.name for path in (tmp_path / "state/tls").iterdir()} == {
        *("ca.pem", "ca.key", "revoked.pem", "issued.json"),
        *(f"{who}{end}" for who in ("master-lab", "client-local", "admin-local") for end in (".pem", ".key")),
        *(f"worker-worker-{number}{end}" for number in (1, 2) for end in (".pem", ".key")),
    }


def test_the_command_line_finds_its_certificates_by_the_file(tmp_path: Path, address: str) -> None:
    file = write(tmp_path, bind=f"tcp://{address}:0")

    def command(*arguments: str) -> Any:
        program = Program([sys.executable, "-m", "cluster", *arguments], tmp_path, {"CLUSTER_FILE": str(file)})
        done = program.run()
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout.strip()

    try:
        command("up")
        told = command("status", "--json")
        job = command("submit", "builtins:pow", "[2, 10]")

        assert told["state"] == "up"
        assert told["master"]["address"].startswith(f"tcp://{address}:")
        assert "completed" in command("job", "wait", job)
        assert len(command("worker", "list", "--json")) == 2
        command("worker", "drain", "worker-1")  # an admin's
    finally:
        command("down")
    assert list(marked_processes(Runtime.of(load_config(file, environment={})).mark)) == []


def test_a_revoked_worker_is_out_within_a_heartbeat_and_the_others_go_on(tmp_path: Path) -> None:
    with brought_up(read(tmp_path)) as config, cluster.launch(config.file) as c:
        authority = Authority(tls.authority_folder(config))
        long = c.submit(time.sleep, (3,), labels={})
        began = time.monotonic()
        authority.revoke("worker", "worker-1")

        wait_until(lambda: "certificate is revoked" in log(config, "master"))

        assert time.monotonic() - began < 5.0  # the heartbeat's timeout
        wait_until(lambda: state_of(config, "worker-1") != "ready")
        assert long.result(60) is None
        assert [job.result(30) for job in [c.submit(pow, (2, 10)) for _ in range(10)]] == [1024] * 10
        assert {record.name for record in workers_that_are(c, "ready")} == {"worker-2"}
        with pytest.raises(
            Refused, match="worker worker-1 is revoked; if that is over, write `cluster certs issue worker"
        ):
            lifecycle.up(config)
        assert c.submit(pow, (2, 11)).result(30) == 2048  # which has stopped nothing

        authority.issue("worker", "worker-1")
        lifecycle.up(config)
        wait_until(lambda: state_of(config, "worker-1") == "ready")


def test_status_says_why_when_its_own_certificate_is_refused(tmp_path: Path) -> None:
    with brought_up(read(tmp_path)) as config:
        wait_until(lambda: status(config).state == "up")
        authority = Authority(tls.authority_folder(config))
        authority.revoke("client", tls.LOCAL)
        wait_until(lambda: status(config).master.state == "unreachable")

        told = status(config).master

        authority.issue("client", tls.LOCAL)
        wait_until(lambda: status(config).state == "up")
    assert "it was revoked; have another one issued" in told.trouble
    assert told.security == {}
    assert status(config).master.trouble == ""


def log(config: Config, part: str) -> str:
    return Path(config.log.dir, f"{part}.log").read_text()


def workers_that_are(c: cluster.Cluster, state: str) -> list[WorkerInfo]:
    return [info for info in c.workers() if info.state == state]


def test_no_connection_of_many_waits_for_a_handshake_that_is_done(tmp_path: Path) -> None:
    with brought_up(read(tmp_path)) as config:
        where, key = parse_address(lifecycle.address_of(config)), load_key(key_file(config, Role.CLIENT))
        for _ in range(60):
            # Whether the master's answer is there before the caller has looked, is chance: one in six, measured.
            desk = connect_desk(
                "admin", where, Role.CLIENT, key, patience_seconds=5, tls=tls.files_of(config, Role.CLIENT)
            )
            desk.call("ping", Nothing())  # raises, should it wait for longer
            desk.close()


def test_certificates_that_somebody_else_made_are_used_where_the_file_says(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    config = read(tmp_path, tls="{ca: ca/ca.pem, cert: ca/master-head.pem, key: ca/master-head.key}")
    missing: list[str] = []
    for role, name in (
        *(("master", "head"), ("worker", "worker-1"), ("worker", "worker-2")),
        *(("client", "local"), ("admin", "local")),
    ):
        with pytest.raises(Refused) as caught:
            lifecycle.up(config)
        missing.append(str(caught.value))
        authority.issue(role, name, hosts=["127.0.0.1"] if role == "master" else [])

    with cluster.launch(config.file) as c:
        assert c.submit(pow, (2, 10)).result(30) == 1024

    assert "run `cluster certs issue master HOST... --ca " in missing[0]
    assert [f"run `cluster certs issue {who} --ca {tmp_path}/ca`" in sentence for who, sentence in zip(
        ["worker worker-1", "worker worker-2", "client local", "admin local"], missing[1:], strict=True
    )] == [True] * 4  # fmt: skip
    assert not (tmp_path / "state/tls").exists()


def test_without_tls_others_are_let_in_only_where_it_is_spelled_out_and_each_start_warns(tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r"lab.yaml:3: .*can be reached from other machines, which needs tls; write tls: auto"
    ):
        read(tmp_path, bind="tcp://0.0.0.0:0", tls="off")
    config = read(tmp_path, bind="tcp://0.0.0.0:0", tls="off, insecure: true")

    for number in (1, 2):
        with cluster.launch(config.file) as c:
            assert c.submit(pow, (2, 10)).result(30) == 1024
        assert log(config, "master").count("is used without TLS") == number

    with pytest.raises(Refused, match="insecure is for a master without tls"):
        read(tmp_path, tls="auto, insecure: true")


def test_what_is_renewed_while_the_cluster_is_up_is_used_and_cuts_nobody_off(tmp_path: Path) -> None:
    config = read(tmp_path)
    authority = Authority.create(tls.authority_folder(config))
    for role, name in (("worker", "worker-1"), ("worker", "worker-2"), ("client", "local"), ("admin", "local")):
        authority.issue(role, name, days=1000)
    authority.issue("master", "lab", hosts=["127.0.0.1", "localhost", "::1"], days=1000)
    with brought_up(config), cluster.launch(config.file) as c:
        before = [info.id for info in c.workers()]
        for role, name in (("master", "lab"), ("worker", "worker-1")):
            authority.renew(role, name, new_key=True)

        assert c.submit(pow, (2, 10)).result(30) == 1024
        with cluster.launch(config.file) as other:  # which is a new connection
            assert other.submit(pow, (2, 10)).result(30) == 1024
        assert [info.id for info in c.workers()] == before


# --- which certificates -------------------------------------------------------------------------------------------------


def test_what_is_there_and_good_is_left_alone_and_needs_no_key_of_the_authority(tmp_path: Path) -> None:
    config = read(tmp_path)
    tls.prepare(config)
    folder = tls.authority_folder(config)
    (folder / "ca.key").rename(tmp_path / "on a stick")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    tls.prepare(config)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_many_at_once_make_one_authority_and_one_certificate_each(tmp_path: Path) -> None:
    config = read(tmp_path)
    faults: list[BaseException] = []

    def prepare() -> None:
        try:
            tls.prepare(config)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []
    assert len(Authority(tls.authority_folder(config)).standings()) == 5


def test_what_ends_within_a_quarter_of_a_year_is_renewed_with_the_key_it_has(tmp_path: Path) -> None:
    config = read(tmp_path)
    tls.prepare(config)
    authority = Authority(tls.authority_folder(config))
    authority.renew("worker", "worker-1", days=89)
    authority.renew("worker", "worker-2", days=91)
    key = authority.key_file("worker", "worker-1").read_bytes()

    tls.prepare(config)

    renewed, left = (authority.standing("worker", f"worker-{number}") for number in (1, 2))
    assert renewed is not None
    assert left is not None
    assert renewed.not_after > time.time() + 300 * DAY
    assert left.not_after < time.time() + 92 * DAY
    assert authority.key_file("worker", "worker-1").read_bytes() == key


def test_what_has_expired_is_renewed(tmp_path: Path) -> None:
    config = read(tmp_path)
    authority = Authority.create(tls.authority_folder(config), clock=lambda: time.time() - 400 * DAY)
    authority.issue("client", "local")

    tls.prepare(config)

    standing = Authority(authority.folder).standing("client", "local")
    assert standing is not None
    assert standing.state == "valid"


def test_an_authority_that_has_expired_is_told_and_one_that_will_soon_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = read(tmp_path)
    Authority.create(tls.authority_folder(config), days=30)
    with caplog.at_level(logging.WARNING):
        tls.prepare(config)
        tls.prepare(config)  # which does not renew what would not end later
    soon = len(Authority(tls.authority_folder(config)).standings())
    (tmp_path / "state/tls").rename(tmp_path / "state/old")
    Authority.create(tls.authority_folder(config), days=30, clock=lambda: time.time() - 31 * DAY)

    with pytest.raises(Refused, match="has expired; make a new one"):
        tls.prepare(config)

    assert "ends soon: make another one" in caplog.text
    assert soon == 5


def test_a_lost_key_is_made_anew_with_its_certificate(tmp_path: Path) -> None:
    config = read(tmp_path)
    tls.prepare(config)
    authority = Authority(tls.authority_folder(config))
    authority.key_file("client", "local").unlink()

    tls.prepare(config)

    assert authority.key_file("client", "local").exists()
    assert [one.state for one in authority.standings() if one.role == "client"] == ["replaced", "valid"]


def test_a_revoked_certificate_is_not_made_anew_by_itself(tmp_path: Path) -> None:
    config = read(tmp_path)
    tls.prepare(config)
    authority = Authority(tls.authority_folder(config))
    authority.revoke("admin", "local")

    with pytest.raises(
        Refused, match=r"admin local is revoked; if that is over, write `cluster certs issue admin local"
    ):
        tls.prepare(config)

    standing = authority.standing("admin", "local")
    assert standing is not None
    assert standing.state == "revoked"


def test_a_master_answers_for_the_hosts_that_it_can_be_dialled_by(tmp_path: Path) -> None:
    def hosts(bind: str, more: str = "") -> set[str]:
        return set(tls.hosts_of(read(tmp_path, bind=bind, tls=f"auto{more}")))

    local = {"localhost", "127.0.0.1", "::1"}
    assert hosts("tcp://127.0.0.1:0") == local
    assert hosts(f"unix://{tmp_path}/socket") == local
    assert hosts("tcp://192.0.2.7:0") >= {*local, "192.0.2.7"}
    assert hosts("tcp://head.lab:0") >= {*local, "head.lab"}
    assert hosts("tcp://127.0.0.1:0", ", hosts: [Head.lab, '2001:DB8::7']") == {*local, "head.lab", "2001:db8::7"}
    assert "0.0.0.0" not in hosts("tcp://0.0.0.0:0")


def test_another_host_in_the_file_gives_the_master_another_certificate(tmp_path: Path) -> None:
    tls.prepare(read(tmp_path))
    tls.prepare(config := read(tmp_path, tls="auto, hosts: [head.lab]"))

    authority = Authority(tls.authority_folder(config))
    assert [one.state for one in authority.standings() if one.role == "master"] == ["replaced", "valid"]
    standing = authority.standing("master", "lab")
    assert standing is not None
    assert "head.lab" in standing.hosts


@pytest.mark.parametrize(
    ("bind", "dialled"),
    [
        ("tcp://0.0.0.0:7601", "tcp://127.0.0.1:7601"),
        ("tcp://[::]:7601", "tcp://[::1]:7601"),
        ("tcp://192.0.2.7:7601", "tcp://192.0.2.7:7601"),
        ("unix:///run/lab", "unix:///run/lab"),
    ],
)
def test_this_host_dials_an_address_that_is_somebody_s(bind: str, dialled: str) -> None:
    assert tls.dialled(bind) == dialled


def test_without_tls_nothing_is_made_and_nobody_shows_a_certificate(tmp_path: Path) -> None:
    config = read(tmp_path, tls="off")

    tls.prepare(config)

    assert tls.files_of(config, Role.CLIENT) is None
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "said", ["yes", "on", "Auto", "{ca: a}", "{ca: a, cert: b, key: 3}", "{ca: a, cert: b, key: c, d: e}", "[auto]"]
)
def test_another_way_to_have_tls_is_refused_with_those_that_there_are(tmp_path: Path, said: str) -> None:
    with pytest.raises(Refused, match=r"lab.yaml:3: master.tls: .* is no way to have TLS; write off, auto"):
        read(tmp_path, tls=said)


# --- each day -----------------------------------------------------------------------------------------------------------


def test_the_keeper_has_certificates_looked_at_once_a_day(tmp_path: Path) -> None:
    config = read(tmp_path)
    runtime = Runtime.of(config)
    with runtime.locked(10):
        runtime.write_snapshot(Snapshot.of(config, config.master.bind))
    tls.prepare(config)
    authority = Authority(tls.authority_folder(config))
    authority.renew("worker", "worker-1", days=10)
    count = len(authority.standings())
    renewal = Renewal(runtime.folder, now=0.0)

    renewal.look(LOOK_SECONDS - 1)
    early = renewal._process
    renewal.look(LOOK_SECONDS)
    process = renewal._process
    assert process is not None
    status = process.wait(60)
    renewal.look(LOOK_SECONDS + 1)

    assert (early, status, renewal._process) == (None, 0, None)
    assert len(authority.standings()) == count + 1
    assert authority.standing("worker", "worker-1").not_after > time.time() + 300 * DAY  # type: ignore[union-attr]


# A keeper whose days are short.
SHORT_DAYS = """
import os, sys
from pathlib import Path
from cluster.deploy import renewal
renewal.LOOK_SECONDS = 0.2
from cluster.deploy.keeper import keep
sys.exit(keep(Path(sys.argv[1]), os.environ, lambda: None))
"""


def test_a_keeper_renews_while_the_cluster_is_up(tmp_path: Path) -> None:
    config = read(tmp_path)
    runtime = Runtime.of(config)
    Path(config.log.dir).mkdir(parents=True)
    Path(config.master.keys).mkdir()
    with runtime.locked(10):
        runtime.write_snapshot(Snapshot.of(config, lifecycle._settle_address(config.master.bind)))
    tls.prepare(config)
    authority = Authority(tls.authority_folder(config))
    program = Program([sys.executable, "-c", SHORT_DAYS, str(runtime.folder)], tmp_path, {MARK: runtime.mark})
    try:
        with program.started():
            authority.renew("worker", "worker-1", days=10)
            last = authority.standings()[-1]

            wait_until(lambda: authority.standings()[-1] != last)

            assert authority.standings()[-1].name == "worker-1"
            assert authority.standings()[-1].not_after > time.time() + 300 * DAY
    finally:
        lifecycle.down(config, now=True)
