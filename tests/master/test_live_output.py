"""What running attempts have printed so far."""

from __future__ import annotations

from cluster.master.live_output import MAX_ATTEMPT_BYTES, MAX_BYTES, LiveOutput


def test_what_an_attempt_prints_is_told_in_order() -> None:
    live = LiveOutput()

    live.add(7, "a", b"one ")
    live.add(8, "b", b"other ")
    live.add(7, "a", b"two")

    assert (live.of("a"), live.of("b"), live.of("c")) == (b"one two", b"other ", b"")


def test_a_report_takes_it_away() -> None:
    live = LiveOutput()
    live.add(7, "a", b"one")

    live.drop([6, 7])
    live.drop([7])

    assert live.of("a") == b""


def test_an_attempt_has_a_bound() -> None:
    live = LiveOutput()

    live.add(7, "a", b"x" * MAX_ATTEMPT_BYTES)
    live.add(7, "a", b"y")

    assert live.of("a") == b"x" * MAX_ATTEMPT_BYTES


def test_where_all_of_it_is_too_much_the_oldest_goes() -> None:
    live = LiveOutput()

    for fence in range(MAX_BYTES // MAX_ATTEMPT_BYTES + 1):
        live.add(fence, f"job-{fence}", b"x" * MAX_ATTEMPT_BYTES)

    assert live.of("job-0") == b""
    assert live.of("job-1")
    assert live.of(f"job-{MAX_BYTES // MAX_ATTEMPT_BYTES}")
