"""`cluster submit`: a function by name, or a command, becomes a job.

    cluster submit mypackage.jobs:fit '[1, 2]' '{"deep": true}'
    cluster submit --wait -- convert in.png out.jpg

Nothing is imported here: the function's module need only exist where the workers are. With `--wait` the output is
printed as it comes, then the result; the first Ctrl-C detaches and leaves the job alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from cluster.cli import find, following
from cluster.cli.find import Where
from cluster.cli.jobs import FAILED_STATUS, as_number, info_of
from cluster.cli.option_groups import INTERRUPTED_STATUS, Form, grouped
from cluster.cli.printing import job_document, print_json, say
from cluster.client.retries import RetryChanges
from cluster.core.states import JobState
from cluster.errors import ClusterError, Refused
from cluster.worker.command import TASK, CommandFailed

if TYPE_CHECKING:
    from cluster.client.handle import Cluster
    from cluster.client.job import Job

MAX_NAME_LENGTH = 200
USAGE = "write MODULE:FUNC [JSON ARGS], or -- COMMAND..."


class SubmitCommand(typer.core.TyperCommand):
    """Keeps what stands behind `--` apart: it is a command, and none of its words is an option or an argument here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class, for what stands before `--`."""
        if "--" in args:
            place = args.index("--")
            args, ctx.meta["cluster.command"] = args[:place], args[place + 1 :]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """The options of a job, as on `Cluster.submit`."""

    name: Annotated[str | None, typer.Option(help="What listings call it.", show_default="the function or command")] = (
        None
    )
    queue: Annotated[str, typer.Option(help="The queue that it waits in.")] = "default"
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0
    retries: Annotated[
        int | None, typer.Option(help="Re-runs after its own failure.", show_default="the cluster's")
    ] = None
    backoff: Annotated[str | None, typer.Option(help="Wait before the first re-run.", show_default="the cluster's")] = (
        None
    )
    factor: Annotated[
        float | None, typer.Option(help="Each further wait is so many times longer.", show_default="the cluster's")
    ] = None
    max_delay: Annotated[str | None, typer.Option(help="The longest such wait.", show_default="the cluster's")] = None
    jitter: Annotated[
        float | None, typer.Option(help="Part of a wait that chance may take away.", show_default="the cluster's")
    ] = None
    retry_on: Annotated[
        list[str] | None, typer.Option(help="Re-run only after this exception, as in requests.Timeout; repeatable.")
    ] = None
    crash_limit: Annotated[
        int | None, typer.Option(help="Re-runs after a crash or a lost worker.", show_default="the cluster's")
    ] = None
    timeout: Annotated[str | None, typer.Option(help="Kill an attempt after so long: 90, 10m, 1h30m.")] = None
    delay: Annotated[str | None, typer.Option(help="Start no sooner than after so long.")] = None
    at: Annotated[str | None, typer.Option(help="Start no sooner than then: 2030-01-31T08:00+01:00.")] = None
    expires: Annotated[str | None, typer.Option(help="Give up if it has not ended after so long.")] = None
    after: Annotated[list[str] | None, typer.Option(help="A job that must complete first; repeatable.")] = None
    key: Annotated[str | None, typer.Option(help="The same key and function mean the same job.")] = None
    resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="What it needs of its worker; repeatable.")
    ] = None
    memory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE", help="Kill an attempt that takes more: 2GB; repeated, the next limit after each such kill."
        ),
    ] = None
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What its worker must be; repeatable.")
    ] = None
    tag: Annotated[list[str] | None, typer.Option(help="A word to find it by; repeatable.")] = None
    result_ttl: Annotated[
        str | None, typer.Option(help="How long its outcome is kept.", show_default="the cluster's")
    ] = None


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be run."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str


@grouped
def submit(
    *,
    ctx: typer.Context,
    where: Where,
    form: Form,
    options: JobOptions,
    task: Annotated[str | None, typer.Argument(metavar="MODULE:FUNC", help="A function that workers can import.")] = (
        None
    ),
    json_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="JSON ARGS | -- COMMAND", help="Its arguments: an array, an object, or both."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait, print the output as it comes, then the result.")] = (
        False
    ),
    directory: Annotated[
        str | None, typer.Option("--cwd", help="Of a command: the folder on the worker to run it in.")
    ] = None,
) -> None:
    """Submit a function or a command, and print the job's id.

    With --wait the exit status is the command's own, or 1 for a function that failed.
    """
    call = read_call(task, json_args or [], ctx.meta.get("cluster.command"), directory)
    said = read_options(options, call.name)
    with find.find_cluster(where) as c:
        try:
            job = c.submit(call.task, call.args, call.kwargs, **said)
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from None
        _ = job.accepted()
        if wait:
            raise typer.Exit(wait_for(c, job, form))
    if form.json:
        print_json({"id": job.id, "name": job.name})
    else:
        typer.echo(job.id)


# --- what is written --------------------------------------------------------------------------------------------------


def read_call(task: str | None, json_args: list[str], command: list[str] | None, directory: str | None) -> Call:
    """The function or the command. Raises `Refused` with what to write."""
    if command is not None:
        if task or not command:
            raise Refused(f"a function and a command exclude each other, and one must be there: {USAGE}")
        return Call(TASK, (command, directory), {}, shlex.join(command)[:MAX_NAME_LENGTH])
    if not task:
        raise Refused(f"nothing to run: {USAGE}")
    if ":" not in task:
        raise Refused(f"{task!r} names no function: write MODULE:FUNC, as in os:getcwd, or -- {task} for a command")
    if directory:
        raise Refused("--cwd is for commands; a function finds its way with os.chdir")
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None
    for text in json_args:
        value = _read_json(text)
        if isinstance(value, list) and args is None:
            args = tuple(value)
        elif isinstance(value, dict) and kwargs is None:
            kwargs = value
        else:
            raise Refused(
                f"arguments are one JSON array (positional) and one JSON object (by name); {text} is neither, or one "
                f"too many: write them as in '[1, \"two\"]' '{{\"three\": 3}}'"
            )
    return Call(task, args or (), kwargs or {}, task)


def _read_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused(
            f"{text!r} is no JSON ({error}); write the arguments as in '[1, \"two\"]', in single quotes for the shell"
        ) from None


def read_options(options: JobOptions, name: str) -> dict[str, Any]:
    """The options as `Cluster.submit` takes them. Raises `Refused` with what to write."""
    said: dict[str, Any] = {
        "name": options.name or name,
        "queue": options.queue,
        "priority": options.priority,
    }
    if (retries := _retry_changes(options)) != RetryChanges():
        said["retries"] = retries
    if options.crash_limit is not None:
        said["crash_limit"] = options.crash_limit
    for option in ("timeout", "delay", "expires", "result_ttl"):
        if (text := getattr(options, option)) is not None:
            said[option] = as_number(text)
    if options.at is not None:
        said["at"] = _moment(options.at)
    lists = {"key": options.key, "after": options.after, "tags": options.tag}
    said.update({option: given for option, given in lists.items() if given})
    if options.resource:
        said["resources"] = read_pairs("--resource", "gpu=1", options.resource, read_amount)
    if options.memory:
        said["memory"] = tuple(options.memory)
    if options.label:
        said["labels"] = read_pairs("--label", "zone=lab", options.label, str)
    return said


def _retry_changes(options: JobOptions) -> RetryChanges:
    from cluster.client import option_values

    def delay(option: str, text: str | None) -> float | None:
        return None if text is None else option_values.delay(option, as_number(text))

    try:
        return RetryChanges(
            max_retries=options.retries,
            backoff=delay("backoff", options.backoff),
            factor=options.factor,
            max_delay=delay("max_delay", options.max_delay),
            jitter=options.jitter,
            retry_on=tuple(options.retry_on or ()),
        )
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"--at {text!r} is no date; write it as in 2030-01-31T08:00+01:00") from None
    if moment.utcoffset() is None:
        raise Refused(f"--at {text!r} has no time zone; write {moment.astimezone().isoformat()} for local time")
    return moment


def read_pairs(option: str, example: str, given: Sequence[str], read: Callable[[str], Any]) -> dict[str, Any]:
    """NAME=VALUE options as a dictionary. Raises `Refused` with what to write."""
    pairs = {}
    for text in given:
        name, separator, value = text.partition("=")
        try:
            pairs[name] = read(value)
        except ValueError:
            separator = ""
        if not name or not separator:
            raise Refused(f"{option} {text!r} is not what it takes; write it as in {option} {example}")
    return pairs


def read_amount(text: str) -> int:
    """How much of a resource: a whole number from 1 on, or `ValueError`."""
    amount = int(text)
    if amount < 1:
        raise ValueError(text)
    return amount


# --- waiting ----------------------------------------------------------------------------------------------------------


def wait_for(c: Cluster, job: Job[Any], form: Form) -> int:
    """Wait for the job, and tell what came of it; the exit status."""
    try:
        if form.json:
            following.wait_all([job], None)
        else:
            say(f"job {job.id}")
            following.follow(job)
            following.wait_all([job], None)
        error = job.exception()
    except KeyboardInterrupt:
        say(f"cluster: detached; job {job.id} goes on\nhint: cluster job wait {job.id}")
        return INTERRUPTED_STATUS
    except ClusterError as ended:  # cancelled
        error = ended
    # A result that only can't be unpickled here is no failure of the job.
    is_completed = job.state is JobState.COMPLETED
    status = 0 if is_completed else error.exit_status if isinstance(error, CommandFailed) else FAILED_STATUS
    if form.json:
        print_json({**job_document(info_of(c, job.id)), "exit_status": status, **_result_document(job, error)})
    elif error is None:
        _print_result(job.result())
    else:
        _print_error(job, error)
    return status


def _result_document(job: Job[Any], error: BaseException | None) -> dict[str, Any]:
    document: dict[str, Any] = {"output": job.logs(), "error": str(error) if error else None}
    if error is None:
        result = job.result()
        try:
            json.dumps(result)
        except (TypeError, ValueError):
            return {**document, "result": None, "result_repr": repr(result)}
        document["result"] = result
    return document


def _print_result(result: object) -> None:
    """The result as a line: JSON where it can be, else as Python shows it. Nothing for a function without a result."""
    if result is None:
        return
    try:
        typer.echo(json.dumps(result))
    except (TypeError, ValueError):
        typer.echo(repr(result))


def _print_error(job: Job[Any], error: BaseException) -> None:
    why = job.certificate
    if isinstance(error, CommandFailed):
        say(f"cluster: job {job.id}: {error}")
        return
    if why is not None and why.traceback:
        say(why.traceback.rstrip())
    text = str(error) if isinstance(error, ClusterError) else f"job {job.id}: {type(error).__name__}: {error}"
    say(f"cluster: {text}\nhint: cluster job show {job.id}")
