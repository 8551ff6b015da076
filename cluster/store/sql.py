"""The SQL of this room lives in `.sql` files beside it; this module finds and names the statements."""

from __future__ import annotations

from pathlib import Path

_MARK = "-- name: "


def script(name: str) -> str:
    """The text of a whole file, for `executescript`."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def statements(name: str) -> dict[str, str]:
    """The named statements of a file, without their comments."""
    found: dict[str, str] = {}
    for part in script(name).split(_MARK)[1:]:
        title, *lines = part.splitlines()
        text = "\n".join(line for line in lines if not line.startswith("--")).strip()
        if title in found or not text:
            raise ValueError(f"{name} has the statement {title!r} twice, or without text")
        found[title] = text.removesuffix(";")
    return found
