"""What a job can't get at: the secrets of its cluster, and with a user of its own anything of whoever runs the worker."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import cluster
from tests.acceptance import prying
from tests.acceptance.lab import DEADLINE_SECONDS, Lab, a_lab
from tests.acceptance.programs import is_gone, wait_until

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can get to, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


def secrets_of(folder: Path) -> list[bytes]:
    keys = [bytes.fromhex(path.read_text()) for path in sorted((folder / "keys").glob("*.key"))]
    assert len(keys) == 3
    return [*keys, (folder / "lab.db.key").read_bytes()]


def pids_of(flag: Path) -> tuple[int, int]:
    """The child and the nursery of a job that holds."""
    wait_until(lambda: flag.exists() and flag.read_text().endswith("\n"))
    child, nursery = flag.read_text().split()
    return int(child), int(nursery)


@pytest.mark.parametrize("options", [{}, {"threads": 2}], ids=["processes", "threads"])
def test_no_secret_is_in_a_child_nor_in_its_nursery(options: dict[str, Any], tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        worker = lab.start_worker(**options, drain_seconds=0.1)
        forms = prying.forms_of(secrets_of(tmp_path))
        with lab.connect() as c:
            job = c.submit(prying.make_holder(), (str(tmp_path / "flag"),), crash_limit=0)
            pids = pids_of(tmp_path / "flag")

            # Whoever finds nothing must be able to find something.
            assert prying.holds_in_memory(lab.processes[0].pid, forms)
            assert prying.holds_in_memory(worker.pid, forms)
            assert [prying.holds_in_memory(pid, forms) for pid in pids] == [False, False]
            assert [prying.shown_by(pid, forms) for pid in pids] == [[], []]
            assert prying.shown_by(worker.pid, forms) == []
            job.cancel()


def test_an_embedded_cluster_s_children_have_not_the_store_s_key(tmp_path: Path) -> None:
    with cluster.local(slots=1, store=f"sqlite:///{tmp_path / 'lab.db'}") as c:
        job = c.submit(prying.make_holder(), (str(tmp_path / "flag"),), crash_limit=0)
        pids = pids_of(tmp_path / "flag")
        # Not kept here, in whose memory it would be found.
        forms = prying.forms_of([(tmp_path / "lab.db.key").read_bytes()])

        assert prying.holds_in_memory(os.getpid(), forms)
        assert [prying.holds_in_memory(pid, forms) for pid in pids] == [False, False]
        assert [prying.shown_by(pid, forms) for pid in pids] == [[], []]
        job.cancel()


def test_a_job_of_the_same_user_gets_into_no_process_that_holds_keys(tmp_path: Path) -> None:
    with a_lab(tmp_path, prefix=prying.ORDINARY) as lab:
        lab.start_worker()
        with lab.connect() as c:
            found = c.submit(prying.make_burglar(), ([lab.processes[0].pid],)).result(DEADLINE_SECONDS)

    own = found.pop("own")
    assert {"mem", "environ", "maps", "fd", "ptrace", "pidfd_getfd"} <= set(own)  # it knows the ways
    assert found == {"nursery": [], "supervisor": [], str(lab.processes[0].pid): []}


@pytest.mark.parametrize("options", [{}, {"threads": 2}], ids=["processes", "threads"])
def test_jobs_run_as_the_user_that_the_worker_was_told(
    options: dict[str, Any], tmp_path: Path, open_place: Path
) -> None:
    with a_lab(tmp_path) as lab:
        worker = lab.start_worker(user="nobody", scratch=str(open_place / "scratch"), **options)
        pids = [lab.processes[0].pid, worker.pid]
        note = str(open_place / "note") if options else "note"
        if options:
            (open_place / "note").touch()
            os.chown(open_place / "note", NOBODY.pw_uid, NOBODY.pw_gid)
        with lab.connect() as c:
            told = c.submit(
                prying.make_stranger(), (pids, str(tmp_path / "keys" / "worker.key"), note), crash_limit=0
            ).result(DEADLINE_SECONDS)

    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert told["ids"] == ((uid,) * 3, (gid,) * 3, os.getgrouplist("nobody", gid))
    assert told["names"] == [NOBODY.pw_dir, "nobody", "nobody"]
    assert told["read"] == "mine"
    assert told["capabilities"] == ["0" * 16] * 3
    assert told["no_new_privileges"] == "1"
    assert told["sees itself"]
    assert told["back"] == [False, False, False]
    assert told["kills"] == [False, False, False]
    assert not told["reads"]
    if not options:
        assert told["death"] == signal.SIGKILL  # of a thread it can't be asked
        assert told["owner"] == uid
        assert not Path(told["folder"]).exists()


def daemonise() -> Callable[[str], None]:
    def start(flag: str) -> None:
        import os
        import time

        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with open(flag, "w") as file:  # noqa: PTH123
                    file.write(f"{os.getpid()} {os.getppid()}\n")
            while True:
                time.sleep(0.01)  # sleeps because it is to be killed
        while True:
            time.sleep(0.01)  # sleeps because it is to be killed

    return start


def test_what_jobs_of_another_user_started_is_killed_with_them(tmp_path: Path, open_place: Path) -> None:
    flags = open_place / "flags"
    flags.mkdir()
    os.chown(flags, NOBODY.pw_uid, NOBODY.pw_gid)
    with a_lab(tmp_path) as lab:
        worker = lab.start_worker(user=str(NOBODY.pw_uid), slots=2, scratch=str(open_place / "scratch"))
        with lab.connect() as c:
            first = c.submit(daemonise(), (str(flags / "first"),), crash_limit=0)
            daemon, _ = pids_of(flags / "first")
            assert psutil.Process(daemon).uids().effective == NOBODY.pw_uid
            assert first.cancel()
            wait_until(lambda: is_gone(daemon))

            # And by the hand of the kernel, where nobody is left to do it.
            second = c.submit(prying.make_holder(), (str(flags / "second"),), crash_limit=0)
            child, nursery = pids_of(flags / "second")
            os.kill(nursery, signal.SIGKILL)
            wait_until(lambda: is_gone(child))
            assert not second.done() or second.exception(DEADLINE_SECONDS)
        worker.kill()
        worker.wait()


def test_the_limits_of_a_worker_hold_for_its_jobs(tmp_path: Path, open_place: Path) -> None:
    def make() -> Callable[[], dict[str, Any]]:
        def look() -> dict[str, Any]:
            import errno
            import resource

            def is_refused(action: Callable[[], object]) -> str:
                try:
                    action()
                except (OSError, ValueError, MemoryError) as error:
                    return errno.errorcode.get(getattr(error, "errno", 0) or 0, type(error).__name__)
                return ""

            def write() -> None:
                with open("large", "wb", buffering=0) as file:  # noqa: PTH123
                    file.seek(2 << 20)
                    file.write(b"x")

            def more() -> None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

            def open_many() -> None:
                files = []
                while True:
                    files.append(open("/dev/null"))  # noqa: PTH123, SIM115

            return {
                "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
                "core": resource.getrlimit(resource.RLIMIT_CORE),
                "write": is_refused(write),
                "open": is_refused(open_many),
                "more": is_refused(more),
                "memory": is_refused(lambda: bytearray(1 << 30)),
            }

        return look

    limits = (("as", 1 << 30), ("core", 0), ("fsize", 1 << 20), ("nofile", 64))
    with a_lab(tmp_path) as lab:
        lab.start_worker(user="nobody", scratch=str(open_place / "scratch"), limits=limits)
        with lab.connect() as c:
            told = c.submit(make(), crash_limit=0).result(DEADLINE_SECONDS)

    assert told == {
        "nofile": (64, 64), "core": (0, 0), "write": "EFBIG", "open": "EMFILE", "more": "ValueError",
        "memory": "MemoryError",
    }  # fmt: skip


def test_a_user_that_jobs_can_not_have_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with a_lab(tmp_path) as lab:
        ordinary = Lab(tmp_path, lab.bind, prefix=prying.ORDINARY)
        said = [
            lab.run_worker(user="no-such-user"),
            lab.run_worker(user="root"),
            lab.run_worker(user="0"),
            ordinary.run_worker(user="nobody"),
            lab.run_worker(user="nobody"),  # whose jobs can't get into pytest's folder
        ]

    for done, words in zip(
        said,
        ["there is no user 'no-such-user'", "which is root", "which is root", "only root can", "run `chmod o+x"],
        strict=True,
    ):
        last = done.stderr.strip().splitlines()[-1]
        assert (done.returncode, words in last) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_worker_of_root_says_once_that_its_jobs_are_root_too_unless_they_are_not(
    tmp_path: Path, open_place: Path
) -> None:
    with a_lab(tmp_path) as lab:
        lab.start_worker("open")
        lab.start_worker("shut", user="nobody", scratch=str(open_place / "scratch"))

        said = [line for line in lab.log().splitlines() if "write --user NAME" in line]

    assert len(said) == 1
    assert "WARNING cluster.worker: worker=open is root and so are its jobs" in said[0]


def test_folders_of_another_user_s_jobs_show_nothing_to_third_ones(tmp_path: Path, open_place: Path) -> None:
    with a_lab(tmp_path) as lab:
        lab.start_worker(user="nobody", slots=1, scratch=str(open_place / "scratch"))
        with lab.connect() as c:
            job = c.submit(prying.make_holder(), ("flag",), crash_limit=0)
            wait_until(lambda: bool(list(open_place.glob("scratch/w-*/child-*/flag"))))
            folder = next(open_place.glob("scratch/w-*/child-*"))

            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert folder.stat().st_uid == NOBODY.pw_uid
            assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o711
            assert job.cancel()
        wait_until(lambda: not list(open_place.glob("scratch/w-*/child-*/flag")))
