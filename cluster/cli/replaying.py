"""`cluster job replay`: a job once more, in this process, with its real arguments and a debugger.

    client key ──► parts: function and arguments, as bytes ──► unpickled here ──► called under pdb
               └─► result of each job among the arguments

Nothing is committed: the job keeps its state, its history and its budgets. The function's own effects on files or other
systems are real.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli import find
from cluster.cli.find import Where
from cluster.cli.jobs import FAILED_STATUS, JobArgument, info_of
from cluster.cli.option_groups import grouped
from cluster.cli.printing import say, state_name
from cluster.core.records import JobId, JobInfo, Payload
from cluster.errors import Refused
from cluster.wire.messages import JobParts

if TYPE_CHECKING:
    from cluster.client.handle import Cluster

# A result may be a gigabyte; whoever wants to see all of it has the debugger.
MAX_SHOWN_CHARACTERS = 10_000


class Debugger(Enum):
    """When pdb takes over."""

    NEVER = "never"
    AT_THE_EXCEPTION = "at the exception"
    AT_THE_FIRST_LINE = "at the first line"


@grouped
def replay(
    job: JobArgument,
    where: Where,
    break_at_start: Annotated[bool, typer.Option("--break", help="Stop at its first line too.")] = False,
    no_pdb: Annotated[bool, typer.Option("--no-pdb", help="Only run it.")] = False,
    item: Annotated[
        int | None, typer.Option(min=0, help="Of a chunk of a map: which item.", show_default="the one that failed")
    ] = None,
) -> None:
    """Run a job here, with its real arguments, under pdb. Nothing is committed. Exit status 1 if it raised."""
    if break_at_start and no_pdb:
        raise Refused("--break and --no-pdb exclude each other; write the one that you mean")
    when = Debugger.AT_THE_EXCEPTION
    if break_at_start:
        when = Debugger.AT_THE_FIRST_LINE
    elif no_pdb:
        when = Debugger.NEVER
    with find.find_cluster(where) as c:
        info, parts, inputs = fetch(c, job)
    chosen = item if item is not None else info.certificate.item if info.certificate is not None else -1
    raise typer.Exit(run_here(info, parts, inputs, item=chosen, when=when))


def fetch(c: Cluster, job: JobId) -> tuple[JobInfo, JobParts, dict[JobId, Payload]]:
    """The job, what it was submitted with, and the results of the jobs among its arguments."""
    info = info_of(c, job)
    # The public handle hands out no pickles; asked for here, the session's desk does.
    desk = c._session.reach()  # noqa: SLF001 - the command is the kit's own
    parts = desk.parts(job)
    inputs: dict[JobId, Payload] = {}
    for name in parts.spec.inputs:
        outcome = desk.result(name)
        if outcome is None:
            raise Refused(
                f"the result of job {name} is an argument of job {job}, and is not there; requeue {name} first"
            )
        inputs[name] = outcome.payload
    return info, parts, inputs


def run_here(info: JobInfo, parts: JobParts, inputs: dict[JobId, Payload], *, item: int, when: Debugger) -> int:
    """Load the job and call it; the exit status."""
    # Not at the top: every command would pay for them.
    import bdb
    import pdb  # noqa: T100 - it is what this command is for

    from cluster.worker.replay import as_job, check, load

    check(parts, item)
    of_item = f", item {item}" if parts.spec.items else ""
    say(f"replaying job {info.id}{of_item}, which is {state_name(info.state)}: {parts.function.name}")
    with _importing_from_here(), as_job(parts, info.run, inputs):
        try:
            call = load(parts, item)
            result = _call(when, call.function, call.args, call.kwargs)
        except bdb.BdbQuit:
            say("left the debugger; nothing was committed")
            return FAILED_STATUS
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is what is looked for
            theirs = _without_our_frames(error.__traceback__)
            traceback.print_exception(type(error), error, theirs)
            say(f"it raised {type(error).__name__}; nothing was committed")
            if when is not Debugger.NEVER:
                pdb.post_mortem(theirs)
            return FAILED_STATUS
    shown = repr(result)
    typer.echo(shown if len(shown) <= MAX_SHOWN_CHARACTERS else f"{shown[:MAX_SHOWN_CHARACTERS]}...")
    say("it returned that; nothing was committed")
    return 0


def _call(when: Debugger, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if when is not Debugger.AT_THE_FIRST_LINE:
        return function(*args, **kwargs)
    import bdb
    import pdb  # noqa: T100 - it is what this command is for

    class NotingPdb(pdb.Pdb):
        """Notes that the person left, which `runcall` keeps to itself."""

        is_left = False

        def set_quit(self) -> None:
            self.is_left = True
            super().set_quit()

    debugger = NotingPdb()
    result = debugger.runcall(function, *args, **kwargs)
    if debugger.is_left:
        raise bdb.BdbQuit
    return result


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback that begins with the job's own code, where there is such code in it."""
    first = trace
    while first is not None and first.tb_frame.f_globals.get("__name__", "").partition(".")[0] in {"cluster", "bdb"}:
        first = first.tb_next
    return first or trace


@contextlib.contextmanager
def _importing_from_here() -> Iterator[None]:
    """Modules of the current folder can be imported, as by `python script.py`; the console script has its own."""
    here = os.getcwd()  # noqa: PTH109 - a text is wanted
    is_new = here not in sys.path
    if is_new:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if is_new and here in sys.path:
            sys.path.remove(here)
