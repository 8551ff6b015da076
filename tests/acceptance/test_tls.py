"""A cluster of processes whose every connection is TLS; on one host, and between two that are network namespaces."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

import cluster
from cluster.core.states import JobState
from cluster.errors import Refused
from cluster.wire.tls import TlsFiles
from tests.acceptance.programs import Program
from tests.acceptance.test_hostile_peers import CROWD, submit_for_a_while
from tests.wire.certificates import Maker

DEADLINE_SECONDS = 60.0


class Host:
    """Where a command runs: here, or in a namespace."""

    def __init__(self, folder: Path, *, inside: Sequence[str] = ()) -> None:
        self.folder, self.inside = folder, inside

    @contextlib.contextmanager
    def running(self, name: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        """`cluster ...` until the block ends; what it says when it is ready."""
        reading, writing = os.pipe()
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.inside, sys.executable, "-m", "cluster", *arguments, "--ready-fd", str(writing)],
                cwd=self.folder, env=Program((), self.folder)._environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=(writing,),
            )  # fmt: skip
        os.close(writing)
        try:
            with open(reading, encoding="ascii") as pipe:  # noqa: PTH123 - a descriptor
                yield pipe.read(), process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_SECONDS)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def options(files: TlsFiles) -> list[str]:
    return ["--tls-ca", str(files.ca), "--tls-cert", str(files.cert), "--tls-key", str(files.key)]


def master_at(bind: str, files: TlsFiles) -> list[str]:
    return [
        "master", "--bind", bind, "--store", "sqlite:///runs.db", "--keys", "keys",
        "--heartbeat-interval", "0.5s", "--heartbeat-timeout", "5s", *options(files),
    ]  # fmt: skip


def worker_at(address: str, files: TlsFiles, *more: str) -> list[str]:
    return ["worker", address, "--slots", "2", "--authkey-file", "keys/worker.key", *options(files), *more]


def connect(folder: Path, address: str, files: TlsFiles) -> cluster.Cluster:
    tls = {"ca": files.ca, "cert": files.cert, "key": files.key}
    return cluster.connect(address, folder / "keys" / "client.key", tls=tls)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[list[str], str, str]]:
    """A namespace joined to this one by a cable: how to run there, its address, and ours."""
    name, net = f"tls-{secrets.token_hex(3)}", f"10.{secrets.randbelow(60) + 130}.{secrets.randbelow(200)}"
    far, near = f"{name[:10]}f", f"{name[:10]}n"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        for where, device, end in ((["-n", name], far, 1), ([], near, 2)):
            _ip(*where, "address", "add", f"{net}.{end}/30", "dev", device)
            _ip(*where, "link", "set", device, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield ["ip", "netns", "exec", name], f"{net}.1", f"{net}.2"
    finally:
        _ip("netns", "del", name)  # the cable goes with it


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def test_jobs_travel_between_two_hosts_over_tls_and_never_without_it(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "lab")
    with two_hosts() as (inside, head, _):
        there, here = Host(tmp_path, inside=inside), Host(tmp_path)
        files = maker.issue("master", "head", (head,))
        with (
            there.running("master", *master_at(f"tcp://{head}:7601", files)) as (said, _),
            here.running("worker", *worker_at(f"tcp://{head}:7601", maker.issue("worker", "node1"))) as (ready, _),
        ):
            assert said == f"ready tcp://{head}:7601\n"
            assert ready.startswith("ready worker node1#")
            with connect(tmp_path, f"tcp://{head}:7601", maker.issue("client", "ana")) as c:
                assert list(c.map(abs, range(-50, 0))) == list(range(50, 0, -1))
                assert c.submit(len, (bytes(20_000_000),)).result(DEADLINE_SECONDS) == 20_000_000
                assert [worker.name for worker in c.workers()] == ["node1"]
            with pytest.raises(Refused, match="needs TLS"):
                cluster.connect(f"tcp://{head}:7601", tmp_path / "keys" / "client.key")
            with pytest.raises(Refused, match="speaks TLS only"):
                cluster.connect(f"tcp://{head}:7601", tmp_path / "keys" / "client.key", insecure=True)


def test_without_tls_each_side_warns_at_every_start_and_the_master_s_audit_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with two_hosts() as (inside, head, _):
        there, here = Host(tmp_path, inside=inside), Host(tmp_path)
        address = f"tcp://{head}:7601"
        master = ["master", "--bind", address, "--store", "memory:", "--keys", "keys", "--insecure"]
        worker = ["worker", address, "--name", "w", "--slots", "1", "--authkey-file", "keys/worker.key", "--insecure"]
        for start in (1, 2):
            with there.running("master", *master), here.running("worker", *worker) as (ready, _):
                assert ready.startswith("ready worker w#")
                with cluster.connect(address, tmp_path / "keys" / "client.key", insecure=True) as c:
                    assert c.stats().security == {"insecure_start": 1}
            for said in (there.log("master"), here.log("worker"), caplog.text):
                assert said.count(f"insecure: {address} is used without TLS") == start
            assert there.log("master").count(f"cluster.audit: insecure_start: origin={address}") == start


@pytest.mark.usefixtures("many_descriptors")
def test_a_crowd_without_certificates_delays_no_submit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    maker, host = Maker(tmp_path / "lab"), Host(tmp_path)
    # A hello of TLS that is cut off, or damaged; another protocol.
    said = (b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\xf0" + os.urandom(240), b"GET / HTTP/1.1\r\n\r\n")
    with host.running("master", *master_at("tcp://127.0.0.1:0", maker.issue("master", "head"))) as (ready, process):
        address = ready.split()[1]
        port = int(address.rpartition(":")[2])
        with (
            host.running("w1", *worker_at(address, maker.issue("worker", "w1"))),
            connect(tmp_path, address, maker.issue("client", "ana")) as c,
        ):
            submit_for_a_while(c, 10)
            master = psutil.Process(process.pid)
            threads, descriptors = master.num_threads(), master.num_fds()
            with contextlib.ExitStack() as stack:
                for number in range(2 * CROWD):
                    with contextlib.suppress(OSError):
                        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS))
                        sock.sendall(said[number // 2 % 3] if number % 2 else b"")

                taken = submit_for_a_while(c, 100)
                assert master.num_threads() < threads + 100
            _wait(lambda: master.num_threads() <= threads and master.num_fds() <= descriptors)

            assert taken[98] < 1.0
            refused = c.stats().security
            assert sum(refused.values()) > CROWD
            assert refused["handshake_certificate"] > 0
        assert host.log("master").count("cluster.audit: ") < 50


def test_a_worker_can_take_no_other_name_and_is_lost_when_it_is_revoked(tmp_path: Path) -> None:
    maker, host = Maker(tmp_path / "lab"), Host(tmp_path)
    w1, w2 = maker.issue("worker", "w1"), maker.issue("worker", "w2")
    with host.running("master", *master_at("tcp://127.0.0.1:0", maker.issue("master", "head"))) as (said, _):
        address = said.split()[1]
        with host.running("liar", *worker_at(address, w1, "--name", "w2")) as (ready, process):
            assert not ready
            assert process.wait(DEADLINE_SECONDS) == 2
        assert "is of worker w1, so this worker can't be called 'w2'" in host.log("liar")

        with host.running("w1", *worker_at(address, w1)), connect(tmp_path, address, maker.issue("client", "ana")) as c:
            job = c.submit(time.sleep, (600,))
            _wait(lambda: job.refresh().state is JobState.RUNNING)
            maker.revoke(w1)
            with host.running("w2", *worker_at(address, w2)):
                _wait(lambda: job.refresh().state is JobState.RUNNING and str(job.worker).startswith("w2"))
            job.cancel()
        assert "its certificate is revoked (worker w1" in host.log("master")
        assert "it was revoked" in host.log("w1")


def test_client_and_worker_keys_are_exchanged_under_load_and_no_job_is_lost(tmp_path: Path) -> None:
    maker, host = Maker(tmp_path / "lab"), Host(tmp_path)
    keys = tmp_path / "keys"
    with host.running("master", *master_at("tcp://127.0.0.1:0", maker.issue("master", "head"))) as (said, _):
        address = said.split()[1]
        client = maker.issue("client", "ana")
        old = keys / "before.key"
        _write(old, (keys / "client.key").read_text())
        with (
            host.running("w1", *worker_at(address, maker.issue("worker", "w1"))),
            connect(tmp_path, address, client) as c,
        ):
            jobs = [c.submit(abs, (-number,)) for number in range(200)]
            jobs[0].result(DEADLINE_SECONDS)  # so all connections are there, by the old keys
            for role in ("client", "worker"):
                path = keys / f"{role}.key"
                before = _shown_out(c)
                new = secrets.token_hex(32) + "\n"
                _write(path, new + path.read_text())
                jobs += [c.submit(abs, (-number,)) for number in range(200, 400)]
                _write(path, new)
                _wait(lambda before=before: _shown_out(c) > before)
                jobs += [c.submit(abs, (-number,)) for number in range(400, 600)]

            assert sorted(job.result(DEADLINE_SECONDS) for job in jobs) == sorted(
                [*range(200), *range(200, 600), *range(200, 600)]
            )
            with pytest.raises(Refused, match="has another client key"):
                cluster.connect(address, old, tls={"ca": client.ca, "cert": client.cert, "key": client.key})


def _shown_out(c: cluster.Cluster) -> int:
    """How many connections had a key that is not in force, or not any more."""
    return c.stats().security.get("handshake_wrong_key", 0)


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_text(text)
    new.replace(path)


def _wait(is_true: object) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        pause.wait(0.05)
