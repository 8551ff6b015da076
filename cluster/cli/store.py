"""`cluster store ...`: the file behind a cluster, looked at and looked after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.option_groups import Form, grouped
from cluster.cli.printing import echo, print_fields, print_json, say, size_text

if TYPE_CHECKING:
    from cluster.store.files import StoreFiles
    from cluster.store.prune import Pruned

app = typer.Typer(help="The file behind a cluster: check it, back it up, put it back.", no_args_is_help=True)

FOUND_STATUS = 1  # something is wrong with the store

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="The store, as in `master.store`: sqlite:///PATH.")]


@app.command()
@grouped
def check(url: UrlArgument, form: Form) -> None:
    """Look at all of a store, whether a cluster runs on it or not, and change nothing.

    One line for each thing that is wrong; then the exit status is 1.
    """
    from cluster.store.inspection import check as check_store

    found = check_store(url, _files(url))
    if form.json:
        print_json({"store": url, "findings": found.findings, "counts": found.counts})
    else:
        _print_findings(found.findings)
        print_fields([("store", url), ("state", "" if found.findings else "sound"), *_told(found.counts)])
    _leave(found.findings)


@app.command()
@grouped
def backup(
    url: UrlArgument,
    form: Form,
    to: Annotated[
        Path | None,
        typer.Argument(metavar="[TO]", help="The backup's file.", show_default="beside the store, with the date"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier backup of that name.")] = False,
) -> None:
    """Copy a store, whether a cluster runs on it or not, and check the copy. It is a store itself, with its key beside it."""
    from cluster.store.backup import back_up
    from cluster.store.copying import unused_name

    files = _files(url)
    made = back_up(url, files, to.absolute() if to else unused_name(files.database, "backup"), may_replace=force)
    if form.json:
        print_json({"store": url, "backup": str(made.path), "findings": made.findings, "counts": made.counts})
    else:
        _print_findings(made.findings)
        print_fields([("store", url), ("backup", str(made.path)), *_told(made.counts)])
    _leave(made.findings)


@app.command()
@grouped
def restore(
    url: UrlArgument,
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `cluster store backup` made.")],
    form: Form,
) -> None:
    """Put a backup into the place of a store that no cluster has open. What was there is kept, under a name that is told."""
    from cluster.store.restore import restore as restore_store

    done = restore_store(url, _files(url), backup.absolute())
    if form.json:
        document = {"store": url, "backup": str(backup), "kept": [str(path) for path in done.kept]}
        print_json({**document, "epoch": done.epoch, "findings": done.findings, "counts": done.counts})
    else:
        _print_findings(done.findings)
        print_fields([("store", url), ("from", str(backup)), *_told(done.counts)])
        for path in done.kept:
            say(f"kept: {path}")
    _leave(done.findings)


@app.command()
@grouped
def prune(url: UrlArgument, form: Form) -> None:
    """Drop what is past its retention from a store that no cluster has open, and make the file smaller."""
    from cluster.store.prune import prune as prune_store

    files = _files(url)
    files.identify()  # a typing error must not make a store
    done = prune_store(url, files)
    if form.json:
        print_json({"store": url, "pruned": done.jobs, "bytes": done.bytes_after, "freed": _freed(done)})
    else:
        echo(f"{done.jobs} pruned, {size_text(_freed(done))} given back")


def _freed(done: Pruned) -> int:
    return max(0, done.bytes_before - done.bytes_after)


def _files(url: str) -> StoreFiles:
    from cluster.store.files import StoreFiles
    from cluster.store.locate import file_of

    return StoreFiles(url, file_of(url))


def _told(counts: dict[str, int]) -> list[tuple[str, str]]:
    return [(name, size_text(count) if name == "bytes" else f"{count:,}") for name, count in counts.items()]


def _print_findings(findings: tuple[str, ...]) -> None:
    for sentence in findings:
        echo(f"wrong: {sentence}")


def _leave(findings: tuple[str, ...]) -> None:
    if findings:
        raise typer.Exit(FOUND_STATUS)
