"""What running attempts have printed so far."""

from __future__ import annotations

import threading

from cluster.core.printed import mark, text_of
from cluster.core.records import JobId
from cluster.master.live_output import MAX_ATTEMPT_BYTES, MAX_BYTES, LiveOutput

DEADLINE_SECONDS = 10.0
HEAD = MAX_ATTEMPT_BYTES // 4
TAIL = MAX_ATTEMPT_BYTES - HEAD


def said(live: LiveOutput, job: JobId) -> list[bytes]:
    return [text_of(runs) for _, runs in sorted(live.of(job).items())]


def test_what_an_attempt_prints_is_told_in_order() -> None:
    live = LiveOutput()

    live.add(7, "a", b"one ", 0)
    live.add(8, "b", b"other ", 0)
    live.add(7, "a", b"two", 4)

    assert (said(live, "a"), said(live, "b"), said(live, "c")) == ([b"one two"], [b"other "], [])


def test_a_report_takes_it_away() -> None:
    live = LiveOutput()
    live.add(7, "a", b"one", 0)

    live.drop([6, 7])
    live.drop([7])

    assert live.of("a") == {}


def test_what_is_told_twice_or_in_part_is_kept_once() -> None:
    live = LiveOutput()

    for text, offset in ((b"one ", 0), (b"one ", 0), (b"one two", 0), (b"two", 4), (b"o three", 6)):
        live.add(7, "a", text, offset)

    assert said(live, "a") == [b"one two three"]


def test_what_was_left_out_is_marked() -> None:
    live = LiveOutput()

    live.add(7, "a", b"one", 0)
    live.add(7, "a", b"four", 10)
    live.add(8, "b", b"late", 100)

    assert (said(live, "a"), said(live, "b")) == ([b"one" + mark(7) + b"four"], [mark(100) + b"late"])


def test_of_a_long_text_the_beginning_is_kept_and_the_end() -> None:
    live = LiveOutput()
    text = b"".join(b"%07d\n" % number for number in range(5 * MAX_ATTEMPT_BYTES // 8))

    for start in range(0, len(text), 1000):
        live.add(7, "a", text[start : start + 1000], start)

    assert said(live, "a") == [text[:HEAD] + mark(len(text) - MAX_ATTEMPT_BYTES) + text[-TAIL:]]


def test_where_all_of_it_is_too_much_the_oldest_goes() -> None:
    live = LiveOutput()

    for fence in range(MAX_BYTES // MAX_ATTEMPT_BYTES + 1):
        for start in range(0, MAX_ATTEMPT_BYTES, 8192):
            live.add(fence, f"job-{fence}", b"x" * 8192, start)

    assert live.of("job-0") == {}
    assert live.of("job-1")
    assert live.of(f"job-{MAX_BYTES // MAX_ATTEMPT_BYTES}")


def test_who_waits_is_woken_by_more_text_and_by_the_end() -> None:
    live = LiveOutput()
    live.add(7, "a", b"one", 0)
    heard = [threading.Event(), threading.Event()]

    def wait() -> None:
        live.wait(7, 3, DEADLINE_SECONDS)
        heard[0].set()
        live.wait(7, 6, DEADLINE_SECONDS)
        heard[1].set()

    thread = threading.Thread(target=wait)
    thread.start()
    live.add(8, "b", b"somebody else", 0)
    live.add(7, "a", b"two", 3)
    assert heard[0].wait(DEADLINE_SECONDS / 2)
    live.drop([7])
    assert heard[1].wait(DEADLINE_SECONDS / 2)
    thread.join()
