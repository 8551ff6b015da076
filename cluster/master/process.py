"""The master as a process of its own: what stands behind `cluster master`.

    main thread                     committer, timekeeper       connection threads
    start everything, say ready       as ever (see `master`)      desks "jobs", "work", "admin"
    wait for a signal
    drain, stop everything, exit

Signals are blocked in every thread and waited for in the main one, so none ever interrupts a decision. SIGTERM or SIGINT
drains: nothing is leased any more, what runs may report until the drain's timeout, everything decided is committed,
clients hear of it. A second one ends the process where it stands, which is safe at any instant: the store has a prefix
of what was decided, and nobody was told of more.

When it dies, by whatever hand, the next master on the same store goes on: jobs under a lease wait one heartbeat timeout
for their worker, clients and workers come back by themselves, and submit or report again what they have no answer for.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from cluster.core.handlers import Settings
from cluster.core.records import DEFAULT_OPTIONS, Options
from cluster.errors import ClusterError, StoreError
from cluster.log_lines import set_up_log, tell_mistake
from cluster.master import statistics, trimming
from cluster.master.duty import Duty
from cluster.master.master import Master
from cluster.master.retention import Retention
from cluster.master.served_admin import ServedAdminDesk
from cluster.master.served_jobs import ServedJobsDesk
from cluster.master.served_work import ServedWorkDesk
from cluster.store.locate import open_store
from cluster.store.passing import may_pass
from cluster.wire.address import parse_address, warn_if_open
from cluster.wire.audit import AUDIT, Kind
from cluster.wire.hiding import hide_memory
from cluster.wire.keys import load_key, make_keys
from cluster.wire.manager import ClusterManager
from cluster.wire.server import ClusterServer
from cluster.wire.tls import TlsFiles

LOG = logging.getLogger("cluster.master")

STOPPING = (signal.SIGTERM, signal.SIGINT)
LOOK_SECONDS = 0.05
# After a drain: for clients to hear the last outcomes, and for calls in hand to be answered.
FAREWELL_SECONDS = 2.0
MISTAKE = 2
PASSING = 75  # EX_TEMPFAIL of sysexits.h: the store can't be used now, and may be later; its keeper goes on trying
MAX_DESCRIPTORS = 8192  # the door's 2,048 connections, with room for what else a process opens


class MasterConfig(Struct, frozen=True, kw_only=True):
    """What a master is told when it starts."""

    bind: str  # tcp://HOST:PORT (0: any free port) or unix://PATH
    store: str
    keys: Path  # the folder of client.key, worker.key and admin.key; made on the first start
    heartbeat_interval_seconds: float = 2.0
    heartbeat_timeout_seconds: float = 10.0
    drain_timeout_seconds: float = 60.0
    defaults: Options = DEFAULT_OPTIONS  # of jobs that say nothing themselves
    dead_retention_seconds: float = 30 * 86400.0  # dead letters are kept so long at least
    retention: Retention = Retention()
    log_level: str = "info"
    log_format: str = "text"  # or "json"
    ready_fd: int = -1  # where to say "ready ADDRESS", once; -1: nowhere
    tls: TlsFiles | None = None  # then callers must have certificates too, and may be on other hosts
    insecure: bool = False  # let them be there without TLS


def run_master(config: MasterConfig) -> int:
    """Be a master until told to stop.

    The exit status: 0 after a stop, 2 if it can't be started as it is configured, 75 if its disk does not let it start.
    """
    with _waiting_for_signals():
        try:
            set_up_log(config.log_level, config.log_format)
            _raise_descriptor_limit()
            hide_memory()
            trimming.limit_arenas()
            service = Service(config)
        except ClusterError as error:
            tell_mistake("cluster master", error)
            return PASSING if isinstance(error, StoreError) and may_pass(error) else MISTAKE
        try:
            service.start()
            # What is here now is here until the end, jobs of an earlier master's included: not to be walked through again.
            gc.freeze()
            _say_ready(config.ready_fd, f"ready {service.server.address}")
            signum = signal.sigwait(STOPPING)
            LOG.info("stopping: signal=%s", signal.Signals(signum).name)
            if service.is_to_drain:
                service.drain(config.drain_timeout_seconds)
        finally:
            service.stop()
    return 0


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor, and the usual soft limit of 1,024 is half of what the door lets in."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):  # a kernel with a lower bound of its own: then with what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Service:
    """Everything that runs in a master's process."""

    def __init__(self, config: MasterConfig) -> None:
        """Take the store and bind the address. Raises `ClusterError`, and then nothing is held."""
        self.is_to_drain = True
        address = parse_address(config.bind)
        if config.insecure:
            warn_if_open(LOG, address, is_guarded=config.tls is not None)
            if config.tls is None and not address.is_loopback:
                AUDIT.record(Kind.INSECURE_START, origin=str(address), reason="it listens beyond this host without TLS")
        with contextlib.ExitStack() as parts:
            keys = {role: load_key(path) for role, path in make_keys(config.keys).items()}
            settings = Settings(
                heartbeat_timeout_seconds=config.heartbeat_timeout_seconds,
                dead_retention_seconds=config.dead_retention_seconds,
            )
            self.master = Master(
                open_store(config.store), settings, defaults=config.defaults, retention=config.retention
            )
            parts.callback(self.master.stop)
            self.master.open(grace_seconds=config.heartbeat_timeout_seconds)
            self._jobs = ServedJobsDesk(self.master)
            self._work = ServedWorkDesk(self.master, config.heartbeat_interval_seconds)
            self._admin = ServedAdminDesk(self.master, self._shut_down)
            desks = {"jobs": self._jobs, "work": self._work, "admin": self._admin}
            manager = ClusterManager(address, keys=keys, desks=desks, tls=config.tls, insecure=config.insecure)
            self.server: ClusterServer = manager.get_server()
            parts.callback(self.server.stop, 0.0)
            self._admin.address = str(self.server.address)
            self._duties = (
                Duty("statistics", statistics.EVERY_SECONDS, statistics.Statistics(self.master).say),
                Duty("trimming", trimming.EVERY_SECONDS, trimming.trim),
            )
            parts.pop_all()

    def start(self) -> None:
        """Begin to keep time, to commit, and to answer."""
        self.master.start()
        for duty in self._duties:
            duty.start()
        self.server.start()
        LOG.info(
            "ready: address=%s store=%s epoch=%d jobs=%d",
            self.server.address,
            self.master.store.url,
            self.master.epoch,
            len(self.master.board.jobs),
        )

    def drain(self, timeout: float) -> None:
        """Lease nothing more, and wait for what runs; a second signal ends the process at once."""
        self.master.is_draining = True
        deadline = time.monotonic() + timeout
        LOG.info("draining: running=%d timeout=%g", self._running(), timeout)
        while (running := self._running()) and time.monotonic() < deadline:
            again = _next_signal(LOOK_SECONDS)
            if again is not None:
                LOG.warning("killed: signal=%s running=%d", again.name, running)
                logging.shutdown()
                os._exit(128 + again)
        if running:
            LOG.warning("drain timed out: running=%d; they run again under the next master", running)
        self._jobs.wait_told(FAREWELL_SECONDS)

    def stop(self) -> None:
        """End calls, commit what is decided, give up the store."""
        self.server.stop_event.set()  # first, so that nobody whose call is ended now makes another one
        self._jobs.stop()
        self._work.stop()
        self.server.stop(FAREWELL_SECONDS)
        for duty in self._duties:
            duty.stop()
        self.master.stop()
        LOG.info("stopped")

    def _running(self) -> int:
        """Attempts whose workers are here."""
        master = self.master
        with master.lock:
            leases = list(master.board.leases.values())
        return sum(1 for lease in leases if master.mailboxes.get(lease.worker) is not None)

    def _shut_down(self, is_drain: bool) -> None:  # noqa: FBT001 - as the call says it
        self.is_to_drain = is_drain
        os.kill(os.getpid(), signal.SIGTERM)


def _next_signal(timeout: float) -> signal.Signals | None:
    """The signal that comes within so many seconds.

    A process that was stopped and goes on after that time is told of whatever its memory held (CPython: an interrupted
    `sigtimedwait` whose time is over returns a structure that nobody has filled).
    """
    told = signal.sigtimedwait(STOPPING, timeout)
    return signal.Signals(told.si_signo) if told is not None and told.si_signo in STOPPING else None


@contextlib.contextmanager
def _waiting_for_signals() -> Iterator[None]:
    """Block them before any thread is started, for threads inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _say_ready(descriptor: int, line: str) -> None:
    if descriptor < 0:
        return
    # Whoever started us may be gone: that is no reason to stop.
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode())
    with contextlib.suppress(OSError):
        os.close(descriptor)
