"""The command line on an embedded cluster that stands where the connected one would."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster
from cluster.cli import find
from tests.cli.rig import Call, caller


@pytest.fixture(scope="module")
def c() -> Iterator[cluster.Cluster]:
    with cluster.local(slots=2) as handle:
        yield handle
        handle.close(wait=False)


@pytest.fixture
def call(c: cluster.Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(find, "find_cluster", lambda where: contextlib.nullcontext(c))
    return caller(monkeypatch, capsys)


@pytest.fixture
def call_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """For commands that must not, or can't, reach a cluster: in an empty folder, with nothing in the environment."""
    for name in ("ADDRESS", "AUTHKEY_FILE", "FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"CLUSTER_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)
