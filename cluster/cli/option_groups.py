"""Groups of options: a command takes frozen records, and the command line shows their fields.

    def show(job: JobArgument, where: Where, form: Form) -> None          what is written
    cluster job show [--address --authkey-file --file] [--json] JOB       what is read

A field of a group is annotated as a parameter of a typer command would be. `grouped` is also the one place where a
command meets Ctrl-C: commands that have their own answer to it catch it themselves.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

INTERRUPTED_STATUS = 130  # 128 + SIGINT, the shell's convention


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer is to see it: each parameter that is a dataclass is replaced by its fields."""
    groups: dict[str, type] = {}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation) and isinstance(parameter.annotation, type):
            groups[parameter.name] = parameter.annotation
            shown += _fields(parameter.annotation)
        else:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        for name, group in groups.items():
            fields = [field.name for field in dataclasses.fields(group)]
            values[name] = group(**{field: values.pop(field) for field in fields})
        try:
            command(**values)
        except KeyboardInterrupt:
            typer.echo("cluster: interrupted", err=True)
            raise typer.Exit(INTERRUPTED_STATUS) from None

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__module__ = command.__module__
    # Typer reads both. The annotations are real types here, not texts that it would have to resolve.
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _fields(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How data is printed."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
