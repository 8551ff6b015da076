"""Slots that are threads of one process: for jobs that only wait."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from cluster.core.records import Ending
from cluster.worker.job_context import current_job
from cluster.worker.threaded_child import Written
from tests.worker.recording_desk import RecordingDesk, a_worker


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 20.0
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.002)  # sleeps because there is nothing to wait on: jobs and tests meet at files


def meet(folder: str, number: int, count: int) -> tuple[int, int]:
    """Return once so many run at the same time."""
    Path(folder, f"here-{number}").touch()
    for other in range(count):
        wait_for_file(Path(folder, f"here-{other}"))
    return os.getpid(), threading.get_ident()


def hold(folder: str, name: str = "go") -> str:
    Path(folder, f"begun-{name}").touch()
    wait_for_file(Path(folder, name))
    return name


def speak(folder: str, word: str) -> tuple[str, int]:
    for _ in range(3):
        print(word)
    print(word, file=sys.stderr)
    meet(folder, int(word) - 1, 2)
    job = current_job()
    job.progress(1, 2, word)
    return job.id, job.fence


def say_and_hold(folder: str, name: str) -> None:
    print(name, 1)
    hold(folder, name)
    print(name, 2)


def divide(a: int, b: int) -> float:
    return a / b


def crash(folder: str) -> None:
    wait_for_file(Path(folder, "go"))
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait(20)  # the signal may be for another thread


def test_as_many_jobs_run_at_once_as_there_are_threads_and_in_one_process(tmp_path: Path) -> None:
    with a_worker(slots=8, threads=8) as (desk, supervisor):
        task = desk.function(meet, reusable=True)
        fences = [desk.put(task, str(tmp_path), number, 8) for number in range(8)]

        places = [desk.result_of(fence) for fence in fences]

        assert len({pid for pid, _ in places}) == 1
        assert len({thread for _, thread in places}) == 8
        assert [slot.spawned for slot in supervisor.statistics().slots] == [1]


def test_many_more_jobs_than_threads_all_end(tmp_path: Path) -> None:
    with a_worker(slots=4, threads=4) as (desk, _):
        task = desk.function(divide, reusable=True)
        fences = [desk.put(task, number, 2) for number in range(500)]

        assert [desk.result_of(fence) for fence in fences] == [number / 2 for number in range(500)]


def test_a_chunk_and_a_failure_are_told_as_in_a_process() -> None:
    with a_worker(slots=2, threads=2) as (desk, _):
        chunk = desk.report_of(desk.put_chunk(divide, [(4, 2), (1, 0), (9, 3)]))
        careful = desk.report_of(desk.put_chunk(divide, [(4, 2), (1, 0), (9, 3)], careful=True))
        single = desk.report_of(desk.put(divide, 1, 0))

        for report in (chunk, careful):
            assert [segment.certificate is None for segment in report.segments] == [True, False, True]
        assert single.certificate is not None
        assert single.certificate.message == "division by zero"
        assert single.certificate.pid


def test_what_jobs_print_and_say_is_told_apart(tmp_path: Path) -> None:
    with a_worker(slots=2, threads=2) as (desk, _):
        task = desk.function(speak)
        fences = [desk.put(task, str(tmp_path), word) for word in ("1", "2")]

        results = [desk.result_of(fence) for fence in fences]
        outputs = [desk.report_of(fence).output for fence in fences]

        assert results == [(f"job-{fence}", fence) for fence in fences]
        assert outputs == [b"1\n1\n1\n1\n", b"2\n2\n2\n2\n"]
        desk.wait(lambda: len([said for said in desk.heard if said.note]) == 2)
        assert {said.fence: said.note for said in desk.heard if said.note} == dict(zip(fences, ("1", "2"), strict=True))


def test_an_overdue_job_is_given_up_says_that_it_can_not_be_killed_and_harms_no_neighbour(tmp_path: Path) -> None:
    with a_worker(slots=2, threads=2) as (desk, supervisor):
        neighbour = desk.put(hold, str(tmp_path), "neighbour")
        overdue = desk.put(hold, str(tmp_path), "overdue", timeout=0.1)

        report = desk.report_of(overdue)
        (tmp_path / "overdue").touch()
        (tmp_path / "neighbour").touch()

        assert report.ending is Ending.TIMED_OUT
        assert report.certificate is not None
        assert "runs in a thread, which can't be killed" in report.certificate.reason
        assert desk.result_of(neighbour) == "neighbour"
        assert desk.result_of(desk.put(divide, 4, 2)) == 2.0
        assert supervisor.statistics().slots[0].crashes == 0


def test_a_cancelled_job_is_confirmed_once_its_thread_has_ended(tmp_path: Path) -> None:
    with a_worker(slots=2, threads=2) as (desk, _):
        neighbour = desk.put(hold, str(tmp_path), "neighbour")
        cancelled = desk.put(hold, str(tmp_path), "cancelled")
        wait_for_file(tmp_path / "begun-cancelled")
        wait_for_file(tmp_path / "begun-neighbour")

        desk.order_stop(cancelled)
        assert not desk.confirmed
        (tmp_path / "cancelled").touch()

        desk.wait(lambda: desk.confirmed == [cancelled])
        assert cancelled not in desk.reports
        (tmp_path / "neighbour").touch()
        assert desk.result_of(neighbour) == "neighbour"


def test_when_nobody_wants_any_of_its_jobs_the_process_is_killed(tmp_path: Path) -> None:
    with a_worker(slots=4, threads=4) as (desk, _):
        cancelled = desk.put(hold, str(tmp_path), "never")
        wait_for_file(tmp_path / "begun-never")

        desk.order_stop(cancelled)

        desk.wait(lambda: desk.confirmed == [cancelled])
        assert desk.result_of(desk.put(divide, 4, 2)) == 2.0


def test_a_crash_takes_all_jobs_in_hand_along_and_says_that_nobody_knows_whose_it_was(tmp_path: Path) -> None:
    with a_worker(slots=2, threads=2) as (desk, _):
        culprit = desk.put(crash, str(tmp_path))
        neighbour = desk.put(hold, str(tmp_path), "never")
        wait_for_file(tmp_path / "begun-never")
        (tmp_path / "go").touch()

        reports = [desk.report_of(fence) for fence in (culprit, neighbour)]

        for report in reports:
            assert report.ending is Ending.CRASHED
            assert report.certificate is not None
            assert report.certificate.signal == signal.SIGSEGV
            assert "one of 2 threads of that process" in report.certificate.reason
        assert desk.result_of(desk.put(divide, 4, 2)) == 2.0


def test_what_runs_is_given_back_when_the_worker_stops(tmp_path: Path) -> None:
    desk = RecordingDesk(requeue=False)
    with a_worker(desk=desk, slots=3, threads=3) as (_, supervisor):
        fences = [desk.put(hold, str(tmp_path), name) for name in ("a", "b")]
        for name in ("a", "b"):
            wait_for_file(tmp_path / f"begun-{name}")

        supervisor.stop()

        assert sorted(desk.gave_back) == fences


def test_a_process_of_threads_is_replaced_after_so_many_jobs_too() -> None:
    with a_worker(slots=2, threads=2, max_jobs_per_child=3) as (desk, _):
        task = desk.function(os.getpid, reusable=True)

        pids = [desk.result_of(fence) for fence in [desk.put(task) for _ in range(30)]]

        assert max(pids.count(pid) for pid in pids) <= 3


def test_what_running_jobs_print_and_that_they_run_is_told(tmp_path: Path) -> None:
    with a_worker(slots=2, threads=2) as (desk, _):
        fences = [desk.put(say_and_hold, str(tmp_path), name) for name in ("left", "right")]

        desk.wait(lambda: sorted(desk.begun_fences) == fences, "word that both run")
        desk.wait(lambda: {word.output for word in desk.heard} == {b"left 1\n", b"right 1\n"}, "output of both")
        for name in ("left", "right"):
            (tmp_path / name).touch()

        assert [desk.report_of(fence).output for fence in fences] == [b"left 1\nleft 2\n", b"right 1\nright 2\n"]
        assert {(word.fence, word.output) for word in desk.heard if word.offset == 0} == {
            (fences[0], b"left 1\n"),
            (fences[1], b"right 1\n"),
        }


def test_what_was_printed_is_told_once_with_its_place_and_the_teller_is_rung_for_news_only() -> None:
    rings: list[int] = []
    written = Written(1000, lambda: rings.append(1))

    written.add("one ")
    written.add("two ")
    first = written.news()
    written.add("three")

    assert (first, written.news(), written.news()) == ((b"one two ", 0), (b"three", 8), (b"", 13))
    assert len(rings) == 2


def test_of_news_that_are_too_long_the_end_is_told() -> None:
    written = Written(100, lambda: None)
    for number in range(1000):
        written.add(f"{number:04}\n")

    text, place = written.news()

    assert text.endswith(b"0998\n0999\n")
    assert place + len(text) == 5000


def test_of_a_long_text_both_ends_are_kept() -> None:
    printed, short = Written(100, lambda: None), Written(100, lambda: None)
    for number in range(1000):
        printed.add(f"{number:04}\n")
    short.add("all of it")

    text = printed.text()

    assert text.startswith(b"0000\n0001\n")
    assert text.endswith(b"0998\n0999\n")
    assert b"[... 4900 bytes cut ...]" in text
    assert short.text() == b"all of it"
