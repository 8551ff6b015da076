"""`cluster job cancel`: some jobs by their ids, or all that fit a description."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import find
from cluster.cli.find import Where
from cluster.cli.jobs import FAILED_STATUS, complete_state, info_of
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import echo, print_json, state_name
from cluster.core.records import JobId
from cluster.core.states import TERMINAL, JobState
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.client.handle import Cluster

# The master decides on so many under one hold of its lock, which takes it some milliseconds.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Which:
    """A description of jobs, instead of their ids. All that is said must fit."""

    state: Annotated[
        str | None, typer.Option(help="Those in this state.", autocompletion=complete_state, show_default=False)
    ] = None
    queue: Annotated[str | None, typer.Option(help="Those of this queue.")] = None
    tag: Annotated[str | None, typer.Option(help="Those that carry this tag.")] = None
    batch: Annotated[str | None, typer.Option(help="The chunks of this map.")] = None
    every: Annotated[bool, typer.Option("--all", help="All that have not ended.")] = False

    @property
    def is_said(self) -> bool:
        """Something is described."""
        return self.every or any((self.state, self.queue, self.tag, self.batch))


@grouped
def cancel(
    where: Where,
    form: Form,
    which: Which,
    jobs: Annotated[list[str] | None, typer.Argument(metavar="[JOB...]", help="Ids of jobs.")] = None,
) -> None:
    """Kill jobs wherever they are: those named, or all that fit. Exit status 1 if one that was named had ended otherwise."""
    if bool(jobs) == which.is_said:
        raise Refused("write the ids of the jobs that you mean, or --state, --queue, --tag, --batch or --all")
    with find.find_cluster(where) as c:
        if jobs:
            cancel_named(c, jobs, form)
        else:
            cancel_fitting(c, which, form)


def cancel_named(c: Cluster, jobs: list[JobId], form: Form) -> None:
    """A line for each; all are known, or none is touched."""
    names = list(dict.fromkeys(jobs))
    for job in names:
        info_of(c, job)
    c.cancel(names)
    states = {job: info_of(c, job).state for job in names}
    if form.json:
        print_json(
            [
                {"job": job, "cancelled": state is JobState.CANCELLED, "state": state_name(state)}
                for job, state in states.items()
            ]
        )
    else:
        for job, state in states.items():
            echo(
                f"{job}  {'cancelled' if state is JobState.CANCELLED else f'not cancelled: it is {state_name(state)}'}"
            )
    if any(state is not JobState.CANCELLED for state in states.values()):
        raise typer.Exit(FAILED_STATUS)


def cancel_fitting(c: Cluster, which: Which, form: Form) -> None:
    """One sentence for all. What ends while this is under way is no failure."""
    found = (
        info.id
        for info in c.jobs(state=which.state, queue=which.queue, tag=which.tag, batch=which.batch)
        if info.state not in TERMINAL
    )
    cancelled = missed = 0
    while page := list(itertools.islice(found, PAGE)):
        count = c.cancel(page)
        cancelled += count
        missed += len(page) - count
    if form.json:
        print_json({"cancelled": cancelled, "ended": missed})
    else:
        echo(f"{cancelled} cancelled" + (f", {missed} had ended before" if missed else ""))
