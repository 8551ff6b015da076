"""From a configuration to the command lines of its parts. Paths of keys stand in them, the keys never."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from cluster.deploy.identity import MASTER
from cluster.deploy.processes import MARK, ProcessName, marked_processes
from cluster.deploy.quantities import write_duration
from cluster.deploy.runtime import Runtime, Snapshot
from cluster.deploy.schema import Config, Threads, Worker
from cluster.deploy.tls import dialled, files_of
from cluster.wire.keys import Role
from cluster.wire.tls import TlsFiles


class Part(Struct, frozen=True):
    """One process that a keeper holds up."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    folder: str  # its working directory
    log: str


def parts_of(snapshot: Snapshot, runtime: Runtime, environment: Mapping[str, str]) -> list[Part]:
    """Every part of a cluster, the master first."""
    config = snapshot.parse()
    folder = str(Path(snapshot.file).parent)
    # What is named CLUSTER_ is said on the command lines now, or meant for clients.
    shared = {name: text for name, text in environment.items() if not name.startswith("CLUSTER_")}
    # Jobs may name modules that lie beside the file. Nothing that lies there can get into the master's way: `-P` keeps
    # the working directory off its path.
    paths = [*snapshot.python_path, folder]
    at_work = {**shared, "PYTHONPATH": os.pathsep.join(dict.fromkeys([*_paths(shared), *paths]))}
    master = Part(
        "master",
        (*_master_command(config, snapshot.address), MARK, runtime.mark),
        shared,
        folder,
        str(log_of(config, "master")),
    )
    return [
        master,
        *(
            Part(
                worker.name,
                (*_worker_command(config, worker, snapshot.address, runtime), MARK, runtime.mark),
                {**at_work, **worker.env},
                folder,
                str(log_of(config, worker.name)),
            )
            for worker in config.workers
        ),
    ]


def running_parts(parts: Sequence[Part], runtime: Runtime) -> dict[str, ProcessName]:
    """Those that run now: by their records, else by their mark and command. For when who started one died at once."""
    records = runtime.recorded()
    found = {
        part.name: records[part.name].process
        for part in parts
        if part.name in records and records[part.name].process.is_alive()
    }
    strays = list(marked_processes(runtime.mark)) if len(found) < len(parts) else []
    for part in parts:
        for process, command in strays:
            if part.name not in found and tuple(command[: len(part.command)]) == part.command:
                found[part.name] = process
    return found


def log_of(config: Config, part: str) -> Path:
    """Where a part's output goes."""
    return Path(config.log.dir, f"{part}.log")


def key_file(config: Config, role: str) -> Path:
    """Where the key of a role is."""
    return Path(config.master.keys, f"{role}.key")


def _paths(environment: Mapping[str, str]) -> list[str]:
    return [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


def _master_command(config: Config, address: str) -> tuple[str, ...]:
    return (
        *(sys.executable, "-P", "-m", "cluster", "master"),
        *("--bind", address),
        *("--store", config.master.store),
        *("--keys", config.master.keys),
        *("--heartbeat-interval", write_duration(config.heartbeat.interval)),
        *("--heartbeat-timeout", write_duration(config.heartbeat.timeout)),
        *("--drain-timeout", write_duration(config.drain.timeout)),
        *_terms(config),
        *_log(config),
        *_security(config, files_of(config, MASTER)),
    )


def _terms(config: Config) -> Iterator[str]:
    defaults, retention = config.defaults, config.retention
    said = {
        "--default-retries": str(defaults.retries),
        "--default-backoff": write_duration(defaults.backoff),
        "--default-factor": repr(defaults.factor),
        "--default-max-delay": write_duration(defaults.max_delay),
        "--default-jitter": repr(defaults.jitter),
        "--default-crash-limit": str(defaults.crash_limit),
        "--retention-results": write_duration(retention.results),
        "--retention-dead": write_duration(retention.dead),
        "--retention-output": write_duration(retention.output),
        "--retention-max-size": str(retention.max_size),
    }
    for option, text in said.items():
        yield from (option, text)


def _log(config: Config) -> tuple[str, ...]:
    return ("--log-level", config.log.level, "--log-format", config.log.format)


def _security(config: Config, files: TlsFiles | None) -> Iterator[str]:
    if files is not None:
        yield from ("--tls-ca", str(files.ca), "--tls-cert", str(files.cert), "--tls-key", str(files.key))
    if config.master.insecure:
        yield "--insecure"


def _worker_command(config: Config, worker: Worker, address: str, runtime: Runtime) -> tuple[str, ...]:
    slots = f"threads:{worker.slots.threads}" if isinstance(worker.slots, Threads) else str(worker.slots)
    command = [
        *(worker.python or sys.executable, "-P", "-m", "cluster", "worker", dialled(address)),
        *("--name", worker.name),
        *("--slots", slots),
        *("--authkey-file", str(key_file(config, "worker"))),
        *("--drain-timeout", write_duration(config.drain.timeout)),
        *_log(config),
        *_security(config, files_of(config, Role.WORKER, worker.name)),
    ]
    for kind, many in sorted(worker.resources.items()):
        command += ["--resource", f"{kind}={many}"]
    for label, text in sorted(worker.labels.items()):
        command += ["--label", f"{label}={text}"]
    if worker.max_jobs_per_child is not None:
        command += ["--max-jobs-per-child", str(worker.max_jobs_per_child)]
    if worker.user is None:
        command += ["--scratch", str(runtime.folder / "scratch")]  # gone with the folder, whatever was killed
    else:
        command += ["--user", worker.user]  # who can't get into that folder: the worker's own default
    for limit, value in sorted(worker.limits.items()):
        command += ["--limit", f"{limit}={value}"]
    for limit, amount in sorted(worker.cgroup.items()):
        command += ["--cgroup", f"{limit}={amount}"]
    return tuple(command)
