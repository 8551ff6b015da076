"""From a store's URL to the adapter: the one place that knows which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import Refused
from cluster.store.memory import MemoryStore
from cluster.store.port import Store

if TYPE_CHECKING:
    from pathlib import Path

_FORMS = "memory:, sqlite:///relative.db or sqlite:////absolute/path.db"


def open_store(url: str) -> Store:
    """The store that `url` names; not yet opened (`Store.open`), and nothing is touched before that.

    Args:
        url: `memory:`, or `sqlite:///PATH` with PATH relative to the working directory of this moment, or absolute
            (four slashes).

    Raises:
        Refused: no adapter knows this form.
    """
    scheme, _, rest = url.partition(":")
    if url == "memory:":
        return MemoryStore()
    if scheme == "sqlite":
        # Only here, so that a program without a durable store does not load sqlite3.
        from cluster.store.sqlite import SqliteStore

        return SqliteStore(_sqlite_path(url, rest))
    if scheme in {"postgresql", "postgres"}:
        raise Refused(f"a store in PostgreSQL is not there yet; write {_FORMS}")
    hint = (
        f"did you mean {f'sqlite:///{url}'!r}? A store is" if url.endswith((".db", ".sqlite", ".sqlite3")) else "write"
    )
    raise Refused(f"{url!r} names no store; {hint} {_FORMS}")


def file_of(url: str) -> Path:
    """The database that a store's URL names. Raises `Refused` for a store that is no file."""
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        return _sqlite_path(url, rest)
    if url == "memory:":
        raise Refused("a store in memory has no file and ends with its master; write sqlite:///PATH")
    open_store(url)  # says what is wrong with it
    raise Refused(f"{url!r} is no file; write sqlite:///PATH")


def _sqlite_path(url: str, rest: str) -> Path:
    # Here, as sqlite3 above.
    from pathlib import Path
    from urllib.parse import unquote

    path = unquote(rest.removeprefix("///"))
    if not rest.startswith("///") or not path or path.endswith("/") or "?" in rest or "\0" in path:
        raise Refused(f"{url!r} names no file; write sqlite:///relative.db or sqlite:////absolute/path.db")
    return Path(path).absolute()
