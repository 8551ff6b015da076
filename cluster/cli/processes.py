"""`cluster master` and `cluster worker ADDRESS`: one process in the foreground. First Ctrl-C drains, the second kills.

Keepers start their processes by these commands too. Keys are named by path, so no secret stands in a command line.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from cluster.cli import find, workers
from cluster.cli.jobs import read_duration
from cluster.cli.master_terms import MasterTerms, defaults_of, read_defaults, read_retention, retention_of
from cluster.cli.option_groups import grouped
from cluster.cli.submit import read_amount, read_pairs
from cluster.errors import Refused
from cluster.log_lines import FORMATS, LEVELS
from cluster.wire.keys import Role

if TYPE_CHECKING:
    from cluster.deploy.schema import Config
    from cluster.master.process import MasterConfig
    from cluster.wire.tls import TlsFiles
    from cluster.worker.groups import GroupLimits
    from cluster.worker.process import WorkerProcessConfig

START = "start"

ReadyFd = Annotated[
    int, typer.Option(metavar="N", help="Write a line to this descriptor once it is ready.", show_default=False)
]
Run = Annotated[
    str, typer.Option(metavar="DIR", help="Of which cluster it is: how `cluster up` finds it.", show_default=False)
]
LogLevel = Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")]
LogFormat = Annotated[str, typer.Option(metavar="FORMAT", help="text, or json: an object in each line.")]
DrainTimeout = Annotated[str, typer.Option(help="How long running jobs may go on after the first Ctrl-C or SIGTERM.")]


class WorkerGroup(typer.core.TyperGroup):
    """`cluster worker` with a subcommand's name is that; with anything else it starts a worker."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class, with the subcommand put in that need not be written."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [START, *args]
        return super().parse_args(ctx, args)


worker_app = typer.Typer(
    cls=WorkerGroup,
    help="Start a worker (cluster worker ADDRESS ...), or look at those that are there.",
    no_args_is_help=True,
)


@dataclass(frozen=True, slots=True)
class MasterOptions:
    """How a master is started without a configuration."""

    bind: Annotated[str | None, typer.Option(metavar="URL", help="Where to listen: tcp://HOST:PORT, unix://PATH.")] = (
        None
    )
    store: Annotated[str | None, typer.Option(metavar="URL", help="sqlite:///PATH, or memory:.")] = None
    keys: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the keys; made at the first start.")] = (
        None
    )
    heartbeat_interval: Annotated[str, typer.Option(help="How often workers say that they live.")] = "2s"
    heartbeat_timeout: Annotated[str, typer.Option(help="Silent for so long, a worker is lost.")] = "10s"
    drain_timeout: DrainTimeout = "60s"
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    # Not from the environment: what is set there is a client's certificate.
    tls_ca: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: the authority's certificate.")] = None
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: the master's certificate.")] = None
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS: the key of that certificate.")] = None
    tls_revoked: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TLS: the authority's list.", show_default="revoked.pem beside ca.pem, if it is there"
        ),
    ] = None
    insecure: find.Insecure = False


def master(
    options: MasterOptions,
    terms: MasterTerms,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take all of it from a configuration instead.")
    ] = None,
    ready_fd: ReadyFd = -1,
    run: Run = "",  # noqa: ARG001 - there to be seen on the command line
) -> None:
    """Run a master in the foreground. The first Ctrl-C drains, the second kills."""
    from cluster.master.process import run_master

    raise typer.Exit(run_master(read_master(options, config, ready_fd, terms)))


