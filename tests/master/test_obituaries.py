from __future__ import annotations

import logging

import pytest

from cluster.core.effects import AttemptFailed
from cluster.core.records import Certificate, Ending, Options, RetryRule
from cluster.master.obituaries import MAX_LINES, WHILE_SECONDS, Obituaries
from tests.core.builders import failure, spec, success
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


def test_a_reason_that_holds_anything_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cluster.master")

    Obituaries(lambda: 0.0).write([an_attempt("a", "raised X: \x1b[2J\r\n2026 ERROR forged" + "x" * 9999)], wall=0.0)

    (line,) = messages(caplog)
    assert line.isprintable()
    assert len(line) < 600


def test_nothing_is_made_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cluster.master")

    Obituaries(lambda: 0.0).write([an_attempt("a")], wall=0.0)

    assert not messages(caplog)
