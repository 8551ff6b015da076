"""A host that is short of memory gets less work, and says so."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil
import pytest

from cluster.worker import host_memory
from cluster.worker.host_memory import HostMemory, Reading, read, reserve_of
from cluster.worker.slot import Slot
from tests.worker.gate import Gate
from tests.worker.recording_desk import a_worker

GB = 10**9
TOTAL = 8 * GB
RESERVE = 400 * 10**6
WELL, SHORT, DESPERATE = Reading(TOTAL, 4 * GB), Reading(TOTAL, RESERVE - 1), Reading(TOTAL, RESERVE // 4 - 1)


class Fixed:
    """What the host is read as."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reading: Reading = WELL) -> None:
        self.reading = reading
        monkeypatch.setattr(host_memory, "read", lambda _groups: self.reading)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Fixed:
    return Fixed(monkeypatch)


def limited(used: int) -> Slot:
    """A slot with a job that has a limit."""
    slot = Slot(0)
    slot.limit, slot.used = 2 * GB, used
    slot.outstanding[1] = None  # type: ignore[assignment]
    return slot


# --- reading ----------------------------------------------------------------------------------------------------------


def test_without_a_group_s_limit_the_host_is_read() -> None:
    reading = read(())

    assert reading.total == psutil.virtual_memory().total
    assert 0 < reading.available <= reading.total


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"memory__max": "1000\n", "memory__current": "700\n", "memory__stat": "anon 600\ninactive_file 100\n"},
        {
            "memory__limit_in_bytes": "1000\n",
            "memory__usage_in_bytes": "700\n",
            "memory__stat": "inactive_file 1\ntotal_inactive_file 100\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_group_s_limit_makes_a_small_host_and_its_cached_files_count_as_free(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert read([str(group(tmp_path, **files))]) == Reading(1000, 400)


def test_the_tightest_of_several_groups_counts(tmp_path: Path) -> None:
    inner = group(tmp_path / "in", memory__max="max\n", memory__current="10\n", memory__stat="")
    outer = group(tmp_path, memory__max="1000\n", memory__current="950\n", memory__stat="")

    assert read([str(inner), str(outer)]) == Reading(1000, 50)


def test_a_group_that_cannot_be_read_limits_nothing(tmp_path: Path) -> None:
    broken = group(tmp_path, memory__max="1000\n")

    assert read([str(broken)]).total == read(()).total


@pytest.mark.parametrize("line", ["0::/slice/us\n", "4:memory,cpu:/slice/us\n"], ids=["v2", "v1"])
def test_groups_are_found_from_our_own_outwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    own = tmp_path / "own"
    own.write_text("1:name=systemd:/\n" + line)
    for folder in (tmp_path / "fs/slice/us", tmp_path / "fs/slice"):
        group(folder, memory__max="max\n")
    monkeypatch.setattr(host_memory, "_OWN_GROUPS", str(own))
    monkeypatch.setattr(host_memory, "_V2", f"{tmp_path}/fs")
    monkeypatch.setattr(host_memory, "_V1", f"{tmp_path}/fs")

    assert host_memory.find_groups() == (f"{tmp_path}/fs/slice/us", f"{tmp_path}/fs/slice")


def test_in_a_container_that_shows_only_the_root_the_root_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.write_text("0::/kubepods/pod1\n")
    monkeypatch.setattr(host_memory, "_OWN_GROUPS", str(own))
    monkeypatch.setattr(host_memory, "_V2", str(group(tmp_path / "fs", memory__max="1000\n")))

    assert host_memory.find_groups() == (f"{tmp_path}/fs",)


# --- what follows -----------------------------------------------------------------------------------------------------


def test_the_reserve_is_a_part_of_a_small_host_and_bounded_on_a_large_one() -> None:
    assert (reserve_of(2 * GB), reserve_of(1000 * GB)) == (100 * 10**6, 512 * 10**6)


def test_jobs_with_a_limit_may_have_what_is_free_and_what_they_have_already(host: Fixed) -> None:
    memory = HostMemory(is_limiting=True)

    memory.look([limited(GB)], "w#1")

    assert (memory.room, memory.most) == (5 * GB - RESERVE, TOTAL - RESERVE)


def test_room_is_never_more_than_an_idle_host_has_nor_less_than_none(host: Fixed) -> None:
    memory = HostMemory(is_limiting=True)

    memory.look([limited(20 * GB)], "w#1")
    most = memory.room
    host.reading = DESPERATE
    memory.look([], "w#1")

    assert (most, memory.room) == (TOTAL - RESERVE, 0)


def test_a_change_is_logged_once_and_recovery_takes_half_as_much_again(
    host: Fixed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "cluster.worker")
    memory = HostMemory(is_limiting=True)

    seen = []
    for reading in (WELL, SHORT, SHORT, Reading(TOTAL, RESERVE + 1), WELL, WELL):
        host.reading = reading
        memory.look([], "w#1")
        seen.append(memory.is_short)

    assert seen == [False, True, True, True, False, False]
    assert [record.getMessage() for record in caplog.records] == [
        "worker w#1: its host is short of memory, 400 MB of 8 GB are free; it takes one job at a time",
        "worker w#1: its host is no longer short of memory, 4 GB of 8 GB are free",
    ]


def test_a_short_host_takes_one_job_at_a_time_and_in_the_last_extremity_none(host: Fixed) -> None:
    memory = HostMemory(is_limiting=True)
    asked = []

    for reading in (SHORT, DESPERATE):
        host.reading = reading
        memory.look([], "w#1")
        asked.append((memory.most_jobs(8, [Slot(0)]), memory.most_jobs(8, [limited(0)])))

    assert asked == [(1, 0), (0, 0)]


def test_a_worker_on_a_short_host_leases_less_says_so_and_resumes_by_itself(host: Fixed, tmp_path: Path) -> None:
    host.reading = SHORT
    with a_worker(slots=3, heartbeat_interval_seconds=0.02) as (desk, _):
        gate = Gate(tmp_path)
        fences = [desk.put(gate.pass_through) for _ in range(3)]
        gate.wait_entered()
        beats = len(desk.health)
        desk.wait(lambda: len(desk.health) > beats + 3)

        assert sum(desk.is_held(fence) for fence in fences) == 1
        assert desk.health[-1].is_short_of_memory

        host.reading = WELL
        for _ in range(2):
            gate.wait_entered()
        gate.release(3)
        for fence in fences:
            desk.result_of(fence)
        assert not desk.health[-1].is_short_of_memory