def read_master(
    options: MasterOptions, file: Path | None, ready_fd: int, terms: MasterTerms = MasterTerms()
) -> MasterConfig:
    """What the master is told. Raises `Refused` with what to write."""
    from cluster.master.process import MasterConfig

    if file is not None:
        if options != MasterOptions() or terms != MasterTerms():
            raise Refused("--config says all that a master needs; leave the other options out, or it")
        return _master_of(_load(file), ready_fd)
    missing = [f"--{name}" for name in ("bind", "store", "keys") if not getattr(options, name)]
    if options.bind is None or options.store is None or options.keys is None:
        raise Refused(
            f"a master needs {' and '.join(missing)}, as in --bind tcp://127.0.0.1:7601 --store sqlite:///jobs.db "
            f"--keys keys; or --config FILE"
        )
    return MasterConfig(
        bind=options.bind,
        store=options.store,
        keys=options.keys,
        heartbeat_interval_seconds=read_duration("heartbeat-interval", options.heartbeat_interval),
        heartbeat_timeout_seconds=read_duration("heartbeat-timeout", options.heartbeat_timeout),
        drain_timeout_seconds=read_duration("drain-timeout", options.drain_timeout),
        defaults=read_defaults(terms),
        dead_retention_seconds=read_duration("retention-dead", terms.retention_dead),
        retention=read_retention(terms),
        log_level=read_level(options.log_level),
        log_format=read_format(options.log_format),
        ready_fd=ready_fd,
        tls=_master_tls(options),
        insecure=options.insecure,
    )


def _master_tls(options: MasterOptions) -> TlsFiles | None:
    import msgspec

    from cluster.wire.tls import files_from

    found = files_from({"ca": options.tls_ca, "cert": options.tls_cert, "key": options.tls_key}, "--tls-{}")
    if found is None and options.tls_revoked:
        raise Refused("--tls-revoked goes with --tls-ca, --tls-cert and --tls-key")
    return found and msgspec.structs.replace(found, revoked=options.tls_revoked)


def _master_of(config: Config, ready_fd: int) -> MasterConfig:
    from cluster.deploy.identity import MASTER
    from cluster.deploy.tls import files_of, prepare
    from cluster.master.process import MasterConfig

    prepare(config)
    return MasterConfig(
        bind=config.master.bind,
        store=config.master.store,
        keys=Path(config.master.keys),
        heartbeat_interval_seconds=config.heartbeat.interval,
        heartbeat_timeout_seconds=config.heartbeat.timeout,
        drain_timeout_seconds=config.drain.timeout,
        defaults=defaults_of(config),
        dead_retention_seconds=config.retention.dead,
        retention=retention_of(config),
        log_level=config.log.level,
        log_format=config.log.format,
        ready_fd=ready_fd,
        tls=files_of(config, MASTER),
        insecure=config.master.insecure,
    )


