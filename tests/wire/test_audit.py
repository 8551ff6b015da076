from __future__ import annotations

import json
import logging
import re
import threading

import pytest

from cluster.log_lines import JsonLines
from cluster.wire.audit import MAX_LINES, MAX_ORIGINS, QUIET_SECONDS, Audit, Kind, inert
from tests.project import ROOT

PAGE = ROOT / "docs" / "reference" / "audit.md"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(audit: Audit, origin: str = "192.0.2.1", kind: Kind = Kind.HANDSHAKE_WRONG_KEY) -> None:
    audit.record(kind, origin=origin, reason="it does not have the client key")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [said.getMessage() for said in caplog.records if said.name == "cluster.audit"]


def test_an_event_is_a_line_with_its_origin_its_identity_and_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    Audit().record(Kind.CALL_NOT_FOR_ROLE, origin="192.0.2.1", role="worker", name="w1", reason="not for workers")

    (said,) = caplog.records
    assert (said.name, said.levelname) == ("cluster.audit", "WARNING")
    found = json.loads(JsonLines().format(said))
    assert found["event"] == "call_not_for_role"
    assert found["fields"] == {
        "origin": "192.0.2.1",
        "role": "worker",
        "name": "w1",
        "suppressed": 0,
        "elsewhere": 0,
        "reason": "not for workers",
    }


def test_of_one_origin_there_is_a_line_at_a_time_and_the_next_one_says_what_was_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    audit = Audit(clock)

    for _ in range(1000):
        record(audit)
    record(audit, "192.0.2.2")
    record(audit, kind=Kind.HANDSHAKE_TIMEOUT)
    clock.now = QUIET_SECONDS
    record(audit)

    said = [re.findall(r"^(\w+): origin=(\S+) .* suppressed=(\d+) ", line)[0] for line in lines(caplog)]
    assert said == [
        ("handshake_wrong_key", "192.0.2.1", "0"),
        ("handshake_wrong_key", "192.0.2.2", "0"),
        ("handshake_timeout", "192.0.2.1", "0"),
        ("handshake_wrong_key", "192.0.2.1", "999"),
    ]
    assert audit.counts() == {"handshake_wrong_key": 1002, "handshake_timeout": 1}


def test_nobody_hides_another_s_event_behind_his_own(caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(lambda: 0.0)

    for name in ("", "ana", "", "eve"):
        audit.record(Kind.HANDSHAKE_REVOKED, origin="192.0.2.7", role="client" if name else "", name=name, reason="x")

    assert [line for line in ("name= ", "name=ana ", "name=eve ") if line in caplog.text] == [
        "name= ", "name=ana ", "name=eve ",
    ]  # fmt: skip
    assert len(caplog.records) == 3


def test_a_flood_from_everywhere_costs_few_lines_and_bounded_memory_and_loses_no_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    audit = Audit(clock)
    count = 5 * MAX_ORIGINS

    for number in range(count):
        record(audit, f"2001:db8::{number:x}")
    clock.now = QUIET_SECONDS
    record(audit, "192.0.2.1")
    audit.flush()

    assert len(lines(caplog)) == MAX_LINES + 2
    told = sum(int(found) for line in lines(caplog) for found in re.findall(r"(?:suppressed|elsewhere)=(\d+)", line))
    assert told + MAX_LINES + 1 == count + 1
    assert len(audit._told) == MAX_ORIGINS
    assert audit.counts() == {"handshake_wrong_key": count + 1}


def test_what_nothing_followed_is_said_when_it_is_asked_for_and_once(caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(Clock())
    for _ in range(5):
        record(audit)

    audit.flush()
    audit.flush()

    assert [re.findall(r"suppressed=(\d+)", line) for line in lines(caplog)] == [["0"], ["4"]]


def test_a_peer_s_text_can_neither_forge_a_line_nor_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    Audit().record(
        Kind.CALL_UNKNOWN,
        origin="unix",
        name="w\u202e\r\n",
        reason="knows no call \n2026-01-01 INFO cluster.audit: all is well\x1b[2J" + "x" * 10_000,
    )

    (line,) = lines(caplog)
    assert line.isprintable()
    assert len(line) < 500
    assert r"\n2026-01-01" in line
    assert inert("Grüße, 世界") == "Grüße, 世界"


def record_often(audit: Audit, origin: str) -> None:
    for _ in range(200):
        record(audit, origin)


def test_many_threads_lose_no_event() -> None:
    logging.getLogger("cluster.audit").setLevel(logging.CRITICAL)
    audit = Audit()
    try:
        threads = [threading.Thread(target=record_often, args=(audit, str(number))) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        logging.getLogger("cluster.audit").setLevel(logging.NOTSET)

    assert audit.counts() == {"handshake_wrong_key": 1600}


def test_the_page_lists_each_event_and_no_other() -> None:
    events = PAGE.read_text().partition("| event |")[2]
    listed = re.findall(r"^\| `(\w+)` \|", events, re.MULTILINE)

    assert listed == [kind.value for kind in Kind]
