"""`cluster worker`: a supervisor as a process of its own, in the foreground.

    main thread: signals ──► drain, stop          supervisor's thread ◄─► RemoteWorkDesk: hearing, telling ◄─TCP─► master
                                                       │
                                                    nursery ── children

The first SIGTERM or SIGINT drains: no new work, what runs may end within the deadline, the rest is handed back. The second
kills what runs, and hands it back. The third ends the process where it stands: the nursery sees to the children, and the
master to the leases, when the heartbeats are missed. That is what happens at a SIGKILL too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cluster.errors import ClusterError, Refused
from cluster.log_lines import set_up_log, tell_mistake
from cluster.wire.address import parse_address, warn_if_open
from cluster.wire.calls import MasterInfo, Nothing, Welcome
from cluster.wire.hiding import hide_memory
from cluster.wire.keys import Role, load_key
from cluster.wire.proxy import DeskProxy, connect_desk
from cluster.wire.remote_work import RemoteWorkDesk
from cluster.wire.tls import TlsFiles, own_identity
from cluster.worker.config import WorkerConfig
from cluster.worker.groups import GroupLimits, jobs_group
from cluster.worker.identity import Identity, find_identity, require_way
from cluster.worker.limits import DEFAULTS, Limits, require_possible
from cluster.worker.orphans import ORPHANS
from cluster.worker.scratch import scratch_folder
from cluster.worker.supervisor import Supervisor

USERS_MISTAKE = 2
# A result must fit into one frame of the connection, with what goes around it.
MAX_RESULT_BYTES = 240 << 20
# The desk tries again by itself; a call that hangs must not keep a worker from leaving.
CALL_PATIENCE_SECONDS = 2.0
MAX_THREADS = 4096

log = logging.getLogger("cluster.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessConfig:
    """What `cluster worker` is told."""

    address: str
    authkey_file: str
    name: str  # with TLS, the one that the certificate has
    slots: int  # processes, or with `threads` as many of those
    threads: int = 0
    resources: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    max_jobs_per_child: int = 0  # 0: no end
    scratch: str = ""  # where the jobs' folders are made; empty: in the system's folder for temporary files
    user: str = ""  # name or number of who jobs run as; empty: whoever the worker runs as
    limits: Limits = tuple(DEFAULTS.items())
    cgroup: GroupLimits | None = None  # of all that its jobs start together; None: they have no group of their own
    drain_seconds: float = 60.0
    patience_seconds: float = 30.0  # for the first contact with the master
    ready_fd: int | None = None  # one line is written there once jobs are taken
    log_level: str = "info"
    log_format: str = "text"  # or "json"
    tls: TlsFiles | None = None
    insecure: bool = False  # go to another host without TLS


def parse_slots(text: str, cpus: int) -> tuple[int, int]:
    """Slots and threads of "4", "auto" or "threads:32". Raises `Refused` with what to write instead."""
    kind, _, count = text.strip().rpartition(":")
    if kind == "" and count == "auto":
        return cpus, 0
    if kind not in {"", "threads"} or not count.isdecimal() or not 1 <= int(count) <= MAX_THREADS:
        raise Refused(f"slots can't be {text!r}; write a number from 1 on, auto, or threads:N for jobs that only wait")
    return int(count), int(count) if kind else 0


def run_worker(config: WorkerProcessConfig) -> int:
    """Be a worker until a signal ends it; the exit status.

    0: it was drained. 1: something was killed and handed back. 2: it couldn't start, and one sentence said why.
    """
    faulthandler.enable()
    ORPHANS.adopt()
    try:
        set_up_log(config.log_level, config.log_format)
        identity = find_identity(config.user) if config.user else None
        require_possible(config.limits)
        hide_memory()
        _meet(config)
        with (
            jobs_group(config.cgroup, config.name) as group,
            scratch_folder(_scratch_parent(config), config.name, is_shared=identity is not None) as scratch,
        ):
            if identity is not None:
                require_way(identity, scratch)
                _warn_of_modules(identity)
            elif os.geteuid() == 0:
                _warn_of_root(config.name)
            return _serve(config, _worker_config(config, scratch, identity, group))
    except (ClusterError, ValueError, OSError) as error:
        tell_mistake("cluster worker", error)
        return USERS_MISTAKE


class _Killed(BaseException):
    """The second signal, while the first one is obeyed."""


class _Signals:
    """What SIGTERM and SIGINT mean, by how many came."""

    def __init__(self) -> None:
        self.first = threading.Event()
        self._count = 0
        self._is_draining = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        self.first.set()
        if self._count > 2:  # noqa: PLR2004 - the third
            os._exit(128 + number)
        if self._count == 2 and self._is_draining:  # noqa: PLR2004 - the second
            raise _Killed

    @contextlib.contextmanager
    def may_kill(self) -> Iterator[None]:
        """In this block the second signal raises `_Killed`; also if it came already."""
        self._is_draining = True
        try:
            if self._count > 1:
                raise _Killed
            yield
        finally:
            self._is_draining = False


def _connect(config: WorkerProcessConfig, desk: str, patience_seconds: float) -> DeskProxy:
    address, key = parse_address(config.address), load_key(Path(config.authkey_file))
    return connect_desk(
        desk, address, Role.WORKER, key,
        patience_seconds=patience_seconds, tls=config.tls, insecure=config.insecure,
    )  # fmt: skip


def _meet(config: WorkerProcessConfig) -> None:
    """Find out whether the master takes us at all, while there is somebody to tell it to."""
    if config.insecure:
        warn_if_open(log, parse_address(config.address), is_guarded=config.tls is not None)
    _require_own_name(config)
    admin = _connect(config, "admin", config.patience_seconds)
    try:
        info: MasterInfo = admin.call("ping", Nothing())
    finally:
        admin.close()
    log.info("met master pid=%d address=%s store=%s", info.pid, info.address, info.store)


def _require_own_name(config: WorkerProcessConfig) -> None:
    """The master would say it too, but only to the log of a worker that runs already."""
    if config.tls is None:
        return
    own = own_identity(config.tls)
    if own.name != config.name:
        raise Refused(
            f"certificate {config.tls.cert} is of {own.role} {own.name}, so this worker can't be called "
            f"{config.name!r}; leave its name out, or have a certificate issued: cluster certs issue worker {config.name}"
        )


def _serve(config: WorkerProcessConfig, work: WorkerConfig) -> int:
    signals = _Signals()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signals)
    supervisors: list[Supervisor] = []

    def on_welcome(welcome: Welcome) -> None:
        for supervisor in supervisors:
            supervisor.beat_every(welcome.heartbeat_interval_seconds)

    caller = _connect(config, "work", CALL_PATIENCE_SECONDS)
    desk = RemoteWorkDesk(caller, on_welcome)
    supervisor = Supervisor(work)
    supervisors.append(supervisor)
    supervisor.start(desk, desk.line(caller))
    try:
        _be_ready(config, supervisor, desk, signals)
        signals.first.wait()
        return _drain(config, supervisor, signals)
    finally:
        supervisor.stop()
        desk.close()
        log.info("worker ends name=%s", config.name)


def _be_ready(config: WorkerProcessConfig, supervisor: Supervisor, desk: RemoteWorkDesk, signals: _Signals) -> None:
    """Say that jobs are taken, to the log and to whoever started us, as soon as it is true."""
    while not signals.first.is_set():
        if desk.wait_registered(0.5) and supervisor.wait_ready(0.5):
            worker = supervisor.statistics().worker
            log.info("ready worker=%s slots=%d pid=%d", worker, config.slots, os.getpid())
            if config.ready_fd is not None:
                with open(config.ready_fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                    file.write(f"ready worker {worker} {os.getpid()}\n")
            return


def _drain(config: WorkerProcessConfig, supervisor: Supervisor, signals: _Signals) -> int:
    log.info("draining name=%s deadline_seconds=%g", config.name, config.drain_seconds)
    try:
        with signals.may_kill():
            if supervisor.drain(config.drain_seconds):
                return 0
            log.warning("drain deadline passed name=%s; what runs is killed and handed back", config.name)
    except _Killed:
        log.warning("second signal name=%s; what runs is killed and handed back", config.name)
    return 1


def _warn_of_modules(identity: Identity) -> None:
    """Say what jobs of another user can't import, which is a riddle to who meets it in a job."""
    folders = {str(Path(os.__file__).parent), *(path for path in sys.path if path and Path(path).is_dir())}
    for folder in sorted(folders):
        try:
            require_way(identity, folder)
        except Refused:
            log.warning("unreadable folder=%s user=%s: jobs can import nothing from there", folder, identity.name)


def _warn_of_root(name: str) -> None:
    """Say it here, where whoever starts the worker looks: nothing holds back what root's jobs do."""
    log.warning(
        "worker=%s is root and so are its jobs, which can read all memory and files of this host, the cluster's keys in "
        "them: start it as an ordinary user, or write --user NAME (user: NAME in the file) for who its jobs run as",
        name,
    )


def _worker_config(config: WorkerProcessConfig, scratch: str, identity: Identity | None, group: str) -> WorkerConfig:
    return WorkerConfig(
        name=config.name,
        slots=config.slots,
        threads=config.threads,
        resources=config.resources,
        labels=config.labels,
        env=config.env,
        max_jobs_per_child=config.max_jobs_per_child,
        scratch=scratch,
        identity=identity,
        limits=config.limits,
        group=group,
        max_result_bytes=MAX_RESULT_BYTES,
    )


def _scratch_parent(config: WorkerProcessConfig) -> str:
    return config.scratch or os.path.join(tempfile.gettempdir(), f"cluster-{os.getuid()}")  # noqa: PTH118 - text wanted
