"""`cluster dead ...`: the jobs that were given up."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from cluster.cli import find
from cluster.cli.find import Where
from cluster.cli.jobs import JobArgument, ids_or_all, look_up, print_requeued, print_story
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import Column, ago, job_document, print_json, print_table, state_name
from cluster.core.states import JobState
from cluster.errors import Refused

app = typer.Typer(help="The jobs that were given up: look, run again, forget.", no_args_is_help=True)

SomeJobs = Annotated[list[str] | None, typer.Argument(metavar="[JOB...]", help="Ids of dead letters.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]

_COLUMNS = (
    Column("job"),
    Column("name", may_shrink=True),
    Column("try", is_number=True),
    Column("ended", is_number=True),
    Column("why", may_shrink=True),
)


@app.command("list")
@grouped
def list_dead(where: Where, form: Form) -> None:
    """List the dead letters, with the reason of each."""
    with find.find_cluster(where) as c:
        dead = c.dead_letters()
    if form.json:
        print_json([job_document(info) for info in dead])
        return
    now = time.time()
    print_table(
        _COLUMNS,
        [
            (
                info.id,
                info.name,
                str(info.attempts),
                ago(info.ended, now),
                info.certificate.reason if info.certificate else "",
            )
            for info in dead
        ],
    )


@app.command()
@grouped
def show(job: JobArgument, where: Where, form: Form) -> None:
    """Show a dead letter with all its death certificates."""
    with find.find_cluster(where) as c:
        info, history = look_up(c, job)
    if info.state is not JobState.DEAD_LETTER:
        raise Refused(f"job {job} is {state_name(info.state)}, and no dead letter; write: cluster job show {job}")
    print_story(info, history, form)


@app.command()
@grouped
def requeue(where: Where, form: Form, jobs: SomeJobs = None, every: All = False) -> None:
    """Start a new run of dead letters; of all of them, or, with an error, of none."""
    with find.find_cluster(where) as c:
        chosen = ids_or_all(c, jobs, all_of_them=every)
        again = c.requeue(chosen) if chosen else []
    print_requeued(again, form)


@app.command()
@grouped
def purge(
    where: Where,
    form: Form,
    jobs: SomeJobs = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Forget dead letters, their arguments and history included. This can't be undone."""
    with find.find_cluster(where) as c:
        chosen = ids_or_all(c, jobs, all_of_them=every)
        if chosen and not yes:
            confirm(len(chosen))
        count = c.purge(chosen) if chosen else 0
    if form.json:
        print_json({"purged": count})
    else:
        typer.echo(f"{count} purged")


def confirm(count: int) -> None:
    """Ask the person; where nobody can be asked, `Refused`."""
    if not sys.stdin.isatty():
        raise Refused(f"purging {count} dead letter(s) can't be undone; write --yes if you mean it")
    if not typer.confirm(f"Forget {count} dead letter(s)? This can't be undone.", err=True):
        raise typer.Exit(0)
