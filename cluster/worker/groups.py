"""The control group of all that a worker's jobs start, and the limits that hold for it as a whole (cgroups(7), version 2).

    place                     the cgroup that the worker was started in, of which it must have the say
     ├── cluster-NAME-RANDOM  the children and what they start: each moves itself here before it sees a job
     └── supervisor           supervisor and nursery; only where `place` had to be emptied

The kernel turns controllers on only for the children of a group without processes of its own (the root of all excepted).
So where one must be turned on, the worker first moves itself, and nobody else, into a leaf beside its jobs; a worker that
finds itself in such a leaf takes the group around it for its place. Nursery and supervisor are never in the jobs' group:
neither its memory nor its count of processes ends, or stops, who must clean up.

A group belongs to the worker that holds a lock on its folder, for as long as it lives. It is removed with all that runs in
it: at the worker's end, or, where that was killed, by the next one of its name. One that somebody sees between its making
and its locking is taken for a dead one's; then another is made. Other users can't open the folder, and so not lock it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from cluster.errors import Refused

# Pairs of a controller's name and what it allows. None in its place: no group at all.
GroupLimits = tuple[tuple[str, float], ...]

# Bytes, processors, processes (threads count too). Below these no child could start, or the kernel takes no such value.
LEAST: Mapping[str, float] = {"cpu": 0.01, "memory": 50 * 10**6, "pids": 8}
MOST: Mapping[str, float] = {"cpu": 1024, "memory": 1 << 60, "pids": 1 << 22}
PERIOD_MICROSECONDS = 100_000  # the kernel's own default

LEAF = "supervisor"
_LISTED, _TURNED_ON = "cgroup.controllers", "cgroup.subtree_control"
_MEMBERS, _KILL, _FREEZE, _TYPE = "cgroup.procs", "cgroup.kill", "cgroup.freeze", "cgroup.type"
MAX_TRIES = 10
# As long as other sweeps: a process in an uninterruptible wait must not hold up the rest.
MAX_SWEEP_SECONDS = 2.0
SWEEP_SECONDS = 0.002

log = logging.getLogger("cluster.worker")


def read_group_limits(given: Mapping[str, float]) -> GroupLimits:
    """The limits of a worker's group, in one order. Raises `Refused` for one that there is not, or can't be."""
    for name, value in given.items():
        if name not in LEAST:
            raise Refused(f"no limit of a cgroup is called {name!r}; there are {', '.join(LEAST)}")
        if not LEAST[name] <= value <= MOST[name]:
            raise Refused(f"cgroup {name} must be from {LEAST[name]} to {MOST[name]}, not {value}")
        if name != "cpu" and value != int(value):
            raise Refused(f"cgroup {name} must be a whole number, not {value}")
    return tuple(sorted(given.items()))


@contextlib.contextmanager
def jobs_group(limits: GroupLimits | None, worker: str) -> Iterator[str]:
    """A group for the jobs of one worker process, as long as the block lasts; those of dead ones of its name are removed.

    Args:
        limits: may be none at all, for a group that only holds together; None: no group, and an empty path.
        worker: its name.

    Raises:
        Refused: this process can't make such a group; what is missing, and how to get it.
    """
    if limits is None:
        yield ""
        return
    place = find_place()
    # Whoever moves a process must be allowed to write here too, which its children would find out too late.
    if not os.access(place / _MEMBERS, os.W_OK):
        raise _refusal(f"{place / _MEMBERS} can't be written to")
    try:
        _turn_on(place, [name for name, _ in limits])
        _remove_dead(place, worker)
        group, lock = _make(place, worker)
    except OSError as error:
        raise _refusal(f"{error.filename or place}: {error.strerror}") from error
    try:
        _limit(group, limits)
        log.info(
            "jobs have a cgroup path=%s limits=%s",
            group,
            ",".join(f"{name}={value}" for name, value in limits) or "none",
        )
        yield str(group)
    finally:
        if not _remove(group):
            log.warning("cgroup stays path=%s: something in it can't be killed", group)
        os.close(lock)


# --- where ------------------------------------------------------------------------------------------------------------


def find_place() -> Path:
    """The folder of the cgroup in which groups of ours are made. Raises `Refused` if there is none."""
    own, mounted = own_path(_read("/proc/self/cgroup")), mounts(_read("/proc/self/mountinfo"))
    if own is None:
        raise _refusal("this system has no cgroup v2")
    for root, point in mounted:
        place = place_below(root, point, own)
        if place is not None and place.is_dir():
            return place
    raise _refusal(f"no cgroup2 file system is mounted that shows this worker's own cgroup {own}")


def own_path(text: str) -> str | None:
    """The path of the one line of /proc/PID/cgroup that is of version 2."""
    return next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)


def mounts(text: str) -> list[tuple[str, str]]:
    """What each mount of cgroup2 shows, and where, from /proc/PID/mountinfo."""
    found = []
    for line in text.splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] == "cgroup2":
            root, point = fields.split(" ")[3:5]
            found.append((_unescaped(root), _unescaped(point)))
    return found


def place_below(root: str, point: str, own: str) -> Path | None:
    """Where this mount shows the cgroup `own`, or what is around it if that is a leaf of ours; None if it does not."""
    path = PurePosixPath(own)
    if ".." in path.parts or not path.is_relative_to(root):  # of a namespace, or a mount, that ends below it
        return None
    inside = path.relative_to(root)
    return Path(point, inside.parent if inside.name == LEAF else inside)


def _read(path: str) -> str:
    with contextlib.suppress(OSError):  # another system than Linux
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    return ""


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


# --- making it --------------------------------------------------------------------------------------------------------


def _turn_on(place: Path, wanted: list[str]) -> None:
    listed = (place / _LISTED).read_text().split()
    missing = [name for name in wanted if name not in listed]
    if missing:
        raise _refusal(
            f"{place} has not got {', '.join(missing)} (its cgroup.controllers: {' '.join(listed) or 'none'})"
        )
    if not wanted:
        return
    if (place / _TYPE).exists():  # the root has none
        _empty(place)
    turned_on = (place / _TURNED_ON).read_text().split()
    for name in wanted:
        if name not in turned_on:
            _write(place / _TURNED_ON, f"+{name}")


def _empty(place: Path) -> None:
    """Move this process out of it. Raises `Refused` if it is not alone there."""
    # Before anything is turned on: of memory the kernel would say that it can't be, but with cpu or pids alone it would
    # make `place` the domain of threads, and then no process could get into a group below it.
    if os.getpid() in _members(place):
        (place / LEAF).mkdir(exist_ok=True)
        _write(place / LEAF / _MEMBERS, "0")
        log.info("moved itself cgroup=%s", place / LEAF)
    others = _members(place)
    if others:
        named = " ".join(map(str, others[:5]))
        raise _refusal(f"{place} has other processes besides this worker ({named})")


def _make(place: Path, worker: str) -> tuple[Path, int]:
    """A new group, and the lock that keeps it."""
    for _ in range(MAX_TRIES):
        group = place / f"cluster-{worker}-{secrets.token_hex(4)}"
        group.mkdir(mode=0o711)
        lock = _lock(group)
        if lock is None:
            continue
        kind = (group / _TYPE).read_text().strip()
        if kind == "domain":
            return group, lock
        group.rmdir()
        os.close(lock)
        raise _refusal(f"{place} is for threads, and a group below it would be {kind}")
    raise _refusal(f"others remove what is made in {place}")


def _limit(group: Path, limits: GroupLimits) -> None:
    for name, value in limits:
        for file, text, is_everywhere in settings(name, value):
            try:
                _write(group / file, text)
            except FileNotFoundError as error:
                if is_everywhere:
                    raise _refusal(f"{group} has no {file}") from error
            except OSError as error:
                raise _refusal(f"{group / file} takes no {text!r}: {error.strerror}") from error


def settings(name: str, value: float) -> list[tuple[str, str, bool]]:
    """The files that make a limit, what to write into each, and whether every kernel with the controller has it."""
    if name == "cpu":
        return [("cpu.max", f"{int(value * PERIOD_MICROSECONDS)} {PERIOD_MICROSECONDS}", True)]
    if name == "memory":
        # One process dies, not all jobs of the worker; and a limit that ends in swap would be none.
        return [
            ("memory.max", str(int(value)), True),
            ("memory.oom.group", "0", False),
            ("memory.swap.max", "0", False),
        ]
    return [("pids.max", str(int(value)), True)]


# --- and removing it --------------------------------------------------------------------------------------------------


def _remove_dead(place: Path, worker: str) -> None:
    ours = re.compile(rf"cluster-{re.escape(worker)}-[0-9a-f]{{8}}")
    for group in sorted(path for path in place.iterdir() if ours.fullmatch(path.name)):
        lock = _lock(group)
        if lock is None:
            continue  # its worker lives
        try:
            is_gone = _remove(group)
        finally:
            os.close(lock)
        log.warning("%s cgroup of a dead worker path=%s", "removed the" if is_gone else "can't remove the", group)


def _lock(group: Path) -> int | None:
    """The locked folder; None if another has locked it, or it was removed just now."""
    try:
        descriptor = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), group.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove(group: Path) -> bool:
    """Kill all that is in it and in groups that jobs made below, and remove them; False if that takes too long."""
    deadline = time.monotonic() + MAX_SWEEP_SECONDS
    while True:
        _kill(group)
        for folder in _tree(group):
            with contextlib.suppress(OSError):  # something of it is still on its way out
                folder.rmdir()
        if not group.exists():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(SWEEP_SECONDS)


def _kill(group: Path) -> None:
    with contextlib.suppress(OSError):
        _write(group / _KILL, "1")
        return
    # A kernel before 5.14. What is frozen dies of a SIGKILL too, and doesn't fork meanwhile.
    with contextlib.suppress(OSError):
        _write(group / _FREEZE, "1")
    for folder in _tree(group):
        for pid in _members(folder):
            _kill_member(pid, folder)


def _kill_member(pid: int, group: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            # Asked again now that the number can't come to mean another process.
            if pid in _members(group):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _members(group: Path) -> list[int]:
    with contextlib.suppress(OSError):
        # 0 is one that this namespace has no number for.
        return [pid for word in (group / _MEMBERS).read_text().split() if (pid := int(word))]
    return []


def _tree(group: Path) -> list[Path]:
    """A group and all below it, the innermost first."""
    return [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]


def _write(path: Path, text: str) -> None:
    # Not for making files, of which this file system makes none.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _refusal(what: str) -> Refused:
    return Refused(
        f"jobs can't have a cgroup with these limits: {what}; start the worker in a cgroup of its own that is delegated to it "
        f"(`systemd-run --user -p Delegate=yes cluster worker ...`), or leave `cgroup` out"
    )
