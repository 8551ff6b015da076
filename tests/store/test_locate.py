from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import Refused
from cluster.store.locate import open_store
from cluster.store.memory import MemoryStore


def test_memory_names_a_store_in_memory() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


def test_three_slashes_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///runs.db")
    monkeypatch.chdir("/")

    store.open()
    store.close()

    assert (tmp_path / "runs.db").is_file()


def test_four_slashes_are_absolute(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/my%20runs #1.db")

    store.open()
    store.close()

    assert (tmp_path / "my runs #1.db").is_file()


def test_naming_a_store_touches_nothing(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/runs.db")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("runs.db", "did you mean 'sqlite:///runs.db'"),
        ("", "memory:"),
        ("redis://localhost", "memory:, sqlite:///relative.db"),
        ("memory", "memory:"),
        ("sqlite:runs.db", "sqlite:///relative.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite:///runs.db?mode=ro", "names no file"),
        ("postgresql://host/db", "not there yet"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_what_to_write(url: str, says: str) -> None:
    with pytest.raises(Refused) as told:
        open_store(url)

    assert says in str(told.value)


def test_sqlite3_is_only_loaded_for_a_store_in_a_file() -> None:
    program = (
        "import sys; from cluster.store.locate import open_store; open_store('memory:');"
        "assert 'sqlite3' not in sys.modules; open_store('sqlite:///x.db'); assert 'sqlite3' in sys.modules"
    )

    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert done.stderr == ""
