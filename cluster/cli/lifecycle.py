"""`cluster up|down|status|logs`: a whole cluster, as its configuration says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import find
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import (
    Column,
    echo,
    memory_text,
    print_fields,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from cluster.deploy.schema import Config
    from cluster.deploy.status import Status, WorkerStatus

FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The configuration.", show_default="CLUSTER_FILE, else ./cluster.yaml"),
]

_COLUMNS = (
    Column("worker", may_shrink=True),
    Column("host", may_shrink=True),
    Column("pid", is_number=True),
    Column("state"),
    Column("running", is_number=True),
    Column("cpu", is_number=True),
    Column("memory", is_number=True),
    Column("restarts", is_number=True),
)


def up(form: Form, file: FileArgument = None) -> None:
    """Bring a cluster up; returns when it is ready. A keeper restarts what dies."""
    from cluster.deploy import lifecycle

    config = _config(file)
    # Jobs find modules where `up` was typed, as they would if the program itself ran there.
    is_new = lifecycle.up(config, python_path=[str(Path.cwd())])
    if not form.json:
        say(f"cluster {config.name!r} {'is up' if is_new else 'was up already'}")
    _print_status(config, form)


def down(
    file: FileArgument = None,
    now: Annotated[bool, typer.Option("--now", help="Don't wait for jobs that run; they stay in the store.")] = False,
) -> None:
    """End a cluster's processes. Its store, keys and logs stay."""
    from cluster.deploy import lifecycle

    config = _config(file)
    count = lifecycle.down(config, now=now)
    say(f"cluster {config.name!r} {f'is down; {count} processes ended' if count else 'was not up'}")


def status(form: Form, file: FileArgument = None) -> None:
    """Show how a cluster is: its master, and each worker with its health, those too that joined by hand."""
    _print_status(_config(file), form)


def logs(
    part: Annotated[
        str | None, typer.Argument(metavar="PART", help="master, keeper or a worker's name.", show_default="all")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The configuration.", show_default="CLUSTER_FILE, else ./cluster.yaml")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Begin with so many lines of each.")] = 100,
) -> None:
    """Print what the processes of a cluster logged."""
    from cluster.deploy.logs import logs as read_logs

    for line in read_logs(_config(file), part, max_lines=lines, follow=follow):
        echo(line.text if part else f"{line.part} | {line.text}")
        sys.stdout.flush()


def add_to(app: typer.Typer) -> None:
    """Put these commands at the top level."""
    for command in (up, down, status, logs):
        app.command()(grouped(command))


def _config(file: Path | None) -> Config:
    from cluster.deploy.load import load_config

    return load_config(find.config_file(file))


def _print_status(config: Config, form: Form) -> None:
    from cluster.deploy.status import status as ask_status

    print_status(ask_status(config), form)


def print_status(status: Status, form: Form) -> None:
    """A cluster's status."""
    if form.json:
        print_json(status)
        return
    master = status.master
    print_fields(
        [
            ("cluster", f"{status.name}: {status.state}"),
            ("master", f"{master.state}, {master.address}{f', pid {master.pid}' if master.pid else ''}"),
            ("store", master.store),
            ("restarts", str(master.restarts or "")),
            ("trouble", master.trouble),
            ("keeper", f"pid {status.keeper}" if status.keeper else "none: nobody restarts what dies"),
        ]
    )
    echo("")
    print_table(_COLUMNS, [_row(worker) for worker in status.workers])
    for worker in status.workers:
        if worker.trouble:
            echo(f"{worker.name}: {worker.trouble}")


def _row(worker: WorkerStatus) -> tuple[str, ...]:
    health = worker.health
    return (
        worker.name,
        worker.host,
        str(worker.pid or "-"),
        worker.state,
        f"{worker.running}/{worker.slots}",
        f"{health.cpu_percent:.0f} %" if health else "-",
        memory_text(health) if health else "-",
        str(worker.restarts) if worker.is_kept else "by hand",
    )
