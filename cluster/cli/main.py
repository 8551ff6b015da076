"""The `cluster` command: its groups, its exit statuses, and nothing else.

Exit status 0: done. 1: a job failed, a store is not sound, or the demo lost a job. 2: the caller's mistake, told in one
sentence. 70: a defect of the kit. 75: the store of `cluster master` can't be used now, and may be later (a full disk).
130: Ctrl-C. A submitted command's own status goes before these, as does 124 where `job wait` ran out of time.
Each command imports what it needs when it runs, so that `cluster --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import cancelling, certs, dead, jobs, lifecycle, processes, queues, replaying, store
from cluster.cli.option_groups import INTERRUPTED_STATUS
from cluster.cli.printing import say
from cluster.cli.submit import SubmitCommand, submit
from cluster.errors import ClusterError, MasterUnavailable, Refused, UnknownJob

MISTAKE_STATUS = 2
DEFECT_STATUS = 70  # EX_SOFTWARE of sysexits.h
PROGRAM = "cluster"
SHOW_TRACEBACK = "CLUSTER_TRACEBACK"

app = typer.Typer(
    name=PROGRAM,
    help="Durable process pools for one machine, or a handful.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def print_version(asked: bool) -> None:
    """Print the version and leave, if that is what was asked."""
    if asked:
        import importlib.metadata

        try:
            version = importlib.metadata.version("cluster-kit")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown: run from a checkout that is not installed"
        typer.echo(f"cluster {version}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Durable process pools for one machine, or a handful."""
    del version


# The order of the help: bring up, use, look closer, single processes.
lifecycle.add_to(app)
app.command(cls=SubmitCommand)(submit)
jobs.app.command()(cancelling.cancel)
jobs.app.command()(replaying.replay)
app.add_typer(jobs.app, name="job")
app.add_typer(dead.app, name="dead")
app.add_typer(queues.app, name="queue")
app.add_typer(store.app, name="store")
app.add_typer(certs.app, name="certs")
processes.add_to(app)


@app.command()
def demo(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="In one process, run twice; the second run is killed as a whole.")
    ] = False,
    state: Annotated[
        Path | None, typer.Option(help="Folder for the state; made if missing.", show_default="a fresh one")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="With --embedded: jobs at a time.", show_default="all usable cpus")
    ] = None,
) -> None:
    """Analyse the standard library on a durable cluster, kill parts of it, and lose nothing."""
    if slots is not None and not embedded:
        raise Refused("--slots goes with --embedded; on a cluster the slots are those of configs/local.yaml")
    try:
        if embedded:
            from cluster.cli.demo_embedded import run_embedded

            status = run_embedded(state, slots)
        else:
            from cluster.cli.demo import run_demo

            status = run_demo(state)
    except KeyboardInterrupt:
        typer.echo("cluster: interrupted; nothing is left running", err=True)
        status = INTERRUPTED_STATUS
    raise typer.Exit(status)


def main() -> None:
    """Run the command; the entry point of the console script."""
    try:
        app(prog_name=PROGRAM)
    except ClusterError as error:
        say(f"cluster: {error}")
        if hint := hint_of(error):
            say(f"hint: {hint}")
        sys.exit(MISTAKE_STATUS)
    except OSError as error:
        say(f"cluster: {error}")
        sys.exit(MISTAKE_STATUS)
    except KeyboardInterrupt:
        # Before a command has begun: typer takes a moment to make all of them. Afterwards `grouped` meets it.
        typer.echo("cluster: interrupted", err=True)
        sys.exit(INTERRUPTED_STATUS)
    except Exception as error:  # noqa: BLE001 - told as what it is
        is_wanted = bool(os.environ.get(SHOW_TRACEBACK))
        if is_wanted:
            say(traceback.format_exc().rstrip())
        say(f"cluster: this is a defect of the kit: {type(error).__name__}: {error}")
        if not is_wanted:
            say(f"hint: {SHOW_TRACEBACK}=1 shows the traceback, which belongs into the report")
        sys.exit(DEFECT_STATUS)


def hint_of(error: ClusterError) -> str:
    """What to try next; empty where the sentence says it already."""
    if isinstance(error, UnknownJob):
        return "`cluster job list` shows the jobs that are there"
    if isinstance(error, MasterUnavailable):
        return "`cluster status FILE` shows whether it runs, `cluster up FILE` starts it"
    return ""


if __name__ == "__main__":
    main()
