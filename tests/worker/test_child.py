"""What a job finds around it, what it prints, and what it can't spoil for the next one."""

from __future__ import annotations

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.core.printed import runs_of
from cluster.core.records import Ending
from cluster.worker.job_context import current_job
from cluster.worker.leftovers import MARK
from tests.worker.gate import DEADLINE_SECONDS, Gate
from tests.worker.recording_desk import RecordingDesk, a_worker


@pytest.fixture(scope="module")
def desk() -> Iterator[RecordingDesk]:
    # One slot, so that each job runs in the process of the one before.
    with a_worker(slots=1) as (desk, _):
        yield desk


def output_of(desk: RecordingDesk, fence: int) -> bytes:
    return desk.report_of(fence).output


def _read_stdin() -> str:
    # Looked up there, for the pickle must not hold ours.
    return sys.stdin.read()


# --- output -----------------------------------------------------------------------------------------------------------


def test_what_a_job_prints_is_its_own(desk: RecordingDesk) -> None:
    fences = [desk.put(lambda n: print("job", n) or n, n) for n in range(20)]

    assert [output_of(desk, fence) for fence in fences] == [b"job %d\n" % n for n in range(20)]


def test_an_unfinished_line_belongs_to_the_job_that_began_it(desk: RecordingDesk) -> None:
    first = desk.put(lambda: print("no end", end=""))
    second = desk.put(lambda: print("next"))

    assert output_of(desk, first) == b"no end"
    assert output_of(desk, second) == b"next\n"


def test_c_code_and_subprocesses_are_heard_and_both_streams(desk: RecordingDesk) -> None:
    def speak() -> None:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.printf(b"from C\n")
        subprocess.run(["/bin/sh", "-c", "echo from a shell"], check=True)
        print("from stderr", file=sys.stderr)
        os.write(1, b"raw\n")

    assert output_of(desk, desk.put(speak)) == b"from C\nfrom a shell\nfrom stderr\nraw\n"


def test_bytes_that_are_no_text_arrive_as_they_are(desk: RecordingDesk) -> None:
    junk = bytes(range(256)) * 4

    assert output_of(desk, desk.put(os.write, 1, junk)) == junk


def test_text_that_has_no_encoding_is_escaped_and_not_an_error(desk: RecordingDesk) -> None:
    report = desk.report_of(desk.put(print, "\udcff"))

    assert report.ending is Ending.SUCCEEDED
    assert report.output == b"\\udcff\n"


def test_much_output_keeps_its_ends(desk: RecordingDesk) -> None:
    def shout() -> None:
        for number in range(100_000):
            print(number)

    text = output_of(desk, desk.put(shout))

    assert text.startswith(b"0\n1\n2\n")
    assert text.endswith(b"99998\n99999\n")
    assert b" bytes cut ...]" in text
    assert 65536 <= len(text) < 65536 + 100


def test_a_flood_neither_blocks_the_job_nor_fills_memory(desk: RecordingDesk) -> None:
    def flood() -> int:
        peak = 0
        for _ in range(300):
            os.write(1, b"x" * (1 << 20))
            peak = max(peak, os.fstat(1).st_size)
        os.write(1, b"the end")
        return peak

    fence = desk.put(flood)

    assert desk.result_of(fence) < 300 << 20
    report = desk.reports[fence]
    assert report.output.endswith(b"xthe end")
    assert len(report.output) < 66_000


def test_a_flood_without_an_end_of_line_is_read_along_from_both_ends_and_the_job_is_not_held_up(
    desk: RecordingDesk,
) -> None:
    def flood() -> int:
        for number in range(1024):
            os.write(1, b"%05d" % number + b"x" * ((1 << 20) - 5))
        return os.fstat(1).st_size

    fence = desk.put(flood)

    assert desk.result_of(fence) < 1 << 30
    output = desk.reports[fence].output
    runs = runs_of(output)
    assert output.startswith(b"00000xxx")
    assert [len(run) for _, run in runs] == [16384, 49152]
    heard = [word for word in desk.heard if word.fence == fence]
    assert all(len(word.output) <= 65536 for word in heard)
    assert all(one.offset + len(one.output) <= other.offset for one, other in itertools.pairwise(heard))


