"""`cluster worker list|show|drain|undrain`: the workers that are there. Starting one is the business of `processes`."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import msgspec
import typer

from cluster.cli import find
from cluster.cli.find import Where
from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import (
    Column,
    duration_text,
    echo,
    memory_text,
    print_fields,
    print_json,
    print_table,
    size_text,
)
from cluster.errors import Refused
from cluster.wire.calls import WorkerArgs
from cluster.wire.messages import WorkerInfo

WorkerArgument = Annotated[str, typer.Argument(metavar="NAME", help="The worker's name or id.")]

_COLUMNS = (
    Column("worker", may_shrink=True),
    Column("host", may_shrink=True),
    Column("pid", is_number=True),
    Column("state"),
    Column("running", is_number=True),
    Column("cpu", is_number=True),
    Column("memory", is_number=True),
    Column("load", is_number=True),
)
_SLOT_COLUMNS = (
    Column("slot", is_number=True),
    Column("pid", is_number=True),
    Column("job"),
    Column("for", is_number=True),
    Column("cpu", is_number=True),
    Column("memory", is_number=True),
)


def list_workers(where: Where, form: Form) -> None:
    """List the workers with what they and their hosts are doing."""
    with find.find_cluster(where) as c:
        workers = c.workers()
    if form.json:
        print_json([worker_document(worker) for worker in workers])
    else:
        print_workers(workers)


def print_workers(workers: list[WorkerInfo]) -> None:
    """Workers as a table."""
    print_table(
        _COLUMNS,
        [
            (
                worker.name,
                worker.host,
                str(worker.pid),
                worker.state,
                f"{worker.running}/{worker.slots}",
                f"{worker.health.cpu_percent:.0f} %",
                memory_text(worker.health),
                f"{worker.health.load[0]:.1f}",
            )
            for worker in workers
        ],
    )
    for worker in workers:
        if worker.trouble:
            echo(f"{worker.name}: {worker.trouble}")


def show(worker: WorkerArgument, where: Where, form: Form) -> None:
    """Show a worker: its host, and each slot with its job."""
    with find.find_cluster(where) as c:
        found = pick(c.workers(), worker)
    if form.json:
        print_json(worker_document(found))
        return
    health = found.health
    print_fields(
        [
            ("worker", found.name),
            ("id", found.id),
            ("state", found.state),
            ("trouble", found.trouble),
            ("host", found.host),
            ("pid", str(found.pid)),
            ("slots", f"{found.slots}, {found.running} running"),
            ("resources", ", ".join(f"{name}={amount}" for name, amount in found.resources)),
            ("labels", ", ".join(f"{name}={value}" for name, value in found.labels)),
            ("cpu", f"{health.cpu_percent:.0f} % of the host, load {' '.join(f'{load:.2f}' for load in health.load)}"),
            ("memory", memory_text(found.health)),
            ("disk", f"{size_text(health.disk_free)} free" if health.disk_free else ""),
        ]
    )
    if health.slots:
        echo("")
        print_table(
            _SLOT_COLUMNS,
            [
                (
                    str(slot.slot),
                    str(slot.pid),
                    slot.job or "-",
                    duration_text(slot.seconds) if slot.job else "",
                    f"{slot.cpu_percent:.0f} %",
                    size_text(slot.memory),
                )
                for slot in health.slots
            ],
        )


def drain(worker: WorkerArgument, where: Where, form: Form) -> None:
    """Give a worker no more jobs; what runs there goes on. Needs the admin key."""
    find.ask_admin(where, "drain", WorkerArgs(worker))
    _print_state(worker, "draining", form)


def undrain(worker: WorkerArgument, where: Where, form: Form) -> None:
    """Give a drained worker jobs again. Needs the admin key."""
    find.ask_admin(where, "undrain", WorkerArgs(worker))
    _print_state(worker, "ready", form)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the group `cluster worker`, which also starts one."""
    app.command("list")(grouped(list_workers))
    for command in (show, drain, undrain):
        app.command()(grouped(command))


def pick(workers: list[WorkerInfo], wanted: str) -> WorkerInfo:
    """The worker of this name or id; of several incarnations of a name, the one that is there."""
    found = [worker for worker in workers if wanted in {worker.name, worker.id}]
    if not found:
        near = difflib.get_close_matches(wanted, [worker.name for worker in workers], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`cluster worker list` shows those that are there"
        raise Refused(f"no worker is called {wanted!r}; {hint}")
    return next((worker for worker in found if worker.state != "lost"), found[-1])


def worker_document(worker: WorkerInfo) -> dict[str, Any]:
    """A worker as `--json` prints it."""
    document: dict[str, Any] = msgspec.to_builtins(worker)
    document["resources"] = dict(worker.resources)
    document["labels"] = dict(worker.labels)
    return document


def _print_state(worker: str, state: str, form: Form) -> None:
    if form.json:
        print_json({"name": worker, "state": state})
    else:
        echo(f"{worker}  {state}")
