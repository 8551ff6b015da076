"""How processes log. Each test runs in a fresh interpreter: a log is set up for a whole process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.log_lines import FORMATS, JsonLines, message_of, set_up_log

PRELUDE = """
import logging, threading, warnings
from cluster.log_lines import set_up_log, tell_mistake
set_up_log('info', {form!r})
LOG = logging.getLogger('cluster.master')
"""


def run(form: str, *lines: str) -> list[str]:
    program = PRELUDE.format(form=form) + "\n".join(lines)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == ""
    return ran.stderr.splitlines()


def line(template: str, *args: object) -> dict[str, Any]:
    record = logging.LogRecord("cluster.master", logging.INFO, __file__, 1, template, args, None)
    said: dict[str, Any] = json.loads(JsonLines().format(record))
    return said


def test_text_is_a_line_for_people() -> None:
    (said,) = run("text", "LOG.info('ready: address=%s jobs=%d', 'tcp://x', 3)")

    assert said.endswith("INFO cluster.master: ready: address=tcp://x jobs=3")


def test_nobody_writes_another_s_line_by_what_it_is_called() -> None:
    said = run(
        "text",
        "forged = 'w#1\\n2026-11-27 20:00:00,000 WARNING cluster.audit: forged \\x1b[2J\\u2028\\u202e'",
        "LOG.info('worker=%s', forged)",
        "try: raise ValueError(forged)",
        "except ValueError: LOG.exception('failed')",
    )

    assert not any(line.startswith("2026-11-27 20:00:00,000") for line in said)
    assert said[0].endswith(
        r"INFO cluster.master: worker=w#1\n2026-11-27 20:00:00,000 WARNING cluster.audit: forged \x1b[2J\u2028\u202e"
    )
    assert [line for line in said[2:] if not line.startswith("  ")] == []
    assert all(line.isprintable() for line in said)


def test_text_that_is_printable_stays_as_it_is() -> None:
    (said,) = run("text", "LOG.info('job=%s', 'Grüße, 世界')")

    assert said.endswith("job=Grüße, 世界")


def test_json_is_an_object_in_each_line() -> None:
    (said,) = run("json", "LOG.info('ready: address=%s jobs=%d', 'tcp://x', 3)", "LOG.debug('not this')")

    found = json.loads(said)
    assert datetime.fromisoformat(found.pop("time")).utcoffset() is not None
    assert found == {
        "level": "info",
        "logger": "cluster.master",
        "event": "ready",
        "fields": {"address": "tcp://x", "jobs": 3},
        "message": "ready: address=tcp://x jobs=3",
    }


@pytest.mark.parametrize(
    ("template", "args", "event", "fields"),
    [
        ("stopped", (), "stopped", {}),
        ("store %s: a commit failed (%s)", ("s", "full"), "store s: a commit failed (full)", {}),
        ("died part=%s, again in %.1f s: %s", ("w", 0.25, "killed"), "died", {"part": "w"}),
        ("store %s: pruned: dropped=%d of=%d", ("s", 1, 2), "store s: pruned", {"dropped": 1, "of": 2}),
        ("100%% done: jobs=%d", (7,), "100% done", {"jobs": 7}),
        ("part=%s", ("w",), "part=w", {"part": "w"}),
        ("odd: seconds=%g path=%s", (float("inf"), KeyError("x")), "odd", {"seconds": "inf", "path": "KeyError('x')"}),
        ("two\nlines: text=%s", ("a\nb\udc80",), "two\nlines", {"text": "a\nb\udc80"}),
    ],
)
def test_fields_are_taken_out_of_the_message(
    template: str, args: tuple[object, ...], event: str, fields: dict[str, object]
) -> None:
    said = line(template, *args)

    # A KeyError's text is its key with quotes.
    expected = {**fields, **({"path": "'x'"} if "path" in fields else {})}
    assert (said["event"], said["fields"]) == (event, expected)
    assert said["message"] == (template % args if args else template)


def test_an_exception_is_a_field_and_the_line_stays_one() -> None:
    (said,) = run(
        "json", "try:", "    1 / 0", "except ZeroDivisionError:", "    LOG.exception('unexpected: job=%s', 'j')"
    )

    found = json.loads(said)
    assert (found["level"], found["fields"]) == ("error", {"job": "j"})
    assert found["exception"].startswith("Traceback (most recent call last)")
    assert found["exception"].endswith("ZeroDivisionError: division by zero")


def test_what_nobody_caught_is_such_a_line_too() -> None:
    said = run(
        "json",
        "thread = threading.Thread(target=[].pop, name='duty')",
        "thread.start()",
        "thread.join()",
        "warnings.warn('beware')",
        "[].pop()",
    )

    of_thread, warning, of_main = [json.loads(each) for each in said]
    assert (of_thread["level"], of_thread["fields"]) == ("critical", {"thread": "duty"})
    assert "beware" in warning["message"]
    assert of_main["event"] == "uncaught exception"
    assert "IndexError: pop from empty list" in of_thread["exception"]
    assert "IndexError: pop from empty list" in of_main["exception"]


def test_what_nobody_caught_moves_no_cursor_in_text_either() -> None:
    said = run(
        "text",
        "forged = 'x\\n2026-11-27 20:00:00,000 WARNING cluster.audit: forged \\x1b[2J'",
        "def fail(): raise ValueError(forged)",
        "thread = threading.Thread(target=fail, name='duty')",
        "thread.start()",
        "thread.join()",
        "warnings.warn(forged)",
        "tell_mistake('cluster master', ValueError(forged))",
        "fail()",
    )

    assert len([line for line in said if line.endswith("CRITICAL cluster: uncaught exception: thread=duty")]) == 1
    assert len([line for line in said if line.endswith("CRITICAL cluster: uncaught exception")]) == 1
    assert len([line for line in said if " WARNING py.warnings: " in line]) == 1
    assert len([line for line in said if line.startswith("cluster master: x")]) == 1
    assert not any(line.startswith("2026-11-27 20:00:00,000") for line in said)
    assert all(line.isprintable() for line in said)


@pytest.mark.parametrize("form", FORMATS)
def test_a_mistake_is_told_in_the_form_of_the_log_and_read_back_from_either(form: str) -> None:
    (said,) = run(form, "tell_mistake('cluster master', ValueError('port 1 is in use'))")

    assert message_of(said) == "cluster master: port 1 is in use"
    assert said.startswith("{") is (form == "json")


@pytest.mark.parametrize("text", ["plain", "{half", "{}", "[1]", '{"event": "x"}'])
def test_a_line_that_is_none_of_ours_says_itself(text: str) -> None:
    assert message_of(text) == text


@pytest.mark.parametrize(("level", "form", "said"), [("loud", "text", "'loud'"), ("info", "xml", "'xml'")])
def test_what_there_is_not_is_refused_with_what_there_is(level: str, form: str, said: str) -> None:
    with pytest.raises(Refused, match=f"is called {said}; write one of"):
        set_up_log(level, form)