@pytest.mark.parametrize("next_words", ["", "next\n"])
def test_what_is_written_at_a_place_of_its_own_belongs_to_the_job_that_wrote_it(
    desk: RecordingDesk, next_words: str
) -> None:
    def write_at_a_place() -> None:
        os.pwrite(1, b"mine\n", 0)

    first, second = desk.put(write_at_a_place), desk.put(functools.partial(print, next_words, end=""))

    assert (output_of(desk, first), output_of(desk, second)) == (b"mine\n", next_words.encode())


@pytest.mark.parametrize("number", [1, 2, 12])
def test_a_job_that_redirects_its_output_to_another_empty_file_takes_the_next_one_s_words_nowhere(
    desk: RecordingDesk, tmp_path: Path, number: int
) -> None:
    elsewhere = tmp_path / "elsewhere"

    def redirect() -> None:
        opened = os.open(elsewhere, os.O_CREAT | os.O_RDWR)
        for one in str(number):
            os.dup2(opened, int(one))

    def write() -> None:
        os.write(1, b"one")
        os.write(2, b"two")

    desk.result_of(desk.put(redirect))

    assert output_of(desk, desk.put(write)) == b"onetwo"
    assert elsewhere.read_bytes() == b""


def test_control_characters_and_nul_are_kept_as_they_are(desk: RecordingDesk) -> None:
    text = "\0nul \x1b[31mred\x1b[0m \x07\r\x08 \u202e\n"

    assert output_of(desk, desk.put(functools.partial(print, text, end=""))) == text.encode()


def test_what_c_code_prints_while_descriptors_are_closed_or_full_of_junk_harms_nobody(desk: RecordingDesk) -> None:
    def close_and_print() -> int:
        import ctypes

        os.close(1)
        os.close(2)
        return int(ctypes.CDLL(None).puts(b"nowhere"))

    assert desk.report_of(desk.put(close_and_print)).ending is Ending.SUCCEEDED
    assert output_of(desk, desk.put(print, "next")) == b"next\n"


def test_a_thread_that_prints_after_its_job_is_marked_and_what_it_prints_between_jobs_is_nobody_s(
    desk: RecordingDesk, tmp_path: Path
) -> None:
    between, during = Gate(tmp_path), Gate(tmp_path)
    told = Gate(tmp_path)

    def leave_a_thread() -> None:
        def linger() -> None:
            between.pass_through()
            print("between")
            told.tell(1)
            during.pass_through()
            print("du", end="")
            print("ring\nlater")
            told.tell(2)

        threading.Thread(target=linger, daemon=True).start()
        print("first")

    first = output_of(desk, desk.put(leave_a_thread))
    between.wait_entered()
    between.release()
    assert told.wait_entered() == 1
    during.wait_entered()
    job = Gate(tmp_path)
    fence = desk.put(print_around, job)
    job.wait_entered()
    during.release()
    assert told.wait_entered() == 2
    job.release()

    assert first == b"first\n"
    assert output_of(desk, fence) == b"begins\n%bduring\n%blater\nends\n" % (MARK.encode(), MARK.encode())
    assert output_of(desk, desk.put(print, "third")) == b"third\n"


def test_a_process_that_prints_after_its_job_is_nobody_s_and_fills_no_memory(
    desk: RecordingDesk, tmp_path: Path
) -> None:
    go = tmp_path / "go"

    def leave_a_daemon(gate: Gate) -> None:
        program = f"while ! test -e {go}; do sleep 0.01; done; echo from a daemon; echo done > {tmp_path}/said; cat"
        daemon = f"(setsid sh -c '{program}' < /dev/zero &)"  # its `cat` floods for ever
        subprocess.run(["/bin/sh", "-c", daemon], check=True)
        print("first")
        gate.pass_through()

    gate, other = Gate(tmp_path), Gate(tmp_path)
    first = desk.put(leave_a_daemon, gate)
    gate.wait_entered()
    gate.release()
    assert output_of(desk, first) == b"first\n"
    fence = desk.put(print_around, other)
    pid = other.wait_entered()

    go.touch()
    wait_for((tmp_path / "said").exists)
    daemon = psutil.Process(pid).children()[-1]
    wait_for(lambda: size_of(daemon, 1) > 0)
    wait_for(lambda: size_of(daemon, 1) < 8 << 20)
    other.release()

    assert output_of(desk, fence) == b"begins\nends\n"
    assert output_of(desk, desk.put(print, "third")) == b"third\n"
    for process in (*daemon.children(), daemon):
        process.kill()


