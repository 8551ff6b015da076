"""The kernel holds all jobs of a worker to the limits of their cgroup, and nobody else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cluster
from cluster.worker import groups
from tests.acceptance.lab import DEADLINE_SECONDS, Lab, a_lab
from tests.acceptance.programs import wait_until
from tests.worker.test_groups import entering, groups_in, mount, place  # noqa: F401 - a fixture

MB = 10**6
CONTROLLERS = ("cpu", "memory", "pids")


@pytest.fixture
def lab(tmp_path: Path, place: Path) -> Iterator[Lab]:  # noqa: F811
    """One whose workers are alone in a cgroup that is theirs, as systemd delegates one."""
    groups._write(mount() / groups._TURNED_ON, " ".join(f"+{name}" for name in CONTROLLERS))
    with a_lab(tmp_path) as lab:
        lab.prefix = entering(place)
        yield lab


def make_bomb() -> Callable[[int, str], tuple[int, int]]:
    """A job that forks until it can't, but not for ever, and holds what it has got; how many, and why it ended."""

    def bomb(most: int, folder: str) -> tuple[int, int]:
        import os
        import signal
        import time

        forked: list[int] = []
        number = 0
        try:
            while len(forked) < most:
                pid = os.fork()
                if pid == 0:
                    time.sleep(60)  # sleeps because it is to be counted
                    os._exit(0)
                forked.append(pid)
        except OSError as error:
            number = error.errno or -1
        with open(f"{folder}/full", "w"):  # noqa: PTH123
            pass
        while not os.path.exists(f"{folder}/go"):  # noqa: PTH110
            time.sleep(0.01)  # sleeps because job and test meet at a file
        for pid in forked:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return len(forked), number

    return bomb


def make_waiter() -> Callable[[str], str]:
    def wait(folder: str) -> str:
        import os
        import time

        with open(f"{folder}/waits", "w"):  # noqa: PTH123
            pass
        while not os.path.exists(f"{folder}/go"):  # noqa: PTH110
            time.sleep(0.01)  # sleeps because job and test meet at a file
        return "unharmed"

    return wait


def test_a_bomb_of_processes_ends_at_the_limit_and_harms_no_other(lab: Lab, tmp_path: Path, place: Path) -> None:  # noqa: F811
    import errno

    worker = lab.start_worker(slots=2, cgroup=(("pids", 40),))
    with lab.connect() as c:
        neighbour = c.submit(make_waiter(), (str(tmp_path),), crash_limit=0)
        wait_until((tmp_path / "waits").exists)
        bomb = c.submit(make_bomb(), (200, str(tmp_path)), crash_limit=0)
        wait_until((tmp_path / "full").exists)
        (group,) = groups_in(place)

        assert (group / "pids.current").read_text().strip() == "40"
        assert int((group / "pids.events").read_text().split()[1]) > 0
        lab.prefix = ()
        lab.start_worker("other", slots=1)  # who is in no such group
        assert worker.poll() is None
        assert not neighbour.done()
        (tmp_path / "go").touch()

        forked, number = bomb.result(DEADLINE_SECONDS)
        assert number == errno.EAGAIN
        assert 30 <= forked < 40
        assert neighbour.result(DEADLINE_SECONDS) == "unharmed"


def test_a_slot_gets_its_next_child_though_the_group_is_full(lab: Lab, tmp_path: Path) -> None:
    lab.start_worker(slots=2, cgroup=(("pids", 40),))
    with lab.connect() as c:
        victim = c.submit(make_waiter(), (str(tmp_path),), crash_limit=0)
        wait_until((tmp_path / "waits").exists)
        bomb = c.submit(make_bomb(), (200, str(tmp_path)), crash_limit=0)
        wait_until((tmp_path / "full").exists)
        assert victim.cancel()

        assert c.submit(os.getpid).result(DEADLINE_SECONDS)
        (tmp_path / "go").touch()
        assert bomb.result(DEADLINE_SECONDS)


def test_a_job_that_takes_the_memory_of_all_ends_as_out_of_memory_and_its_neighbour_lives(
    lab: Lab, tmp_path: Path
) -> None:
    def fill(megabytes: int) -> int:
        return len([b"x" * 1_000_000 + bytes([n % 256]) for n in range(megabytes)])

    worker = lab.start_worker(slots=2, cgroup=(("memory", 200 * MB),))
    with lab.connect() as c:
        neighbour = c.submit(make_waiter(), (str(tmp_path),), crash_limit=0)
        wait_until((tmp_path / "waits").exists)

        greedy = c.submit(fill, (600,), crash_limit=0)
        with pytest.raises(
            cluster.OutOfMemory, match="all that this worker's jobs start may take 200 MB together"
        ) as caught:
            greedy.result(DEADLINE_SECONDS)

        assert caught.value.certificate is not None
        assert caught.value.certificate.signal == signal.SIGKILL
        assert c.submit(fill, (100,)).result(DEADLINE_SECONDS) == 100
        (tmp_path / "go").touch()
        assert neighbour.result(DEADLINE_SECONDS) == "unharmed"
        assert worker.poll() is None


def test_a_job_that_could_never_fit_into_the_group_is_not_begun_there(lab: Lab) -> None:
    lab.start_worker(slots=1, cgroup=(("memory", 200 * MB),))
    with lab.connect() as c:
        job = c.submit(int, memory="300MB")
        wait_until(lambda: "is more than any worker's host has" in str(job.explain()))

        assert not job.done()
        job.cancel()


def test_jobs_that_compute_have_no_more_of_the_processors_than_was_said(lab: Lab) -> None:
    def spin(seconds: float) -> float:
        import time

        began, used = time.monotonic(), time.process_time()
        while time.monotonic() < began + seconds:
            pass
        return (time.process_time() - used) / (time.monotonic() - began)

    lab.start_worker(slots=1, cgroup=(("cpu", 0.2),))
    with lab.connect() as c:
        share = c.submit(spin, (3.0,)).result(DEADLINE_SECONDS)

    assert 0.05 < share < 0.3
