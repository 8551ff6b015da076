from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cluster.core.records import Ending
from cluster.worker.verdict import classify, count_oom_kills


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_an_exit_before_the_job_s_end_is_a_crash_that_names_its_code(code: int) -> None:
    verdict = classify(code << 8, is_out_of_memory=False)

    assert verdict.ending is Ending.CRASHED
    assert verdict.exit_code == code
    assert verdict.reason == f"its process exited with code {code} before the job ended"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL, signal.SIGALRM])
def test_a_signal_is_named(number: signal.Signals) -> None:
    verdict = classify(int(number), is_out_of_memory=False)

    assert verdict.ending is Ending.CRASHED
    assert verdict.signal == number
    assert number.name in verdict.reason


def test_a_signal_without_a_name_is_told_by_number() -> None:
    assert "signal 40" in classify(40, is_out_of_memory=False).reason


def test_a_core_dump_does_not_hide_the_signal() -> None:
    assert classify(signal.SIGSEGV | 0x80, is_out_of_memory=False).signal == signal.SIGSEGV


def test_sigkill_with_a_new_oom_kill_is_out_of_memory() -> None:
    verdict = classify(signal.SIGKILL, is_out_of_memory=True)

    assert verdict.ending is Ending.OUT_OF_MEMORY
    assert "memory" in verdict.reason


def test_only_sigkill_can_be_out_of_memory() -> None:
    assert classify(signal.SIGSEGV, is_out_of_memory=True).ending is Ending.CRASHED


def test_the_kernel_s_count_can_be_read() -> None:
    assert count_oom_kills() >= 0


def test_a_cgroup_s_own_count_can_be_read(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 61\noom 5\noom_kill 3\noom_group_kill 9\n")

    assert count_oom_kills(str(events)) == 3
    assert count_oom_kills(str(tmp_path / "gone")) == 0
