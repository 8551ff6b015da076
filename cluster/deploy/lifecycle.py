"""Bringing a cluster up and down. Both may be said twice, and both go on where a crash left things.

`up` holds the folder's lock while it sees to it that a keeper runs, and returns when every part is ready. What cannot
become ready is told in one sentence, and nothing that this `up` started is left. `down` asks the keeper to drain and end;
then, keeper or not, it looks for whatever carries the cluster's mark, and ends it; last, the folder goes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cluster.deploy.commands import log_of, parts_of, running_parts
from cluster.deploy.keeper import GRACE_SECONDS
from cluster.deploy.kept_part import LOG_FLAGS
from cluster.deploy.processes import MARK, ProcessName, marked_processes, wait_gone
from cluster.deploy.runtime import Runtime, Snapshot
from cluster.deploy.schema import Config
from cluster.deploy.tls import dialled, prepare
from cluster.errors import ClusterError, MasterUnavailable, Refused
from cluster.wire.address import parse_address
from cluster.wire.folders import make_private, require_unshared

UP_SECONDS = 60.0
_POLL_SECONDS = 0.02
# What the nursery and the children of a killed worker need to notice that.
_ORPHAN_SECONDS = 3.0
_KILL_SECONDS = 10.0
_MAX_SWEEPS = 10


def up(config: Config, *, timeout_seconds: float = UP_SECONDS, python_path: Sequence[str] = ()) -> bool:
    """Bring the described cluster up; returns when its master and all its workers are ready.

    Args:
        config: from `load_config`.
        timeout_seconds: how long all of it may take.
        python_path: where jobs' modules are looked for, besides the folder of the file.

    Returns:
        Whether it had to start anything; False: the cluster was up.

    Raises:
        Refused: the configuration can't be had as it is, or the cluster is up with another one.
        MasterUnavailable: it is not ready in time; what was started is stopped again.
    """
    deadline = time.monotonic() + timeout_seconds
    runtime = Runtime.of(config)
    with runtime.locked(timeout_seconds):
        snapshot = _settle_snapshot(runtime, config, tuple(python_path))
        running = running_parts(parts_of(snapshot, runtime, {}), runtime)
        is_up = runtime.keeper() is not None and len(running) == 1 + len(config.workers)
        for name, record in runtime.recorded().items():
            if not record.process.is_alive():
                runtime.forget_part(name)  # so that what is read below is what this keeper wrote
        try:
            prepare(config)
            _see_to_keeper(runtime, config)
            _wait_ready(runtime, config, deadline)
        except BaseException:
            if not running:
                _bring_down(runtime, config, is_patient=False)
            raise
    return not is_up


def down(config: Config, *, now: bool = False) -> int:
    """End every process of the cluster and leave nothing of it but its store, keys and logs.

    Args:
        config: from `load_config`; only its name, its keys and its drain timeout matter.
        now: don't let running jobs end. They stay in the store, if that is a durable one.

    Returns:
        How many processes ended; 0: it was not up.
    """
    runtime = Runtime.of(config)
    if not runtime.folder.exists() and not any(marked_processes(runtime.mark)):
        return 0
    with runtime.locked(_stop_seconds(config) + GRACE_SECONDS):
        return _bring_down(runtime, config, is_patient=not now)


def address_of(config: Config) -> str:
    """Where this host's programs find the cluster: by what it was brought up as, else by what the file says."""
    snapshot = Runtime.of(config).snapshot()
    return dialled(config.master.bind if snapshot is None else snapshot.address)


# --- up -----------------------------------------------------------------------------------------------------------


def _settle_snapshot(runtime: Runtime, config: Config, python_path: tuple[str, ...]) -> Snapshot:
    """What the cluster is to run as: what it runs as already, if that is what the file says."""
    known = runtime.snapshot()
    if known is not None:
        difference = _difference(msgspec.json.decode(known.config), msgspec.json.decode(config.model_dump_json()))
        if not difference:
            return known  # after a crash of everything too: the address stays
        if runtime.keeper() is not None or running_parts(parts_of(known, runtime, {}), runtime):
            raise Refused(
                f"cluster {config.name!r} is up with other settings: {difference}; "
                f"run `cluster down {config.file}` first, then `cluster up {config.file}`"
            )
    for folder in _folders(config):
        try:
            make_private(folder)
        except OSError as error:
            raise Refused(f"the folder {folder} can't be made: {error.strerror}") from error
    require_unshared(Path(config.log.dir))
    snapshot = Snapshot.of(config, _settle_address(config.master.bind), python_path)
    runtime.write_snapshot(snapshot)
    return snapshot


def _folders(config: Config) -> Iterator[Path]:
    yield Path(config.master.keys)
    yield Path(config.log.dir)
    for url, prefix in ((config.master.store, "sqlite:///"), (config.master.bind, "unix://")):
        if url.startswith(prefix):
            yield Path(url.removeprefix(prefix)).parent


