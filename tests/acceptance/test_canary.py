"""A cluster with known keys is driven through what can happen to it; then they are looked for in all that it said.

All of it under a umask of 0, which hides nothing: what is private then was made so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.wire.keys import Role
from tests.acceptance import prying
from tests.acceptance.programs import ROOT, wait_until

# Thirty-two bytes each, of letters: raw they would be readable in any log.
CANARIES = {role.value: f"canary-of-{role.value}-".ljust(32, "x").encode() for role in Role}
STORE_CANARY = b"canary-of-the-store-".ljust(32, b"y")
TASKS = """
import os, sys
def good(x): print("good", x); return x
def bad(x):
    local = dict(os.environ)
    raise ValueError(f"bad {x} {sorted(local)}")
def die(): os.kill(os.getpid(), 9)
"""


class Site:
    """A configuration in a folder of its own, and every word that commands said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "cluster.yaml"
        self.said: list[str] = []
        # A store's key is made by its first opening; planted, it is taken.
        for name in ("state", "state/keys"):
            (folder / name).mkdir(mode=0o700)
        for role, secret in CANARIES.items():
            self.plant(f"state/keys/{role}.key", secret.hex().encode() + b"\n")
        self.plant("state/cluster.db.key", STORE_CANARY)
        (folder / "tasks.py").write_text(TASKS)
        self.file.write_text(
            "name: canary\nmaster: {bind: 'tcp://127.0.0.1:0'}\nlog: {level: debug}\ndrain: {timeout: 5s}\n"
            "workers: [{slots: 2}]\n"
        )

    def plant(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)

    def run(self, *arguments: str, status: int | None = 0) -> str:
        """A command of the kit; all that it says is kept."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "cluster", *arguments], cwd=self.folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": paths}, umask=0, timeout=90, check=False,
        )  # fmt: skip
        self.said.append(done.stdout + done.stderr)
        assert status is None or done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        mark = str(self.folder / "state" / "run" / "canary")
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                if mark in process.cmdline():
                    found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        return list(found.values())

    def files(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.rglob("*")) if not path.is_symlink())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    drive(made)
    yield made
    made.run("down", str(made.file), "--now", status=None)


def drive(site: Site) -> None:
    """Through success, errors, a crash, wrong keys, failed starts."""
    file = str(site.file)
    site.run("up", file)
    site.run("submit", "--file", file, "--wait", "tasks:good", "[1]")
    site.run("submit", "--file", file, "--wait", "tasks:bad", "[2]", status=1)
    site.run("submit", "--file", file, "--wait", "--crash-limit", "0", "tasks:die", "[]", status=1)
    site.run("submit", "--file", file, "--wait", "nowhere:nothing", "[]", status=1)
    listed = site.run("status", file, "--json")
    address = listed.partition("tcp://")[2].partition('"')[0]
    for arguments in (["job", "list"], ["dead", "list"], ["worker", "list"]):
        site.run(*arguments, "--file", file, "--json")
    site.run("logs", "--file", file)
    for job in [found["id"] for found in json.loads(site.run("job", "list", "--file", file, "--json"))]:
        site.run("job", "show", job, "--file", file, "--json")
        site.run("job", "logs", job, "--file", file)
    site.run("store", "check", f"sqlite:///{site.folder}/state/cluster.db", "--json")
    client = str(site.folder / "state" / "keys" / "client.key")
    for role, key in (("worker", client), ("client", str(site.folder / "state" / "cluster.db.key"))):
        site.run("worker", f"tcp://{address}", "--name", role, "--authkey-file", key, status=2)
    os.environ["CLUSTER_AUTHKEY_FILE"] = str(site.folder / "tasks.py")
    try:
        site.run("job", "list", "--address", f"tcp://{address}", status=2)
    finally:
        del os.environ["CLUSTER_AUTHKEY_FILE"]
    site.run("master", "--bind", "tcp://127.0.0.1:0", "--store", f"sqlite:///{site.folder}/state/cluster.db",
             "--keys", str(site.folder / "state" / "keys"), status=2)  # fmt: skip
    pid = json.loads(listed)["master"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(site.folder, "state", "logs", "keeper.log").read_text().count("ready part=master") > 1)
    site.run("status", file, "--json")


def test_no_word_of_a_cluster_holds_a_secret_of_it(site: Site) -> None:
    forms = prying.forms_of([*CANARIES.values(), STORE_CANARY])
    processes = site.processes()
    assert len(processes) >= 4  # keeper, master, worker, nursery
    assert {str(process.pid): prying.shown_by(process.pid, forms) for process in processes} == {
        str(process.pid): [] for process in processes
    }
    said = "\n".join(site.said)
    assert "bad 2" in said  # it was driven
    assert not prying.found_in(said.encode(), forms)
    holders = [path.name for path in site.files() if path.is_file() and prying.found_in(path.read_bytes(), forms)]
    assert sorted(holders) == ["admin.key", "client.key", "cluster.db.key", "worker.key"]


def test_nothing_that_a_cluster_makes_can_be_read_by_others(site: Site) -> None:
    site.run("store", "backup", f"sqlite:///{site.folder}/state/cluster.db", str(site.folder / "state" / "copy.db"))
    made = [path for path in site.files() if site.folder / "state" in (path, *path.parents)]

    assert {"keeper.log", "master.log", "cluster.db", "cluster.db-wal", "cluster.db.epoch", "lock", "keeper.json",
            "scratch"} <= {path.name for path in made}  # fmt: skip
    open_ones = {str(path): oct(path.stat().st_mode) for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert open_ones == {}
    assert {path.stat().st_uid for path in made} == {os.getuid()}
