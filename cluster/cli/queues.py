"""`cluster queue ...`: what waits where, and holding it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import find
from cluster.cli.find import Where
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import Column, echo, print_json, print_table
from cluster.errors import Refused

if TYPE_CHECKING:
    from cluster.client.handle import Cluster, Queue

app = typer.Typer(help="What waits where, and holding it back.", no_args_is_help=True)

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]

_COLUMNS = (Column("queue", may_shrink=True), Column("queued", is_number=True), Column("state"))


@app.command("list")
@grouped
def list_queues(where: Where, form: Form) -> None:
    """List the queues that hold jobs or are paused."""
    with find.find_cluster(where) as c:
        stats = c.stats()
    queues = [
        {"name": name, "queued": stats.queues.get(name, 0), "paused": name in stats.paused}
        for name in sorted({"default", *stats.queues, *stats.paused})
    ]
    if form.json:
        print_json(queues)
    else:
        print_table(
            _COLUMNS,
            [(str(one["name"]), str(one["queued"]), "paused" if one["paused"] else "ready") for one in queues],
        )


@app.command()
@grouped
def pause(queue: QueueArgument, where: Where, form: Form) -> None:
    """Start no more jobs of a queue; running ones go on. It stays so after a restart."""
    with find.find_cluster(where) as c:
        _named(c, queue).pause()
    _print_state(queue, form, is_paused=True)


@app.command()
@grouped
def resume(queue: QueueArgument, where: Where, form: Form) -> None:
    """Start the jobs of a queue again."""
    with find.find_cluster(where) as c:
        _named(c, queue).resume()
    _print_state(queue, form, is_paused=False)


def _named(c: Cluster, queue: str) -> Queue:
    try:
        return c.queue(queue)
    except ValueError as error:
        raise Refused(str(error)) from None


def _print_state(queue: str, form: Form, *, is_paused: bool) -> None:
    if form.json:
        print_json({"name": queue, "paused": is_paused})
    else:
        echo(f"{queue}  {'paused' if is_paused else 'ready'}")
