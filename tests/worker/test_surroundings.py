"""What a job changes of its process is gone before the next job; each kind is changed by one real job, and looked at by the next."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.core.records import Ending
from tests.worker.recording_desk import RecordingDesk, a_worker


@pytest.fixture(scope="module")
def desk() -> Iterator[RecordingDesk]:
    # One slot, so that each job runs in the process of the one before.
    with a_worker(slots=1) as (desk, _):
        yield desk


def run(desk: RecordingDesk, function: Callable[..., Any], *args: object) -> Any:
    return desk.result_of(desk.put(function, *args))


def look() -> dict[str, object]:
    """All that is put back, as it is now."""
    handlers = {number: str(signal.getsignal(number)) for number in signal.valid_signals()}
    timers = [signal.getitimer(timer) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
    limits = [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)]
    # What a process that is started now would inherit, as C has it, and not as `os.environ` says.
    get = ctypes.CDLL(None).getenv
    get.restype = ctypes.c_char_p
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "c": [get(name) for name in (b"HOME", b"PATH", b"OF_THE_JOB")],
        "path": list(sys.path),
        "handlers": handlers,
        "timers": timers,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "limits": limits,
    }


def set_variables() -> None:
    os.environ["OF_THE_JOB"] = "1"
    os.environ["OF_THE_JOB"] = "2"
    os.environb[b"HOME"] = b"/nowhere"
    del os.environ["PATH"]


def replace_environment() -> None:
    os.environ["OF_THE_JOB"] = "1"
    os.environ = {"ALL": "there is"}  # type: ignore[assignment]  # noqa: B003 - what a careless job does


def clear_environment() -> None:
    os.environ.clear()


def change_path() -> None:
    sys.path.insert(0, "/nowhere")


def replace_path() -> None:
    sys.path = ["/nowhere", *sys.path]


def handle_signals() -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


def set_timers() -> None:
    signal.alarm(1)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1.0, 1.0)
    signal.setitimer(signal.ITIMER_PROF, 1.0)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})


def lower_limits() -> None:
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
        soft, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (0 if limit == resource.RLIMIT_CORE else min(soft, 64), hard))
    resource.prlimit(0, resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))


def fail_after_change() -> None:
    set_variables()
    raise ValueError("no")


@pytest.mark.parametrize(
    "change",
    [
        set_variables, replace_environment, clear_environment, change_path, replace_path, handle_signals, set_timers,
        block_signals, lower_limits, fail_after_change,
    ],
)  # fmt: skip
def test_the_next_job_finds_everything_as_the_last_one_did(desk: RecordingDesk, change: Callable[[], None]) -> None:
    before = run(desk, look)

    desk.report_of(desk.put(change))

    assert run(desk, look) == before


def test_a_pending_alarm_does_not_kill_the_next_job(desk: RecordingDesk) -> None:
    def wait_for_signal() -> object:
        return signal.sigtimedwait(signal.valid_signals() - {signal.SIGCHLD}, 0.2)

    def ring_soon() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    run(desk, ring_soon)

    assert run(desk, wait_for_signal) is None


def test_a_signal_that_a_job_kept_waiting_does_not_hit_the_next_one(desk: RecordingDesk) -> None:
    def keep_one_waiting() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)

    first = desk.put(keep_one_waiting)
    second = desk.put(os.getpid)

    # By then it is nobody's but its own job's: either that one dies of it, or nobody.
    assert desk.result_of(second) > 0
    assert desk.report_of(first).ending in (Ending.SUCCEEDED, Ending.CRASHED)


def test_what_an_import_sets_up_stays_and_the_job_s_own_does_not(desk: RecordingDesk, tmp_path: Path) -> None:
    (tmp_path / "sets_up.py").write_text("import os\nos.environ['BY_IMPORT'] = 'stays'\n")
    (tmp_path / "lazy_sibling.py").write_text("answer = 42\n")

    def use() -> None:
        os.environ["BY_JOB"] = "goes"
        os.environ["BY_IMPORT"] = "goes too"
        sys.path.insert(0, str(tmp_path))
        __import__("sets_up")

    def look_again() -> tuple[str | None, str | None, int]:
        return os.environ.get("BY_JOB"), os.environ.get("BY_IMPORT"), __import__("lazy_sibling").answer

    run(desk, use)

    assert run(desk, look_again) == (None, "stays", 42)


def test_a_limit_that_can_t_be_raised_again_costs_the_process_and_no_job() -> None:
    def lower_for_good() -> int:
        # Nobody may raise it again: not even root, once the capability is gone.
        libc = ctypes.CDLL(None)
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.capget(header, data)
        data[0] &= ~(1 << 24)
        data[1] &= ~(1 << 24)
        assert libc.capset(header, data) == 0
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard - 1))
        return os.getpid()

    def limit() -> tuple[int, int]:
        return os.getpid(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    with a_worker(slots=1) as (desk, supervisor):
        _, before = run(desk, limit)
        first = desk.put(lower_for_good)
        others = [desk.put(limit) for _ in range(20)]
        unfit = desk.result_of(first)

        assert {desk.result_of(fence)[1] for fence in others} == {before}
        assert unfit not in {desk.result_of(fence)[0] for fence in others}
        assert supervisor.statistics().slots[0].crashes == 0


def test_the_doors_are_still_themselves_by_name(desk: RecordingDesk) -> None:
    def names() -> bytes:
        return pickle.dumps([signal.signal, signal.alarm, signal.setitimer, resource.setrlimit, dict(os.environ)])

    def variables() -> dict[str, str]:
        return os.environ.copy()

    found = pickle.loads(run(desk, names))

    assert found[:4] == [signal.signal, signal.alarm, signal.setitimer, resource.setrlimit]
    assert run(desk, variables) == found[4]


def test_looking_costs_no_system_call_where_nothing_was_changed(desk: RecordingDesk) -> None:
    """Not how fast, but of what kind: a no-op job goes through none of the doors."""

    def is_untouched() -> list[bool]:
        held = [cell.cell_contents for cell in signal.alarm.__closure__ or ()]
        (watcher,) = [one for one in held if type(one).__name__ == "Surroundings"]
        return [watcher.is_touched, bool(watcher._variables.before)]

    run(desk, time.time)

    assert run(desk, is_untouched) == [False, False]
