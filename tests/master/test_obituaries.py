from __future__ import annotations

import logging

import pytest

from cluster.core.effects import AttemptFailed, FencedOff
from cluster.core.records import Certificate, Ending, Options, RetryRule
from cluster.master.obituaries import MAX_LINES, WHILE_SECONDS, Obituaries
from cluster.wire.messages import Health, SlotHealth
from tests.core.builders import WORKER, failure, spec, success
from tests.master.rig import Rig


def an_attempt(job: str, reason: str = "raised ValueError: no") -> AttemptFailed:
    certificate = Certificate(ending=Ending.RAISED, reason=reason, attempt=1, worker="w#1", host="node1", pid=7)
    return AttemptFailed(
        seq=1, job=job, run=1, fence=1, certificate=certificate, failures=1, crashes=0, due=105.0,
    )  # fmt: skip


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cluster.master"]


def test_each_attempt_and_each_end_is_a_line_with_what_where_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")
    with Rig() as rig:
        rig.submit(spec("a", Options(retry=RetryRule(max_retries=1))), spec("good"), spec("dependant", after=("a",)))
        for lease in rig.poll(2):
            rig.report(failure(lease.fence) if lease.job == "a" else success(lease.fence))
        rig.tick(60.0)
        for lease in rig.poll(2):
            rig.report(failure(lease.fence))
        rig.submit(spec("b"))
        rig.jobs.cancel(["b"], timeout=10.0)

    said = messages(caplog)
    about = {name: [line for line in said if f"job={name} " in line] for name in ("a", "good", "dependant", "b")}
    again, end = about["a"]
    assert again.startswith("attempt failed: job=a run=1 attempt=1 ending=raised worker=")
    assert "again_in=0." in again
    assert end.startswith("job ended without a result: job=a run=1 attempt=2 ending=raised worker=")
    assert end.endswith("state=dead_letter: it raised")
    assert not about["good"]
    assert "ending=dependency worker=none" in about["dependant"][0]
    assert "ending=cancelled" in about["b"][0]
    assert about["b"][0].endswith("state=cancelled: it was cancelled")


def test_a_flood_of_failures_is_no_flood_of_lines_and_their_number_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")
    now = [0.0]
    obituaries = Obituaries(lambda: now[0])

    obituaries.write([an_attempt(f"j{n}") for n in range(10_000)], wall=100.0)
    assert len(messages(caplog)) == MAX_LINES
    assert "again_in=5.0 s: raised ValueError: no" in messages(caplog)[0]
    now[0] = WHILE_SECONDS
    obituaries.write([an_attempt("last")], wall=200.0)

    left_out, last = messages(caplog)[MAX_LINES:]
    assert left_out.startswith(f"{10_000 - MAX_LINES} more attempts or jobs failed")
    assert "job=last " in last
    assert "again_in=0.0 s" in last


def test_what_nobody_reports_of_a_lost_worker_s_job_has_its_place_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")
    with Rig() as rig:
        rig.submit(spec("a"), spec("b"))
        rig.poll(2)
        rig.work.heartbeat(WORKER, Health(slots=(SlotHealth(slot=0, pid=71, job="a"), SlotHealth(slot=1))))
        rig.jobs.cancel(["b"], timeout=10.0)
        rig.tick(60.0)

    lost, cancelled = (next(line for line in messages(caplog) if f"job={name} " in line) for name in ("a", "b"))
    assert "ending=worker_lost worker=w#1 host=here pid=71 " in lost
    assert "ending=cancelled worker=w#1 host=here pid=0 " in cancelled


def test_a_report_that_came_too_late_is_a_line_with_job_attempt_and_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")
    with Rig() as rig:
        rig.submit(spec("a"), spec("b"))
        lost, cancelled = rig.poll(2)
        rig.jobs.cancel(["b"], timeout=10.0)
        rig.report(success(cancelled.fence))
        rig.report(success(cancelled.fence))
        rig.tick(60.0)
        rig.report(failure(lost.fence))

    late = [line for line in messages(caplog) if line.startswith("late report was refused: ")]
    assert [line.partition(": ")[2] for line in late] == [
        f"job=b attempt=1 worker=w#1 fence={cancelled.fence} ending=succeeded: it changes nothing",
        f"job=unknown attempt=0 worker=w#1 fence={cancelled.fence} ending=succeeded: it changes nothing",
        f"job=a attempt=1 worker=w#1 fence={lost.fence} ending=raised: it changes nothing",
    ]


def test_a_flood_of_late_reports_is_no_flood_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")
    now = [0.0]
    obituaries = Obituaries(lambda: now[0])
    late = FencedOff("w#1", 7, Ending.SUCCEEDED, "a", 1)

    for _ in range(1000):
        obituaries.write_late(late)
    obituaries.write([an_attempt("b")], wall=100.0)
    now[0] = WHILE_SECONDS
    obituaries.write_late(late)

    *_, of_another_kind, left_out, last = messages(caplog)
    assert len(messages(caplog)) == MAX_LINES + 3
    assert "job=b " in of_another_kind
    assert left_out == f"{1000 - MAX_LINES} more late reports were refused"
    assert "job=a " in last


def test_a_reason_that_holds_anything_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")

    Obituaries(lambda: 0.0).write([an_attempt("a", "raised X: \x1b[2J\r\n2026 ERROR forged" + "x" * 9999)], wall=0.0)

    (line,) = messages(caplog)
    assert line.isprintable()
    assert len(line) < 600


def test_nothing_is_made_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cluster.master")

    Obituaries(lambda: 0.0).write([an_attempt("a")], wall=0.0)
    Obituaries(lambda: 0.0).write_late(FencedOff("w#1", 7, Ending.SUCCEEDED, "a", 1))

    assert not messages(caplog)
