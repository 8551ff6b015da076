"""From a file to a `Config`, or to one sentence that names the file, the line, and the nearest key that exists.

The text is read twice: for what it says (`yaml.safe_load` builds plain data, never objects) and for where each key
stands. Later words win: the file, then `CLUSTER__MASTER__BIND=...` from the environment, then what the caller passes.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from msgspec import Struct
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cluster.deploy.schema import Config
from cluster.errors import Refused

PREFIX = "CLUSTER__"
MAX_FILE_BYTES = 1 << 20
# The schema is five levels deep. An alias that contains itself has no end, and a few lines of aliases make millions.
MAX_DEPTH = 20
MAX_KEYS = 100_000

# What pydantic calls a fault, and what a file should say instead.
_WANTED = {
    "model_type": "a section of `key: value` lines",
    "dict_type": "a section of `key: value` lines",
    "list_type": "a list",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text; put it in quotes if it looks like a number",
    "string_too_short": "a text that is not empty",
    "too_short": "at least one item",
    "string_pattern_mismatch": "a name: letters, digits, '.', '_' and '-', the first one a letter or digit",
}

Place = tuple[str | int, ...]


class Source(Struct, frozen=True):
    """Data, and what to call the origin of each part of it."""

    data: dict[str, Any]
    origins: dict[Place, str]


def load_config(
    file: str | os.PathLike[str],
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read and check a configuration; every path in it comes out absolute.

    Args:
        file: the YAML file. Relative paths in it, and in what overrides it, are relative to its folder.
        environment: where to look for `CLUSTER__...`; by default this process's.
        overrides: values by key, joined with two underscores: `{"master__bind": "tcp://127.0.0.1:7700"}`.

    Raises:
        Refused: it can't be read, or says what can't be; the text is one sentence.
    """
    path = Path(file)
    source = _read(path)
    variables = os.environ if environment is None else environment
    for name in sorted(variables):
        if name.startswith(PREFIX):
            value = _parse_value(name, variables[name])
            _override(source, name.removeprefix(PREFIX).lower().split("__"), value, name)
    for name, value in (overrides or {}).items():
        _override(source, name.split("__"), value, f"override {name}")
    try:
        config = Config.model_validate(source.data, context={"folder": str(path.absolute().parent)})
    except ValidationError as error:
        raise Refused(_sentence(error, source, path)) from None
    return config.from_file(path.absolute())


# --- reading --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Source:
    try:
        if path.is_dir():
            raise Refused(f"{path} is a folder; name the YAML file in it")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"{path} is larger than {MAX_FILE_BYTES} bytes; that is no configuration")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"there is no file {path}; name a cluster's YAML file, as in configs/local.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path} can't be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        origins: dict[Place, str] = {}
        if node is not None:
            _locate(node, (), path, origins)  # before it is loaded: aliases could make much of little
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refused(_syntax(error, path)) from None
    if not isinstance(data, dict | None):
        raise Refused(f"{path}:1: a configuration is a list of `key: value` lines, not {type(data).__name__}")
    return Source(data or {}, origins)


def _locate(node: yaml.Node, place: Place, path: Path, origins: dict[Place, str]) -> None:
    """Note the line of each key and item, and refuse a key that is written twice, of which YAML would drop one."""
    if len(place) > MAX_DEPTH or len(origins) > MAX_KEYS:
        raise Refused(
            f"{path}:{node.start_mark.line + 1}: this nests too deeply, or says too much, for a configuration"
        )
    origins.setdefault(place, f"{path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            line = f"{path}:{key.start_mark.line + 1}"
            if inner in origins:
                first = origins[inner].rpartition(":")[2]
                raise Refused(f"{line}: {dotted(inner)} is written twice, first in line {first}; keep one of them")
            origins[inner] = line
            _locate(value, inner, path, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _locate(value, (*place, index), path, origins)


def _syntax(error: yaml.YAMLError, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "it can't be read"
    return f"{path}{f':{mark.line + 1}' if mark else ''}: this is not YAML: {' '.join(str(what).split())}"


def _parse_value(name: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise Refused(f"the environment's {name}={text!r} is no YAML value; put it in quotes") from None


def _override(source: Source, keys: list[str], value: object, origin: str) -> None:
    """Put a value where `keys` lead, making sections on the way."""
    here: Any = source.data
    place: Place = ()
    for number, key in enumerate(keys):
        is_last = number == len(keys) - 1
        step: str | int = key
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise Refused(f"{origin}: {dotted(place)} has {len(here)} items, counted from 0, and no {key!r}")
            step = int(key)
        elif not isinstance(here, dict):
            raise Refused(f"{origin}: {dotted(place)} holds one value, and nothing called {key!r}")
        place = (*place, step)
        if is_last:
            here[step] = value
            # What stood below is gone, and with it the lines where it stood.
            for below in [known for known in source.origins if known[: len(place)] == place]:
                del source.origins[below]
        elif isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here = here[step]
        source.origins.setdefault(place, origin)
        if is_last:
            source.origins[place] = origin


# --- telling what is wrong ------------------------------------------------------------------------------------------


def _sentence(error: ValidationError, source: Source, path: Path) -> str:
    """The first fault, by where it stands, and how many more there are."""
    told = [(_origin(tuple(detail["loc"]), source, path), detail) for detail in error.errors(include_url=False)]
    told.sort(key=lambda entry: _line_of(entry[0]))
    origin, detail = told[0]
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return f"{origin}: {_fault(detail)}{more}"


def _origin(place: Place, source: Source, path: Path) -> str:
    while place:
        if place in source.origins:
            return source.origins[place]
        place = place[:-1]
    return source.origins.get((), f"{path}:1")


def _line_of(origin: str) -> int:
    line = origin.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _fault(detail: ErrorDetails) -> str:
    place = tuple(detail["loc"])
    kind = detail["type"]
    key = dotted(place)
    value = detail["input"]
    if kind == "extra_forbidden":
        return f"{key} is not known; {_nearest(place)}"
    if kind == "value_error":
        return f"{key}: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"])
    bounds = {"greater_than_equal": "{ge} or more", "less_than_equal": "{le} or less"}
    wanted = _WANTED.get(kind) or detail["msg"].removeprefix("Input should be ")
    if kind in bounds:
        wanted = bounds[kind].format_map(detail["ctx"])
    return f"{key} can't be {value!r}; it takes {wanted}"


def _nearest(place: Place) -> str:
    section: Any = Config
    for step in place[:-1]:
        section = _type_at(section, step)
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return "leave it out"
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    before = dotted(place[:-1])
    if near:
        return f"did you mean {f'{before}.' if before else ''}{near[0]}?"
    return f"{before or 'a configuration'} takes {', '.join(known)}"


def _type_at(section: Any, step: str | int) -> Any:  # noqa: ANN401 - types of any shape
    """The type that a key of a section, an item of a list or a value of a dict has."""
    if isinstance(section, type) and issubclass(section, BaseModel):
        field = section.model_fields.get(str(step))
        return None if field is None else field.annotation
    return next((inner for inner in reversed(get_args(section)) if inner is not type(None)), None)


def dotted(place: Place) -> str:
    """`("workers", 0, "slots")` as `workers[0].slots`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return re.sub(r"^\.", "", text)
