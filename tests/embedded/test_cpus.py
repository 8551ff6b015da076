from __future__ import annotations

import os
from pathlib import Path

import pytest

import cluster
from cluster.embedded import cpus
from cluster.embedded.cpus import parse_quota, usable_cpus


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        ("-1 100000", None),  # how version 1 says that there is no limit
        ("0 100000", None),
        ("100000 0", None),
        ("100000", None),
        ("", None),
        ("some thing", None),
    ],
)
def test_a_quota_line_is_understood_or_counts_as_no_limit(line: str, expected: float | None) -> None:
    assert parse_quota(line) == expected


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cpus, "_CGROUP_V2", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(cpus, "_CGROUP_V1", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


def test_without_a_group_the_affinity_counts(groups: Path) -> None:
    assert usable_cpus() == 8


@pytest.mark.parametrize(("line", "expected"), [("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1),
                                                ("9900000 100000", 8)])  # fmt: skip
def test_a_quota_of_version_2_bounds_the_affinity(groups: Path, line: str, expected: int) -> None:
    (groups / "cpu.max").write_text(line)

    assert usable_cpus() == expected


def test_a_quota_of_version_1_bounds_the_affinity(groups: Path) -> None:
    (groups / "cpu.cfs_quota_us").write_text("250000\n")
    (groups / "cpu.cfs_period_us").write_text("100000\n")

    assert usable_cpus() == 3


def test_a_system_without_affinity_counts_its_cpus(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)

    assert usable_cpus() == 1


def test_a_local_cluster_has_a_slot_for_each_usable_cpu() -> None:
    with cluster.local() as c:
        assert c.submit(abs, (-1,)).result(timeout=20) == 1  # so it has registered
        assert c.stats().slots == c.workers()[0].slots == usable_cpus()
