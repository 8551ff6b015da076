from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cluster.deploy import processes
from cluster.deploy.processes import MARK, NOBODY, ProcessName, birth_of, marked_processes, name_process, wait_gone

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*SLEEPER, MARK, "here"]) as process:
        yield process
        process.kill()


def test_a_process_is_alive_until_it_is_dead_and_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    name = name_process(sleeper.pid)
    assert name.is_alive()

    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie

    assert not name.is_alive()


def test_another_process_with_the_same_pid_is_not_it(sleeper: subprocess.Popen[bytes]) -> None:
    earlier = ProcessName(sleeper.pid, name_process(os.getppid()).birth + "0")

    assert not earlier.is_alive()
    assert not earlier.signal(signal.SIGKILL)
    assert sleeper.poll() is None


def test_nobody_is_not_alive_and_hears_no_signal() -> None:
    assert not NOBODY.is_alive()
    assert not NOBODY.signal(signal.SIGKILL)
    assert not ProcessName(2**22 + 1, "x").signal(signal.SIGTERM)
    assert birth_of(2**22 + 1) == ""


def test_a_signal_reaches_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert name_process(sleeper.pid).signal(signal.SIGTERM)

    assert sleeper.wait(10) == -signal.SIGTERM


def test_a_command_with_brackets_in_its_name_does_not_confuse(tmp_path: object) -> None:
    script = "import time; open('/proc/self/comm', 'w').write(') R 1 2 ('); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        name = name_process(process.pid)

        assert name.is_alive()
        assert name.birth.rpartition(":")[2].isdigit()
        process.kill()


def test_a_marked_process_is_found_with_its_command_and_others_are_not(sleeper: subprocess.Popen[bytes]) -> None:
    assert list(marked_processes("here")) == [(name_process(sleeper.pid), [*SLEEPER, MARK, "here"])]
    assert not list(marked_processes("elsewhere"))


def test_a_mark_on_the_command_line_of_another_user_counts_for_nothing(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)

    assert sleeper.poll() is None
    assert not list(marked_processes("here"))


def test_waiting_tells_who_is_left(sleeper: subprocess.Popen[bytes]) -> None:
    name = name_process(sleeper.pid)

    assert wait_gone([name, NOBODY], 0.05) == [name]
    sleeper.kill()
    assert wait_gone([name], 10.0) == []


def test_births_are_told_apart_without_proc_too(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processes._birth_without_proc(sleeper.pid) != processes._birth_without_proc(os.getpid())
    assert processes._birth_without_proc(2**22 + 1) == ""


def test_without_pidfds_signals_are_sent_by_pid(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")

    assert name_process(sleeper.pid).signal(signal.SIGTERM)

    assert sleeper.wait(10) == -signal.SIGTERM
