"""The command line's reference, from the commands themselves: `python -m cluster.cli.reference > docs/reference/cli.md`.

A test compares the two, so a command that changes without its page is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from cluster.cli.main import PROGRAM, app

HEAD = """# Command line

Made by `python -m cluster.cli.reference`; edit the commands, not this page.

**Which cluster.** `--address` (with `--authkey-file`, else `CLUSTER_AUTHKEY_FILE`) or `--file` on the command line; else
`CLUSTER_ADDRESS` with `CLUSTER_AUTHKEY_FILE`; else `CLUSTER_FILE`; else `./cluster.yaml`. With a file, the key comes from
its `keys`.

**Output.** Data goes to standard output, everything else to standard error. On a terminal tables fit its width; elsewhere
nothing is cut off. `--json` prints one JSON document.

**Exit status.** 0: done. 1: a job failed, or a store is not sound. 2: a mistake of yours, told in one sentence. 70: a
defect of the kit. 75: the store of `master` can't be used now, and may be later (a full disk). 124: `job wait --timeout`
ran out. 130: Ctrl-C. `submit --wait -- COMMAND` ends with the command's own status.

**Ctrl-C.** `master` and `worker` drain at the first and kill at the second. `submit --wait` and `job wait` detach: the
job goes on, and its id is printed.

**Completion.** `cluster --install-completion` sets it up for your shell.
"""

# What every command that asks a cluster takes is told once, above.
TOLD_ABOVE = {"address", "authkey_file", "file", "json", "help"}


def reference() -> str:
    """The page."""
    root: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *(line for command in _commands(root, PROGRAM) for line in command)])


def _commands(command: Any, path: str) -> Iterator[list[str]]:
    """Each command that can be typed, in the order of the help."""
    for name, inner in command.commands.items():
        here = f"{path} {name}"
        if hasattr(inner, "commands"):
            yield from _commands(inner, here)
        else:
            # `cluster worker ADDRESS` is typed without the name of its hidden command.
            yield _section(inner, path if inner.hidden else here)


def _section(command: Any, path: str) -> list[str]:
    usage = [path, "[OPTIONS]", *(_argument(one) for one in command.params if not _is_option(one))]
    lines = [f"## `{' '.join(usage)}`", "", *_paragraphs(command.help or ""), ""]
    told = [one for one in command.params if not (_is_option(one) and one.name in TOLD_ABOVE)]
    if path.endswith(" worker"):
        told = [one for one in command.params if one.name != "help"]  # its key is the worker's own
    rows = [f"| {_name(one)} | {_cell(one.help or '')} | {_default(one)} |" for one in told if not one.hidden]
    if rows:
        lines += ["| | | default |", "| --- | --- | --- |", *rows, ""]
    return lines


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _name(parameter: Any) -> str:
    if not _is_option(parameter):
        return f"`{_argument(parameter)}`".replace("|", "\\|")
    names = ", ".join(f"`{one}`" for one in parameter.opts)
    return f"{names} {parameter.metavar}" if parameter.metavar else names


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return _cell(parameter.show_default)
    if not parameter.show_default or parameter.default is None or isinstance(parameter.default, bool):
        return ""
    return f"`{parameter.default}`"


def _paragraphs(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