def size_of(process: psutil.Process, descriptor: int) -> int:
    return Path(f"/proc/{process.pid}/fd/{descriptor}").stat().st_size


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)  # sleeps because there is nothing to wait on: the other side is a shell script


def test_a_child_with_very_many_processes_left_behind_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.worker.slot.MAX_LEFT_OUTPUTS", 3)

    def leave_one() -> int:
        subprocess.run(["/bin/sh", "-c", "(setsid sleep 100 &)"], check=True)
        return os.getpid()

    with a_worker(slots=1) as (desk, _):
        pids = [desk.result_of(desk.put(leave_one)) for _ in range(7)]

        assert pids == [pids[0]] * 3 + [pids[3]] * 3 + [pids[6]]
        assert len(set(pids)) == 3
        assert desk.result_of(desk.put(os.getpid)) == pids[6]


def test_a_helper_that_prints_elsewhere_keeps_the_output_file(desk: RecordingDesk) -> None:
    def keep_a_helper() -> int:
        helper = subprocess.Popen(["/bin/sleep", "100"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        functools.kept_by_the_test = helper  # type: ignore[attr-defined]
        return os.fstat(1).st_ino

    def look_again() -> int:
        time.sleep(0.01)  # sleeps because only a job of some length is looked at
        return os.fstat(1).st_ino

    def let_go() -> int:
        helper = functools.kept_by_the_test  # type: ignore[attr-defined]
        helper.kill()
        helper.wait()
        return os.fstat(1).st_ino

    files = [desk.result_of(desk.put(job)) for job in (keep_a_helper, look_again, let_go)]

    assert len(set(files)) == 1


def print_around(gate: Gate) -> None:
    print("begins")
    gate.pass_through()
    print("ends")


def test_the_words_of_a_job_that_died_are_kept(desk: RecordingDesk) -> None:
    def die() -> None:
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)

    report = desk.report_of(desk.put(die))

    assert report.output == b"last words\n"
    assert report.certificate is not None
    assert report.certificate.output_tail == "last words"
    assert output_of(desk, desk.put(print, "next")) == b"next\n"


def test_standard_input_is_empty(desk: RecordingDesk) -> None:
    assert desk.result_of(desk.put(_read_stdin)) == ""


# --- surroundings -----------------------------------------------------------------------------------------------------


def test_a_job_runs_where_its_parent_does_and_finds_its_modules(desk: RecordingDesk) -> None:
    assert desk.result_of(desk.put(os.getcwd)) == str(Path.cwd())
    assert desk.result_of(desk.put(lambda: list(sys.path))) == sys.path


def test_working_directory_and_module_path_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "only_here_for_the_worker.py").write_text("ANSWER = 42\n")
    with a_worker(slots=1, directory=str(tmp_path), sys_path=(str(tmp_path), *sys.path)) as (desk, _):
        assert desk.result_of(desk.put(os.getcwd)) == str(tmp_path)
        assert desk.result_of(desk.put("only_here_for_the_worker:ANSWER.bit_length")) == 6


def test_a_working_directory_that_is_gone_is_no_obstacle(tmp_path: Path) -> None:
    with a_worker(slots=1, directory=str(tmp_path / "gone")) as (desk, _):
        assert desk.result_of(desk.put(abs, -1)) == 1


def test_a_job_is_handed_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_AUTHKEY_FILE", "keys/client.key")
    monkeypatch.setenv("HARMLESS", "yes")
    with a_worker(slots=1) as (desk, _):
        environment = desk.result_of(desk.put(lambda: dict(os.environ)))

    assert environment["HARMLESS"] == "yes"
    assert not [name for name in environment if name.startswith("CLUSTER_")]


