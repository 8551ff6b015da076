"""The cgroup of a worker's jobs, on the kernel's own file system.

What the limits then do to jobs is seen in `tests/kernel`, on a kernel that has all three controllers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import Refused
from cluster.worker import groups
from cluster.worker.groups import GroupLimits
from tests.acceptance import prying
from tests.acceptance.lab import DEADLINE_SECONDS, Lab, a_lab
from tests.acceptance.programs import ROOT, is_gone, wait_until

MOUNT = """\
24 31 0:22 / /proc rw,relatime shared:5 - proc proc rw
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 /docker/a /mnt/my\\040groups rw,relatime - cgroup2 none rw,nsdelegate
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""


def mount() -> Path:
    """Where this machine shows its cgroups of version 2."""
    found = groups.mounts(Path("/proc/self/mountinfo").read_text())
    assert found, "these tests need cgroup v2: mount -t cgroup2 none /sys/fs/cgroup/unified"
    return Path(found[0][1])


def remove(folder: Path) -> None:
    """With all that is in it; in all but the deepest trouble a test has left nothing."""
    wait_until(lambda: groups._remove(folder))


@pytest.fixture
def place() -> Iterator[Path]:
    """A cgroup for one test, empty, without controllers."""
    folder = mount() / f"tests-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    remove(folder)


@pytest.fixture
def controller() -> Iterator[str]:
    """A controller that cgroups below the root have while the test runs, whichever this kernel has."""
    root = mount()
    with contextlib.ExitStack() as stack:
        turned_on = (root / groups._TURNED_ON).read_text().split()
        if not turned_on:
            name = (root / groups._LISTED).read_text().split()[0]
            groups._write(root / groups._TURNED_ON, f"+{name}")
            stack.callback(groups._write, root / groups._TURNED_ON, f"-{name}")
            turned_on = [name]
        yield turned_on[0]


def entering(place: Path) -> tuple[str, ...]:
    """A program that starts another one in this cgroup."""
    return ("sh", "-c", f'echo 0 > {place}/cgroup.procs && exec "$@"', "sh")


def cgroup_of(pid: int) -> Path:
    return mount() / (groups.own_path(Path(f"/proc/{pid}/cgroup").read_text()) or "").lstrip("/")


def groups_in(place: Path) -> list[Path]:
    return sorted(place.glob("cluster-*"))


def make_holder() -> Callable[[str], None]:
    """A job that leaves a process which nobody could find by its parents, session or environment, and goes on itself."""

    def hold(flag: str) -> None:
        import os
        import subprocess

        daemon = subprocess.Popen(["setsid", "sleep", "600"], env={"PATH": os.environ["PATH"]})
        with open(flag, "w") as file:  # noqa: PTH123
            file.write(f"{os.getpid()} {os.getppid()} {daemon.pid}\n")
        daemon.wait()

    return hold


def told_in(flag: Path) -> list[int]:
    wait_until(lambda: flag.exists() and flag.read_text().endswith("\n"))
    return [int(word) for word in flag.read_text().split()]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "own"),
    [("4:memory:/a\n0::/user.slice/x\n", "/user.slice/x"), ("0::/\n", "/"), ("4:memory:/a\n", None), ("", None)],
)
def test_the_own_group_of_version_2_is_the_line_without_a_controller(text: str, own: str | None) -> None:
    assert groups.own_path(text) == own


def test_mounts_of_version_2_are_found_whatever_their_path() -> None:
    assert groups.mounts(MOUNT) == [("/", "/sys/fs/cgroup/unified"), ("/docker/a", "/mnt/my groups")]


@pytest.mark.parametrize(
    ("root", "own", "place"),
    [
        ("/", "/", "/cg"),
        ("/", "/a/b", "/cg/a/b"),
        ("/docker/a", "/docker/a", "/cg"),
        ("/docker/a", "/docker/a/b", "/cg/b"),
        ("/docker/a", "/docker/ab", None),  # not shown by this mount
        ("/", "/../other", None),  # outside of the namespace
        ("/", "/unit/supervisor", "/cg/unit"),  # a worker that was started in the leaf of another
        ("/unit/supervisor", "/unit/supervisor", "/cg"),
    ],
)
def test_the_place_is_the_worker_s_own_group_as_the_mount_shows_it(root: str, own: str, place: str | None) -> None:
    assert groups.place_below(root, "/cg", own) == (Path(place) if place else None)


def test_limits_are_written_as_the_kernel_reads_them(tmp_path: Path) -> None:
    names = ("cpu.max", "memory.max", "memory.oom.group", "memory.swap.max", "pids.max")
    for name in names:
        (tmp_path / name).touch()

    groups._limit(tmp_path, groups.read_group_limits({"pids": 200, "memory": 4 * 10**9, "cpu": 1.5}))

    assert [(tmp_path / name).read_text() for name in names] == ["150000 100000", "4000000000", "0", "0", "200"]