def _load(file: Path) -> Config:
    from cluster.deploy.load import load_config

    return load_config(file)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker is started."""

    name: Annotated[
        str | None,
        typer.Option(help="What it is called in listings.", show_default="the certificate's, else the host's name"),
    ] = None
    slots: Annotated[
        str, typer.Option(metavar="N", help="Jobs at a time: a number, auto (one per cpu), or threads:N.")
    ] = "auto"
    authkey_file: Annotated[
        Path | None, typer.Option(help="The master's worker.key.", show_default="CLUSTER_AUTHKEY_FILE")
    ] = None
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="What it offers besides slots; repeatable.")
    ] = None
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="What it is; repeatable.")] = None
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="In its jobs' environment; anybody on the host can read it here."),
    ] = None
    max_jobs_per_child: Annotated[
        int, typer.Option(min=0, help="Replace a slot's process after so many jobs; 0: never.")
    ] = 0
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where jobs get a folder each.", show_default="the system's temporary folder"),
    ] = None
    user: Annotated[
        str, typer.Option(metavar="NAME", help="Who jobs run as; needs root.", show_default="as the worker")
    ] = ""
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="On each of its processes: as, core, cpu, fsize, nofile or nproc; repeatable.",
            show_default="core=0",
        ),
    ] = None
    cgroup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="On all that its jobs start together: memory, pids or cpu; repeatable. Needs a delegated cgroup (v2).",
        ),
    ] = None
    drain_timeout: DrainTimeout = "60s"
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    tls_ca: find.TlsCa = None
    tls_cert: find.TlsCert = None
    tls_key: find.TlsKey = None
    insecure: find.Insecure = False


@worker_app.command(START, hidden=True)
@grouped
def start(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The master's: tcp://HOST:PORT or unix://PATH.")],
    options: WorkerOptions,
    ready_fd: ReadyFd = -1,
    run: Run = "",  # noqa: ARG001 - there to be seen on the command line
) -> None:
    """Run a worker in the foreground. The first Ctrl-C drains, the second kills what runs."""
    from cluster.worker.process import run_worker

    raise typer.Exit(run_worker(read_worker(address, options, ready_fd)))


def read_worker(address: str, options: WorkerOptions, ready_fd: int) -> WorkerProcessConfig:
    """What the worker is told. Raises `Refused` with what to write."""
    from cluster.embedded.cpus import usable_cpus
    from cluster.worker.limits import read_limits
    from cluster.worker.process import WorkerProcessConfig, parse_slots

    if "://" not in address:
        raise Refused(
            f"{address!r} is neither an address nor a command; write cluster worker tcp://HOST:PORT to start one, "
            f"or list, show, drain or undrain"
        )
    where = find.Where(
        address=address,
        authkey_file=options.authkey_file,
        tls_ca=options.tls_ca,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        insecure=options.insecure,
    )
    found = find.locate(where, Role.WORKER)
    slots, threads = parse_slots(options.slots, usable_cpus())
    return WorkerProcessConfig(
        address=found.address,
        authkey_file=str(found.key),
        name=options.name or _default_name(found.tls),
        slots=slots,
        threads=threads,
        resources=tuple(sorted(read_pairs("--resource", "gpu=1", options.resource or (), read_amount).items())),
        labels=tuple(sorted(read_pairs("--label", "zone=lab", options.label or (), str).items())),
        env=tuple(sorted(read_pairs("--env", "OMP_NUM_THREADS=1", options.env or (), str).items())),
        max_jobs_per_child=options.max_jobs_per_child,
        scratch=str(options.scratch.absolute()) if options.scratch else "",
        user=options.user,
        cgroup=_read_cgroup(options.cgroup or ()),
        limits=read_limits(read_pairs("--limit", "nofile=1024", options.limit or (), int)),
        drain_seconds=read_duration("drain-timeout", options.drain_timeout),
        ready_fd=None if ready_fd < 0 else ready_fd,
        log_level=read_level(options.log_level),
        log_format=read_format(options.log_format),
        tls=found.tls,
        insecure=found.insecure,
    )


def _read_cgroup(given: Sequence[str]) -> GroupLimits | None:
    if not given:
        return None
    from cluster.deploy.quantities import read_group_limits

    try:
        read = read_group_limits(read_pairs("--cgroup", "memory=4GB", given, _read_amount))
    except ValueError as error:
        raise Refused(f"--cgroup: {error}") from None
    return tuple(read.items())


def _read_amount(text: str) -> object:
    """A number where it is one; a size may be a text."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def _default_name(tls: TlsFiles | None) -> str:
    from cluster.wire.tls import own_identity

    return own_identity(tls).name if tls else socket.gethostname()


def read_level(level: str) -> str:
    """A level of the log. Raises `Refused` with those that there are."""
    if level not in LEVELS:
        raise Refused(f"no log level is called {level!r}; write one of {', '.join(LEVELS)}")
    return level


def read_format(form: str) -> str:
    """A form of the log. Raises `Refused` with those that there are."""
    if form not in FORMATS:
        raise Refused(f"no log format is called {form!r}; write one of {', '.join(FORMATS)}")
    return form


def add_to(app: typer.Typer) -> None:
    """Put these commands at the top level."""
    app.command()(grouped(master))
    workers.add_to(worker_app)
    app.add_typer(worker_app, name="worker")
