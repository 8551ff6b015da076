"""The reference page of the configuration, printed from the schema: `python -m cluster.deploy.reference`."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.deploy.quantities import read_delay, read_duration, read_size
from cluster.deploy.schema import Certificate, Config, NotYet, Threads

_HEAD = """\
# Configuration

A cluster of processes is described by one YAML file: `cluster up FILE` brings it up, `cluster down FILE` brings it down,
and `cluster.launch(FILE)` does both for a program. Every key has a default; an empty file is a cluster too. Samples with
comments are in `configs/`.

- Relative paths are relative to the folder of the file.
- A duration is a number of seconds or a text like `500ms`, `10s`, `1h30m` or `7d`; a size is a number of bytes or a text
  like `500kB`, `50MB` or `1.5GiB`.
- `CLUSTER__MASTER__BIND=tcp://127.0.0.1:7700` in the environment overrides `master.bind`, and
  `CLUSTER__WORKERS__0__SLOTS=4` the slots of the first worker; `cluster.launch(FILE, master__bind=...)` overrides both.
- An unknown key, a wrong type or a value out of bounds is an error that names the file, the line, and the nearest key
  that exists.
- Keys marked *not there yet* belong to what is still to be built. They take their default and nothing else.

This page is printed by `python -m cluster.deploy.reference`; a test compares it with the schema.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_section("", Config)])


def _section(place: str, section: type[BaseModel]) -> Iterator[str]:
    if place:
        yield f"## `{place}`\n\n{section.__doc__}\n"
    else:
        yield "## The file\n"
    yield "| key | takes | default | what it says |"
    yield "| --- | --- | --- | --- |"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner.append((f"{place}.{name}" if place else name, field.annotation))
            yield f"| `{name}` | [section](#{name}) | | {field.description} |"
        else:
            yield f"| `{name}` | {_takes(field)} | {_default(field)} | {_says(field)} |"
            inner += [(f"{name}{shape}", kind) for shape, kind in _sections_in(field.annotation)]
    yield ""
    for where, kind in inner:
        yield from _section(where, kind)


def _sections_in(kind: Any) -> Iterator[tuple[str, type[BaseModel]]]:  # noqa: ANN401 - types of any shape
    """Sections that a list or a dict holds. `Threads` is told where slots are."""
    shape = {list: "[...]", dict: ".NAME"}.get(get_origin(kind), "")
    for inner in get_args(kind) if shape else ():
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Threads:
            yield shape, inner


def _takes(field: FieldInfo) -> str:
    readers = {getattr(mark, "func", None) for mark in field.metadata}
    if readers & {read_duration, read_delay}:
        return "duration"
    if read_size in readers:
        return "size"
    return _name_of(field.annotation)


def _name_of(kind: Any) -> str:  # noqa: ANN401 - types of any shape
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _name_of(inner[0])
    if origin in {Union, types.UnionType}:
        return " or ".join(dict.fromkeys(_name_of(one) for one in inner if one is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is list:
        return f"list of {_name_of(inner[0])}"
    if origin is dict:
        return f"names, each with {_name_of(inner[1])}"
    if kind is Threads:
        return "`{threads: N}`"
    if kind is Certificate:
        return "`{ca: FILE, cert: FILE, key: FILE}`"
    names = {bool: "`true` or `false`", str: "text", int: "whole number", float: "number", Any: "text"}
    return names.get(kind) or ("section" if isinstance(kind, type) and issubclass(kind, BaseModel) else "text")


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ("", [], {}, [{}]):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if not isinstance(value, dict) else ""


def _says(field: FieldInfo) -> str:
    is_to_come = any(isinstance(mark, NotYet) for mark in field.metadata)
    return f"{field.description}{' *Not there yet.*' if is_to_come else ''}"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - that is what it is for
