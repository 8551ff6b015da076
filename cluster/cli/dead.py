"""`cluster dead ...`: the jobs that were given up."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import find
from cluster.cli.find import Where
from cluster.cli.jobs import JobArgument, info_of, look_up, print_requeued, print_story
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import Column, ago, echo, job_document, print_json, print_table, state_name
from cluster.core.records import JobId, JobInfo
from cluster.core.states import JobState
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.client.handle import Cluster

app = typer.Typer(help="The jobs that were given up: look, run again, forget.", no_args_is_help=True)

SomeJobs = Annotated[list[str] | None, typer.Argument(metavar="[JOB...]", help="Ids of dead letters.")]

# So many are started anew, or purged, at once: all of them or, with an error, none.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Which:
    """A description of dead letters. All that is said must fit."""

    queue: Annotated[str | None, typer.Option(help="Those of this queue.")] = None
    tag: Annotated[str | None, typer.Option(help="Those that carry this tag.")] = None
    name: Annotated[str | None, typer.Option(help="Those of this name.")] = None

    @property
    def is_said(self) -> bool:
        """Something is described."""
        return any((self.queue, self.tag, self.name))


@dataclass(frozen=True, slots=True)
class Choice(Which):
    """The same where everything must be asked for."""

    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False


@dataclass(frozen=True, slots=True)
class Spending:
    """What they may spend from here on."""

    retries: Annotated[
        int | None, typer.Option(min=0, help="Re-runs after its own failure, from here on.", show_default="as before")
    ] = None
    crash_limit: Annotated[
        int | None,
        typer.Option(min=0, help="Re-runs after a crash or a lost worker, from here on.", show_default="as before"),
    ] = None


_COLUMNS = (
    Column("job"),
    Column("name", may_shrink=True),
    Column("try", is_number=True),
    Column("ended", is_number=True),
    Column("why", may_shrink=True),
)


@app.command("list")
@grouped
def list_dead(where: Where, form: Form, which: Which) -> None:
    """List the dead letters, with the reason of each."""
    with find.find_cluster(where) as c:
        dead = list(fitting(c, which))
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
def requeue(where: Where, form: Form, choice: Choice, spending: Spending, jobs: SomeJobs = None) -> None:
    """Start a new run of dead letters, with the same budget or a new one; of each 1,000 of all, or, with an error, of none."""
    again: list[JobInfo] = []
    with find.find_cluster(where) as c:
        # In order of submission, so that a job is started before those that depend on it.
        for page in pages(chosen_ids(c, jobs, choice)):
            again += c.requeue(page, retries=spending.retries, crash_limit=spending.crash_limit)
    print_requeued(again, form)


@app.command()
@grouped
def purge(
    where: Where,
    form: Form,
    choice: Choice,
    jobs: SomeJobs = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Forget dead letters, their arguments and history included. This can't be undone."""
    with find.find_cluster(where) as c:
        chosen = chosen_ids(c, jobs, choice)
        if chosen and not yes:
            confirm(len(chosen))
        count = sum(c.purge(page) for page in pages(chosen))
    if form.json:
        print_json({"purged": count})
    else:
        echo(f"{count} purged")


def confirm(count: int) -> None:
    """Ask the person; where nobody can be asked, `Refused`."""
    if not sys.stdin.isatty():
        raise Refused(f"purging {count} dead letter(s) can't be undone; write --yes if you mean it")
    if not typer.confirm(f"Forget {count} dead letter(s)? This can't be undone.", err=True):
        raise typer.Exit(0)


def fitting(c: Cluster, which: Which) -> Iterator[JobInfo]:
    """The dead letters that are described, in order of submission."""
    for info in c.jobs(state=JobState.DEAD_LETTER, queue=which.queue, tag=which.tag):
        if which.name is None or info.name == which.name:
            yield info


def chosen_ids(c: Cluster, jobs: list[JobId] | None, choice: Choice) -> list[JobId]:
    """The dead letters that a command is about: those named, or those described. Raises `Refused` if one is none."""
    if bool(jobs) == (choice.every or choice.is_said):
        raise Refused("write the ids of the jobs that you mean, or --queue, --tag, --name or --all")
    if not jobs:
        return [info.id for info in fitting(c, choice)]
    names = list(dict.fromkeys(jobs))
    for job in names:
        state = info_of(c, job).state
        if state is not JobState.DEAD_LETTER:
            raise Refused(f"job {job} is {state_name(state)}, and no dead letter; `cluster dead list` shows them")
    return names


def pages(jobs: list[JobId]) -> Iterator[list[JobId]]:
    """So many at a time as are done all or none."""
    return (jobs[at : at + PAGE] for at in range(0, len(jobs), PAGE))