def test_a_kernel_without_swap_limits_is_good_enough_and_one_without_the_limit_itself_is_not(tmp_path: Path) -> None:
    (tmp_path / "memory.max").touch()

    groups._limit(tmp_path, (("memory", 10**9),))
    with pytest.raises(Refused, match=r"has no pids\.max"):
        groups._limit(tmp_path, (("pids", 100),))

    assert [path.name for path in tmp_path.iterdir()] == ["memory.max"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"io": 3}, "no limit of a cgroup is called 'io'; there are cpu, memory, pids"),
        ({"pids": 1}, "cgroup pids must be from 8 to"),
        ({"pids": 10.5}, "cgroup pids must be a whole number"),
        ({"pids": float("inf")}, "cgroup pids must be from 8 to"),
        ({"cpu": float("nan")}, "cgroup cpu must be from 0.01 to"),
        ({"memory": 1000}, "cgroup memory must be from 50000000 to"),
    ],
    ids=str,
)
def test_a_limit_that_can_not_be_is_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(Refused, match=said):
        groups.read_group_limits(given)


# --- on this kernel ---------------------------------------------------------------------------------------------------


def test_what_jobs_start_is_in_the_group_and_who_looks_after_them_is_not(tmp_path: Path, place: Path) -> None:
    with a_lab(tmp_path) as lab:
        lab.prefix = entering(place)
        worker = lab.start_worker(slots=2, cgroup=(), drain_seconds=0.1)
        with lab.connect() as c:
            job = c.submit(make_holder(), (str(tmp_path / "flag"),), crash_limit=0)
            child, nursery, daemon = told_in(tmp_path / "flag")

            (group,) = groups_in(place)
            assert [cgroup_of(pid) for pid in (child, daemon, nursery, worker.pid)] == [group, group, place, place]
            assert len(groups._members(group)) == 3  # the other slot's child too
            job.cancel()
        worker.send_signal(signal.SIGTERM)
        worker.wait(DEADLINE_SECONDS)

    assert groups_in(place) == []
    assert "limits=none" in lab.log()


def test_jobs_of_another_user_are_in_the_group_too(tmp_path: Path, place: Path) -> None:
    def look() -> tuple[int, str]:
        with open("/proc/self/cgroup") as file:  # noqa: PTH123
            return os.geteuid(), file.read()

    scratch = Path("/tmp") / f"tests-{uuid.uuid4().hex[:8]}"
    with a_lab(tmp_path) as lab:
        lab.prefix = entering(place)
        lab.start_worker(cgroup=(), user="nobody", scratch=str(scratch))
        with lab.connect() as c:
            user, told = c.submit(look, crash_limit=0).result(DEADLINE_SECONDS)

        (group,) = groups_in(place)
        assert user > 0
        assert (groups.own_path(told) or "").endswith(f"/{group.name}")
    scratch.rmdir()


def test_without_the_option_there_is_no_group(tmp_path: Path, place: Path) -> None:
    with a_lab(tmp_path) as lab:
        lab.prefix = entering(place)
        lab.start_worker()

        assert [path for path in place.iterdir() if path.is_dir()] == []


def test_a_killed_worker_s_group_is_emptied_and_removed_by_the_next_of_its_name_and_by_no_other(
    tmp_path: Path, place: Path
) -> None:
    with a_lab(tmp_path) as lab:
        lab.prefix = entering(place)
        first = lab.start_worker("w", slots=1, cgroup=())
        with lab.connect() as c:
            job = c.submit(make_holder(), (str(tmp_path / "flag"),), crash_limit=0)
            child, nursery, daemon = told_in(tmp_path / "flag")
            (group,) = groups_in(place)
            # So that nobody is left who would have killed the daemon.
            os.kill(first.pid, signal.SIGSTOP)
            os.kill(nursery, signal.SIGKILL)
            first.kill()
            first.wait()
            wait_until(lambda: is_gone(child))
            assert psutil.pid_exists(daemon)

            lab.start_worker("w-2", slots=1, cgroup=())
            (other,) = set(groups_in(place)) - {group}
            assert psutil.pid_exists(daemon)
            lab.start_worker("w", slots=1, cgroup=())

            assert is_gone(daemon)
            assert group not in groups_in(place)
            assert other in groups_in(place)
            lab.start_worker("w", slots=1, cgroup=())
            assert len(groups_in(place)) == 3  # the living one of the same name has kept its own
            job.cancel()

    assert f"removed the cgroup of a dead worker path={group}" in lab.log()
    assert groups_in(place) == []


