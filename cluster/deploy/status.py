"""How a cluster is: what its keeper knows of the processes, and what its master knows of the workers."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from cluster.deploy.commands import key_file, parts_of, running_parts
from cluster.deploy.processes import NOBODY, ProcessName
from cluster.deploy.runtime import PartRecord, Runtime, Snapshot
from cluster.deploy.schema import Config, Threads, Worker
from cluster.deploy.tls import dialled, files_of
from cluster.embedded.cpus import usable_cpus
from cluster.errors import ClusterError
from cluster.wire.address import parse_address
from cluster.wire.calls import MasterInfo, Nothing
from cluster.wire.keys import Role, load_key
from cluster.wire.messages import Health, Stats, WorkerInfo
from cluster.wire.proxy import connect_desk

# A master that lives answers in milliseconds; one that does not is told as such, soon.
PATIENCE_SECONDS = 2.0
_NEVER_STARTED = PartRecord(NOBODY, "down")


class MasterStatus(Struct, frozen=True):
    """The master, as its keeper and it itself tell."""

    pid: int  # 0: none runs
    address: str
    # "ready", "refusing" (its store takes no jobs), "draining", "starting", "waiting" (to be started again), "failed",
    # "unreachable", "down"
    state: str
    store: str
    restarts: int = 0
    trouble: str = ""  # why it died last, or takes no jobs, or did not answer this host's own certificate and key
    security: dict[
        str, int
    ] = {}  # what it refused for security's sake since it started, by event; empty if unreachable


class WorkerStatus(Struct, frozen=True):
    """A worker, as its keeper and the master tell."""

    name: str
    host: str
    pid: int  # 0: none runs
    state: str  # "ready", "draining", "quarantined", "lost", "starting", "waiting", "failed", "unreachable", "down"
    slots: int
    running: int = 0
    restarts: int = 0
    trouble: str = ""
    health: Health | None = None  # None: the master has not heard from it
    is_kept: bool = True  # False: it was started by hand, here or on another host, and no keeper restarts it


class _Answer(Struct, frozen=True):
    """What the master says of itself, its workers and its counters."""

    info: MasterInfo | None = None  # None: it does not answer
    workers: tuple[WorkerInfo, ...] = ()
    stats: Stats | None = None
    trouble: str = ""  # why it does not


class Status(Struct, frozen=True):
    """A cluster. `cluster status FILE --json` prints it."""

    name: str
    state: str  # "up", "degraded" (some part is not ready, or no keeper watches), "down"
    keeper: int  # its pid; 0: none runs
    master: MasterStatus
    workers: tuple[WorkerStatus, ...]  # the file's, in its order; then those that joined by hand and are not lost


def status(config: Config) -> Status:
    """How the cluster of this configuration is now; never fails for what is not up."""
    runtime = Runtime.of(config)
    snapshot = runtime.snapshot() or Snapshot.of(config, config.master.bind)
    config = snapshot.parse()  # what runs, not what the file says by now
    running = running_parts(parts_of(snapshot, runtime, {}), runtime)
    keeper = runtime.keeper()
    records = runtime.recorded()
    answer = _ask(config, dialled(snapshot.address)) if "master" in running else _Answer()
    master = _master(config, snapshot.address, _now(records.get("master"), running.get("master")), answer)
    told = tuple(
        _worker(worker, _now(records.get(worker.name), running.get(worker.name)), answer.workers)
        for worker in config.workers
    )
    if keeper is None and not running:
        state = "down"
    else:
        states = {master.state, *(worker.state for worker in told)}
        is_whole = keeper is not None and states == {"ready"}
        state = "up" if is_whole else "degraded"
    # Nobody promised that these would be there, so the state above does not depend on them.
    named = {worker.name for worker in config.workers}
    joined = tuple(_joined(info) for info in answer.workers if info.state != "lost" and info.name not in named)
    return Status(config.name, state, 0 if keeper is None else keeper.pid, master, told + joined)


def _now(record: PartRecord | None, process: ProcessName | None) -> PartRecord:
    """What the keeper wrote, without what can't be so any more: a keeper that died writes nothing."""
    known = record or _NEVER_STARTED
    if process is not None:
        state = known.state if known.process == process else "ready"
    else:
        state = known.state if known.state in {"waiting", "failed"} else "down"
    return PartRecord(process or NOBODY, state, known.restarts, known.since, known.trouble)


def _ask(config: Config, address: str) -> _Answer:
    try:
        return _Answer(
            _call(config, address, "admin", "ping"),
            _call(config, address, "jobs", "workers"),
            _call(config, address, "jobs", "stats"),
        )
    except ClusterError as error:
        return _Answer(trouble=str(error))


def _call(config: Config, address: str, desk: str, method: str) -> Any:  # noqa: ANN401 - any call's answer
    proxy = connect_desk(
        desk,
        parse_address(address),
        Role.CLIENT,
        load_key(key_file(config, Role.CLIENT)),
        patience_seconds=PATIENCE_SECONDS,
        tls=files_of(config, Role.CLIENT),
        insecure=config.master.insecure,
    )
    try:
        return proxy.call(method, Nothing(), timeout=PATIENCE_SECONDS)
    finally:
        proxy.close()


def _master(config: Config, address: str, record: PartRecord, answer: _Answer) -> MasterStatus:
    state = record.state
    trouble = record.trouble
    info = answer.info
    if info is not None:
        if info.is_draining:
            state = "draining"
        elif info.store_trouble:
            state = "refusing"
        trouble = info.store_trouble or trouble
    elif state == "ready":
        state = "unreachable"
        trouble = answer.trouble or trouble
    security = answer.stats.security if answer.stats is not None else {}
    return MasterStatus(record.process.pid, address, state, config.master.store, record.restarts, trouble, security)


def _worker(worker: Worker, record: PartRecord, known: tuple[WorkerInfo, ...]) -> WorkerStatus:
    # A worker that was started again has a new id; of the earlier one nothing is expected any more.
    info = next((info for info in known if info.name == worker.name and info.pid == record.process.pid), None)
    state = record.state
    if info is not None:
        state = info.state if state == "ready" else state
    elif state == "ready":
        state = "unreachable"  # the master has not heard from it, or does not answer itself
    return WorkerStatus(
        name=worker.name,
        host=worker.host if info is None else info.host,
        pid=record.process.pid,
        state=state,
        slots=_slots_of(worker) if info is None else info.slots,
        running=0 if info is None else info.running,
        restarts=record.restarts,
        trouble=record.trouble or ("" if info is None else info.trouble),
        health=None if info is None else info.health,
    )


def _joined(info: WorkerInfo) -> WorkerStatus:
    return WorkerStatus(
        name=info.name,
        host=info.host,
        pid=info.pid,
        state=info.state,
        slots=info.slots,
        running=info.running,
        trouble=info.trouble,
        health=info.health,
        is_kept=False,
    )


def _slots_of(worker: Worker) -> int:
    if isinstance(worker.slots, Threads):
        return worker.slots.threads
    return usable_cpus() if worker.slots == "auto" else worker.slots
