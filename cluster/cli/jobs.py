"""`cluster job ...`: look at jobs, stop them, run them again, wait for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import find, following
from cluster.cli.find import Where
from cluster.cli.option_groups import INTERRUPTED_STATUS, Form, grouped
from cluster.cli.printing import (
    Column,
    ago,
    certificate_document,
    duration_text,
    echo,
    job_document,
    local_time,
    print_fields,
    print_json,
    print_table,
    say,
    size_text,
    state_name,
)
from cluster.core.records import Certificate, JobInfo
from cluster.core.states import JobState
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.client.handle import Cluster
    from cluster.wire.messages import JobHistory

FAILED_STATUS = 1
TIMED_OUT_STATUS = 124  # as of timeout(1)

app = typer.Typer(help="Look at jobs, stop them, run them again, wait for them.", no_args_is_help=True)


def complete_state(incomplete: str) -> list[str]:
    """Names of states, for the shell."""
    return [state_name(state) for state in JobState if state_name(state).startswith(incomplete)]


JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs.")]

_COLUMNS = (
    Column("job"),
    Column("state"),
    Column("name", may_shrink=True),
    Column("try", is_number=True),
    Column("worker", may_shrink=True),
    Column("submitted", is_number=True),
    Column("ended", is_number=True),
)


@app.command("list")
@grouped
def list_jobs(
    *,
    where: Where,
    form: Form,
    state: Annotated[
        str | None, typer.Option(help="Only jobs in this state.", autocompletion=complete_state, show_default=False)
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs that carry this tag.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only the chunks of this map.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 100,
) -> None:
    """List jobs in order of submission."""
    with find.find_cluster(where) as c:
        wanted = c.jobs(state=state, tag=tag, queue=queue, batch=batch, limit=limit + 1 if limit else None)
        found = list(wanted)
    shown = found[:limit] if limit else found
    if form.json:
        print_json([job_document(info) for info in shown])
    else:
        print_jobs(shown)
    if len(found) > len(shown):
        say(f"the first {limit} are shown; --limit 0 shows all")


def print_jobs(jobs: list[JobInfo]) -> None:
    """Jobs as a table."""
    now = time.time()
    print_table(
        _COLUMNS,
        [
            (
                info.id,
                state_name(info.state),
                info.name,
                str(info.attempts),
                info.worker.partition("#")[0],
                ago(info.submitted, now),
                ago(info.ended, now),
            )
            for info in jobs
        ],
    )


@app.command()
@grouped
def show(job: JobArgument, where: Where, form: Form) -> None:
    """Show a job: its state, its attempts, and why it ended as it did."""
    with find.find_cluster(where) as c:
        info, history = look_up(c, job)
    print_story(info, history, form)


def look_up(c: Cluster, job: str) -> tuple[JobInfo, JobHistory]:
    """A job and its history. Raises `UnknownJob`."""
    handle = c.job(job)
    return info_of(c, job), handle.history()


def info_of(c: Cluster, job: str) -> JobInfo:
    """The job now. Raises `UnknownJob`."""
    # The public handle has no question for one record; asked for here, the session's desk answers it.
    return c._session.reach().info(job)  # noqa: SLF001 - the command is the kit's own


def print_story(info: JobInfo, history: JobHistory, form: Form) -> None:
    """Everything that is known of a job."""
    if form.json:
        attempts = [{"run": run, **certificate_document(why)} for run, why in history.attempts]
        print_json({**job_document(info), "history": attempts})
        return
    print_fields(
        [
            ("job", info.id),
            ("name", info.name),
            ("state", state_name(info.state)),
            ("queue", info.queue),
            ("priority", str(info.priority or "")),
            ("tags", ", ".join(info.tags)),
            ("batch", f"{info.batch}, {info.items} items" if info.batch else ""),
            ("run", str(info.run)),
            ("attempts", f"{info.attempts} in this run; {info.failures} retries and {info.crashes} crash re-runs used"),
            ("worker", info.worker),
            ("submitted", local_time(info.submitted)),
            ("started", local_time(info.started)),
            ("ended", local_time(info.ended)),
            ("took", f"{duration_text(info.ended - info.submitted)} from submission to end" if info.ended else ""),
            ("reason", info.certificate.reason if info.certificate else ""),
        ]
    )
    for run, why in history.attempts:
        print_certificate(f"run {run}, attempt {why.attempt}", why)


def print_certificate(title: str, why: Certificate) -> None:
    """A death certificate, for people."""
    echo(f"\n{title}: {why.ending.name.lower()}")
    print_fields(
        [
            ("  reason", why.reason),
            ("  where", why.place),
            ("  ran", _time_text(why)),
            ("  memory", f"{size_text(why.peak_memory)} at most" if why.peak_memory else ""),
        ]
    )
    for heading, text in (("traceback", why.traceback), ("last output", why.output_tail)):
        if text:
            echo(f"  {heading}:")
            echo("\n".join(f"    {line}" for line in text.rstrip().splitlines()))


def _time_text(why: Certificate) -> str:
    if not why.seconds:
        return ""
    # Of what the master ended by itself nobody has told the cpu time.
    cpu = f", cpu {duration_text(why.cpu_seconds)}" if why.cpu_seconds else ""
    return f"{duration_text(why.seconds)}{cpu}"


@app.command()
@grouped
def logs(
    job: JobArgument,
    where: Where,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
) -> None:
    """Print what a job printed."""
    with find.find_cluster(where) as c:
        handle = c.job(job)
        if follow:
            following.follow(handle)
        else:
            typer.echo(handle.logs(), nl=False)


@app.command()
@grouped
def explain(job: JobArgument, where: Where, form: Form) -> None:
    """Say why a job is where it is."""
    with find.find_cluster(where) as c:
        reason = c.job(job).explain()
    if form.json:
        print_json({"job": job, "explanation": reason})
    else:
        echo(reason)


@app.command()
@grouped
def retry(jobs: JobsArgument, where: Where, form: Form) -> None:
    """Start a new run of ended jobs; of all of them, or, with an error, of none."""
    with find.find_cluster(where) as c:
        again = c.requeue(jobs)
    print_requeued(again, form)


def print_requeued(again: list[JobInfo], form: Form) -> None:
    """Which jobs run once more."""
    if form.json:
        print_json([job_document(info) for info in again])
        return
    for info in again:
        echo(f"{info.id}  run {info.run}, {state_name(info.state)}")


@app.command()
@grouped
def wait(
    jobs: JobsArgument,
    where: Where,
    form: Form,
    timeout: Annotated[str | None, typer.Option(help="At most so long, as in 90, 10m or 1h30m.")] = None,
) -> None:
    """Wait until jobs have ended. Exit status 1 if one has no result, 124 if the time ran out."""
    seconds = None if timeout is None else read_duration("timeout", timeout)
    with find.find_cluster(where) as c:
        handles = [c.job(job) for job in dict.fromkeys(jobs)]
        try:
            is_over = following.wait_all(handles, seconds)
        except KeyboardInterrupt:
            say(f"cluster: detached; the jobs go on\nhint: cluster job wait {' '.join(jobs)}")
            raise typer.Exit(INTERRUPTED_STATUS) from None
        found = [info_of(c, handle.id) for handle in handles]
    print_ended(found, form)
    if not is_over:
        raise typer.Exit(TIMED_OUT_STATUS)
    if any(info.state is not JobState.COMPLETED for info in found):
        raise typer.Exit(FAILED_STATUS)


def print_ended(jobs: list[JobInfo], form: Form) -> None:
    """How jobs ended, a line each."""
    if form.json:
        print_json([job_document(info) for info in jobs])
        return
    for info in jobs:
        why = f": {info.certificate.reason}" if info.certificate else ""
        echo(f"{info.id}  {state_name(info.state)}{why}")


def read_duration(option: str, text: str) -> float:
    """Seconds above zero. Raises `Refused` with what to write."""
    from cluster.client import option_values

    try:
        return option_values.duration(option, as_number(text))
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None


def as_number(text: str) -> float | str:
    """A plain number is seconds; anything else is left to the option's reader."""
    try:
        return float(text)
    except ValueError:
        return text