@pytest.mark.parametrize("switch", ["cgroup.kill", "no.such.file"], ids=["at once", "one by one"])
def test_all_that_forks_in_a_group_is_killed_also_on_an_old_kernel(
    switch: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_KILL", switch)
    group, lock = groups._make(place, "w")
    inner = group / "made-by-a-job"
    inner.mkdir()
    # Each process starts the next one and ends, for a minute at most: whoever takes them one by one is always late.
    chain = "import os, time\nend = time.monotonic() + 60\nwhile os.fork() == 0 and time.monotonic() < end: os.setsid()"
    runners = [
        subprocess.Popen([*entering(folder), sys.executable, "-c", chain], start_new_session=True)
        for folder in (group, inner)
    ]
    wait_until(lambda: bool(groups._members(group)) and bool(groups._members(inner)))

    assert groups._remove(group)

    assert not group.exists()
    for runner in runners:
        runner.wait(DEADLINE_SECONDS)
    os.close(lock)


def test_one_that_was_removed_before_it_was_locked_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, seen = groups._lock, []

    def late(group: Path) -> int | None:
        seen.append(group)
        if len(seen) == 1:
            groups._remove_dead(place, "w")  # which locks it: the second
        return genuine(group)

    monkeypatch.setattr(groups, "_lock", late)

    group, lock = groups._make(place, "w")

    assert group == groups_in(place)[0] == seen[-1] != seen[0]
    assert genuine(group) is None
    os.close(lock)


_TURN_ON = """
import os, sys
from pathlib import Path
from cluster.worker import groups
try:
    groups._turn_on(groups.find_place(), sys.argv[1:])
except groups.Refused as error:
    print(error)
print(Path("/proc/self/cgroup").read_text())
"""


def turn_on(place: Path, *controllers: str) -> str:
    """What a process that is started in this cgroup says after it has tried."""
    return subprocess.run(
        [*entering(place), sys.executable, "-c", _TURN_ON, *controllers],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True, cwd=ROOT,
    ).stdout  # fmt: skip


def test_who_must_turn_a_controller_on_moves_itself_out_of_the_way_and_who_need_not_stays(
    controller: str, place: Path
) -> None:
    untouched = turn_on(place)
    moved = turn_on(place, controller)
    again = turn_on(place / "supervisor", controller)

    assert f"0::/{place.name}\n" in untouched
    assert f"0::/{place.name}/supervisor\n" in moved
    assert f"0::/{place.name}/supervisor\n" in again  # its place was the group around it, and all was there
    assert (place / groups._TURNED_ON).read_text().split() == [controller]
    assert [path.name for path in place.iterdir() if path.is_dir()] == ["supervisor"]


def test_others_in_the_way_are_left_where_they_are_and_named(controller: str, place: Path) -> None:
    with subprocess.Popen([*entering(place), "sleep", "60"]) as other:
        wait_until(lambda: cgroup_of(other.pid) == place)

        said = turn_on(place, controller)

        assert f"{place} has other processes besides this worker ({other.pid}); start the worker in" in said
        assert cgroup_of(other.pid) == place
        other.kill()


@pytest.mark.parametrize(
    ("read_only", "limits", "said"),
    [
        ("", (("pids", 100),), "has not got pids (its cgroup.controllers: none)"),
        (".", (), "Permission denied"),
        ("cgroup.procs", (), "/cgroup.procs can't be written to"),
    ],
    ids=["no controller", "no new groups", "no moves"],
)
def test_a_worker_that_can_not_have_the_group_says_why_and_what_to_do(
    read_only: str, limits: GroupLimits, said: str, tmp_path: Path, place: Path
) -> None:
    with a_lab(tmp_path) as lab:
        entered = f'echo 0 > {place}/cgroup.procs; test -z "$0" || chmod a-w {place}/$0; exec "$@"'
        prefix = ("sh", "-c", entered, read_only, *prying.ORDINARY)
        refused = Lab(tmp_path, lab.bind, prefix=prefix).run_worker(cgroup=limits)

    last = refused.stderr.strip().splitlines()[-1]
    assert refused.returncode == 2
    assert said in last
    assert str(place) in last
    assert "systemd-run --user -p Delegate=yes cluster worker" in last
    assert "or leave `cgroup` out" in last
    assert "Traceback" not in refused.stderr
    assert [path for path in place.iterdir() if path.is_dir()] == []


def test_a_child_that_can_not_join_its_group_runs_no_job(tmp_path: Path, place: Path) -> None:
    with a_lab(tmp_path) as lab:
        lab.prefix = entering(place)
        lab.start_worker(slots=1, cgroup=())
        with lab.connect() as c:
            assert c.submit(int).result(DEADLINE_SECONDS) == 0
            (group,) = groups_in(place)
            for pid in groups._members(group):
                os.kill(pid, signal.SIGKILL)
            remove(group)  # by a hand that should not
            job = c.submit(int)
            wait_until(lambda: "died before its first job" in lab.log())

            assert not job.done()
            lab.processes[-1].kill()
            lab.processes[-1].wait()
            lab.start_worker(slots=1, cgroup=())
            assert job.result(DEADLINE_SECONDS) == 0


def test_a_place_for_threads_is_refused_before_any_job_could_fail_in_it(place: Path) -> None:
    (place / "threads").mkdir()
    groups._write(place / "threads" / groups._TYPE, "threaded")  # which makes `place` their domain

    with pytest.raises(Refused, match="is for threads, and a group below it would be domain invalid"):
        groups._make(place, "w")

    assert groups_in(place) == []
