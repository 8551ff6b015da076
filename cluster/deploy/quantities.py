"""Durations and sizes as people write them in a configuration, and back."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

from cluster.client import option_values
from cluster.errors import Refused
from cluster.worker import groups

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_HOW_LONG = "write seconds, or a text like 0s, 500ms, 10s or 5m"


def read_duration(value: object) -> float:
    """Seconds above zero, from what an option of `submit` takes too: 2, 0.5, "10m", "1h30m", "7d"."""
    try:
        return option_values.duration("duration", value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no duration; write seconds, or a text like 500ms, 10s, 1h30m or 7d") from error


def read_delay(value: object) -> float:
    """As `read_duration`, zero included."""
    try:
        if value is not None:  # which an option of `submit` may be
            return option_values.delay("duration", value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no duration; {_HOW_LONG}") from error
    raise ValueError(f"{value!r} is no duration; {_HOW_LONG}")


def write_duration(seconds: float) -> str:
    """The shortest text in one unit that reads back as the same."""
    for unit, length in _UNITS.items():
        if seconds >= length and (seconds / length).is_integer():
            return f"{int(seconds / length)}{unit}"
    digits = f"{Decimal(repr(seconds)):f}"  # all of them, and no exponent
    return f"{digits.removesuffix('.0')}s"


def read_size(value: object) -> int:
    """Bytes above zero: 4096, "50MB" (a million each), "50MiB" (1,048,576 each)."""
    try:
        return option_values.size("size", value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no size; write bytes, or a text like 500kB, 50MB, 1.5GiB") from error


def read_group_limits(value: Mapping[Any, object]) -> dict[str, float]:
    """What a worker's cgroup allows: memory a size, pids a whole number, cpu any. Bounds and names are checked."""
    read: dict[str, float] = {}
    for name, said in value.items():
        if name == "memory":
            read["memory"] = read_size(said)
        elif type(said) is int or type(said) is float:
            read[str(name)] = said
        else:
            raise ValueError(f"cgroup {name}: {said!r} is no number")
    try:
        return dict(groups.read_group_limits(read))
    except Refused as error:
        raise ValueError(str(error)) from error


Duration = Annotated[float, BeforeValidator(read_duration)]
Delay = Annotated[float, BeforeValidator(read_delay)]
Size = Annotated[int, BeforeValidator(read_size)]
