"""The `cluster` command: its options, its exit statuses, and nothing else.

Exit status 0: done. 1: a job failed, or the demo lost one. 2: the caller's mistake, told in one sentence. 130: Ctrl-C.
Each command imports what it needs when it runs, so that `cluster --version` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import ClusterError

MISTAKE_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, the shell's convention

app = typer.Typer(
    name="cluster",
    help="Durable process pools for one machine, or a handful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(asked: bool) -> None:
    """Print the version and leave, if that is what was asked."""
    if asked:
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


@app.command()
def demo(
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for the stores of the two runs; made if missing.", show_default="a fresh one"),
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Jobs at a time.", show_default="all usable cpus")] = None,
) -> None:
    """Analyse the standard library on a durable cluster, kill parts of it, and lose nothing."""
    from cluster.cli.demo import run_demo

    try:
        status = run_demo(state, slots)
    except KeyboardInterrupt:
        typer.echo("cluster: interrupted; nothing is left running", err=True)
        status = INTERRUPTED_STATUS
    raise typer.Exit(status)


def main() -> None:
    """Run the command; the entry point of the console script."""
    try:
        app()
    except ClusterError as error:
        typer.echo(f"cluster: {error}", err=True)
        sys.exit(MISTAKE_STATUS)


if __name__ == "__main__":
    main()
