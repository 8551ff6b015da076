"""What jobs with `echo=True` print appears on standard output."""

from __future__ import annotations

import io
import sys
import threading
import types

import pytest

from cluster.client.echo import Echo
from cluster.client.handle import Cluster
from cluster.core.printed import Piece, Place
from cluster.core.records import JobId
from cluster.errors import MasterUnavailable, UnknownJob
from cluster.wire.messages import Refusal
from tests.client.desk import DEADLINE_SECONDS, InlineDesk


class Screen(io.StringIO):
    """A standard output on which the test can wait for a text."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self._changed = threading.Condition()

    def write(self, text: str) -> int:
        with self._changed:
            self.writes.append(text)
            self._changed.notify_all()
        return len(text)

    def wait(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: "".join(self.writes) == text, DEADLINE_SECONDS), self.writes


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    # Not `sys.stdout` itself: pytest puts its own there between this and the test.
    monkeypatch.setattr("cluster.client.echo.sys", types.SimpleNamespace(stdout=screen))
    return screen


def test_lines_appear_as_they_are_printed_and_only_those_of_jobs_that_are_echoed(
    c: Cluster, desk: InlineDesk, screen: Screen
) -> None:
    desk.gate.clear()
    loud, quiet = c.submit(int, echo=True), c.submit(int)
    c.flush()

    desk.print(quiet.id, b"unheard\n")
    desk.print(loud.id, b"one\ntw")
    screen.wait("one\n")
    desk.print(loud.id, b"o\n")
    screen.wait("one\ntwo\n")
    desk.gate.set()
    c.close()

    assert screen.writes == ["one\n", "two\n"]


def test_lines_of_two_jobs_are_never_mixed_and_a_begun_one_ends_with_its_job(
    c: Cluster, desk: InlineDesk, screen: Screen
) -> None:
    desk.gate.clear()
    left, right = c.submit(int, echo=True), c.submit(int, echo=True)
    c.flush()

    desk.print(left.id, b"left be")
    desk.print(right.id, b"right\n")
    screen.wait("right\n")
    desk.print(left.id, b"gins\nleft ends")
    screen.wait("right\nleft begins\n")
    desk.gate.set()

    screen.wait("right\nleft begins\nleft ends\n")


def test_a_map_s_chunks_are_echoed_too(c: Cluster, desk: InlineDesk, screen: Screen) -> None:
    desk.gate.clear()
    batch = c.map(int, "1234", chunksize=2, echo=True)
    desk.wait_for(lambda: len(desk.jobs) == 2)

    for job in list(desk.jobs):
        desk.print(job, b"chunk\n")

    screen.wait("chunk\nchunk\n")
    desk.gate.set()
    assert list(batch) == [1, 2, 3, 4]


def test_closing_waits_for_what_ended_jobs_have_printed(c: Cluster, desk: InlineDesk, screen: Screen) -> None:
    desk.gate.clear()
    jobs = [c.submit(int, echo=True) for _ in range(50)]
    c.flush()
    for job in jobs:
        desk.printed[job.id] = b"text"  # nobody is rung: only its end tells

    desk.gate.set()
    c.close()

    assert screen.writes == ["text\n"] * 50


def test_a_line_without_an_end_is_broken_where_it_is_too_long(c: Cluster, desk: InlineDesk, screen: Screen) -> None:
    desk.gate.clear()
    job = c.submit(int, echo=True)
    c.flush()

    desk.print(job.id, b"x" * 70_000)

    screen.wait("x" * 70_000 + "\n")
    desk.gate.set()


def test_a_refused_job_is_forgotten(c: Cluster, desk: InlineDesk, screen: Screen) -> None:
    desk.refuse = lambda spec: Refusal(spec.id, "refused", "no")
    job = c.submit(int, echo=True)
    assert isinstance(job.exception(DEADLINE_SECONDS), Exception)

    c.close()

    assert c._opened._echo is not None
    assert c._opened._echo._readers == {}


def test_echo_takes_true_or_false(c: Cluster) -> None:
    with pytest.raises(TypeError, match="option 'echo' takes True or False, not 1 "):
        c.submit(int, echo=1)  # type: ignore[call-overload]


def test_without_echo_there_is_no_thread_for_it(c: Cluster) -> None:
    c.submit(int, echo=False).result(DEADLINE_SECONDS)

    assert c._opened._echo is None


class Unwritable(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Ascii(Screen):
    encoding = "ascii"


def test_a_standard_output_that_takes_nothing_is_told_once_and_harms_nobody(
    c: Cluster, desk: InlineDesk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", Unwritable())
    desk.gate.clear()
    jobs = [c.submit(int, echo=True) for _ in range(3)]
    c.flush()
    for job in jobs:
        desk.print(job.id, b"text\n")

    desk.gate.set()
    c.close()

    assert [job.result(DEADLINE_SECONDS) for job in jobs] == [0, 0, 0]
    assert caplog.text.count("can't be written to standard output") == 1


def test_what_standard_output_can_t_show_is_written_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Ascii()
    monkeypatch.setattr(sys, "stdout", screen)
    echo = Echo(lambda job, place, timeout: Piece("é\n".encode(), Place(1), is_over=True))

    echo.add("a")
    echo.ended(["a"])

    screen.wait("\\xe9\n")
    echo.close()


def test_a_master_that_can_t_be_asked_costs_the_echo_and_nothing_else(
    screen: Screen, caplog: pytest.LogCaptureFixture
) -> None:
    def read(job: JobId, place: Place, timeout: float) -> Piece:
        if job == "gone":
            raise UnknownJob(job)
        if job == "deaf":
            raise MasterUnavailable("nobody answers")
        return Piece(b"heard\n", Place(1), is_over=True)

    echo = Echo(read)
    for job in ("gone", "deaf", "well"):
        echo.add(job)

    echo.ended(["gone", "deaf", "well"])

    screen.wait("heard\n")
    echo.close()
    assert "job deaf prints can't be echoed: nobody answers" in caplog.text
    assert "gone" not in caplog.text


def test_a_standard_output_that_nobody_reads_does_not_keep_a_handle_from_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.client.echo.MAX_CLOSE_SECONDS", 0.05)
    is_read = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            is_read.wait(DEADLINE_SECONDS)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Stuck())
    echo = Echo(lambda job, place, timeout: Piece(b"text\n", Place(1), is_over=True))
    echo.add("a")
    echo.ended(["a"])

    echo.close()

    assert not is_read.is_set()
    is_read.set()