def test_numeric_libraries_are_told_to_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    with a_worker(slots=1) as (desk, _):
        environment = desk.result_of(desk.put(lambda: dict(os.environ)))

    assert environment["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert environment["MKL_NUM_THREADS"] == "7"


def test_children_do_not_share_their_random_numbers_or_keys() -> None:
    def secrets() -> tuple[float, bytes]:
        import multiprocessing

        return random.random(), bytes(multiprocessing.current_process().authkey)

    def die(code: int) -> None:
        os._exit(code)

    with a_worker(slots=1) as (desk, _):
        first = desk.result_of(desk.put(secrets))
        desk.report_of(desk.put(die, 1))
        second = desk.result_of(desk.put(secrets))

    assert first[0] != second[0]
    assert first[1] != second[1]


def test_main_is_an_empty_module(desk: RecordingDesk) -> None:
    def look() -> tuple[str, bool]:
        import __main__

        return __main__.__name__, hasattr(__main__, "__file__")

    assert desk.result_of(desk.put(look)) == ("__main__", False)


def test_ctrl_c_does_not_reach_a_job(desk: RecordingDesk) -> None:
    def interrupt_all() -> str:
        os.killpg(0, signal.SIGINT)
        return "went on"

    assert desk.result_of(desk.put(interrupt_all)) == "went on"


def test_the_kernel_takes_a_job_before_the_program(desk: RecordingDesk) -> None:
    assert int(desk.result_of(desk.put(lambda: Path("/proc/self/oom_score_adj").read_text()))) >= 300


def test_a_child_holds_no_descriptor_of_anybody_else(desk: RecordingDesk) -> None:
    def held() -> list[str]:
        # The listing's own descriptor is gone when its link is read.
        links = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                links.append(str(entry.readlink()))
            except OSError:
                continue
        return sorted(link.partition(":")[0] for link in links)

    # Ours: the socket, the output file (as 1, 2 and itself), the working directory, /dev/null.
    cwd = str(Path.cwd())
    assert sorted(desk.result_of(desk.put(held))) == sorted([cwd, os.devnull, "socket", *["/memfd"] * 3])


# --- what a job can't spoil -------------------------------------------------------------------------------------------


def test_a_job_that_closes_and_redirects_everything_spoils_nothing(desk: RecordingDesk) -> None:
    def wreck() -> None:
        os.closerange(0, 21)

    def redirect() -> None:
        import io

        sys.stdout = io.StringIO()
        sys.stderr.close()

    for how in (wreck, redirect):
        assert desk.report_of(desk.put(how)).ending is Ending.SUCCEEDED
        assert output_of(desk, desk.put(print, "still here")) == b"still here\n"
        assert output_of(desk, desk.put(os.write, 2, b"here too")) == b"here too"
    assert desk.result_of(desk.put(_read_stdin)) == ""


def test_directory_and_umask_are_put_back(desk: RecordingDesk, tmp_path: Path) -> None:
    def wander() -> None:
        os.chdir(tmp_path)
        os.umask(0)

    def umask() -> int:
        mask = os.umask(0)
        os.umask(mask)
        return mask

    before = desk.result_of(desk.put(umask))
    desk.result_of(desk.put(wander))

    assert desk.result_of(desk.put(os.getcwd)) == str(Path.cwd())
    assert desk.result_of(desk.put(umask)) == before


def test_processes_that_jobs_left_are_reaped_in_the_end(desk: RecordingDesk) -> None:
    def orphan() -> None:
        if os.fork() == 0:
            os._exit(0)

    def count() -> int:
        return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    desk.result_of(desk.put(orphan))
    for _ in range(64):
        desk.result_of(desk.put(abs, -1))

    assert desk.result_of(desk.put(count)) == 0


# --- big things, functions, context -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100_000, 200_000, 50_000_000])
def test_big_arguments_and_results_travel_whole(desk: RecordingDesk, size: int) -> None:
    data = random.Random(size).randbytes(size)

    assert desk.result_of(desk.put(lambda given: given[::-1], data)) == data[::-1]


def test_a_result_above_the_bound_is_refused_and_the_child_lives() -> None:
    with a_worker(slots=1, max_result_bytes=1_000_000) as (desk, supervisor):
        report = desk.report_of(desk.put(lambda: b"x" * 2_000_000))

        assert report.ending is Ending.UNPICKLABLE
        assert report.certificate is not None
        assert "more than the 1,000,000 that a job may return" in report.certificate.reason
        assert supervisor.statistics().slots[0].crashes == 0


def test_more_functions_than_a_child_keeps_all_run(desk: RecordingDesk) -> None:
    functions = [desk.function(functools.partial(pow, n), reusable=n % 2 == 0) for n in range(600)]

    for _ in range(2):
        fences = [desk.put(function, 2) for function in functions]
        assert [desk.result_of(fence) for fence in fences] == [n * n for n in range(600)]


def test_a_function_that_may_not_be_reused_starts_afresh_each_time(desk: RecordingDesk) -> None:
    calls: list[int] = []

    def count() -> int:
        calls.append(1)
        return len(calls)

    kept, fresh = desk.function(count, reusable=True), desk.function(count)

    assert [desk.result_of(desk.put(kept)) for _ in range(3)] == [1, 2, 3]
    assert [desk.result_of(desk.put(fresh)) for _ in range(3)] == [1, 1, 1]


def test_another_python_s_function_is_refused_unread(desk: RecordingDesk) -> None:
    report = desk.report_of(desk.put(desk.function(abs, python="3.2"), -1))

    assert report.ending is Ending.ENVIRONMENT
    assert report.certificate is not None
    assert "3.2" in report.certificate.reason


def test_a_job_among_the_arguments_is_replaced_by_its_result(desk: RecordingDesk) -> None:
    import pickle

    import cloudpickle

    class Reference:
        def __reduce__(self) -> Any:
            from cluster.wire.dependency import result_of

            return result_of, ("job-x",)

    payload = cloudpickle.dumps(((Reference(), 1), {}))
    function = desk.function(lambda a, b: a + b)

    given = desk.put(function, payload=payload, inputs=(("job-x", pickle.dumps(41)),))
    missing = desk.report_of(desk.put(function, payload=payload))

    assert desk.result_of(given) == 42
    assert missing.ending is Ending.UNPICKLABLE
    assert missing.certificate is not None
    assert "job-x" in missing.certificate.reason


def test_a_job_knows_itself_and_that_it_is_one(desk: RecordingDesk) -> None:
    def who() -> tuple[object, ...]:
        from cluster.wire import dependency

        job = current_job()
        return job.id, job.run, job.attempt, job.fence, job.deadline is not None, dependency.inside_job

    fence = desk.put(who, timeout=60, attempt=3, run=2)

    assert desk.result_of(fence) == (f"job-{fence}", 2, 3, fence, True, True)


def test_progress_reaches_the_desk_and_the_log_the_output(tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    def work() -> None:
        current_job().progress(1, 2, "half")
        current_job().log.warning("half way")
        gate.pass_through()

    with a_worker(slots=1) as (desk, _):
        fence = desk.put(work)
        gate.wait_entered()
        desk.wait(lambda: desk.heard)
        gate.release()

        assert (desk.heard[0].fence, desk.heard[0].done, desk.heard[0].note) == (fence, 1.0, "half")
        assert output_of(desk, fence).endswith(b" WARNING half way\n")


def test_a_coroutine_function_is_run(desk: RecordingDesk) -> None:
    async def add(x: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    assert desk.result_of(desk.put(add, 1)) == 2


def test_a_raised_job_s_certificate_tells_time_and_memory(desk: RecordingDesk) -> None:
    def fail() -> None:
        sum(range(1_000_000))
        print("tail")
        raise ValueError("v")

    report = desk.report_of(desk.put(fail))

    certificate = report.certificate
    assert certificate is not None
    assert certificate.cpu_seconds > 0.001
    assert certificate.seconds > 0.001
    assert certificate.started > 1_000_000_000
    assert certificate.peak_memory > 1_000_000
    assert certificate.output_tail == "tail"
    assert certificate.error_types[0] == "builtins.ValueError"