def _difference(before: Any, after: Any, place: str = "") -> str:  # noqa: ANN401 - JSON of any shape
    """The first key whose value changed, told; empty: none did."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{place}.{key}" if place else str(key)
            if told := _difference(before.get(key), after.get(key), inner):
                return told
        return ""
    return "" if before == after else f"{place} is {before!r}, and the file now says {after!r}"


def _settle_address(bind: str) -> str:
    """The address, with a free port in place of port 0: it must stay the same when the master is started again."""
    address = parse_address(bind)
    if address.path or address.port:
        return bind
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address.host, 0))
        return str(msgspec.structs.replace(address, port=probe.getsockname()[1]))


def _see_to_keeper(runtime: Runtime, config: Config) -> None:
    """Have a living keeper try again what it gave up, or start one."""
    keeper = runtime.keeper()
    if keeper is not None and keeper.signal(signal.SIGHUP):
        return
    log = log_of(config, "keeper")
    with open(os.open(log, LOG_FLAGS, 0o600), "ab") as output:  # noqa: PTH123 - a descriptor
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cluster.deploy.keeper", MARK, runtime.mark],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_keeper_environment(),
            check=False,
        )
    if done.returncode:
        raise ClusterError(f"the keeper of cluster {config.name!r} did not start: {_last_line(log)}; see {log}")


def _keeper_environment() -> dict[str, str]:
    """Ours, without what is meant for clients, and so that its Python finds this very package."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CLUSTER_")}
    root = str(Path(__file__).parents[2])
    if root not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:  # a checkout that is not installed
        paths = [*environment.get("PYTHONPATH", "").split(os.pathsep), root]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    return environment


def _wait_ready(runtime: Runtime, config: Config, deadline: float) -> None:
    names = ["master", *(worker.name for worker in config.workers)]
    while True:
        records = runtime.recorded()
        for name in names:
            if name in records and records[name].state == "failed":
                raise Refused(f"{name}: {records[name].trouble}")
        waited_for = [name for name in names if name not in records or records[name].state != "ready"]
        if not waited_for:
            return
        if runtime.keeper() is None:
            log = log_of(config, "keeper")
            raise ClusterError(f"the keeper of cluster {config.name!r} died: {_last_line(log)}; see {log}")
        if time.monotonic() > deadline:
            trouble = records[waited_for[0]].trouble if waited_for[0] in records else ""
            raise MasterUnavailable(
                f"cluster {config.name!r} did not get ready in time: {', '.join(waited_for)} "
                f"{f'({trouble}) ' if trouble else ''}still to come; see {log_of(config, waited_for[0])}"
            )
        # sleeps because the keeper has nobody to tell: its records are what others read
        time.sleep(_POLL_SECONDS)


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace")[-4096:].splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return "it said nothing"


# --- down ---------------------------------------------------------------------------------------------------------


def _stop_seconds(config: Config) -> float:
    """How long a keeper may take: the workers drain, then the master."""
    return 2 * (config.drain.timeout + GRACE_SECONDS) + GRACE_SECONDS


def _bring_down(runtime: Runtime, config: Config, *, is_patient: bool) -> int:
    """Under the lock: end everything, then remove the folder; how many processes there were."""
    snapshot = runtime.snapshot() or Snapshot.of(config, config.master.bind)
    parts = parts_of(snapshot, runtime, {})
    running = running_parts(parts, runtime)
    keeper = runtime.keeper()
    count = len(running) + (keeper is not None)
    if keeper is not None:
        keeper.signal(signal.SIGTERM if is_patient else signal.SIGQUIT)
        for name in wait_gone([keeper], _stop_seconds(config) if is_patient else _KILL_SECONDS):
            name.signal(signal.SIGKILL)
            wait_gone([keeper], _KILL_SECONDS)
        running = running_parts(parts, runtime)
    if is_patient:
        master = running.pop("master", None)
        for group in (list(running.values()), [] if master is None else [master]):
            _end(group, config.drain.timeout + GRACE_SECONDS)
    _sweep(runtime)
    _remove_socket(snapshot.address)
    runtime.remove()
    return count


def _end(processes: Sequence[ProcessName], patience_seconds: float) -> None:
    for process in processes:
        process.signal(signal.SIGTERM)
    for process in wait_gone(processes, patience_seconds):
        process.signal(signal.SIGKILL)


def _sweep(runtime: Runtime) -> None:
    """Kill what is left: first whoever might start others."""
    for _ in range(_MAX_SWEEPS):
        left = [process for process, _ in marked_processes(runtime.mark)]
        if not left:
            return
        for record in runtime.recorded().values():
            record.process.signal(signal.SIGKILL)
        # Nurseries and children go by themselves when their supervisor is gone, children's files and all.
        for process in wait_gone(left, _ORPHAN_SECONDS):
            process.signal(signal.SIGKILL)
        wait_gone(left, _KILL_SECONDS)
    raise ClusterError(f"processes of {runtime.folder} can't be killed, or come back: {left}; end them by hand")


def _remove_socket(address: str) -> None:
    """A master that was killed leaves its socket's file."""
    path = parse_address(address).path
    with contextlib.suppress(OSError):
        if path and stat.S_ISSOCK(Path(path).lstat().st_mode):
            Path(path).unlink()
